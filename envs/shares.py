"""``CostShares``: the bounded costs of an unfinished assignment, split so that one variable can be asked about alone.

Notation

=====  ==========================================================================================
x      index vector of the space, shape (D,)
S      shares that add up to the cost of the network: its layers, or the whole where layers do not add up
P      shares that a variable is part of: its layer, several where it is tied
B      upper bounds on costs
K      kernels of a variable
A      candidates for the choices of one variable, a batch of shape (A, K)
=====  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.problem import Bound, Problem
from qsearch.space import SearchSpace, Variable

ALIKE = 1e-9
"""Relative difference up to which costs count as the same when kernels change places."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """Some layers, and the entries of x that decide their bits, shape (E,)."""

    cost: NetworkCost
    entries: Indices


class CostShares:
    """Costs of an assignment that is decided variable by variable, everything at its fewest bits at first."""

    def __init__(self, problem: Problem) -> None:
        self._bounds: list[Bound] = [bound for bound in problem.cost_bounds if not bound.at_least]
        self._limits = np.asarray([bound.limit for bound in self._bounds])
        self._space = problem.space
        whole = [problem.layers] if not problem.cost.additive else [(layer,) for layer in problem.layers]
        self._shares = [_share(problem, layers) for layers in whole]
        self._places = {variable.name: self._places_of(variable) for variable in problem.space.variables}
        self._alike: dict[str, bool] = {}
        self._uniform: dict[tuple[str, bytes], Floats] = {}
        self._lowest = self._costs_at(problem.space.lowest)
        self.reset()

    @property
    def bounded(self) -> bool:
        """Whether there is a bound to keep."""
        return bool(self._bounds)

    def reset(self) -> None:
        """Begin anew: everything at its fewest bits."""
        self._x = self._space.lowest.copy()
        self._costs = self._lowest.copy()

    def settle(self, variable: Variable, chosen: Indices, costs: Floats | None = None) -> None:
        """Decide a variable's choices, shape (K,); ``costs`` of its shares, shape (P, B), where they are known."""
        if costs is None:
            costs = self.costs(variable, chosen[None])[0]
        self._x[variable.slice] = chosen
        self._costs[[number for number, _ in self._places[variable.name]]] = costs

    def room(self, variable: Variable, costs: Floats) -> Floats:
        """What the bounds leave beyond the variable's shares at these costs, shape (A, P, B) → (A, B).

        Shares are added in the order of the layers, as cost models do, so that what just meets a bound does so in both.
        """
        shares = np.repeat(self._costs[:, None], len(costs), axis=1)
        shares[[number for number, _ in self._places[variable.name]]] = costs.swapaxes(0, 1)
        room: Floats = self._limits - shares.cumsum(axis=0)[-1]
        return room

    def within(self, variable: Variable, costs: Floats) -> NDArray[np.bool_]:
        """Which candidates meet every bound, given the costs of the variable's shares, shape (A, P, B) → (A,)."""
        found: NDArray[np.bool_] = np.all(self.room(variable, costs) >= 0, axis=1)
        return found

    def highest_within(self, variable: Variable, costs: Floats) -> int:
        """How many candidates meet every bound, of costs that ascend, shape (C, P, B); at least 1."""
        within = self.within(variable, costs)
        return len(within) if within.all() else max(1, int(np.argmin(within)))

    def costs(self, variable: Variable, rows: Indices) -> Floats:
        """Costs of those shares for candidates of the variable's choices, shape (A, K) → (A, P, B)."""
        found = np.empty((len(rows), len(self._places[variable.name]), len(self._bounds)))
        for position, (number, offset) in enumerate(self._places[variable.name]):
            share = self._shares[number]
            x = np.repeat(self._x[share.entries][None], len(rows), axis=0)
            x[:, offset : offset + variable.length] = rows
            found[:, position] = self._ask(share, x)
        return found

    def uniform_costs(self, variable: Variable, *, remember: bool) -> Floats:
        """:meth:`costs` of each choice for all kernels, shape (C, P, B).

        With ``remember``, answers are kept: where all decisions are for whole layers, there are few of them.
        """
        places = self._places[variable.name] if remember else []
        key = (variable.name, b"".join(self._x[self._shares[number].entries].tobytes() for number, _ in places))
        if remember and key in self._uniform:
            return self._uniform[key]
        rows = np.repeat(np.arange(len(variable.choices), dtype=np.int64)[:, None], variable.length, axis=1)
        found = self.costs(variable, rows)
        if remember:
            self._uniform[key] = found
        return found

    def alike(self, variable: Variable) -> bool:
        """Whether it does not matter which kernels have which bits, only how many: tried on random assignments.

        Cost models do not say so themselves. One that this overlooks gets masks that are somewhat too tight or too loose.
        """
        if variable.name not in self._alike:
            self._alike[variable.name] = all(
                self._same_when_moved(self._shares[number], offset, variable)
                for number, offset in self._places[variable.name]
            )
        return self._alike[variable.name]

    def _same_when_moved(self, share: Share, offset: int, variable: Variable) -> bool:
        rng = np.random.default_rng(0)
        x = share.cost.space.sample(rng, 8)
        moved = x.copy()
        columns = slice(offset, offset + variable.length)
        moved[:, columns] = rng.permuted(x[:, columns], axis=1)
        return bool(np.allclose(self._ask(share, x), self._ask(share, moved), rtol=ALIKE, atol=0))

    def _places_of(self, variable: Variable) -> list[tuple[int, int]]:
        """Shares that a variable is part of, and where it begins in their entries."""
        found = [(number, np.flatnonzero(share.entries == variable.start)) for number, share in enumerate(self._shares)]
        return [(number, int(position[0])) for number, position in found if position.size]

    def _costs_at(self, x: Indices) -> Floats:
        """Cost of each share, shape (S, B)."""
        return np.stack([self._ask(share, x[share.entries][None])[0] for share in self._shares])

    def _ask(self, share: Share, x: Indices) -> Floats:
        """Costs of one share for a batch of its entries, shape (A, E) → (A, B)."""
        if not self._bounds:
            return np.zeros((len(x), 0))
        found = share.cost.estimate_many(x)
        return np.stack([found[bound.metric] for bound in self._bounds], axis=1)


def _share(problem: Problem, layers: Sequence[Layer]) -> Share:
    """Some layers with the part of the space that is theirs."""
    space = problem.space
    names = {name for layer in layers for name in (layer.weight_site, layer.activation_site)}
    ties = [tuple(name for name in tie if name in names) for tie in space.ties]
    part = SearchSpace(
        tuple(site for site in space.sites if site.name in names),
        tuple(tie for tie in ties if len(tie) > 1),
        {name: bits for name, bits in (space.fixed or {}).items() if name in names},
    )
    owner = space.owners
    slices = [owner[variable.name].slice for variable in part.variables]
    entries = [np.arange(each.start, each.stop, dtype=np.int64) for each in slices]
    return Share(
        NetworkCost(problem.cost.model, tuple(layers), part),
        np.concatenate(entries) if entries else np.zeros(0, dtype=np.int64),
    )
