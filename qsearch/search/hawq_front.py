"""The Pareto front of predicted damage against one additive cost, by dynamic programming over the units of a network.

Notation

=========  ==========================================================================================
Ω, c       predicted damage and cost of a partial assignment: sums over the units decided so far
u, O_u     unit, and its joint choices (:mod:`qsearch.search.units`)
n          partial assignments kept, those that no other dominates in (Ω, c)
=========  ==========================================================================================

What is dominated among the first units stays dominated whatever the others choose, as both sums only grow by the same
terms. So the front of k units is the non-dominated part of {front of k − 1 units} + {choices of unit k}, and exact
(ZeroQ, Cai et al. 2020; HAWQ-V2, Dong et al. 2020). Fronts of more than ``KEPT`` points are thinned: of the points in
each of ``KEPT`` equal intervals of the cost the one of least Ω stays. That may cost each unit up to one interval,
1/``KEPT`` of the range of costs; on networks of few layers and choices nothing is thinned. That adds up over units, so
for more than ``MANY`` of them, as with bits per kernel, the convex hull of the front is enumerated instead, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import UserError
from qsearch.search.knapsack import undominated
from qsearch.search.units import Unit
from qsearch.space import SearchSpace

X = NDArray[np.int64]
Floats = NDArray[np.float64]

KEPT = 2048
"""Points of a front beyond which it is thinned."""
MANY = 200
"""Units beyond which thinning at each would cost too much, and the convex hull of the front is what is enumerated."""
JOINT = 2**14
"""Joint choices of units that share decisions, beyond which they are not enumerated."""


@dataclass(frozen=True)
class Front:
    """Assignments in order of rising cost and falling Ω.

    Attributes:
        x: index vectors, shape (n, D).
        omega, cost: shape (n,).
    """

    x: X
    omega: Floats
    cost: Floats


class Enumerator(Protocol):
    """Which assignments are considered for the front."""

    def __call__(self, space: SearchSpace, units: Sequence[Unit], metric: str) -> Front:
        """The front of Ω against a cost."""
        ...


def every_assignment(space: SearchSpace, units: Sequence[Unit], metric: str) -> Front:
    """The front of all assignments; of more than ``MANY`` units, its convex hull.

    Raises:
        UserError: units that share decisions have too many joint choices.
    """
    merged = disjoint(units, metric)
    if len(merged) > MANY:
        return supported(space, merged, metric)
    start = np.zeros(1)
    omega, cost, steps = start, start, []
    for unit in merged:
        omega, cost, previous, choice = _extended(omega, cost, unit.damage, unit.costs[metric])
        steps.append((previous, choice))
    return _traced(space, merged, steps, omega, cost)


def supported(space: SearchSpace, units: Sequence[Unit], metric: str) -> Front:
    """The lower convex hull of the front of units that share no decision: at most ``KEPT`` points, evenly over the cost.

    The hull of a sum is the sum of the hulls: from the cheapest choice of every unit, the steps along all hulls in order
    of damage avoided per cost (Shoham and Gersho, IEEE Trans. ASSP 36, 1988). What the front has between two
    neighbours on the hull is less than one step of one unit away.
    """
    x = np.zeros(space.dimension, dtype=np.int64)
    steps: list[tuple[float, float, float, int, int]] = []
    omega = cost = 0.0
    for number, unit in enumerate(units):
        hull = _hull(unit.damage, unit.costs[metric])
        x[unit.decisions] = unit.choices[hull[0]]
        omega, cost = omega + float(unit.damage[hull[0]]), cost + float(unit.costs[metric][hull[0]])
        for low, high in pairwise(hull):
            less = float(unit.damage[high] - unit.damage[low])
            more = float(unit.costs[metric][high] - unit.costs[metric][low])
            steps.append((less / more, less, more, number, high))
    steps.sort(key=lambda step: step[0])
    omegas = omega + np.cumsum([0.0, *(step[1] for step in steps)])
    costs = cost + np.cumsum([0.0, *(step[2] for step in steps)])
    levels = np.linspace(costs[0], costs[-1], KEPT)
    kept = np.unique(np.minimum(np.searchsorted(costs, levels), len(steps)))
    rows = np.zeros((len(kept), space.dimension), dtype=np.int64)
    done = 0
    for row, count in zip(rows, kept.tolist(), strict=True):
        for *_, number, choice in steps[done:count]:
            x[units[number].decisions] = units[number].choices[choice]
        row[:] = x
        done = count
    return Front(rows, omegas[kept], costs[kept])


def _hull(omega: Floats, cost: Floats) -> list[int]:
    """Positions of the lower convex hull, cheapest first: slopes that rise towards 0."""
    hull: list[int] = []
    for point in undominated(omega, cost).tolist():
        while len(hull) > 1:
            first, last = hull[-2:]
            before = (omega[last] - omega[first]) * (cost[point] - cost[last])
            if before < (omega[point] - omega[last]) * (cost[last] - cost[first]):
                break
            hull.pop()
        hull.append(point)
    return hull


def monotone(space: SearchSpace, units: Sequence[Unit], metric: str) -> Front:
    """The front of the assignments whose bits do not rise from the more sensitive decision to the less sensitive one.

    NNCF's restriction, there in order of the mean Hessian trace. A table of sensitivities has Tr̄·‖ΔW‖² and not its
    factors: here decisions are in order of their damage at the fewest bits.
    A front is kept for each of the bits that the last decision may have, as only these limit what may follow.

    Raises:
        UserError: see :func:`require_separate`.
    """
    require_separate(units)
    alone = disjoint(units, metric)
    bits = np.asarray(
        [
            np.pad(v.choices, (0, int(space.choice_counts.max()) - len(v.choices)))
            for v in space.variables
            for _ in range(v.length)
        ]
    )
    ordered = sorted(
        alone, key=lambda unit: (-float(unit.damage[np.argmin(unit.choices[:, 0])]), int(unit.decisions[0]))
    )
    omega, cost, last = np.zeros(1), np.zeros(1), np.full(1, np.iinfo(np.int64).max)
    steps = []
    for unit in ordered:
        values = bits[unit.decisions[0], unit.choices[:, 0]]
        omega, cost, last, previous, choice = _falling(omega, cost, last, unit, values, metric)
        steps.append((previous, choice))
    keep = undominated(omega, cost)
    steps[-1:] = [(previous[keep], choice[keep]) for previous, choice in steps[-1:]]
    return _traced(space, ordered, steps, omega[keep], cost[keep])


def require_separate(units: Sequence[Unit]) -> None:
    """Raise unless each decision has a cost of its own.

    Raises:
        UserError: the cost of some decisions is joint, as with weight and activation bits both searched.
    """
    if any(len(unit.decisions) > 1 for unit in units):
        raise UserError(
            "the order of the bits is defined where each decision has a cost of its own",
            got="decisions whose cost is joint",
            fix="fix the activation bits, or set monotone: false",
        )


def _falling(
    omega: Floats, cost: Floats, last: X, unit: Unit, values: X, metric: str
) -> tuple[Floats, Floats, X, X, X]:
    """The states after one more decision: of each choice, the front of what may precede it."""
    parts = []
    for choice, bits in enumerate(values.tolist()):
        before = np.flatnonzero(last >= bits)
        before = before[undominated(omega[before], cost[before])]
        parts.append((before, np.full(len(before), choice), np.full(len(before), bits)))
    previous, chosen, bits_now = (np.concatenate(column) for column in zip(*parts, strict=True))
    return (
        omega[previous] + unit.damage[chosen],
        cost[previous] + unit.costs[metric][chosen],
        bits_now,
        previous,
        chosen,
    )


def disjoint(units: Sequence[Unit], metric: str) -> list[Unit]:
    """The same sums over units that share no decision: those that did are joined, with all their joint choices.

    Raises:
        UserError: there are more than ``JOINT`` of them.
    """
    found: dict[int, Unit] = {}
    place: dict[int, int] = {}  # decision → the number of the unit that has it
    for number, unit in enumerate(units):
        joint = unit
        for other in sorted({place[decision] for decision in unit.decisions.tolist() if decision in place}):
            joint = _joined(found.pop(other), joint, metric)
        found[number] = joint
        place.update(dict.fromkeys(joint.decisions.tolist(), number))
    return list(found.values())


def _joined(one: Unit, other: Unit, metric: str) -> Unit:
    """Both units as one: pairs of their choices that agree on the decisions they share."""
    shared = [decision for decision in one.decisions.tolist() if decision in other.decisions.tolist()]
    if len(one.choices) * len(other.choices) > JOINT:
        raise UserError(
            f"layers that share a decision may have at most {JOINT:,} joint choices",
            got=f"{len(one.choices) * len(other.choices):,}",
            fix="fix the activation bits, or use the searcher 'auto' or 'random'",
        )
    i, j = (index.ravel() for index in np.indices((len(one.choices), len(other.choices))))
    for decision in shared:
        left = one.choices[i, one.decisions.tolist().index(decision)]
        agree = left == other.choices[j, other.decisions.tolist().index(decision)]
        i, j = i[agree], j[agree]
    new = [column for column, decision in enumerate(other.decisions.tolist()) if decision not in shared]
    return Unit(
        np.concatenate([one.decisions, other.decisions[new]]),
        np.concatenate([one.choices[i], other.choices[j][:, new]], axis=1),
        one.damage[i] + other.damage[j],
        {metric: one.costs[metric][i] + other.costs[metric][j]},
    )


def _extended(omega: Floats, cost: Floats, damage: Floats, price: Floats) -> tuple[Floats, Floats, X, X]:
    """The front after one more unit, with the point that each point came from and the choice that it took."""
    sums, costs = (omega[:, None] + damage).ravel(), (cost[:, None] + price).ravel()
    keep = _thinned(sums, costs, undominated(sums, costs))
    previous, choice = np.divmod(keep, len(damage))
    return sums[keep], costs[keep], previous, choice


def _thinned(omega: Floats, cost: Floats, keep: X) -> X:
    """At most ``KEPT`` of a front, in order of cost: the last of each interval has its least Ω."""
    if len(keep) <= KEPT:
        return keep
    low, high = cost[keep[0]], cost[keep[-1]]
    interval = np.minimum((cost[keep] - low) / (high - low) * (KEPT - 1), KEPT - 2).astype(np.int64)
    last = np.append(np.diff(interval) > 0, True)
    last[0] = True  # the cheapest of all stays: it may be all that the bounds allow
    return np.asarray(keep[last])


def _traced(
    space: SearchSpace, units: Sequence[Unit], steps: Sequence[tuple[X, X]], omega: Floats, cost: Floats
) -> Front:
    """Index vectors of the front's points, back from the last unit to the first."""
    x = np.zeros((len(omega), space.dimension), dtype=np.int64)
    at = np.arange(len(omega))
    for unit, (previous, choice) in zip(reversed(units), reversed(steps), strict=True):
        x[:, unit.decisions] = unit.choices[choice[at]]
        at = previous[at]
    return Front(x, omega, cost)
