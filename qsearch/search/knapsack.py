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

Costs are rounded to whole numbers, 2⁴⁶ of them to the greatest cost, so that their sums are exact; by less than
U·2⁻⁴⁶ of the greatest cost a solution may therefore be over the room.
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

WHOLE = 2.0**46
"""Whole numbers to the greatest cost."""
FIRST_WINDOW = 2.0**-14
"""The first window, as a share of what the rounded solution of the relaxed program is above its bound."""
PARTIAL_SOLUTIONS = 3_000_000
"""Most partial solutions that are listed, some 100 MB; instances of many near-equal units may need more."""


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
        return cls(damage, np.floor(cost * (WHOLE / top)), float(np.floor(min(room / top, 2.0) * WHOLE)))

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
                if (key := choices.tobytes()) not in seen:
                    seen.add(key)
                    yield choices
            if window >= core.widest:
                return
            window = 2 * window or core.widest

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


class Core:
    """The units whose choice is open once a multiplier is known, and their solutions within a window."""

    def __init__(self, knapsack: Knapsack, multiplier: float) -> None:
        self._multiplier = multiplier
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
        units = units[np.argsort(-self._second[units], kind="stable")]
        options = [np.flatnonzero(self._reduced[unit] <= window) for unit in units]
        steps = [
            (self._cost[unit, chosen], self._reduced[unit, chosen]) for unit, chosen in zip(units, options, strict=True)
        ]
        lists = self._lists(steps, window)
        for found in self._walk(steps, lists, window):
            choices = self._least.copy()
            for unit, chosen, position in zip(units, options, found, strict=True):
                choices[unit] = chosen[position]
            yield choices

    def _lists(self, steps: list[tuple[Floats, Floats]], window: float) -> list[tuple[Floats, Floats]]:
        """Undominated partial solutions (s, v) of the first k units, for each k, ascending in s.

        One that leaves the room by −e must be brought back by later units at no less than their best rate of reduced
        damage per cost; one that has room to spare pays λ for it, or the best rate at which later units use it.
        """
        saving, using = self._rates(steps, window)
        lists = [(np.zeros(1), np.zeros(1))]
        count = 0
        for (cost, reduced), save, use in zip(steps, saving, using, strict=True):
            s = (lists[-1][0][:, None] + cost).ravel()
            v = (lists[-1][1][:, None] + (reduced - self._multiplier * cost)).ravel()
            left = self._excess - s
            least = v + self._multiplier * s + np.where(left < 0, -left * save, left * use)
            hopeful = least <= window * (1 + 1e-9)
            lists.append(_undominated(s[hopeful], v[hopeful]))
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
        solution that is due.
        """
        offset = self._multiplier * self._excess
        heap: list[tuple[float, int, int, float, float, tuple[int, ...]]] = []
        pushed = 0
        s_all, v_all = lists[-1]
        last = int(np.searchsorted(s_all, self._excess, side="right")) - 1
        if last >= 0 and v_all[last] + offset <= window:
            heap.append((float(v_all[last] + offset), 0, len(steps), 0.0, 0.0, ()))
        while heap:
            _, _, depth, s, v, path = heapq.heappop(heap)
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
                heapq.heappush(heap, (float(least[position]), pushed, depth - 1, *entry))


def _undominated(s: Floats, v: Floats) -> tuple[Floats, Floats]:
    """Points that no other is below in both coordinates, ascending in s and descending in v."""
    order = np.lexsort((v, s))
    s, v = s[order], v[order]
    lower = np.ones(len(v), dtype=np.bool_)
    lower[1:] = v[1:] < np.minimum.accumulate(v)[:-1]
    return s[lower], v[lower]
