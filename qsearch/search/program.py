"""The integer program: one joint choice per unit, least predicted damage, costs within their bounds.

Notation

=========  ==========================================================================================
y[u, o]    1 where unit u takes its joint choice o, else 0
d, c       damage and cost of (u, o), see :mod:`qsearch.search.units`
=========  ==========================================================================================

    minimise   Σ d[u, o] · y[u, o]
    subject to Σ_o y[u, o] = 1                                      one choice per unit
               Σ_uo c_m[u, o] · y[u, o] + const_m ≤ limit_m         (≥ for at_least), one row per bound and cap
               Σ_{o: k} y[u, o] = Σ_{o: k} y[u′, o]                 units that share a decision agree on each choice k
               Σ_u y[u, o_u] ≤ U − 1                                for each solution that is cut off

It is the multiple-choice knapsack of HAWQ-V3 (Yao et al., ICML 2021), with several rows, ties and joint weight and
activation bits. HiGHS solves it through :func:`scipy.optimize.milp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from qsearch.errors import Failure
from qsearch.problem import Bound
from qsearch.search.quiet import quiet_stdout
from qsearch.search.units import Floats, Unit

OBJECTIVE_SCALE = 1e6
"""HiGHS stops at an absolute gap of 1e-6; the objective is scaled so that this is 1e-12 of its range."""
ROW_SCALE = 1e3
"""HiGHS accepts rows violated by 1e-6; rows are scaled so that this is 1e-9 of the largest cost."""
ROW_SLACK = 1e-9
"""Rows are widened by this share of the largest cost, so that rounding shuts no solution out."""

_OPTIMAL, _INFEASIBLE = 0, 2  # status of scipy.optimize.milp


@dataclass(frozen=True)
class Program:
    """An integer program over the units of a problem.

    Attributes:
        units: what is decided jointly.
        constant: part of each cost that nothing changes.
        bounds: limits on costs.
        gap: relative gap between the damage of a solution and the best possible at which it is accepted; 0 is exact.
    """

    units: tuple[Unit, ...]
    constant: Mapping[str, float]
    bounds: tuple[Bound, ...]
    gap: float = 0.0

    def damage(self, x: NDArray[np.int64]) -> float:
        """Predicted damage of an index vector, shape (D,)."""
        return float(sum(unit.damage[_option(unit, x)] for unit in self.units))

    def cost(self, x: NDArray[np.int64], metric: str) -> float:
        """Cost of an index vector, shape (D,)."""
        return self.constant[metric] + float(sum(unit.costs[metric][_option(unit, x)] for unit in self.units))

    def solve(
        self, caps: Mapping[str, float], cuts: Sequence[NDArray[np.int64]], minimise: str | None = None
    ) -> NDArray[np.int64] | None:
        """The index vector of least damage, or least cost ``minimise``; None where nothing meets the rows.

        Args:
            caps: metric → upper limit, besides the bounds.
            cuts: index vectors that may not come out.

        Raises:
            Failure: the solver gave up.
        """
        if not self.units:
            return None if cuts else np.zeros(0, dtype=np.int64)
        kept = self._kept(len(cuts) + 1, caps, minimise)
        rows = [*self._choose(kept), *self._agree(kept), *self._limit(kept, caps), *self._cut(kept, cuts)]
        values = [_shifted(unit.damage if minimise is None else unit.costs[minimise]) for unit in self.units]
        span = sum(float(value.max()) for value in values) or 1.0
        objective = _flat(values, kept) * (OBJECTIVE_SCALE / span)
        with quiet_stdout():
            result = milp(
                objective,
                integrality=np.ones(len(objective)),
                bounds=Bounds(0, 1),
                constraints=rows,
                options={"mip_rel_gap": self.gap},
            )
        if result.status == _INFEASIBLE:
            return None
        if result.status != _OPTIMAL:
            raise Failure("the integer program could not be solved", got=str(result.message))
        return self._read(result.x, kept)

    @cached_property
    def _dimension(self) -> int:
        return 1 + max(int(unit.decisions.max()) for unit in self.units)

    @cached_property
    def _owners(self) -> dict[int, list[int]]:
        """Decision → units that have it."""
        owners: dict[int, list[int]] = {}
        for index, unit in enumerate(self.units):
            for decision in unit.decisions.tolist():
                owners.setdefault(decision, []).append(index)
        return owners

    def _kept(self, wanted: int, caps: Mapping[str, float], minimise: str | None) -> list[NDArray[np.int64]]:
        """Choices of each unit that can be in one of the ``wanted`` best solutions.

        A choice that ``wanted`` others of its unit dominate, in damage and in every cost that matters, cannot: each
        of them in its place gives a solution at least as good. That holds only where the unit shares no decision and
        no bound asks for more cost.
        """
        metrics = {bound.metric for bound in self.bounds} | set(caps) | ({minimise} if minimise else set())
        shared = {unit for units in self._owners.values() if len(units) > 1 for unit in units}
        prune = not any(bound.at_least for bound in self.bounds)
        kept = []
        for index, unit in enumerate(self.units):
            everything = np.arange(len(unit.choices))
            if not prune or index in shared:
                kept.append(everything)
                continue
            criteria = np.stack([unit.damage, *(unit.costs[metric] for metric in sorted(metrics))], axis=1)
            kept.append(everything[_dominators(criteria) < wanted])
        return kept

    def _choose(self, kept: Sequence[NDArray[np.int64]]) -> list[LinearConstraint]:
        sizes = [len(options) for options in kept]
        total = sum(sizes)
        rows = sparse.csr_array(
            (np.ones(total), (np.repeat(np.arange(len(kept)), sizes), np.arange(total))), shape=(len(kept), total)
        )
        return [LinearConstraint(rows, 1, 1)]

    def _agree(self, kept: Sequence[NDArray[np.int64]]) -> list[LinearConstraint]:
        """Rows that make the units of a shared decision agree with its first unit, one per choice."""
        starts = np.concatenate([[0], np.cumsum([len(options) for options in kept])])
        entries: list[tuple[int, int, float]] = []
        row = 0
        for decision, (first, *others) in self._owners.items():
            for other in others:
                columns = [_column(self.units[unit], decision)[kept[unit]] for unit in (first, other)]
                for choice in np.unique(np.concatenate(columns)):
                    for unit, column, sign in ((first, columns[0], 1.0), (other, columns[1], -1.0)):
                        entries += [(row, int(starts[unit] + at), sign) for at in np.flatnonzero(column == choice)]
                    row += 1
        if not entries:
            return []
        rows, positions, signs = (np.asarray(part) for part in zip(*entries, strict=True))
        return [LinearConstraint(sparse.csr_array((signs, (rows, positions)), shape=(row, int(starts[-1]))), 0, 0)]

    def _limit(self, kept: Sequence[NDArray[np.int64]], caps: Mapping[str, float]) -> list[LinearConstraint]:
        """One row per bound and cap, scaled to the largest cost."""
        limits = [(bound.metric, bound.limit, bound.at_least) for bound in self.bounds]
        limits += [(metric, limit, False) for metric, limit in caps.items()]
        rows = []
        for metric, limit, at_least in limits:
            costs = [unit.costs[metric] for unit in self.units]
            top = self.constant[metric] + sum(float(cost.max()) for cost in costs) or 1.0
            room = (limit - self.constant[metric]) / top * ROW_SCALE
            slack = ROW_SLACK * ROW_SCALE
            low, high = (room - slack, np.inf) if at_least else (-np.inf, room + slack)
            rows.append(LinearConstraint(sparse.csr_array(_flat(costs, kept)[None] * (ROW_SCALE / top)), low, high))
        return rows

    def _cut(self, kept: Sequence[NDArray[np.int64]], cuts: Sequence[NDArray[np.int64]]) -> list[LinearConstraint]:
        """Rows that shut out known solutions; one with a choice that is not kept cannot come out anyway."""
        rows = []
        for x in cuts:
            marks = [options == _option(unit, x) for unit, options in zip(self.units, kept, strict=True)]
            if all(mark.any() for mark in marks):
                rows.append(np.concatenate(marks).astype(np.float64))
        return [LinearConstraint(sparse.csr_array(np.stack(rows)), -np.inf, len(kept) - 1)] if rows else []

    def _read(self, y: Floats, kept: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        x = np.zeros(self._dimension, dtype=np.int64)
        ends = np.cumsum([len(options) for options in kept])[:-1]
        for unit, options, part in zip(self.units, kept, np.split(y, ends), strict=True):
            x[unit.decisions] = unit.choices[options[int(np.argmax(part))]]
        return x


def _option(unit: Unit, x: NDArray[np.int64]) -> int:
    """Position of the joint choice that ``x`` makes."""
    return int(np.argmax(np.all(unit.choices == x[unit.decisions], axis=1)))


def _column(unit: Unit, decision: int) -> NDArray[np.int64]:
    """Choices of one decision in each joint choice, shape (O,)."""
    column: NDArray[np.int64] = unit.choices[:, int(np.argmax(unit.decisions == decision))]
    return column


def _shifted(values: Floats) -> Floats:
    """Values above the least of them: a constant per unit changes no solution, and keeps the objective small."""
    return np.asarray(values - values.min(), dtype=np.float64)


def _flat(values: Sequence[Floats], kept: Sequence[NDArray[np.int64]]) -> Floats:
    return np.concatenate([value[options] for value, options in zip(values, kept, strict=True)])


def _dominators(criteria: Floats) -> NDArray[np.int64]:
    """How many choices dominate each one (≤ everywhere, < somewhere), shape (O, C) → (O,)."""
    no_worse = np.all(criteria[None] <= criteria[:, None], axis=2)
    better = np.any(criteria[None] < criteria[:, None], axis=2)
    return np.asarray(np.sum(no_worse & better, axis=1), dtype=np.int64)
