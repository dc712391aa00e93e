"""``water-filling``: bits per kernel by goals only, the control that a learnt controller has to beat.

Notation

=====  ==================================================================================
W      variables with weights: each has a goal, the mean bits of its K kernels
N      variables with activations only: each has a level, the index of its choice
s      damage of each kernel at equal bits, shape (K,); at b bits it does s_j · 4^(−b_j)
n      weights of one kernel
λ      water level
=====  ==================================================================================

Within a layer, a goal is filled as in :mod:`qsearch.search.filling`. Across layers one more bit costs n, so it is the
marginal damage per weight that is equal where the size is least:

    ln 4 · s_j·4^(−b_j) / n_j = constant,   which is   b_j = ½·log2(s_j / n_j) + λ   with one λ for the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import Field

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.problem import Problem
from qsearch.projection import project
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import is_threshold, require_bits
from qsearch.search.filling import TOLERANCE, Floats, Indices, fill, offsets_of
from qsearch.search.units import decision_damage
from qsearch.space import Variable
from qsearch.trial import Trial

HALVINGS = 32
"""Steps of a bisection on a level of bits; it ends earlier where its ends are one step of one decision apart."""
BISECTIONS = 4
"""Evaluations to find the weight bits that one level of activation bits needs, to a sixteenth of the range."""
FILLINGS = 1024
"""Filled layers that are remembered: a bisection comes by the same numbers of bits again and again."""
REPEATS = 100
"""This many perturbations in a row that all lead to known assignments end the search."""
SCALES = (0.05, 2.0)
"""Bits: standard deviations of the perturbations of goals, drawn log-uniformly between these two."""


@dataclass(frozen=True)
class Goals:
    """What the searcher decides.

    Attributes:
        means: goal of each weight variable in bits, shape (W,).
        levels: index of the choice of each activation variable, shape (N,).
    """

    means: Floats
    levels: Indices


class Filler:
    """A problem as goals see it: a few numbers in, an index vector within the bounds out.

    Args:
        sensitivity: s of each decision of the space, shape (D,).
    """

    def __init__(self, problem: Problem, sensitivity: Floats) -> None:
        self._problem, space = problem, problem.space
        roles = {variable: {space.site(name).role for name in variable.sites} for variable in space.variables}
        self.weights = [variable for variable in space.variables if "weight" in roles[variable]]
        self.activations = [variable for variable in space.variables if "weight" not in roles[variable]]
        self.low = np.asarray([variable.choices[0] for variable in self.weights], dtype=np.float64)
        self.high = np.asarray([variable.choices[-1] for variable in self.weights], dtype=np.float64)
        self.top_levels = np.asarray([len(variable.choices) - 1 for variable in self.activations], dtype=np.int64)
        self._sensitivity = [sensitivity[variable.slice] for variable in self.weights]
        self._filled = lru_cache(maxsize=FILLINGS)(self._fill)
        self._offsets = self._per_weight(sensitivity)

    def assignment(self, goals: Goals) -> Indices:
        """Each layer's goal, filled over its kernels, shape (D,)."""
        x = np.empty(self._problem.space.dimension, dtype=np.int64)
        for number, (variable, goal) in enumerate(zip(self.weights, goals.means, strict=True)):
            x[variable.slice] = self._filled(number, int(np.floor((goal + TOLERANCE) * variable.length)))
        for variable, level in zip(self.activations, goals.levels, strict=True):
            x[variable.slice] = level
        return x

    def within(self, goals: Goals) -> Indices:
        """The same, projected onto the cost bounds."""
        return project(self._problem, self.assignment(goals))

    def uniform_levels(self) -> Iterator[Indices]:
        """The same index for all activations, as far as each has it, highest first; once where none is free."""
        for index in range(int(self.top_levels.max(initial=0)), -1, -1):
            yield np.minimum(index, self.top_levels)

    def network_level(self, levels: Indices) -> Goals:
        """Goals from one water level for all kernels of the network, the highest within the cost bounds."""
        return self._highest(lambda level: self._level_means(level), levels, *self._ends())

    def at_mean(self, levels: Indices, mean: float) -> Goals:
        """Goals from one water level for all kernels of the network, with this mean of them; bounds are not looked at."""
        low, high = self._ends()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if len(self.low) and float(np.mean(self._level_means(middle))) < mean:
                low = middle
            else:
                high = middle
        return Goals(np.clip(self._level_means(high), self.low, self.high), levels)

    def equal(self, levels: Indices) -> Goals:
        """The same goal in all layers, the highest within the cost bounds."""
        return self._highest(lambda goal: np.full(len(self.low), goal), levels, *self.range())

    def fitted(self, goals: Goals, *, raised: bool) -> Goals:
        """All goals moved by the same number of bits onto the cost bounds: down, and also up if ``raised``."""
        low, high = self.range()
        return self._highest(lambda shift: goals.means + shift, goals.levels, low - high, high - low if raised else 0.0)

    def _fill(self, number: int, total: int) -> Indices:
        """The kernels of a weight variable with that many bits in all: bits are whole, so are those of a goal."""
        variable = self.weights[number]
        return fill(self._sensitivity[number], total / variable.length, variable.choices)

    def _highest(self, means: Callable[[float], Floats], levels: Indices, low: float, high: float) -> Goals:
        """Goals at the highest number that keeps the assignment within the cost bounds; at ``low`` if none does."""

        def at(number: float) -> Goals:
            return Goals(np.clip(means(number), self.low, self.high), levels)

        if not self._problem.cost_bounds or self._met(self.assignment(at(high))):
            return at(high)
        bottom, top = self.assignment(at(low)), self.assignment(at(high))
        if not self._met(bottom):
            return at(low)
        for _ in range(HALVINGS):
            if np.abs(top - bottom).sum() <= 1:
                break
            middle = (low + high) / 2
            x = self.assignment(at(middle))
            if self._met(x):
                low, bottom = middle, x
            else:
                high, top = middle, x
        return at(low)

    def _met(self, x: Indices) -> bool:
        return bool(self._problem.overruns(x[None])[0] <= 0)

    def range(self) -> tuple[float, float]:
        """Fewest and most bits of any weight."""
        return float(self.low.min(initial=0.0)), float(self.high.max(initial=0.0))

    def _ends(self) -> tuple[float, float]:
        """Water levels at which all kernels of the network are at their fewest bits, and at their most."""
        ends = [(float(low - o.max()), float(high - o.min())) for low, high, o in self._layers()]
        return min((end[0] for end in ends), default=0.0), max((end[1] for end in ends), default=0.0)

    def _layers(self) -> Iterator[tuple[float, float, Floats]]:
        return zip(self.low.tolist(), self.high.tolist(), self._offsets, strict=True)

    def _level_means(self, level: float) -> Floats:
        return np.asarray([np.mean(np.clip(offsets + level, low, high)) for low, high, offsets in self._layers()])

    def _per_weight(self, sensitivity: Floats) -> list[Floats]:
        """½·log2(s / n) of the kernels of each weight variable: one array of shape (K,) each."""
        rates = [sensitivity[v.slice] / (_kernel_weights(self._problem, v) or 1.0) for v in self.weights]
        span = float(np.max(self.high, initial=0.0) - np.min(self.low, initial=0.0))
        offsets = offsets_of(np.concatenate([*rates, np.zeros(0)]), span)
        return np.split(offsets, np.cumsum([len(rate) for rate in rates])[:-1]) if rates else []


class WaterFilling(Searcher):
    """The control for bits per kernel: decides the mean weight bits of each layer and its activation bits, and fills the
    kernels by reverse water-filling over their sensitivities.

    First, for each uniform level of activation bits: the goals of one water level for the whole network, and equal
    goals in all layers, each at the highest that meets the cost bounds; where a cost is to be lowered under a bound on
    quality, the lowest water level that meets it instead. Then, for the rest of the budget, a (1+1) local
    search: the best goals so far (of a random trial of the front, where there are several objectives), changed at
    random, moved together onto the bounds, and filled. It ends after ``REPEATS`` changes in a row that lead to nothing new.

    The sensitivity of a kernel is its damage at its fewest bits, times 4 to their power; damages below zero count as 0.
    """

    stochastic = True

    class Options(PluginOptions):
        """What predicts the damage of the kernels."""

        sensitivity: str = "one-at-a-time"
        """Plug-in that predicts the damage of each choice."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise unless bits are all that is searched, and the sensitivity can be made.

        Raises:
            UserError: weights may be overlaid; the sensitivity is unknown or its options are not valid.
        """
        require_bits(problem, "water-filling")
        registry.create("sensitivities", self.options.sensitivity, self.options.sensitivity_options)

    def search(self, oracle: Oracle) -> None:
        """Spend the budget.

        Raises:
            UserError: weights may be overlaid.
            EvaluationError: sensitivities that are not finite.
        """
        problem = oracle.problem
        require_bits(problem, "water-filling")
        filler = Filler(problem, self._sensitivity(oracle))
        local = _Local(problem, filler, np.random.default_rng(oracle.seed))
        answers: dict[BitAssignment, Trial] = {}
        first = _start(filler)
        if is_threshold(problem):
            first = _cheapest(filler, lambda goals: answers[problem.space.decode(filler.within(goals))].feasible)
        repeats = 0
        for goals in _then(first, lambda: local.next(oracle.trials)):
            assignment = problem.space.decode(filler.within(goals))
            if assignment in local.known:
                repeats += 1
                if repeats >= REPEATS:
                    return
                continue
            if oracle.remaining == 0:
                return
            repeats = 0
            local.known[assignment] = goals
            answers[assignment] = oracle.evaluate(assignment)

    def _sensitivity(self, oracle: Oracle) -> Floats:
        """s of each decision, shape (D,)."""
        space = oracle.problem.space
        if not space.variables:
            return np.zeros(0)
        table = oracle.sensitivity(self.options.sensitivity, self.options.sensitivity_options)
        fewest = np.concatenate([np.full(v.length, float(v.choices[0])) for v in space.variables])
        damage = np.asarray([choices[0] for choices in decision_damage(space, table)])
        return np.asarray(np.maximum(damage, 0.0) * 4.0**fewest)


class _Local:
    """The (1+1) local search: who the parent is, and how it changes."""

    def __init__(self, problem: Problem, filler: Filler, rng: np.random.Generator) -> None:
        self.known: dict[BitAssignment, Goals] = {}
        self._problem, self._filler, self._rng = problem, filler, rng
        # a search for quality alone has no use for bits that the bounds would still allow
        self._raised = all(objective.metric not in problem.cost.units for objective in problem.objectives)

    def next(self, trials: Sequence[Trial]) -> Goals:
        """A change of the best goals so far."""
        parent, rng = self.known[self._parent(trials).assignment], self._rng
        scale = np.exp(rng.uniform(*np.log(SCALES)))
        # few goals or all of them, as often as anything between: a share log-uniform from 1/W to 1
        moved = rng.random(len(parent.means)) < max(1, len(parent.means)) ** -rng.random()
        # where all goals are moved onto the bounds, how much they have moved together makes no difference
        together = 0.0 if self._raised else rng.normal()
        moves = scale * (moved * rng.normal(size=len(parent.means)) + together)
        changed = rng.random(len(parent.levels)) < 1 / max(1, len(parent.levels))
        steps = np.where(changed, rng.choice([-1, 1], size=len(parent.levels)), 0)
        levels = np.clip(parent.levels + steps, 0, self._filler.top_levels)
        return self._filler.fitted(Goals(parent.means + moves, levels), raised=self._raised)

    def _parent(self, trials: Sequence[Trial]) -> Trial:
        """The best trial, or one of the front; while none is feasible, the one that is over its bounds the least."""
        own = [trial for trial in trials if trial.assignment in self.known]
        front = self._problem.front(own)
        if front:
            return front[0] if len(self._problem.objectives) == 1 else front[self._rng.integers(len(front))]
        evaluated = [trial for trial in own if trial.state == "complete"] or own
        return min(evaluated, key=lambda trial: max(trial.violations.values(), default=0.0))


def _start(filler: Filler) -> Iterator[Goals]:
    """The deterministic proposals."""
    for levels in filler.uniform_levels():
        yield filler.network_level(levels)
        yield filler.equal(levels)


def _cheapest(filler: Filler, feasible: Callable[[Goals], bool]) -> Iterator[Goals]:
    """For each uniform level of activation bits, highest first: the fewest weight bits that meet the bounds, by bisection.

    Fewer activation bits need no fewer weight bits, so the bisection of a level begins where that before it failed; and
    when the most weight bits do not meet the bounds, lower levels will not either.
    """
    low, most = filler.range()
    for levels in filler.uniform_levels():
        goals, high = filler.at_mean(levels, most), most
        yield goals
        if not feasible(goals):
            return
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            goals = filler.at_mean(levels, middle)
            yield goals
            if feasible(goals):
                high = middle
            else:
                low = middle


def _then(first: Iterator[Goals], more: Callable[[], Goals]) -> Iterator[Goals]:
    """The proposals of ``first``, then those of ``more``, without end."""
    yield from first
    while True:
        yield more()


def _kernel_weights(problem: Problem, variable: Variable) -> float:
    """n: weights that one more bit in one kernel of a variable adds to; all sites of a tie count."""
    weights = sum(layer.params for layer in problem.layers if layer.weight_site in variable.sites)
    return weights / variable.length
