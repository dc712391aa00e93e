"""Projection onto the budget: HAQ's action wall (Wang et al., CVPR 2019), for any monotone cost.

The wall walks the decisions from last to first, lowers each by one choice, and starts over until the cost is
within the budget. The states it passes through are known in advance: after s whole passes a decision stands at
max(x − s, 0), and within a pass the decisions behind a position have been lowered once more. Cost falls along that
sequence, so the first state within the budget is found by bisection, in log₂ of its length instead of its length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.problem import Problem


def project(problem: Problem, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first state of the wall's walk from ``x``, shape (D,), that meets every upper bound on a cost.

    Returns ``x`` itself when it meets them, and the lowest assignment when nothing on the walk does
    (:meth:`Problem.check_floor` refuses such problems beforehand).
    """
    passes = np.maximum(x[None] - np.arange(int(x.max(initial=0)) + 1)[:, None], 0)
    within = problem.overruns(passes) <= 0
    if within[0]:
        return x
    if not within.any():
        return problem.space.lowest
    start = passes[int(np.argmax(within)) - 1]
    low, high = 0, len(x)  # lowering the last `high` decisions is enough, the last `low` is not
    while high - low > 1:
        middle = (low + high) // 2
        if problem.overruns(_lowered(start, middle)[None])[0] <= 0:
            high = middle
        else:
            low = middle
    return _lowered(start, high)


def _lowered(x: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``x`` with its last ``count`` decisions one choice lower, where there is one."""
    lowered = x.copy()
    lowered[len(x) - count :] = np.maximum(lowered[len(x) - count :] - 1, 0)
    return lowered
