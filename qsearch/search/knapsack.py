"""The multiple-choice knapsack: one choice per unit, one row of costs; every solution in order of damage, exactly.

Notation

=========  ==========================================================================================
U, O       units, and choices of each
d, c       damage and cost of each choice, shape (U, O); d is infinite where a unit has fewer choices
C          room: what a solution may cost
λ          multiplier: damage per cost at which the relaxed program trades, ≥ 0
r          reduced damage, d + λc − min_o (d + λc), shape (U, O), ≥ 0
L          Lagrangian bound, Σ_u min_o (d + λc) − λC
e          excess: what the least choices, those of r = 0, leave of C; below 0 where they are over it
w          window: solutions of damage up to L + w are searched
s, v       cost and damage of a partial solution, above those of the least choices
=========  ==========================================================================================

Whatever is chosen, o_u in unit u, within the row,

    damage = L + Σ_u r[u, o_u] + λ·(C − cost),

a sum of terms that are not negative (Sinha & Zoltners, Operations Research 27(3), 1979). So a choice with r > w is in no
solution of the window, and most units are left with one choice: what remains is the core of the problem (Pisinger, EJOR
83(2), 1995). Dynamic programming over the core lists its partial solutions that no other is below in both cost and damage,
without those that nothing can bring into the window. The lists then tell exactly how well any beginning can end, so that
solutions come out in order, each at the price of a walk along the units. A window that holds no more of them is doubled.

Units with the same damages and costs are a class. What matters of it is how many of its n units take each choice: in the
core it is one unit, whose choices are the counts n_o within the window. A solution comes out first with the choices of
every class ascending, then, one by one as they are asked for, in its other arrangements: these are equal in damage and
cost, so that the order is kept.

Costs are rounded to whole numbers, 2⁴⁵ of them or more to the greatest cost, so that their sums are exact; by less than
U·2⁻⁴⁵ of the greatest cost a solution may therefore be over the room. The factor is a power of two, so that whole costs
stay in proportion and sums that are equal stay equal.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choices = NDArray[np.int64]
"""One choice per unit, shape (U,)."""
Positions = NDArray[np.int64]

WHOLE = 2.0**46
"""Whole numbers to the greatest cost."""
FIRST_WINDOW = 2.0**-14
"""The first window, as a share of what the rounded solution of the relaxed program is above its bound."""
PARTIAL_SOLUTIONS = 3_000_000
"""Most partial solutions that are listed, some 100 MB; instances of many near-equal units may need more."""
COUNTS = 100_000
"""Most counts of a class that are listed; the units of one that has more are decided one by one."""


class TooManyPartialSolutions(Exception):
    """The instance needs more memory than it is given; an integer program solver may still do it."""


@dataclass(frozen=True)
class Knapsack:
    """One instance; costs are whole numbers.

    Attributes:
        damage: d, shape (U, O).
        cost: c, shape (U, O).
        room: C.
    """

    damage: Floats
    cost: Floats
    room: float

    @classmethod
    def rounded(cls, damage: Floats, cost: Floats, room: float) -> Knapsack:
        """An instance from costs of any kind, rounded down."""
        top = float(np.abs(cost).max(axis=1).sum()) or 1.0
        scale = WHOLE / 2.0 ** np.ceil(np.log2(top))
        return cls(damage, np.floor(cost * scale), float(np.floor(min(room, 2.0 * top) * scale)))

    def ranked(self) -> Iterator[Choices]:
        """Every solution in order of damage, each once.

        Raises:
            TooManyPartialSolutions: the next one is too far from the bound.
        """
        if self.multiplier is None:
            return
        core = Core(self, self.multiplier)
        window = FIRST_WINDOW * core.span
        seen: set[bytes] = set()
        while True:
            for choices in core.solutions(window):
                ascending = self._ascending(choices)
                if (key := ascending.tobytes()) not in seen:
                    seen.add(key)
                    yield from self._arrangements(ascending)
            if window >= core.widest:
                return
            window = 2 * window or core.widest

    @cached_property
    def classes(self) -> Positions:
        """The number of each unit's class, shape (U,)."""
        rows = np.concatenate([self.damage, self.cost], axis=1)
        numbers: dict[bytes, int] = {}
        return np.asarray([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows], dtype=np.int64)

    def _ascending(self, choices: Choices) -> Choices:
        """The same counts, with the choices of every class ascending."""
        found = np.empty_like(choices)
        found[np.argsort(self.classes, kind="stable")] = choices[np.lexsort((choices, self.classes))]
        return found

    def _arrangements(self, ascending: Choices) -> Iterator[Choices]:
        """Every way in which the units of each class can share out their choices, the given one first."""
        yield ascending.copy()
        order = np.argsort(self.classes, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(self.classes[order])) + 1)
        mixed = [(units, ascending[units].tolist()) for units in members if np.ptp(ascending[units]) > 0]
        choices = ascending.copy()
        while True:
            for units, values in mixed:  # as an odometer: a class that is through starts again, and moves the next
                goes_on = _permute(values)
                choices[units] = values
                if goes_on:
                    break
            else:
                return
            yield choices.copy()

    @cached_property
    def multiplier(self) -> float | None:
        """λ of the best bound; None where no solution is within the room.

        A secant method: of two solutions that are best for some λ, one over the room and one within, the λ at which
        they are equally good either has a better one, which takes the place of one of the two, or gives the best bound.
        """
        over, within = self._totals(np.argmin(self.damage, axis=1)), self._totals(self._cheapest)
        if within[1] > self.room:
            return None
        multiplier = 0.0
        while over[1] > self.room:
            multiplier = (within[0] - over[0]) / (over[1] - within[1])
            found = self._totals(np.argmin(self.damage + multiplier * self.cost, axis=1))
            gain = over[0] + multiplier * over[1] - (found[0] + multiplier * found[1])
            if found in (over, within) or gain <= 1e-15 * abs(over[0]):
                break
            over, within = (found, within) if found[1] > self.room else (over, found)
        return max(multiplier, 0.0)

    @property
    def _cheapest(self) -> Choices:
        """The least cost of each unit, and of those the least damage."""
        cost = np.where(np.isinf(self.damage), np.inf, self.cost)
        damage = np.where(cost == cost.min(axis=1, keepdims=True), self.damage, np.inf)
        return np.asarray(np.argmin(damage, axis=1), dtype=np.int64)

    def _totals(self, choices: Choices) -> tuple[float, float]:
        at = np.arange(len(choices)), choices
        return float(self.damage[at].sum()), float(self.cost[at].sum())


@dataclass(frozen=True)
class Group:
    """Units of one class in the core.

    Attributes:
        units: their positions, shape (n,).
        choices: those within the window, but the least, shape (O,).
        counts: how many units take each of them, one row per way, shape (ways, O); the others take the least.
    """

    units: Positions
    choices: Positions
    counts: NDArray[np.int64]

    def choose(self, choices: Choices, way: int) -> None:
        """Write one of the ways into the choices of all units, shape (U,)."""
        chosen = np.repeat(self.choices, self.counts[way])
        choices[self.units[: len(chosen)]] = chosen


class Core:
    """The units whose choice is open once a multiplier is known, and their solutions within a window."""

    def __init__(self, knapsack: Knapsack, multiplier: float) -> None:
        self._multiplier, self._classes = multiplier, knapsack.classes
        priced = knapsack.damage + multiplier * knapsack.cost
        self._least = np.argmin(priced, axis=1)
        at = np.arange(len(self._least)), self._least
        self._reduced = priced - priced[at][:, None]
        self._cost = knapsack.cost - knapsack.cost[at][:, None]
        self._excess = knapsack.room - float(knapsack.cost[at].sum())
        open_ = np.isfinite(self._reduced)
        self._second = np.sort(np.where(open_, self._reduced, np.inf), axis=1)[:, 1:2].min(axis=1, initial=np.inf)
        cheapest = float(np.where(open_, self._cost, np.inf).min(axis=1).sum())
        reduced = np.where(open_, self._reduced, 0.0)
        self.widest = (float(reduced.max(axis=1).sum()) + multiplier * (self._excess - cheapest)) * (1 + 1e-6)
        self.span = self._first_gap(reduced)

    def _first_gap(self, reduced: Floats) -> float:
        """How far above the bound a solution lies that is easy to find; above 0 unless there is only one."""
        gap = self._multiplier * self._excess
        if self._excess < 0:  # the step of least reduced damage per cost until it fits
            rates = np.where(self._cost < 0, reduced / np.minimum(self._cost, -1.0), -np.inf)
            best = np.argmax(rates, axis=1)
            at = np.arange(len(best)), best
            order = np.argsort(-rates.max(axis=1), kind="stable")
            saved = np.cumsum(-np.minimum(self._cost[at][order], 0.0))
            steps = 1 + int(np.searchsorted(saved, -self._excess))
            gap = float(reduced[at][order][:steps].sum() + self._multiplier * saved[:steps].max())
        positive = reduced[reduced > 0]
        return max(gap, float(positive.min()) if positive.size else 0.0)

    def solutions(self, window: float) -> Iterator[Choices]:
        """Solutions of damage up to L + window, in order.

        Raises:
            TooManyPartialSolutions: see there.
        """
        units = np.flatnonzero(self._second <= window)
        units = units[np.lexsort((self._classes[units], -self._second[units]))]
        members = np.split(units, np.flatnonzero(np.diff(self._classes[units])) + 1) if units.size else []
        groups = [group for same in members for group in self._groups(same, window)]
        steps = [
            (
                group.counts @ self._cost[group.units[0], group.choices],
                group.counts @ self._reduced[group.units[0], group.choices],
            )
            for group in groups
        ]
        lists = self._lists(steps, window)
        for found in self._walk(steps, lists, window):
            choices = self._least.copy()
            for group, position in zip(groups, found, strict=True):
                group.choose(choices, position)
            yield choices

    def _groups(self, units: Positions, window: float) -> list[Group]:
        """The units of one class, together; one by one where that would be too many counts."""
        reduced = self._reduced[units[0]]
        choices = np.flatnonzero(reduced <= window)
        choices = choices[choices != self._least[units[0]]]
        counts = _counts(len(units), reduced[choices], window)
        if counts is not None:
            return [Group(units, choices, counts)]
        alone = np.concatenate([np.zeros((1, len(choices)), dtype=np.int64), np.eye(len(choices), dtype=np.int64)])
        return [Group(units[i : i + 1], choices, alone) for i in range(len(units))]

    def _lists(self, steps: list[tuple[Floats, Floats]], window: float) -> list[tuple[Floats, Floats]]:
        """Undominated partial solutions (s, v) of the first k units, for each k, ascending in s.

        One that leaves the room by −e must be brought back by later units at no less than their best rate of reduced
        damage per cost; one that has room to spare pays λ for it, or the best rate at which later units use it.
        """
        saving, using = self._rates(steps, window)
        lists = [(np.zeros(1), np.zeros(1))]
        count = 0
        for (cost, reduced), save, use in zip(steps, saving, using, strict=True):
            if len(lists[-1][0]) * len(cost) > PARTIAL_SOLUTIONS:
                raise TooManyPartialSolutions(count)
            s = (lists[-1][0][:, None] + cost).ravel()
            v = (lists[-1][1][:, None] + (reduced - self._multiplier * cost)).ravel()
            left = self._excess - s
            least = v + self._multiplier * s + np.where(left < 0, -left * save, left * use)
            hopeful = least <= window * (1 + 1e-9)
            s, v = s[hopeful], v[hopeful]
            kept = undominated(v, s)
            lists.append((s[kept], v[kept]))
            count += len(lists[-1][0])
            if count > PARTIAL_SOLUTIONS:
                raise TooManyPartialSolutions(count)
        return lists

    def _rates(self, steps: list[tuple[Floats, Floats]], window: float) -> tuple[list[float], list[float]]:
        """Least reduced damage per cost saved, and per cost used, among the units after each one."""
        never = 1 + 2 * window  # costs are whole: short by one unit of cost is out of the window
        saving, using = [never], [self._multiplier]
        for cost, reduced in reversed(steps[1:]):
            save, use = reduced[cost < 0] / -cost[cost < 0], reduced[cost > 0] / cost[cost > 0]
            saving.append(min(saving[-1], float(save.min(initial=never))))
            using.append(min(using[-1], float(use.min(initial=np.inf))))
        return saving[: len(steps)][::-1], using[: len(steps)][::-1]

    def _walk(
        self, steps: list[tuple[Floats, Floats]], lists: list[tuple[Floats, Floats]], window: float
    ) -> Iterator[list[int]]:
        """Choices of the units in order of damage: best first, from the last unit to the first.

        The damage with which a beginning can end is known exactly, so every beginning that is taken up ends in a
        solution that is due. Of equally good ones the longest goes on, or all would be taken up before the first ends.
        """
        offset = self._multiplier * self._excess
        heap: list[tuple[float, int, int, float, float, tuple[int, ...]]] = []
        pushed = 0
        s_all, v_all = lists[-1]
        last = int(np.searchsorted(s_all, self._excess, side="right")) - 1
        if last >= 0 and v_all[last] + offset <= window:
            heap.append((float(v_all[last] + offset), len(steps), 0, 0.0, 0.0, ()))
        while heap:
            _, depth, _, s, v, path = heapq.heappop(heap)
            if depth == 0:
                yield list(path)
                continue
            cost, reduced = steps[depth - 1]
            ends = lists[depth - 1]
            costs, damages = s + cost, v + (reduced - self._multiplier * cost)
            at = np.searchsorted(ends[0], self._excess - costs, side="right") - 1
            if not len(ends[0]):
                continue
            least = np.where(at >= 0, damages + ends[1][at] + offset, np.inf)
            for position in np.flatnonzero(least <= window).tolist():
                pushed += 1
                entry = (float(costs[position]), float(damages[position]), (position, *path))
                heapq.heappush(heap, (float(least[position]), depth - 1, pushed, *entry))


def undominated(damage: Floats, cost: Floats) -> Positions:
    """Positions of the points that no other is below in both, ascending in cost; of equal points the first."""
    order = np.lexsort((damage, cost))
    least = np.minimum.accumulate(damage[order])
    lower = np.ones(len(order), dtype=np.bool_)
    lower[1:] = damage[order][1:] < least[:-1]
    return np.asarray(order[lower])


def _counts(units: int, reduced: Floats, window: float) -> NDArray[np.int64] | None:
    """How many units of a class may take each choice of reduced damages ``reduced``, shape (O,), within the window.

    Returns:
        One row per way, shape (ways, O), the first 0; None where there are more than ``COUNTS``.
    """
    rows, spent = np.zeros((1, len(reduced)), dtype=np.int64), np.zeros(1)
    for choice in np.argsort(-reduced, kind="stable").tolist():
        most = units if reduced[choice] * units <= window else int(window / reduced[choice])
        if len(rows) * (most + 1) > COUNTS:
            return None
        count = np.tile(np.arange(most + 1), len(rows))
        rows, spent = np.repeat(rows, most + 1, axis=0), np.repeat(spent, most + 1)
        rows[:, choice] = count
        spent = spent + count * reduced[choice]
        within = (rows.sum(axis=1) <= units) & (spent <= window)
        rows, spent = rows[within], spent[within]
    return rows


def _permute(values: list[int]) -> bool:
    """Bring values into the next of their arrangements; after the last into the first, ascending, which is False."""
    rise = len(values) - 2
    while rise >= 0 and values[rise] >= values[rise + 1]:
        rise -= 1
    if rise >= 0:
        swap = len(values) - 1
        while values[swap] <= values[rise]:
            swap -= 1
        values[rise], values[swap] = values[swap], values[rise]
    values[rise + 1 :] = reversed(values[rise + 1 :])
    return rise >= 0
