"""Reverse water-filling: the bits of a layer's kernels from their sensitivities, in closed form and in whole choices.

Notation

=====  ==================================================================================
K      kernels of a layer
s      damage of each kernel at equal bits, shape (K,); at b bits it does s_j · 4^(−b_j)
g      goal: mean bits
b      bits, shape (K,)
o      offsets, ½·log2(s), shape (K,)
=====  ==================================================================================

Least Σ_j s_j·4^(−b_j) with mean b = g has equal marginal damage, ln 4 · s_j·4^(−b_j), in all kernels (Gersho & Gray,
Vector Quantization and Signal Compression, §8.3):

    b_j = g + ½·log2(s_j / geometric mean of s),

for the kernels that this leaves within the range of bits; the others stay at its ends, and the rest share what is left.

Whole choices: the step from c to c' = c + d bits of a kernel saves s_j·4^(−c)·(1 − 4^(−d)) / d per bit, or, as a logarithm
to base 4, o_j − w with the worth w = c + log4(d / (1 − 4^(−d))). Worths rise from step to step, since 4^(−b) is convex, so
steps taken in order of what they save per bit are optimal for every total that they reach (Fox, Operations Research
14(3), 1966).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import EvaluationError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

TOLERANCE = 1e-9
"""Bits by which a mean may be over its goal, for rounding."""


def reverse_water_filling(sensitivity: Floats, goal: float, low: float, high: float) -> Floats:
    """Real-valued bits of least damage with mean ``goal``, within ``low`` to ``high``, shape (K,).

    Args:
        sensitivity: s, shape (K,), not negative. Kernels of no sensitivity get bits once all others have the most.
        goal: g, clipped to the range of bits.

    Raises:
        EvaluationError: a sensitivity or a goal that is not a number, a sensitivity below zero or infinite.
    """
    if np.isnan(goal):
        raise EvaluationError("the goal of a layer must be a number", got=goal)
    offsets = offsets_of(sensitivity, high - low)
    # the sum of clip(offset + level) is piecewise linear in the level, and bends where a kernel leaves an end
    bends = np.concatenate([low - offsets, high - offsets])
    order = np.argsort(bends)
    slopes = np.cumsum(np.where(order < len(offsets), 1.0, -1.0))
    bends = bends[order]
    sums = low * len(offsets) + np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(bends))])
    target = len(offsets) * float(np.clip(goal, low, high))
    return np.clip(offsets + float(np.interp(target, sums, bends)), low, high)


def to_choices(sensitivity: Floats, real: Floats, choices: Sequence[int]) -> Indices:
    """Indices of the choices for kernels with real-valued bits, with a sum of bits at most theirs, shape (K,).

    The bits are rounded down, and what this leaves goes to the steps that save the most damage per bit, the earlier
    kernel first where they save the same. From bits of :func:`reverse_water_filling`, the damage is

    - the least of all assignments of at most that sum, where choices are evenly spaced (0..8, or 2, 4, 6, 8);
    - otherwise above the least by less than what the best step saves that no longer fits: steps are taken as in a
      knapsack, and only the last is ever lost.
    """
    table = np.asarray(choices, dtype=np.float64)
    offsets = offsets_of(sensitivity, table[-1] - table[0])
    sizes = np.diff(table)
    worths = table[:-1] + 0.5 * np.log2(sizes / (1 - 4.0**-sizes))
    # rounding down must take no step ahead of a better one: evenly spaced, these rungs are the choices themselves
    rungs = worths + np.max(table[1:] - worths, initial=0.0)
    taken = np.searchsorted(rungs, real + TOLERANCE, side="right")
    left = float(real.sum() - table[taken].sum()) + TOLERANCE * len(real)
    kernels, steps = np.nonzero(np.arange(len(sizes)) >= taken[:, None])
    order = _first(worths[steps] - offsets[kernels], int(left / sizes.min(initial=np.inf)))
    total = np.cumsum(sizes[steps[order]])
    count = int(np.searchsorted(total, left, side="right"))
    taken += np.bincount(kernels[order[:count]], minlength=len(taken))
    return _use_up(offsets, taken, left - (total[count - 1] if count else 0.0), sizes, worths)


def fill(sensitivity: Floats, goal: float, choices: Sequence[int]) -> Indices:
    """Indices of the choices of a layer's kernels with mean bits at most ``goal``, shape (K,).

    How close to the optimum is said in :func:`to_choices`. A goal below the fewest bits gives the fewest bits.

    Raises:
        EvaluationError: as :func:`reverse_water_filling`.
    """
    real = reverse_water_filling(sensitivity, goal, float(choices[0]), float(choices[-1]))
    return to_choices(sensitivity, real, choices)


def offsets_of(sensitivity: Floats, span: float) -> Floats:
    """½·log2(s); of kernels of no sensitivity, low enough that the others cross the whole range of bits first."""
    sensitivity = np.asarray(sensitivity, dtype=np.float64)
    if not np.all(np.isfinite(sensitivity)) or np.any(sensitivity < 0):
        raise EvaluationError(
            "sensitivities of kernels must be finite and at least 0", got=f"{sensitivity.min()} to {sensitivity.max()}"
        )
    some = sensitivity > 0
    known = 0.5 * np.log2(sensitivity[some])
    offsets = np.full(sensitivity.shape, known.min() - span if known.size else 0.0)
    offsets[some] = known
    return offsets


def _first(keys: Floats, count: int) -> NDArray[np.intp]:
    """Positions of the ``count`` least keys in ascending order, the earlier first among equals; maybe some more."""
    if count >= len(keys):
        return np.argsort(keys, kind="stable")
    near = np.flatnonzero(keys <= np.partition(keys, count)[count])
    return near[np.argsort(keys[near], kind="stable")]


def _use_up(offsets: Floats, taken: NDArray[np.intp], left: float, sizes: Floats, worths: Floats) -> Indices:
    """Take smaller steps behind one that does not fit, best first; with evenly spaced choices there are none."""
    sizes, worths = np.append(sizes, np.inf), np.append(worths, np.inf)
    while left >= sizes.min():
        keys = np.where(sizes[taken] <= left, worths[taken] - offsets, np.inf)
        best = int(np.argmin(keys))
        if np.isinf(keys[best]):
            break
        left -= float(sizes[taken[best]])
        taken[best] += 1
    return taken.astype(np.int64)
