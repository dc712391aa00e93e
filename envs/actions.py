"""Numbers in [0, 1] as choices: equal-width bins, always in range.

Notation: a, action in [0, 1];  n, choices;  i, index of a choice.   i = min(⌊a·n⌋, n − 1)

A uniform action gives uniform choices. HAQ's rounding leaves the range at a = 0 and a = 1 (golden test G13), where a
saturated sigmoid ends up; bins do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def to_index(action: float, count: int) -> int:
    """The choice that an action falls on; actions beyond [0, 1] count as its ends, NaN as 0."""
    return int(min(action * count, count - 1)) if action > 0 else 0


def to_action(index: int, count: int) -> float:
    """The middle of a choice's bin."""
    return (index + 0.5) / count


def to_actions(indices: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """:func:`to_action` of several, shape (T,) → (T,)."""
    return ((indices + 0.5) / counts).astype(np.float32)


def position_of(bits: float, choices: Sequence[int]) -> float:
    """The action whose bin holds a real number of bits: between the middles of two bins where it is between choices.

    An agent that answers a goal with its position takes the choice nearest to it.
    """
    return float((np.interp(bits, choices, np.arange(len(choices))) + 0.5) / len(choices))


def bits_at(position: float, choices: Sequence[int]) -> float:
    """Inverse of :func:`position_of`: a real number of bits within the choices."""
    return float(np.interp(position * len(choices) - 0.5, np.arange(len(choices)), choices))


def needed_positions(bits: NDArray[np.float64], goal: float, choices: Sequence[int]) -> NDArray[np.float64]:
    """Position of the mean bits that kernels j.. must have for a mean of ``goal``, given those before, shape (K,)."""
    count = len(bits)
    before = np.concatenate([[0.0], np.cumsum(bits)[:-1]])
    mean = (goal * count - before) / (count - np.arange(count))
    return np.asarray((np.interp(mean, choices, np.arange(len(choices))) + 0.5) / len(choices))
