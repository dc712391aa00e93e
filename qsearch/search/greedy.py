"""``greedy``: one group of decisions after the other goes down, the one first that is predicted to matter least.

Notation

=========  ==========================================================================================
N          groups of decisions that move together (each site by itself, unless told otherwise)
x          index vector, shape (D,)
damage(x)  predicted damage; interactions count where the table has them
saved      Σ_m (c_m(x) − c_m(x')) / c_m(highest) over the cost metrics m that a move is to reduce
=========  ==========================================================================================

What it does depends on the problem:

- a cost under a bound that keeps the quality (Schaefer et al., arXiv:2302.01382): groups from the least to the most sensitive,
  each at the lowest level that keeps the target, lowest level first. Quality need not be monotone. With L levels below the
  highest it takes at most 1 + L·N evaluations;
- quality under bounds on costs: from the highest choices, the move of least predicted damage per saved cost, again and
  again, until the bounds are met; what room this leaves is spent, and that assignment is evaluated. Then its neighbours, least predicted damage first: one
  group up a level, and others down in the same way until the bounds are met again. A better neighbour takes its place;
  the search ends where no neighbour is better;
- quality against costs: the same path, down to the lowest choices; its points within the bounds are evaluated, its ends first,
  then in the middle of what is left, so that any budget is spread over the whole path.

A move takes one group to any lower level, so that a cost with steps (3 bits cost what 4 do) is passed over its plateaus.
Costs are those of whole assignments, so they need not add up. Where no move saves anything (two layers tie for a peak),
that of least damage is taken. All kernels of a layer move together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch import registry
from qsearch.errors import UserError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import is_threshold, minimised_costs
from qsearch.search.damage import Damage, predicted_damage
from qsearch.search.lattice import room_spent
from qsearch.search.ordering import DamageOrder, Group, Together, X, at_level, groups_of, levels_of
from qsearch.search.paired import Target
from qsearch.search.spreading import spread
from qsearch.trial import Trial


class Greedy(Searcher):
    """Local and myopic, cheap, and hard to beat where damages add up. See the module for what it evaluates, and when."""

    stochastic = False

    class Options(PluginOptions):
        """What predicts the damage, what moves together, and how sure to be."""

        sensitivity: str = "one-at-a-time"
        """Plug-in that predicts the damage."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)
        """Of the plug-in."""
        together: Together = "site"
        """Whether weight and input activation of a layer move together, or each site by itself; ties always do."""
        confidence: float = Field(default=0.5, gt=0.0, lt=1.0, allow_inf_nan=False)
        """That a bound on quality is kept, to accept a step: 0.5 is the point estimate (:mod:`qsearch.search.paired`)."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise unless greedy search can search the problem.

        Raises:
            UserError: a cost is to be maximised, or nothing keeps the quality; the sensitivity is unknown or its options
                are not valid.
        """
        _require_quality(problem)
        registry.create("sensitivities", self.options.sensitivity, self.options.sensitivity_options)

    def search(self, oracle: Oracle) -> None:
        """Go down as the problem asks, then end.

        Raises:
            UserError: a cost is to be maximised, or nothing keeps the quality.
            EvaluationError: sensitivities that are not finite.
        """
        problem = oracle.problem
        _require_quality(problem)
        table = oracle.sensitivity(self.options.sensitivity, self.options.sensitivity_options)
        groups = groups_of(problem.space, self.options.together)
        descent = Descent(problem, predicted_damage(problem.space, table), tuple(groups))
        if is_threshold(problem):
            _threshold(oracle, descent, Target(problem, self.options.confidence))
        elif any(objective.metric in problem.cost.units for objective in problem.objectives):
            _front(oracle, descent)
        else:
            _bounded(oracle, descent)


@dataclass(frozen=True)
class Descent:
    """The moves of a problem, and which of them is best."""

    problem: Problem
    damage: Damage
    groups: tuple[Group, ...]

    @cached_property
    def _choices(self) -> dict[str, X]:
        """Group → its joint choices, lowest first, shape (levels, n)."""
        space = self.problem.space
        levels = (
            np.stack([at_level(space, bits) for bits in levels_of(space)]) if space.dimension else space.highest[None]
        )
        return {group.name: np.unique(levels[:, group.decisions], axis=0) for group in self.groups}

    def lowered(self, x: X, group: Group) -> X:
        """``x`` with one group at each lower level that it has, lowest first, shape (levels, D)."""
        choices = self._choices[group.name]
        lower = np.all(choices <= x[group.decisions], axis=1) & np.any(choices < x[group.decisions], axis=1)
        return _moved_to(x, group, choices[lower])

    def higher(self, x: X, group: Group) -> X:
        """``x`` with one group at the next level up, shape (1, D); shape (0, D) where it is at its highest."""
        choices = self._choices[group.name]
        higher = np.all(choices >= x[group.decisions], axis=1) & np.any(choices > x[group.decisions], axis=1)
        return _moved_to(x, group, choices[higher][:1])

    def raised(self, x: X) -> X:
        """``x`` with the room that the last move leaves in the cost bounds spent, one level of one group after the other."""

        def higher(x: X) -> X:
            return np.concatenate([self.higher(x, group) for group in self.groups])

        return room_spent(self.problem, self.damage, x, higher) if self.groups else x

    def path(self, x: X, barred: Group | None = None) -> Iterator[X]:
        """``x``, then after one move of least damage per saved cost after the other, until nothing is to be saved.

        Args:
            barred: a group that stays where it is.
        """
        top = self.problem.cost.estimate_many(self.problem.space.highest[None])
        while True:
            yield x
            metrics = self._to_reduce(x)
            moves = [self.lowered(x, group) for group in self.groups if group is not barred]
            if not metrics or not sum(map(len, moves)):
                return
            batch = np.vstack(moves)
            costs = self.problem.cost.estimate_many(np.vstack([x, batch]))
            saved = sum((costs[m][0] - costs[m][1:]) / (float(top[m][0]) or 1.0) for m in metrics)
            x = batch[_least_per_saved(self.damage(batch) - self.damage(x[None]), np.asarray(saved))]

    def _to_reduce(self, x: X) -> list[str]:
        """Metrics of the upper bounds that are exceeded; where none is, the costs among the objectives."""
        upper = [bound for bound in self.problem.cost_bounds if not bound.at_least]
        totals = self.problem.cost.estimate_many(x[None]) if upper else {}
        over = [bound.metric for bound in upper if bound.violation(totals[bound.metric])[0] > 0]
        costs = [item.metric for item in self.problem.objectives if item.metric in self.problem.cost.units]
        return list(dict.fromkeys(over or costs))

    def neighbours(self, x: X) -> list[X]:
        """One group up a level, and others down until the bounds are met; least predicted damage first."""
        found: dict[bytes, X] = {}
        for group in self.groups:
            for higher in self.higher(x, group):
                *_, y = self.path(higher, barred=group)
                if self.problem.cost_violations(y[None])[0] <= 0:
                    found.setdefault(y.tobytes(), y)
        found.pop(x.tobytes(), None)
        return sorted(found.values(), key=lambda y: (float(self.damage(y[None])[0]), y.tobytes()))


def _moved_to(x: X, group: Group, choices: X) -> X:
    """``x`` with one group at each of its joint choices, shape (levels, n) → (levels, D)."""
    found = np.repeat(x[None], len(choices), axis=0)
    found[:, group.decisions] = choices
    return found


def _least_per_saved(damage: NDArray[np.float64], saved: NDArray[np.float64]) -> int:
    """The move of least damage per saved cost; of least damage where none saves anything."""
    saves = saved > 1e-12
    if not saves.any():
        return int(np.argmin(damage))
    return int(np.argmin(np.where(saves, damage / np.where(saves, saved, 1.0), np.inf)))


def _threshold(oracle: Oracle, descent: Descent, target: Target) -> None:
    """Each group at the lowest level that keeps the quality, least sensitive group first."""
    space = oracle.problem.space
    x = space.highest
    oracle.evaluate(space.decode(x))
    for group in DamageOrder(descent.damage)(descent.groups, space.lowest):
        kept = (y for y in descent.lowered(x, group) if target.keeps(oracle.evaluate(space.decode(y))))
        x = next(kept, x)


def _bounded(oracle: Oracle, descent: Descent) -> None:
    """The first assignment of the path within the bounds, then better neighbours for as long as there are any."""
    space = oracle.problem.space
    *_, x = descent.path(space.highest)
    x = descent.raised(x)
    best = _rank(oracle, x)
    while True:
        better = next(((rank, y) for y in descent.neighbours(x) if (rank := _rank(oracle, y)) < best), None)
        if better is None:
            return
        best, x = better


def _rank(oracle: Oracle, x: X) -> tuple[bool, float]:
    """Lower is better: whether it is no feasible trial, then its first objective."""
    trial: Trial = oracle.evaluate(oracle.problem.space.decode(x))
    value = float(oracle.problem.minimised(trial)[0])
    return not trial.feasible, value if np.isfinite(value) else np.inf


def _front(oracle: Oracle, descent: Descent) -> None:
    """The path within the bounds, its ends first, then the middle of each gap."""
    space = oracle.problem.space
    path = np.stack(list(descent.path(space.highest)))
    within = path[oracle.problem.cost_violations(path) <= 0]
    for position in spread(np.arange(len(within), dtype=np.float64)):
        oracle.evaluate(space.decode(within[position]))
    if not len(within):
        oracle.evaluate(space.decode(path[-1]))


def _require_quality(problem: Problem) -> None:
    """Raise unless costs are minimised, and either an objective or a bound keeps the quality.

    Raises:
        UserError: says what the problem asks for instead.
    """
    costs = minimised_costs(problem, "greedy search")
    if len(costs) == len(problem.objectives) and not is_threshold(problem):
        raise UserError(
            "greedy search needs an objective or a bound that keeps the quality",
            got=", ".join(f"minimize {metric}" for metric in costs),
            fix=f"add the objective {problem.quality_name}:max, or a constraint like {problem.quality_name}>=0.99*float",
        )
