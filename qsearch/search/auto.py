"""``auto``: for a user who has no opinion.

1. Sensitivities: the cheapest kind that the evaluator can give, one backward pass (``fisher``) before one pass for each
   choice (``one-at-a-time``).
2. What they predict to be best: the integer program's solutions where costs add up, along the predicted path otherwise. The best
   under a bound, and what would be best if sensitivities were a little different; a few along the front of several
   objectives; the cheapest that meets a bound on quality, by bisection.
3. Refinement: moves around the best so far, chosen by a Gaussian process that starts from the predicted damage and
   learns from every evaluation what the layers do together (:mod:`qsearch.search.gp`).

With bits per kernel, steps 2 and 3 decide one level per layer, and the measured damages the bits of its kernels
(:mod:`qsearch.search.filled`). Under one objective, and no bound on quality, the best bits of all kernels come first, where
costs add up over kernels too and the integer program is solved in seconds: it is a knapsack, or has at most ``JOINT`` joint
choices. The refinement knows them if they are levels. Nothing finer than a level is refined: the search ends when all
levels are tried, whatever is left of the budget.

Nothing depends on how large the budget is: each evaluation is the best that is known to do with one more, and a larger
budget goes on where a smaller one ended.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch import registry
from qsearch.errors import EvaluationError, InfeasibleError, PluginError, UserError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import is_threshold
from qsearch.search.belief import Belief
from qsearch.search.damage import Damage, blind_damage, predicted_damage
from qsearch.search.filled import FilledOracle
from qsearch.search.gp import Known, refine
from qsearch.search.ilp import IntegerProgram
from qsearch.search.lattice import predicted_best, predicted_path, within_bounds
from qsearch.search.predicted_front import best_spread
from qsearch.search.surrogate import Features
from qsearch.search.units import cost_units, require_additive

log = logging.getLogger(__name__)

X = NDArray[np.int64]

SENSITIVITIES = ("fisher", "one-at-a-time")
"""Tried in this order: both predict the divergence; the first takes few passes, the second any network."""
SINGLE, FRONT = 2, 12
"""Predicted assignments to begin with: under one objective, whose best are near each other, and under several."""
JOINT = 2**14
"""Joint choices of all kernels beyond which programs that are no knapsack take too long: some 5 s up to here."""
DRAWN, DOUBT = 4, 0.7
"""Draws of sensitivities around the predicted ones, and the standard deviation of their logarithms: a factor of two."""


class Auto(Searcher):
    """Sensitivities, the integer program's front, then moves that a Gaussian process chooses: a good start for any problem."""

    stochastic = True

    class Options(PluginOptions):
        """What predicts the damage, and how hard to look."""

        sensitivity: str | None = None
        """Plug-in that predicts the damage of each choice; null for the first of fisher, one-at-a-time that works."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)
        candidates: int = Field(default=1000, ge=1)
        """Assignments to choose each move from, in spaces too large to rank as a whole."""
        batch: int = Field(default=1, ge=1)
        """Moves to propose at once, for evaluation in parallel."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise unless the sensitivity can be had.

        Raises:
            UserError: it is unknown, its options are not valid, or there are options for none.
        """
        if self.options.sensitivity is not None:
            registry.create("sensitivities", self.options.sensitivity, self.options.sensitivity_options)
        elif self.options.sensitivity_options:
            raise UserError(
                "sensitivity_options belong to a sensitivity",
                got="sensitivity: null",
                fix=f"name one, such as {SENSITIVITIES[0]}",
            )

    def search(self, oracle: Oracle) -> None:
        """Spend the budget; see the module.

        Raises:
            InfeasibleError: no assignment that meets the bounds on costs is found.
            EvaluationError: a sensitivity that was asked for cannot be measured.
        """
        name = self._sensitivity(oracle)
        if name is None or all(variable.length == 1 for variable in oracle.problem.space.variables):
            self._search(oracle, name)
            return
        exact = _is_one_program(oracle.problem) and self._solve(oracle, name, 1)
        try:
            self._search(FilledOracle(oracle, name, self.options.sensitivity_options), name)
        except InfeasibleError:
            if not exact:
                raise  # otherwise no levels meet the bounds, though bits do: these have been tried

    def _search(self, oracle: Oracle, name: str | None) -> None:
        """Steps 2 and 3, on a space with bits per layer or levels, or of which nothing is known."""
        problem, known = oracle.problem, Known(oracle)
        table = None if name is None else oracle.sensitivity(name, self.options.sensitivity_options)
        damage = None if table is None else predicted_damage(problem.space, table)
        believed = damage or blind_damage(problem.space)
        if len(problem.objectives) > 1:
            known.spend(best_spread(problem, believed, table, FRONT))
        elif not self._solve(oracle, name, FRONT if is_threshold(problem) else SINGLE):
            _along_path(known, believed)
        known.recall()
        rng = np.random.default_rng(oracle.seed)
        if len(problem.objectives) == 1 and not is_threshold(problem):
            known.spend(_doubted(problem, believed, rng))
        belief = Belief(problem, Features(problem.space, damage), oracle.seed)
        refine(known, belief, rng, self.options)
        if not known.trials and oracle.remaining > 0:
            raise InfeasibleError(
                "no assignment that meets all cost bounds together was found",
                got=", ".join(bound.label for bound in problem.cost_bounds),
                fix="loosen a limit, or allow other choices",
            )

    def _sensitivity(self, oracle: Oracle) -> str | None:
        """The sensitivity to go by; None where the evaluator can give none of the usual ones."""
        if self.options.sensitivity is not None:
            return self.options.sensitivity
        for name in SENSITIVITIES:
            try:
                oracle.sensitivity(name, {})
            except (PluginError, EvaluationError) as error:
                log.info("auto: %s", error)
            else:
                return name
        return None

    def _solve(self, oracle: Oracle, name: str | None, solutions: int) -> bool:
        """Evaluate the integer program's first ``solutions``; False where it cannot take the problem."""
        if name is None:
            return False
        program = IntegerProgram(
            IntegerProgram.Options(
                sensitivity=name,
                sensitivity_options=self.options.sensitivity_options,
                solutions=solutions,
            )
        )
        try:
            program.check(oracle.problem)
        except UserError:
            return False
        program.search(oracle)
        return True


def _is_one_program(problem: Problem) -> bool:
    """Whether an integer program over all kernels says what is best, in seconds: one objective, no quality to keep."""
    metrics = [bound.metric for bound in problem.cost_bounds] + [objective.metric for objective in problem.objectives]
    try:
        require_additive(problem.cost, problem.cost_bounds)
        units, _ = cost_units(problem.cost, [metric for metric in metrics if metric in problem.cost.units])
    except UserError:
        return False
    if len(problem.objectives) > 1 or is_threshold(problem):
        return False
    apart = sum(len(unit.decisions) for unit in units) == problem.space.dimension
    return (apart and len(problem.cost_bounds) <= 1) or sum(len(unit.choices) for unit in units) <= JOINT


def _along_path(known: Known, damage: Damage) -> None:
    """Evaluate the first predicted assignments where integer programming cannot: states of the predicted path.

    The first within the bounds; under a bound on quality the cheapest that meets it, by bisection, as quality and cost
    fall along the path.
    """
    path = within_bounds(known.problem, predicted_path(known.problem, damage))
    if not is_threshold(known.problem):
        known.spend(path[:SINGLE])
        return
    low, high = -1, len(path)
    while high - low > 1 and known.oracle.remaining > 0:
        middle = (low + high) // 2
        known.evaluate(path[middle][None])
        low, high = (middle, high) if known.trials[-1].feasible else (low, middle)


def _doubted(problem: Problem, damage: Damage, rng: np.random.Generator) -> X:
    """What would be best for sensitivities drawn around the predicted ones, shape (at most ``DRAWN``, D).

    Near the best under one objective lie many assignments that differ little: of these, ones that differ in what
    matters most to the belief, whose layers predictions may have wrong.
    """
    found = []
    for _ in range(DRAWN):
        factors = np.exp(DOUBT * rng.standard_normal(len(damage.single)))
        single = tuple(factor * values for factor, values in zip(factors, damage.single, strict=True))
        pairs = {(i, j): np.sqrt(factors[i] * factors[j]) * values for (i, j), values in damage.pairs.items()}
        found.append(predicted_best(problem, Damage(single, pairs), 1))
    return np.concatenate(found)
