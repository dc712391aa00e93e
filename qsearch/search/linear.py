"""Linear programs of 0 and 1, one variable per choice of a unit, through HiGHS.

Notation

=========  ==========================================================================================
y[u, o]    1 where unit u takes its choice o, else 0; only the choices that are kept have one
n          variables
=========  ==========================================================================================

    minimise   Σ v[u, o] · y[u, o]
    subject to Σ_o y[u, o] = 1                                      one choice per unit
               low ≤ Σ_uo c_m[u, o] · y[u, o] ≤ high                for each row
               Σ_{o: k} y[u, o] = Σ_{o: k} y[u′, o]                 units that share a decision agree on each choice k
               Σ_u y[u, o_u] ≤ U − 1                                for each solution that is cut off

:func:`scipy.optimize.linprog` solves the relaxed program, whose reduced costs tell what a choice must add to the value at
least; then :func:`scipy.optimize.milp` that of the choices that add little. A solution that is within that little of the
bound is optimal among all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from qsearch.errors import Failure
from qsearch.search.quiet import quiet_stdout
from qsearch.search.units import Floats, Unit

Indices = NDArray[np.int64]

OBJECTIVE_SCALE = 1e6
"""HiGHS stops at an absolute gap of 1e-6; the objective is scaled so that this is 1e-12 of its range."""
ROW_SCALE = 1e3
"""HiGHS accepts rows violated by 1e-6; rows are scaled so that this is 1e-9 of the largest cost."""

_OPTIMAL, _INFEASIBLE = 0, 2  # status of scipy.optimize.milp


@dataclass(frozen=True)
class Row:
    """Limits on a sum of costs: low ≤ Σ c_m ≤ high, without the constant part."""

    metric: str
    low: float
    high: float


@dataclass(frozen=True)
class ChoiceProgram:
    """One choice per unit, of least value, within rows.

    Attributes:
        units: the units; those that share decisions agree on them.
        values: to minimise, shape (U, O); infinite where a unit has fewer choices.
        costs: metric → shape (U, O).
        rows: limits on sums of costs.
        cuts: solutions that may not come out, shape (U,) each.
        allowed: choices that may be taken, shape (U, O).
        criteria: numbers of which none may be less for a choice to be better than another, shape (U, O) each.
    """

    units: tuple[Unit, ...]
    values: Floats
    costs: Mapping[str, Floats]
    rows: tuple[Row, ...]
    cuts: tuple[Indices, ...]
    allowed: NDArray[np.bool_]
    criteria: tuple[Floats, ...]

    def best(self, gap: float) -> Indices | None:
        """The choices of the best solution, shape (U,); None where there is none.

        Args:
            gap: relative gap at which a solution is accepted.

        Raises:
            Failure: the solver gave up.
        """
        above = self.values - self.values.min(axis=1, keepdims=True)  # a constant per unit changes no solution
        span = float(np.where(np.isfinite(above), above, 0.0).max(axis=1).sum()) or 1.0
        linear = Linear(
            above[self._columns] * (OBJECTIVE_SCALE / span),
            [self._choose(), *self._agree()],
            [*self._limit(), *self._cut()],
        )
        y = linear.solve(len(self.units), gap)
        if y is None:
            return None
        units, options = (index[y > 0.5] for index in self._columns)
        chosen = np.zeros(len(self.units), dtype=np.int64)
        chosen[units] = options
        return chosen

    @cached_property
    def _columns(self) -> tuple[Indices, Indices]:
        """Units and options of the variables, shape (n,) each."""
        units, options = np.nonzero(self._kept)
        return units, options

    @cached_property
    def _owners(self) -> dict[int, list[int]]:
        return owners(self.units)

    @property
    def _kept(self) -> NDArray[np.bool_]:
        """Choices that can be in the best solution that is not cut off, shape (U, O).

        A choice that more others of its unit dominate than there are cuts cannot: each of them in its place gives a
        solution at least as good. That holds only where the unit shares no decision and no row asks for more cost.
        """
        kept = self.allowed.copy()
        if any(np.isfinite(row.low) for row in self.rows):
            return kept
        shared = {unit for units in self._owners.values() if len(units) > 1 for unit in units}
        for unit in set(range(len(self.units))) - shared:
            found = np.flatnonzero(self.allowed[unit])
            criteria = np.stack([values[unit, found] for values in self.criteria], axis=1)
            kept[unit, found] = _dominators(criteria) <= len(self.cuts)
        return kept

    def _choose(self) -> LinearConstraint:
        units, _ = self._columns
        entries = (np.ones(len(units)), (units, np.arange(len(units))))
        return LinearConstraint(sparse.csr_array(entries, shape=(len(self.units), len(units))), 1, 1)

    def _agree(self) -> list[LinearConstraint]:
        """Rows that make the units of a shared decision agree with its first unit, one per choice."""
        units, options = self._columns
        entries: list[tuple[int, int, float]] = []
        row = 0
        columns = np.split(np.arange(len(units)), np.flatnonzero(np.diff(units)) + 1)
        for decision, (first, *others) in self._owners.items():
            for other in others:
                made = [_column(self.units[unit], decision)[options[columns[unit]]] for unit in (first, other)]
                for choice in np.unique(np.concatenate(made)):
                    for unit, column, sign in ((first, made[0], 1.0), (other, made[1], -1.0)):
                        entries += [(row, int(at), sign) for at in columns[unit][column == choice]]
                    row += 1
        if not entries:
            return []
        index, positions, signs = (np.asarray(part) for part in zip(*entries, strict=True))
        return [LinearConstraint(sparse.csr_array((signs, (index, positions)), shape=(row, len(units))), 0, 0)]

    def _limit(self) -> list[LinearConstraint]:
        """The rows, scaled to the largest cost."""
        found = []
        for row in self.rows:
            top = float(self.costs[row.metric].max(axis=1).sum()) or 1.0
            costs = self.costs[row.metric][self._columns] * (ROW_SCALE / top)
            low, high = row.low / top * ROW_SCALE, row.high / top * ROW_SCALE
            found.append(LinearConstraint(sparse.csr_array(costs[None]), low, high))
        return found

    def _cut(self) -> list[LinearConstraint]:
        """Rows that shut out known solutions; one with a choice that is not kept cannot come out anyway."""
        units, options = self._columns
        marks = [(cut[units] == options).astype(np.float64) for cut in self.cuts]
        rows = [mark for mark in marks if mark.sum() == len(self.units)]
        return [LinearConstraint(sparse.csr_array(np.stack(rows)), -np.inf, len(self.units) - 1)] if rows else []


@dataclass(frozen=True)
class Linear:
    """A linear program in variables of 0 or 1.

    Attributes:
        objective: to minimise, shape (n,).
        equal: constraints whose two sides are the same.
        limits: the others.
    """

    objective: Floats
    equal: Sequence[LinearConstraint]
    limits: Sequence[LinearConstraint]

    def solve(self, few: int, gap: float) -> Floats | None:
        """The best y, shape (n,); None where there is none.

        Args:
            few: a number of variables that is solved without much ado.
            gap: relative gap at which a solution is accepted.

        Raises:
            Failure: the solver gave up.
        """
        relaxed = self.relaxed()
        if relaxed is None:
            return None
        bound, reduced = relaxed
        window = float(np.partition(reduced, min(3 * few, len(reduced)) - 1)[min(3 * few, len(reduced)) - 1]) + 1.0
        while True:
            kept = np.flatnonzero(reduced <= window)
            found = self._whole(kept, gap)
            if len(kept) == len(reduced) or (found is not None and found[0] <= bound + window):
                break
            window = 4 * window if found is None else (found[0] - bound) * (1 + 1e-9) + 1e-6
        if found is None:
            return None
        y = np.zeros(len(self.objective))
        y[kept] = found[1]
        return y

    def relaxed(self) -> tuple[float, Floats] | None:
        """The optimum of the relaxed program and the reduced cost of each variable, shape (n,).

        Raises:
            Failure: the solver gave up.
        """
        above = [c for c in self.limits if np.isfinite(c.ub).all()]
        below = [c for c in self.limits if np.isfinite(c.lb).all()]
        upper = [c.A for c in above] + [-c.A for c in below]
        limits = [np.broadcast_to(c.ub, c.A.shape[0]) for c in above] + [
            -np.broadcast_to(c.lb, c.A.shape[0]) for c in below
        ]
        with quiet_stdout():
            result = linprog(
                self.objective,
                A_ub=sparse.vstack(upper) if upper else None,
                b_ub=np.concatenate(limits) if limits else None,
                A_eq=sparse.vstack([c.A for c in self.equal]),
                b_eq=np.concatenate([np.broadcast_to(c.lb, c.A.shape[0]) for c in self.equal]),
                method="highs",
            )
        if result.status == _INFEASIBLE:
            return None
        if result.status != _OPTIMAL:
            raise Failure("the relaxed integer program could not be solved", got=str(result.message))
        return float(result.fun), np.asarray(result.lower.marginals, dtype=np.float64)

    def _whole(self, kept: NDArray[np.int64], gap: float) -> tuple[float, Floats] | None:
        """Value and y of the program of some variables, the others 0."""
        with quiet_stdout():
            result = milp(
                self.objective[kept],
                integrality=np.ones(len(kept)),
                bounds=Bounds(0, 1),
                constraints=[LinearConstraint(c.A[:, kept], c.lb, c.ub) for c in [*self.equal, *self.limits]],
                options={"mip_rel_gap": gap},
            )
        if result.status == _INFEASIBLE:
            return None
        if result.status != _OPTIMAL:
            raise Failure("the integer program could not be solved", got=str(result.message))
        return float(result.fun), np.asarray(result.x, dtype=np.float64)


def owners(units: Sequence[Unit]) -> dict[int, list[int]]:
    """Decision → the units that have it."""
    found: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        for decision in unit.decisions.tolist():
            found.setdefault(decision, []).append(index)
    return found


def _column(unit: Unit, decision: int) -> Indices:
    """Choices of one decision in each joint choice, shape (O,)."""
    column: Indices = unit.choices[:, int(np.argmax(unit.decisions == decision))]
    return column


def _dominators(criteria: Floats) -> Indices:
    """How many choices dominate each one (≤ everywhere, < somewhere), shape (O, C) → (O,)."""
    no_worse = np.all(criteria[None] <= criteria[:, None], axis=2)
    better = np.any(criteria[None] < criteria[:, None], axis=2)
    return np.asarray(np.sum(no_worse & better, axis=1), dtype=np.int64)
