"""``Allowance``: which choices leave room for the rest of an episode.

A choice is allowed if the network meets every upper bound on a cost with it, with what was decided before, and with the
fewest bits for all that is still to come. Costs rise with bits, so the allowed choices are the lowest ones, and the
lowest itself is allowed whenever the problem can be solved. Lower bounds on costs are not looked at.

Speed: at 10,000 kernels a step must not ask the cost model each time. Three rules avoid it:

- :class:`Summed`: where kernels add up, what a kernel takes is an addition.
- :class:`Blocks`: while the next m kernels fit all at their most bits, they are free. If kernels are alike, what is
  allowed can only shrink from one kernel to the next, and stays as it is while kernels take their fewest bits.
- :class:`Whole`: decisions for all kernels at once are asked for, one batch each, and remembered where layers add up.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Protocol

import numpy as np

from qsearch.envs.schedule import Decision, Schedule
from qsearch.envs.shares import CostShares, Floats, Indices
from qsearch.problem import Problem
from qsearch.space import Variable

ROUNDING = 1e-11
"""Relative: what adding up the steps of many kernels may be off by."""


class Rule(Protocol):
    """What the decisions of one variable may take, in order."""

    def allowed(self, kernel: int) -> int:
        """How many of the choices of the next kernel are allowed, the lowest first; at least 1."""
        ...

    def take(self, kernel: int, index: int) -> None:
        """Decide the kernel."""
        ...

    def settled(self) -> Floats | None:
        """Costs of the variable's shares once it is decided, shape (P, B), where they are known."""
        ...


class Allowance:
    """The choices that an episode may still take. Call :meth:`reset`, then :meth:`allowed` and :meth:`take` by turns."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        model = problem.cost.model
        self._summed = problem.cost.additive and bool(getattr(model, "kernel_additive", False))
        self._decisions = schedule.decisions
        by_layer = len(schedule) == len(problem.space.variables)
        self._remember = problem.cost.additive and by_layer
        self._shares = CostShares(problem)
        self._chosen = problem.space.lowest
        self.reset()

    def reset(self) -> None:
        """Begin an episode: everything at its fewest bits."""
        self._shares.reset()
        self._chosen[:] = 0
        self._rule: Rule | None = None

    def allowed(self, t: int) -> int:
        """How many of the choices of decision t are allowed, the lowest first; at least 1."""
        decision = self._decisions[t]
        if not self._shares.bounded or len(decision.choices) == 1:
            return len(decision.choices)
        if self._rule is None:
            self._rule = self._rule_for(decision)
        return self._rule.allowed(decision.kernel)

    def highest_mean(self, t: int) -> float:
        """About the most mean bits that the kernels of decision t's variable may have, the rest at its fewest bits.

        Costs are taken to be linear in the mean between two choices.
        """
        variable = self._decisions[t].variable
        choices = np.asarray(variable.choices, dtype=np.float64)
        if not self._shares.bounded:
            return float(choices[-1])
        costs = self._shares.uniform_costs(variable, remember=False)
        total = costs.sum(axis=1)
        room = self._shares.room(variable, costs[:1])[0]
        return float(min(np.interp(free, total[:, b] - total[0, b], choices) for b, free in enumerate(room)))

    def take(self, t: int, index: int) -> None:
        """Decide."""
        if not self._shares.bounded:
            return
        decision = self._decisions[t]
        if self._rule is not None:
            self._rule.take(decision.kernel, index)
        self._chosen[decision.start : decision.stop] = index
        if decision.last_of_variable:
            known = self._rule.settled() if self._rule is not None else None
            self._shares.settle(decision.variable, self._chosen[decision.variable.slice], known)
            self._rule = None

    def _rule_for(self, decision: Decision) -> Rule:
        variable = decision.variable
        if decision.stop - decision.start == variable.length:
            return Whole(self._shares, variable, self._remember)
        return Summed(self._shares, variable) if self._summed else Blocks(self._shares, variable)


class Whole:
    """All kernels take the same choice."""

    def __init__(self, shares: CostShares, variable: Variable, remember: bool) -> None:
        self._costs = shares.uniform_costs(variable, remember=remember)
        self._limit = shares.highest_within(variable, self._costs)
        self._taken = 0

    def allowed(self, kernel: int) -> int:
        """See :class:`Rule`."""
        return self._limit

    def take(self, kernel: int, index: int) -> None:
        """See :class:`Rule`."""
        self._taken = index

    def settled(self) -> Floats | None:
        """See :class:`Rule`."""
        found: Floats = self._costs[self._taken]
        return found


class Summed:
    """A kernel adds (cost with its bits everywhere − cost with the fewest everywhere) / K.

    Where rounding could tell, the cost model is asked.
    """

    def __init__(self, shares: CostShares, variable: Variable) -> None:
        costs = shares.uniform_costs(variable, remember=False)
        total = costs.sum(axis=1)
        room = shares.room(variable, costs[:1])[0]
        self._shares, self._variable = shares, variable
        self._steps: list[list[float]] = ((total - total[0]) / variable.length).T.tolist()
        self._room: list[float] = room.tolist()
        self._doubt: list[float] = (ROUNDING * (np.abs(room) + total[-1])).tolist()
        self._x = np.zeros(variable.length, dtype=np.int64)

    def allowed(self, kernel: int) -> int:
        """See :class:`Rule`."""
        bounds = list(zip(self._steps, self._room, self._doubt, strict=True))
        low = max(1, min(bisect_right(steps, room - doubt) for steps, room, doubt in bounds))
        high = max(1, min(bisect_right(steps, room + doubt) for steps, room, doubt in bounds))
        if low == high:
            return low
        return self._shares.highest_within(
            self._variable, self._shares.costs(self._variable, _raised(self._x, kernel, high))
        )

    def take(self, kernel: int, index: int) -> None:
        """See :class:`Rule`."""
        self._x[kernel] = index
        self._room = [room - steps[index] for steps, room in zip(self._steps, self._room, strict=True)]

    def settled(self) -> Floats | None:
        """See :class:`Rule`."""
        return None


class Blocks:
    """Asks the cost model, for as many kernels at a time as it can.

    What is ``allowed`` is known until ``sure`` more kernels have been decided; of kernels that are alike, only those
    count that take more than their fewest bits, as the others change nothing.
    """

    def __init__(self, shares: CostShares, variable: Variable) -> None:
        self._shares, self._variable = shares, variable
        self._alike = shares.alike(variable)
        self._x = np.zeros(variable.length, dtype=np.int64)
        self._limit = len(variable.choices)
        self._block, self._sure = variable.length, 0

    def allowed(self, kernel: int) -> int:
        """See :class:`Rule`."""
        if self._sure == 0:
            self._ask(kernel)
        return self._limit

    def take(self, kernel: int, index: int) -> None:
        """See :class:`Rule`."""
        self._x[kernel] = index
        self._sure -= index > 0 or not self._alike

    def settled(self) -> Floats | None:
        """See :class:`Rule`."""
        return None

    def _ask(self, kernel: int) -> None:
        top = self._limit if self._alike else len(self._variable.choices)
        self._limit, self._sure = top, self._free(kernel, top)
        self._block = max(self._sure, 1)
        if self._sure == 0:
            costs = self._shares.costs(self._variable, _raised(self._x, kernel, top))
            self._limit, self._sure = self._shares.highest_within(self._variable, costs), 1

    def _free(self, kernel: int, top: int) -> int:
        """How many of the next kernels may all take the last of ``top`` choices; of sizes that halve, the largest."""
        most = min(self._variable.length - kernel, 2 * self._block)
        sizes = [most >> halvings for halvings in range(most.bit_length())]
        rows = np.repeat(self._x[None], len(sizes), axis=0)
        for row, size in zip(rows, sizes, strict=True):
            row[kernel : kernel + size] = top - 1
        within = self._shares.within(self._variable, self._shares.costs(self._variable, rows))
        return sizes[int(np.argmax(within))] if within.any() else 0


def _raised(x: Indices, kernel: int, count: int) -> Indices:
    """Choices of a variable's kernels, with each of the first ``count`` for one of them, shape (K,) → (count, K)."""
    rows = np.repeat(x[None], count, axis=0)
    rows[:, kernel] = np.arange(count)
    return rows
