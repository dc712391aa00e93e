"""The quadratic program: least damage of choices and of pairs of choices, costs within their bounds.

Notation

=========  ==========================================================================================
U, O       units that interact with others, and choices of each; where a unit has fewer, the rest is shut
d_p        damage of the choices of unit p, shape (O,)
I_pq       damage of a pair of units beyond d_p + d_q, shape (O, O)
m_pq       what is moved from the pair (p, q) to the choices of p, shape (O,)
=========  ==========================================================================================

    minimise Σ_p d_p[o_p] + Σ_{p<q} I_pq[o_p, o_q]        within the rows of :mod:`qsearch.search.program`,

the form of CLADO (Deng et al., arXiv:2307.05657). For any m,

    damage = Σ_p (d_p[o_p] + Σ_q m_pq[o_p]) + Σ_{p<q} (I_pq[o_p, o_q] − m_pq[o_p] − m_qp[o_q]),

and where no term of the second sum is negative, the first is an additive program that no solution is below. Its solutions
come in order (:meth:`Program.ranked`), so the best solution seen is proven once the additive damage has reached its own:
exact, and likewise for the next best. The m that raise the bound most solve the dual of the linearised program's
relaxation; diffusion (Werner, IEEE TPAMI 29(7), 2007) climbs towards it, any number of sweeps being valid. Where many units
interact with both signs that bound is poor: then what :mod:`qsearch.search.semidefinite` leaves of the damage is taken in
its place, whichever is the better.

Where too many solutions would have to be seen, what has been reached stays a proven bound, and local search from the best
of them takes over. Small spaces are simply gone through.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np

from qsearch.search.damage import Damage
from qsearch.search.program import Program, X
from qsearch.search.semidefinite import Limit, relieved
from qsearch.search.units import Floats, Unit

ENUMERATED = 2**18
"""Spaces of up to so many assignments are gone through one by one."""
SWEEPS = 60
"""Sweeps of diffusion over all units."""
STARTS = 4
"""Solutions from which local search starts."""
ROUNDING = 1e-9
"""Share of the range of damages within which two are the same."""


@dataclass
class PairedProgram:
    """A program whose units interact.

    Attributes:
        program: the program without interactions.
        total: damage of whole assignments.
        exact_up_to: solutions of the additive program to see before local search takes over.
        bound: no solution that is not known yet has less damage; of the call in progress, or the last one.
    """

    program: Program
    total: Damage
    exact_up_to: int
    bound: float = -np.inf

    def damage(self, x: X) -> float:
        """Predicted damage of an index vector, shape (D,)."""
        return float(self.total(x[None])[0])

    def cost(self, x: X, metric: str) -> float:
        """See :meth:`Program.cost`."""
        return self.program.cost(x, metric)

    def ranked(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> Iterator[X]:
        """Index vectors in order of damage, proven as far as ``bound`` reaches, or of cost; see :meth:`Program.ranked`."""
        if minimise is not None or not self.total.pairs:
            yield from self.program.ranked(caps, cuts, minimise)
            return
        everything = self.program.everything(ENUMERATED)
        if everything is not None:
            yield from self._enumerated(everything[self.program.admitted(everything, caps)], cuts)
            return
        stream = self._under.ranked(caps, cuts)
        pool = Pool(self.damage, cuts)
        for x in islice(stream, self.exact_up_to):
            self.bound = self._under.damage(x)
            yield from pool.up_to(self.bound + self._rounding)
            pool.add(x)
        following = next(stream, None)
        if following is not None:  # what is left is not proven
            for x in pool.best(STARTS):
                pool.add(self._descended(x, caps))
            pool.add(following)
        while (found := pool.pop()) is not None:
            yield found
            following = next(stream, None)
            if following is not None:
                pool.add(following)

    def _enumerated(self, x: X, cuts: Sequence[X]) -> Iterator[X]:
        """All of some index vectors in order of damage."""
        damages = self.total(x)
        known = {cut.tobytes() for cut in cuts}
        for index in np.argsort(damages, kind="stable"):
            self.bound = float(damages[index])
            if x[index].tobytes() not in known:
                yield x[index]

    @cached_property
    def _rounding(self) -> float:
        return ROUNDING * float(sum(np.ptp(values) for values in self.total.single))

    @cached_property
    def _units(self) -> list[int]:
        """Units that interact with others."""
        return [p for p in range(len(self.program.units)) if any(p in pair for pair in self._pairs)]

    @cached_property
    def _pairs(self) -> dict[tuple[int, int], Floats]:
        """I_pq of each pair of units p ≤ q, shape (O_p, O_q), summed over their decisions."""
        first: dict[int, int] = {}
        for index, unit in enumerate(self.program.units):
            for decision in unit.decisions.tolist():
                first.setdefault(decision, index)
        found: dict[tuple[int, int], Floats] = {}
        for (i, j), values in self.total.pairs.items():
            (p, i), (q, j), values = (first[i], i), (first[j], j), values
            if p > q:
                (p, i), (q, j), values = (q, j), (p, i), values.T
            rows, columns = (self._made(unit, decision) for unit, decision in ((p, i), (q, j)))
            found[p, q] = found.get((p, q), 0.0) + values[np.ix_(rows, columns)]
        return found

    def _made(self, unit: int, decision: int) -> X:
        """The choice of a decision in each joint choice of a unit."""
        owner = self.program.units[unit]
        column: X = owner.choices[:, int(np.argmax(owner.decisions == decision))]
        return column

    @cached_property
    def _under(self) -> Program:
        """The additive program that no solution is below: of two, that of which the best solution has more damage."""
        less = relieved(self.total, self._limits)
        if less is None:
            return self._diffused
        own, other = self._diffused, replace(self, program=self.program.with_damage(less.single), total=less)._diffused
        return max((own, other), key=_least)

    @property
    def _limits(self) -> list[Limit]:
        """The rows of the program as limits on choices of decisions."""
        sizes = [len(values) for values in self.total.single]
        found = []
        for row in self.program.rows():
            values = [unit.costs[row.metric] for unit in self.program.units]
            if np.isfinite(row.high):
                found.append(Limit(_over_decisions(self.program.units, values, sizes), row.high))
            if np.isfinite(row.low):
                found.append(Limit(_over_decisions(self.program.units, [-value for value in values], sizes), -row.low))
        return found

    @cached_property
    def _diffused(self) -> Program:
        """The additive program to which diffusion moves the interactions; exact, as it proves."""
        units = list(self.program.units)
        for p, unit in enumerate(units):
            if (p, p) in self._pairs:
                units[p] = replace(unit, damage=unit.damage + np.diag(self._pairs[p, p]))
        sizes = [len(units[p].choices) for p in self._units]
        single = np.zeros((len(sizes), max(sizes)))
        for row, p in enumerate(self._units):
            single[row, : sizes[row]] = units[p].damage + self._priced[p][: sizes[row]]
        moved = diffused(single, np.asarray(sizes), self._dense)
        for row, p in enumerate(self._units):
            units[p] = replace(units[p], damage=units[p].damage + moved[row, : sizes[row]])
        return replace(self.program, units=tuple(units), gap=0.0)

    @cached_property
    def _priced(self) -> Floats:
        """Costs at the prices of the program without interactions, as damage, shape (U, O); any prices are valid."""
        return self.program.priced()

    @cached_property
    def _dense(self) -> Floats:
        """I of all pairs of units that interact, shape (U, O, U, O)."""
        at = {p: row for row, p in enumerate(self._units)}
        most = max(len(self.program.units[p].choices) for p in self._units)
        dense = np.zeros((len(at), most, len(at), most))
        for (p, q), values in self._pairs.items():
            if p != q:
                dense[at[p], : values.shape[0], at[q], : values.shape[1]] = values
                dense[at[q], : values.shape[1], at[p], : values.shape[0]] = values.T
        return dense

    def _descended(self, x: X, caps: Mapping[str, float]) -> X:
        """The solution that no change of one or two units betters, from a solution within the rows."""
        while (better := self._improved(x, caps)) is not None:
            x = better
        return x

    def _improved(self, x: X, caps: Mapping[str, float]) -> X | None:
        """The best change of one unit or two among those that interact; None where none is better."""
        moves = self.program.moves(x, caps)
        if moves is None:
            return None
        units, each = np.asarray(self._units), np.arange(len(self._units))
        now = moves.at[units]
        # I of each choice with the present one of each other unit, shape (U, O, U)
        beside = self._dense[:, :, each, now]
        single = self._single + beside.sum(axis=2)
        single = np.where(moves.allowed[units], single - single[each, now][:, None], np.inf)
        present = beside[each, now]  # shape (U, U)
        change = single[:, :, None, None] + single + self._dense
        change -= beside[:, :, :, None] + beside.transpose(2, 0, 1)[:, None] - present[:, None, :, None]
        change[each, :, each] = np.inf
        for cost, (low, high) in zip(moves.costs, moves.room, strict=True):
            spent = cost[units][:, :, None, None] + cost[units]
            change[(spent < low) | (spent > high)] = np.inf
        p, a, q, b = np.unravel_index(int(np.argmin(change)), change.shape)
        if not change[p, a, q, b] < -self._rounding:
            return None
        better = x.copy()
        for unit, option in ((units[p], a), (units[q], b)):
            better[self.program.units[unit].decisions] = self.program.units[unit].choices[option]
        return better

    @cached_property
    def _single(self) -> Floats:
        """d of the units that interact, what interacts within each included, shape (U, O)."""
        single = np.zeros(self._dense.shape[:2])
        for row, p in enumerate(self._units):
            unit = self.program.units[p]
            within = np.diag(self._pairs[p, p]) if (p, p) in self._pairs else 0.0
            single[row, : len(unit.choices)] = unit.damage + within
        return single


def _least(program: Program) -> float:
    """Damage of the best solution; infinite where there is none."""
    x = program.solve({})
    return np.inf if x is None else program.damage(x)


def _over_decisions(units: Sequence[Unit], values: Sequence[Floats], sizes: Sequence[int]) -> Damage:
    """Numbers of the joint choices of units, of one decision or two each, as those of decisions and of pairs."""
    single = [np.zeros(size) for size in sizes]
    pairs: dict[tuple[int, int], Floats] = {}
    for unit, value in zip(units, values, strict=True):
        order = np.argsort(unit.decisions)
        decisions = unit.decisions[order].tolist()
        table = np.zeros([sizes[decision] for decision in decisions])
        table[tuple(unit.choices[:, order].T)] = value
        if len(decisions) == 1:
            single[decisions[0]] += table
        else:
            i, j = decisions
            pairs[i, j] = pairs.get((i, j), 0.0) + table
    return Damage(tuple(single), pairs)


class Pool:
    """Known solutions by damage, each once."""

    def __init__(self, damage: Callable[[X], float], shut: Sequence[X]) -> None:
        self._damage = damage
        self._known = {x.tobytes() for x in shut}
        self._heap: list[tuple[float, int, X]] = []

    def add(self, x: X) -> None:
        """Keep a solution, unless it is known."""
        if x.tobytes() not in self._known:
            self._known.add(x.tobytes())
            heapq.heappush(self._heap, (self._damage(x), len(self._known), x))

    def pop(self) -> X | None:
        """Take the best one out; None where there is none."""
        return heapq.heappop(self._heap)[2] if self._heap else None

    def up_to(self, damage: float) -> Iterator[X]:
        """Take out those of at most this damage, best first."""
        while self._heap and self._heap[0][0] <= damage:
            yield heapq.heappop(self._heap)[2]

    def best(self, count: int) -> list[X]:
        """The best ones, which stay."""
        return [x for _, _, x in heapq.nsmallest(count, self._heap)]


def diffused(single: Floats, sizes: X, pairs: Floats) -> Floats:
    """Σ_q m_pq, shape (U, O), for which Σ_p (d_p + Σ_q m_pq) is nowhere above the damage.

    Args:
        single: d, shape (U, O); with prices of costs added, the bound is best where they are paid.
        sizes: choices of each unit, shape (U,).
        pairs: I, shape (U, O, U, O), symmetric; zero where units do not interact.
    """
    count, most = single.shape
    valid = np.arange(most) < sizes[:, None]
    linked = np.any(pairs != 0, axis=(1, 3))
    rest = np.where(valid[None, None], pairs, np.inf)  # I − m − m, over the choices of the second unit that there are
    moved = np.zeros((count, count, most))
    for sweep in range(SWEEPS + 1):
        for p in range(count):
            others = np.flatnonzero(linked[p])
            slack = rest[p][:, others].min(axis=2).T  # shape (others, O)
            change = np.where(valid[p], slack, 0.0)
            if sweep < SWEEPS:
                whole = single[p] + moved[p, others].sum(axis=0) + change.sum(axis=0)
                change = change - np.where(valid[p], whole / (len(others) + 1), 0.0)
            moved[p, others] += change
            rest[p][:, others] -= change.T[:, :, None]
            rest[others, :, p] -= change[:, None, :]
    return np.asarray(moved.sum(axis=1), dtype=np.float64)
