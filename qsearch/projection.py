"""Projection onto the budget: HAQ's action wall (Wang et al., CVPR 2019), for any monotone cost.

The wall walks the decisions from last to first, lowers each by one choice, and starts over until the cost is
within the budget. The states it passes through are known in advance: after s whole passes a decision stands at
max(x − s, 0), and within a pass the decisions behind a position have been lowered once more. Cost falls along that
sequence, so the first state within the budget is found by bisection, in log₂ of its length instead of its length.

With bits per kernel there are 10^4 decisions, and to ask the cost model of a state takes a millisecond. Two others answer
instead, which may round otherwise: where costs add up over kernels a table (:class:`qsearch.costs.KernelTable`); where they
add up over layers what the layers have cost in the states before, as a step changes one or two of them
(:class:`qsearch.costs.LayerPrices`). The model is asked of states that are so close to a bound that rounding could decide,
and of the state that is found: if it is over a bound, the model does not add up as it says, and is asked of the whole walk.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qsearch.costs import ROUNDING, KernelTable, LayerPrices
from qsearch.problem import Problem

Within = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Whether states, shape (A, D), meet every upper bound on a cost: shape (A,)."""


def project(problem: Problem, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first state of the wall's walk from ``x``, shape (D,), that meets every upper bound on a cost.

    Returns ``x`` itself when it meets them, and the lowest assignment when nothing on the walk does
    (:meth:`Problem.check_floor` refuses such problems beforehand).
    """
    bounded = any(not bound.at_least for bound in problem.cost_bounds)

    def within(states: NDArray[np.int64]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = problem.overruns(states) <= 0
        return found

    found = _quickly(problem, x) if bounded else None
    if found is not None and within(found[None])[0]:
        return found
    return x if within(x[None])[0] else _all_passes(problem, x, within)


def _quickly(problem: Problem, x: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The same, by what answers in the model's place; None where nothing does."""
    if (table := problem.cost.kernel_table) is not None:
        return _one_by_one(problem, x, _judged(problem, table))
    if (prices := problem.cost.layer_prices) is not None:
        return _all_passes(problem, x, _judged(problem, prices))
    return None


def _judged(problem: Problem, quick: KernelTable | LayerPrices) -> Within:
    """Judges states by costs that may round otherwise than the model's, and asks the model where that could matter."""

    def within(states: NDArray[np.int64]) -> NDArray[np.bool_]:
        over = problem.excess(quick.totals(states))
        for row in np.flatnonzero((np.abs(over) <= ROUNDING) | ~np.isfinite(over)):  # the model says what is wrong
            over[row] = problem.overruns(states[row : row + 1])[0]
        found: NDArray[np.bool_] = over <= 0
        return found

    return within


def _all_passes(problem: Problem, x: NDArray[np.int64], within: Within) -> NDArray[np.int64]:
    """The walk, where to ask of all its passes takes little longer than of one."""
    passes = np.maximum(x[None] - np.arange(int(x.max(initial=0)) + 1)[:, None], 0)
    met = within(passes)
    first = int(np.argmax(met))
    if not met[first]:
        return problem.space.lowest
    return passes[first] if first == 0 else _within_pass(passes[first - 1], within)


def _one_by_one(problem: Problem, x: NDArray[np.int64], within: Within) -> NDArray[np.int64]:
    """The walk, where each state takes its time."""
    start = state = x
    while not within(state[None])[0]:
        if not state.any():
            return problem.space.lowest
        start, state = state, np.maximum(state - 1, 0)
    return x if start is state else _within_pass(start, within)


def _within_pass(start: NDArray[np.int64], within: Within) -> NDArray[np.int64]:
    """The first state of a pass that meets the bounds, by bisection; its start does not, its end does."""
    low, high = 0, len(start)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if within(_lowered(start, middle)[None])[0] else (middle, high)
    return _lowered(start, high)


def _lowered(x: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``x`` with its last ``count`` decisions one choice lower, where there is one."""
    lowered = x.copy()
    lowered[len(x) - count :] = np.maximum(lowered[len(x) - count :] - 1, 0)
    return lowered
