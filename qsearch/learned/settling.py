"""From real-valued bits to an assignment within limits.

Notation: D decisions; b real-valued bits, shape (D,); x index vector; c_x the choice of a decision.

Bits are rounded to choices first, as each scheme rounds. While a limit is exceeded, that step down is taken next that loses
least, b − c_{x−1}: a decision that was rounded up goes before one that was rounded down, and none falls far before
the others have followed. Then, where the limits leave room, that step up is taken that is missed most, c_{x+1} − b being
the least. Only decisions that a limited cost depends on go down; the others end at their most bits.

Both walks are known in advance, and costs are monotone along them: where they end is found by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.learned.limits import Limit, concerned, excess
from qsearch.space import SearchSpace

X = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCKED = 64
"""Steps up that may fail to fit before the rest are left."""


def settle(space: SearchSpace, limits: Sequence[Limit], bits: Floats, x: X, *, fill: bool = True) -> X:
    """The index vector, shape (D,), that learned bits come to.

    Args:
        bits: b, shape (D,).
        x: the choices that they round to, shape (D,).
        fill: go up again where the limits leave room.

    Returns:
        Within the limits wherever the fewest bits are.
    """
    free = np.zeros(space.dimension, dtype=np.bool_)
    for variable, matters in zip(space.variables, concerned(limits, space), strict=True):
        free[variable.slice] = not matters
    x = np.where(free, space.highest, x)
    x = _lowered(space, limits, bits, x, ~free)
    return _raised(space, limits, bits, x) if fill and _fits(limits, x) else x


def evenly(space: SearchSpace, limits: Sequence[Limit], *, fill: bool = True) -> X:
    """The most bits of every decision, and where limits ask for less as much less for all as they can, shape (D,)."""
    most = np.asarray([float(choices[-1]) for choices in _choices(space)])
    return settle(space, limits, most, space.highest, fill=fill)


def nearest_choices(space: SearchSpace, bits: Floats) -> X:
    """The nearest choice of each decision, the higher of two equally near, shape (D,)."""
    found = np.empty(space.dimension, dtype=np.int64)
    for variable in space.variables:
        distance = np.abs(bits[variable.slice, None] - np.asarray(variable.choices)[None, ::-1])
        found[variable.slice] = len(variable.choices) - 1 - distance.argmin(axis=1)
    return found


def next_choices(space: SearchSpace, bits: Floats) -> X:
    """The least choice of each decision that has as many bits, or else the last, shape (D,)."""
    found = np.empty(space.dimension, dtype=np.int64)
    for variable in space.variables:
        place = np.searchsorted(variable.choices, bits[variable.slice])
        found[variable.slice] = np.minimum(place, len(variable.choices) - 1)
    return found


def _lowered(space: SearchSpace, limits: Sequence[Limit], bits: Floats, x: X, may: NDArray[np.bool_]) -> X:
    """``x`` after as few steps down, in the order of what they lose, as meet the limits."""
    if _fits(limits, x):
        return x
    choices = _choices(space)
    steps = [
        (bits[place] - choices[place][index - 1], place)
        for place in np.flatnonzero(may)
        for index in range(1, x[place] + 1)
    ]
    order = np.asarray([place for _, place in sorted(steps)], dtype=np.int64)
    low, high = 0, len(order)  # high steps are enough, or as many as there are; low are not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(limits, _moved(x, order[:middle], -1)) else (middle, high)
    return _moved(x, order[:high], -1)


def _raised(space: SearchSpace, limits: Sequence[Limit], bits: Floats, x: X) -> X:
    """``x`` after every step up, in the order of what is missed, that the limits leave room for."""
    choices = _choices(space)
    steps = [
        (choices[place][index + 1] - bits[place], place)
        for place in range(len(x))
        for index in range(x[place], len(choices[place]) - 1)
    ]
    order = np.asarray([place for _, place in sorted(steps)], dtype=np.int64)
    for _ in range(BLOCKED):
        low, high = 0, len(order) + 1  # low steps fit, high do not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _fits(limits, _moved(x, order[:middle], 1)) else (low, middle)
        x, order = _moved(x, order[:low], 1), order[low:]
        if not len(order):
            return x
        order = order[order != order[0]]  # this one does not fit, so none of its further steps does
    return x


def _fits(limits: Sequence[Limit], x: X) -> bool:
    return bool(excess(limits, x[None])[0] <= 0)


def _moved(x: X, places: X, by: int) -> X:
    """``x`` with each decision moved as often as it is named."""
    return x + by * np.bincount(places, minlength=len(x))


def _choices(space: SearchSpace) -> list[tuple[int, ...]]:
    """Choices of each decision."""
    return [variable.choices for variable in space.variables for _ in range(variable.length)]
