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
activation bits. A limit on a metric of which the network has the greatest of its layers' is no row: it strikes out the
choices over it.

Where units share no decision and at most one row can bind, :mod:`qsearch.search.knapsack` solves it in milliseconds and
goes on to the next best at next to no cost. Otherwise HiGHS does (:mod:`qsearch.search.linear`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qsearch.problem import Bound
from qsearch.search.knapsack import Knapsack, TooManyPartialSolutions
from qsearch.search.linear import ChoiceProgram, Row, owners
from qsearch.search.units import Floats, Unit, with_damage

X = NDArray[np.int64]
"""An index vector, shape (D,)."""

ROW_SLACK = 1e-9
"""Rows are widened by this share of the largest cost, so that rounding shuts no solution out."""


@dataclass(frozen=True)
class Moves:
    """Changes of a solution, unit by unit.

    Attributes:
        at: choices of the solution, shape (U,).
        allowed: choices within the limits on greatest costs, shape (U, O).
        costs: of each row, what a choice costs beyond the solution's, shape (U, O).
        room: of each row, least and most that all changes together may cost.
    """

    at: NDArray[np.int64]
    allowed: NDArray[np.bool_]
    costs: list[Floats]
    room: list[tuple[float, float]]


@dataclass(frozen=True)
class Program:
    """An integer program over the units of a problem.

    Attributes:
        units: what is decided jointly.
        constant: part of each cost that nothing changes.
        bounds: limits on costs.
        gap: relative gap between the damage of a solution and the best possible at which HiGHS may accept it; 0 is
            exact, as the knapsack always is.
        maxima: metrics of which the network has the greatest of its layers'; their bounds are upper limits.
    """

    units: tuple[Unit, ...]
    constant: Mapping[str, float]
    bounds: tuple[Bound, ...]
    gap: float = 0.0
    maxima: frozenset[str] = field(default=frozenset())

    def with_damage(self, damage: Sequence[Floats]) -> Program:
        """The same program with other damages: one array per decision, one number per choice."""
        return replace(self, units=tuple(with_damage(self.units, damage)))

    def damage(self, x: X) -> float:
        """Predicted damage of an index vector, shape (D,)."""
        return float(self._damages[self._at(x)].sum()) if self.units else 0.0

    def cost(self, x: X, metric: str) -> float:
        """Cost of an index vector, shape (D,)."""
        if not self.units:
            return self.constant[metric]
        values = self._costs[metric][self._at(x)]
        if metric in self.maxima:
            return max(self.constant[metric], float(values.max()))
        return self.constant[metric] + float(values.sum())

    def solve(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> X | None:
        """The index vector of least damage, or least cost ``minimise``; None where nothing meets the rows.

        Args:
            caps: metric → upper limit, besides the bounds.
            cuts: index vectors that may not come out.

        Raises:
            Failure: the solver gave up.
        """
        return next(self.ranked(caps, cuts, minimise), None)

    def ranked(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> Iterator[X]:
        """Index vectors in order of damage, or of cost ``minimise``, each once; see :meth:`solve`."""
        if not self.units:
            yield from () if cuts or self._struck(caps) is None else [np.zeros(0, dtype=np.int64)]
        elif minimise in self.maxima:
            yield from self._ranked_by_greatest(caps, cuts, minimise)
        else:
            yield from self._ranked_by_sum(caps, cuts, minimise)

    def priced(self) -> Floats:
        """Costs of each unit as damage, shape (U, O), at prices that suit the rows: a part for each, as if alone."""
        total = np.zeros(self._damages.shape)
        rows = [row for row in self.rows() if np.isfinite(row.high)]
        for row in rows:
            knapsack = self._knapsack(np.isfinite(self._damages), [row], None)
            total += knapsack.cost * ((knapsack.multiplier or 0.0) / len(rows))
        return total

    def rows(self) -> list[Row]:
        """The rows that may bind without caps; none where nothing is within the limits on greatest costs."""
        allowed = self._struck({})
        return [] if allowed is None else self._binding(allowed, {})

    def everything(self, most: int) -> X | None:
        """All index vectors, shape (A, D), whether within the rows or not; None where there are more than ``most``."""
        counts = np.ones(self._dimension, dtype=np.int64)
        for unit in self.units:
            counts[unit.decisions] = unit.choices.max(axis=0) + 1
        if np.log2(counts).sum() > np.log2(most):
            return None
        return np.stack(np.unravel_index(np.arange(counts.prod()), counts.tolist()), axis=1)

    def admitted(self, x: X, caps: Mapping[str, float]) -> NDArray[np.bool_]:
        """Which of some index vectors are within the rows, shape (A, D) → (A,)."""
        allowed = self._struck(caps)
        if allowed is None:
            return np.zeros(len(x), dtype=np.bool_)
        within = np.ones(len(x), dtype=np.bool_)
        rows = self._binding(allowed, caps)
        totals = np.zeros((len(rows), len(x)))
        for index, unit in enumerate(self.units):
            at = np.argmax(np.all(unit.choices == x[:, unit.decisions][:, None, :], axis=2), axis=1)
            within &= allowed[index][at]
            for row, total in zip(rows, totals, strict=True):
                total += unit.costs[row.metric][at]
        for row, total in zip(rows, totals, strict=True):
            within &= (total >= row.low) & (total <= row.high)
        return within

    def moves(self, x: X, caps: Mapping[str, float]) -> Moves | None:
        """What may be changed in a solution; None where units share decisions, or nothing is within the limits."""
        allowed = self._struck(caps)
        if allowed is None or self._shared:
            return None
        at = self._at(x)
        costs, room = [], []
        for row in self._binding(allowed, caps):
            cost, used = self._costs[row.metric], float(self._costs[row.metric][at].sum())
            costs.append(cost - cost[at][:, None])
            room.append((row.low - used, row.high - used))
        return Moves(at[1], allowed, costs, room)

    def _ranked_by_greatest(self, caps: Mapping[str, float], cuts: Sequence[X], metric: str) -> Iterator[X]:
        """In order of a metric that is the greatest of the layers', and of damage where that is the same."""
        values = np.unique(np.concatenate([[self.constant[metric]], *(unit.costs[metric] for unit in self.units)]))
        for value in values.tolist():
            within = {**caps, metric: min(value, caps.get(metric, np.inf))}
            yield from (x for x in self._ranked_by_sum(within, cuts, None) if self.cost(x, metric) == value)

    def _ranked_by_sum(self, caps: Mapping[str, float], cuts: Sequence[X], minimise: str | None) -> Iterator[X]:
        """In order of a sum: by the knapsack where it can, then by HiGHS from where that leaves off."""
        allowed = self._struck(caps)
        if allowed is None:
            return
        rows = self._binding(allowed, caps)
        shut = list(cuts)
        if not self._shared and len(rows) <= 1 and all(np.isinf(row.low) for row in rows):
            known = {x.tobytes() for x in cuts}
            try:
                for options in self._knapsack(allowed, rows, minimise).ranked():
                    x = self._vector(options)
                    if x.tobytes() not in known:
                        shut.append(x)
                        yield x
                return
            except TooManyPartialSolutions:
                pass
        while (found := self._branch(allowed, rows, shut, minimise)) is not None:
            shut.append(found)
            yield found

    def _knapsack(self, allowed: NDArray[np.bool_], rows: Sequence[Row], minimise: str | None) -> Knapsack:
        values = np.where(allowed, self._damages if minimise is None else self._costs[minimise], np.inf)
        if not rows:
            return Knapsack(values, np.zeros(values.shape), 0.0)
        costs = self._costs[rows[0].metric]
        return Knapsack.rounded(values, np.where(allowed, costs, 0.0), rows[0].high)

    @cached_property
    def _dimension(self) -> int:
        return 1 + max(int(unit.decisions.max()) for unit in self.units)

    @cached_property
    def _shared(self) -> bool:
        """Whether some units share a decision."""
        return any(len(units) > 1 for units in owners(self.units).values())

    @cached_property
    def _damages(self) -> Floats:
        """Damages of all units, shape (U, O), infinite where a unit has fewer choices."""
        return _stacked([unit.damage for unit in self.units], np.inf)

    @cached_property
    def _costs(self) -> dict[str, Floats]:
        """Metric → costs of all units, shape (U, O)."""
        return {metric: _stacked([unit.costs[metric] for unit in self.units], 0.0) for metric in self.constant}

    @cached_property
    def _decisions(self) -> NDArray[np.int64]:
        """Decisions of all units, shape (U, n): the last again where a unit has fewer."""
        width = max(len(unit.decisions) for unit in self.units)
        return np.concatenate([_widened(unit.decisions[None], width) for unit in self.units])

    @cached_property
    def _choices(self) -> NDArray[np.int64]:
        """Joint choices of all units, shape (U, O, n): −1 where a unit has fewer choices."""
        shape = (*self._damages.shape, self._decisions.shape[1])
        choices = np.full(shape, -1, dtype=np.int64)
        for index, unit in enumerate(self.units):
            choices[index, : len(unit.choices)] = _widened(unit.choices, shape[2])
        return choices

    def _at(self, x: X) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions in (U, O) of the joint choices that ``x`` makes."""
        same = np.all(self._choices == x[self._decisions][:, None, :], axis=2)
        return np.arange(len(self.units)), np.argmax(same, axis=1)

    def _vector(self, options: NDArray[np.int64]) -> X:
        """The index vector of one joint choice per unit, shape (U,)."""
        x = np.zeros(self._dimension, dtype=np.int64)
        x[self._decisions] = self._choices[np.arange(len(options)), options]
        return x

    def _struck(self, caps: Mapping[str, float]) -> NDArray[np.bool_] | None:
        """Choices within the limits on greatest costs, shape (U, O); None where a unit has none, or the constant is over."""
        limits = [(bound.metric, bound.limit) for bound in self.bounds] + list(caps.items())
        limits = [(metric, limit) for metric, limit in limits if metric in self.maxima]
        if any(self.constant[metric] > limit for metric, limit in limits):
            return None
        if not self.units:
            return np.zeros((0, 0), dtype=np.bool_)
        allowed = np.isfinite(self._damages)
        for metric, limit in limits:
            allowed &= self._costs[metric] <= limit
        return allowed if allowed.any(axis=1).all() else None

    def _binding(self, allowed: NDArray[np.bool_], caps: Mapping[str, float]) -> list[Row]:
        """One row per metric, of those that some choice of the units may break."""
        rows = []
        for metric in dict.fromkeys([*(bound.metric for bound in self.bounds), *caps]):
            if metric in self.maxima:
                continue
            own = [bound for bound in self.bounds if bound.metric == metric]
            high = min([bound.limit for bound in own if not bound.at_least] + [caps.get(metric, np.inf)])
            low = max([bound.limit for bound in own if bound.at_least], default=-np.inf)
            least, most, slack = self._range(allowed, metric)
            row = Row(
                metric,
                low - self.constant[metric] - slack if low - self.constant[metric] > least - slack else -np.inf,
                high - self.constant[metric] + slack if high - self.constant[metric] < most + slack else np.inf,
            )
            if np.isfinite([row.low, row.high]).any():
                rows.append(row)
        return rows

    def _range(self, allowed: NDArray[np.bool_], metric: str) -> tuple[float, float, float]:
        """Least and greatest sum of the units' costs, and what rounding may add to it."""
        costs = self._costs[metric]
        least = float(np.where(allowed, costs, np.inf).min(axis=1).sum())
        most = float(np.where(allowed, costs, -np.inf).max(axis=1).sum())
        return least, most, ROW_SLACK * (self.constant[metric] + most)

    def _branch(
        self, allowed: NDArray[np.bool_], rows: Sequence[Row], cuts: Sequence[X], minimise: str | None
    ) -> X | None:
        """The best solution that is not cut off, by HiGHS."""
        matter = dict.fromkeys([*(row.metric for row in rows), *filter(None, [minimise])])
        program = ChoiceProgram(
            self.units,
            self._damages if minimise is None else self._costs[minimise],
            self._costs,
            tuple(rows),
            tuple(self._at(x)[1] for x in cuts),
            allowed,
            (self._damages, *(self._costs[metric] for metric in matter)),
        )
        options = program.best(self.gap)
        return None if options is None else self._vector(options)


def _stacked(rows: Sequence[Floats], fill: float) -> Floats:
    """Rows of unequal length as one array."""
    found = np.full((len(rows), max(len(row) for row in rows)), fill)
    for index, row in enumerate(rows):
        found[index, : len(row)] = row
    return found


def _widened(columns: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """The last column repeated up to a width, shape (rows, width)."""
    return columns[:, np.minimum(np.arange(width), columns.shape[1] - 1)]
