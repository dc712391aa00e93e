"""Random numbers of an agent, apart from everyone else's.

Stable-Baselines3 draws from the global generators of Python, NumPy and torch. A resumed search answers its first
evaluations from the record, without running them: if evaluations drew from the same generators, the agent would go
another way after each. So an agent has the generators to itself while it thinks, and hands them back around each
evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import set_random_seed


@dataclass(frozen=True)
class Generators:
    """State of the global generators."""

    python: Any
    numpy: Any
    torch: torch.Tensor

    @classmethod
    def capture(cls) -> Generators:
        """The state they are in."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def restore(self) -> None:
        """Put them back into this state."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)


class Streams:
    """Two sets of generators, the agent's and the others'; a context in which the agent's are in force."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._others: Generators | None = None

    def __enter__(self) -> Streams:
        self._others = Generators.capture()
        set_random_seed(self._seed % 2**32)  # the most that NumPy takes
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._others is not None
        self._others.restore()

    @contextmanager
    def others(self) -> Iterator[None]:
        """Within the context: give the generators back for the length of a block."""
        assert self._others is not None
        own = Generators.capture()
        self._others.restore()
        try:
            yield
        finally:
            self._others = Generators.capture()
            own.restore()
