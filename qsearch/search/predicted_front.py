"""Assignments to begin with when several objectives are asked for: those that would be worth most if predictions were true.

Notation

=====  ==================================================================================
p      predicted point of an assignment: its damage for every quality, and its costs
H(S)   hypervolume of a set of points, below a reference just beyond the worst
=====  ==================================================================================

From what lies on the predicted front, the assignment that adds most to H(S), again and again: evenly spread where the front
is even, dense at its knee, and of any number the best that can be said beforehand (1 − 1/e of the best set at least, as
H grows by less and less; Nemhauser, Wolsey & Fisher, Math. Programming 14, 1978).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import UserError
from qsearch.pareto import Points, hypervolume, non_dominated
from qsearch.problem import Problem
from qsearch.protocols import SensitivityTable
from qsearch.search.aims import quality_bounds
from qsearch.search.damage import Damage
from qsearch.search.hawq_front import every_assignment
from qsearch.search.lattice import predicted_path, within_bounds
from qsearch.search.units import additive_units, require_additive

X = NDArray[np.int64]

CONSIDERED = 128
"""Assignments of the front that are considered, evenly along it."""


def best_spread(problem: Problem, damage: Damage, table: SensitivityTable | None, count: int) -> X:
    """At most ``count`` assignments of the predicted front within the cost bounds, most valuable first, shape (A, D)."""
    x = within_bounds(problem, np.concatenate([predicted_path(problem, damage), *_exact(problem, table)]))
    if not len(x):
        return x
    points = predicted_points(problem, damage, x)
    front = np.flatnonzero(non_dominated(points))
    front = front[np.argsort(points[front, 0], kind="stable")]
    if len(front) > CONSIDERED:
        front = front[np.linspace(0, len(front) - 1, CONSIDERED).round().astype(int)]
    return x[front[by_hypervolume(points[front], count)]]


def predicted_points(problem: Problem, damage: Damage, x: X) -> Points:
    """p of a batch, minimised, shape (A, D) → (A, M); (A, M + 1) where bounds on quality stand against costs alone.

    Nobody knows beforehand which damage still meets such a bound, so that the damage counts as one more objective.
    """
    costs = problem.cost.estimate_many(x)
    quality = damage(x)
    columns = [item.sign * costs[item.metric] if item.metric in costs else quality for item in problem.objectives]
    if quality_bounds(problem) and all(item.metric in costs for item in problem.objectives):
        columns.append(quality)
    return np.stack(columns, axis=1)


def by_hypervolume(points: Points, count: int) -> list[int]:
    """Positions of points, shape (A, M), in the order in which they add most to the hypervolume; ``count`` at most."""
    if not len(points):
        return []
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    reference = np.full(points.shape[1], 1.1)
    chosen: list[int] = []
    while len(chosen) < min(count, len(points)):
        left = [place for place in range(len(points)) if place not in chosen]
        gains = [hypervolume(scaled[[*chosen, place]], reference) for place in left]
        chosen.append(left[int(np.argmax(gains))])
    return chosen


def _exact(problem: Problem, table: SensitivityTable | None) -> list[X]:
    """The exact fronts of damage against each cost that is minimised; nothing where costs do not add up."""
    costs = [item.metric for item in problem.objectives if item.metric in problem.cost.units and item.sign > 0]
    if table is None:
        return []
    try:
        require_additive(problem.cost)
        return [
            every_assignment(problem.space, additive_units(problem.cost, table, [metric])[0], metric).x
            for metric in costs
            if metric not in problem.cost.model.maxima
        ]
    except UserError:  # not additive, or too many joint choices: the path is what there is
        return []
