"""How often the neurons of a network spike while it is judged: energy follows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.spiking.neurons import Neuron


class SpikeCount:
    """Spikes that have left the neurons of a network.

    Attributes:
        total: so far; a whole number, or NaN where one was not finite.
    """

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, module: nn.Module, inputs: Any, spikes: Tensor) -> None:
        """Count what a neuron gave, as a hook."""
        self.total += float(spikes.detach().sum(dtype=torch.float64))


@contextmanager
def counted(network: nn.Module) -> Iterator[SpikeCount | None]:
    """Inside, the spikes of a network are counted as it runs; None of one without neurons that spike."""
    neurons = [module for module in network.modules() if isinstance(module, Neuron)]
    count = SpikeCount()
    handles = [module.register_forward_hook(count.add) for module in neurons]
    try:
        yield count if neurons else None
    finally:
        for handle in handles:
            handle.remove()
