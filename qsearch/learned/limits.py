"""What a learner's bits may cost: ``Limit``, and which variables it concerns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.costs import NetworkCost
from qsearch.errors import UserError
from qsearch.problem import Problem
from qsearch.space import SearchSpace

REFERENCE = 8
"""Bits of the uniform network that a target refers to where a problem has no bound."""

ROUNDING = 1e-9
"""Relative: what sums may be off by."""


@dataclass(frozen=True)
class Limit:
    """A cost with the most that it may be.

    Attributes:
        cost: a cost model on the network.
        metric: one of its.
        most: in the metric's unit, above 0.
    """

    cost: NetworkCost
    metric: str
    most: float


def limits_at(problem: Problem, target: float) -> tuple[Limit, ...]:
    """The limits that a target stands for.

    Where costs are minimised, ``target`` times the bound of each, or its cost at uniform 8 bits where it has none, beside the
    bounds of the others. Else ``target`` times every upper bound; without one, ``target`` times the first
    cost of the model at uniform 8 bits. One that is 0 there has nothing to be driven to.
    """
    cost = problem.cost
    reference = cost.estimate(cost.space.reference(REFERENCE)).totals
    bounds: dict[str, float] = {}
    for bound in problem.cost_bounds:
        if not bound.at_least:
            bounds[bound.metric] = min(bound.limit, bounds.get(bound.metric, bound.limit))
    minimised = minimised_costs(problem)
    scaled = minimised or list(bounds) or list(cost.units)[:1]
    found = bounds | {metric: target * bounds.get(metric, reference[metric]) for metric in scaled}
    return tuple(Limit(cost, metric, most) for metric, most in found.items() if most > 0)


def minimised_costs(problem: Problem) -> list[str]:
    """Costs among the objectives that are minimised."""
    return [item.metric for item in problem.objectives if item.metric in problem.cost.units and item.sign > 0]


def require_upper_bounds(problem: Problem) -> None:
    """Raise unless every bound on a cost is one that a penalty drives bits below.

    Raises:
        UserError: a lower bound, or one that is not above 0.
    """
    for bound in problem.cost_bounds:
        if bound.at_least or bound.limit <= 0:
            raise UserError(
                "learning bits by gradient needs bounds on costs to be upper ones, above 0",
                got=bound.label,
                fix="the searcher 'optuna'",
            )


def require_tabulated(cost: NetworkCost) -> None:
    """Raise unless a cost at real-valued bits follows from what layers cost at their choices.

    Raises:
        UserError: the model does not add up layers, or kernels that have bits of their own.
    """
    name = type(cost.model).__name__
    if not cost.additive:
        raise UserError(
            "learning bits by gradient needs a cost that is the sum, or the greatest, of its layers' costs",
            got=f"{name}, which is not additive here",
            fix="use the searcher 'optuna' or 'random', which take any cost",
        )
    kernelwise = any(variable.length > 1 for variable in cost.space.variables)
    if kernelwise and not getattr(cost.model, "kernel_additive", False):
        raise UserError(
            "learning bits per kernel by gradient needs a layer's cost to be the mean of its kernels' costs",
            got=f"{name}, which does not say so (kernel_additive)",
            fix="use granularity: layer, or the searcher 'optuna' or 'random'",
        )


def concerned(limits: Sequence[Limit], space: SearchSpace) -> list[bool]:
    """For each variable, whether a limited cost depends on it: at its most bits among the fewest, or the reverse."""
    found = [False] * len(space.variables)
    for cost, metrics in by_cost(limits):
        for ground, other in ((space.lowest, space.highest), (space.highest, space.lowest)):
            rows = np.repeat(ground[None], len(found) + 1, axis=0)
            for row, variable in zip(rows, space.variables, strict=False):
                row[variable.slice] = other[variable.slice]
            totals = cost.estimate_many(rows)
            for metric in metrics:
                differs = np.abs(totals[metric][:-1] - totals[metric][-1]) > ROUNDING * totals[metric][-1]
                found = [known or bool(new) for known, new in zip(found, differs, strict=True)]
    return found


def excess(limits: Sequence[Limit], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how much each index vector, shape (A, D), is over the limit it misses most, relative to that; ≤ 0 is within."""
    worst = np.full(len(x), -np.inf)
    for cost, metrics in by_cost(limits):
        totals = cost.estimate_many(x)
        for metric, most in metrics.items():
            worst = np.maximum(worst, (totals[metric] - most) / most)
    return worst


def by_cost(limits: Sequence[Limit]) -> Iterator[tuple[NetworkCost, Mapping[str, float]]]:
    """Each cost model once, with its limits: metric → most."""
    models = {id(limit.cost): limit.cost for limit in limits}
    for key, cost in models.items():
        yield cost, {limit.metric: limit.most for limit in limits if id(limit.cost) == key}
