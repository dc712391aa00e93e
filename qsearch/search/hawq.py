"""``hawq``: the Pareto front of Hessian trace times perturbation (HAWQ-V2, Dong et al., NeurIPS 2020).

The damage of an assignment is predicted as Ω = Σ_i Tr̄(H_i)·‖Q(W_i) − W_i‖², Tr̄ the mean of the Hessian's eigenvalues
over the weights of layer i: what the sensitivity ``hessian`` has in its table. The front of Ω against a cost that adds
up is enumerated (:mod:`qsearch.search.hawq_front`), and evaluated as the objectives ask:

- quality only: the least Ω within the bounds first, then on along the front to what is cheaper;
- quality against costs: the ends of the front, then the middle of its widest gap in cost, until all is evaluated;
- one cost: bisection along the front for the cheapest assignment that meets the bounds, then what is cheaper still,
  as quality may not rise and fall with Ω everywhere.

It ends with the front, which may be before the budget is spent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch import registry
from qsearch.errors import UserError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import minimised_costs
from qsearch.search.hawq_front import Front, every_assignment, monotone, require_separate
from qsearch.search.spreading import alternate, spread
from qsearch.search.units import additive_units, cost_units, require_additive

X = NDArray[np.int64]


class Hawq(Searcher):
    """The front of predicted damage against cost, for costs that add up over layers."""

    stochastic = False

    class Options(PluginOptions):
        """What predicts the damage, and which assignments are considered."""

        sensitivity: str = "hessian"
        """Plug-in that predicts the damage of each choice."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)
        monotone: bool = False
        """Consider only bits that do not rise from more to less sensitive decisions, as NNCF does."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._enumerate = monotone if self.options.monotone else every_assignment

    def check(self, problem: Problem) -> None:
        """Raise unless the front can be enumerated.

        Raises:
            UserError: a cost that is not a sum, or that is to be maximised; decisions of joint cost where ``monotone``;
                the sensitivity is unknown or its options are not valid.
        """
        require_additive(problem.cost)
        minimised_costs(problem, "hawq")
        for metric in _metrics(problem):
            if metric in problem.cost.model.maxima:
                raise UserError(
                    "hawq needs a cost that is a sum over layers", got=f"{metric}, a maximum", fix="use 'ilp' or 'gp'"
                )
            if self.options.monotone:
                require_separate(cost_units(problem.cost, [metric])[0])
        registry.create("sensitivities", self.options.sensitivity, self.options.sensitivity_options)

    def search(self, oracle: Oracle) -> None:
        """Enumerate the front and evaluate it.

        Raises:
            UserError: see :meth:`check`; layers that share decisions have too many joint choices.
            EvaluationError: a sensitivity that is not finite.
        """
        problem = oracle.problem
        self.check(problem)
        fronts = self._fronts(oracle)
        costs = minimised_costs(problem, "hawq")
        if len(problem.objectives) > 1 and costs:
            _evaluate(oracle, alternate([iter(front.x[::-1][spread(front.cost[::-1])]) for front in fronts]))
        elif costs:
            _bisect(oracle, fronts[0].x)
        else:
            _evaluate(oracle, fronts[0].x[::-1])

    def _fronts(self, oracle: Oracle) -> list[Front]:
        """The front against each cost, of what is within the bounds."""
        problem = oracle.problem
        table = oracle.sensitivity(self.options.sensitivity, self.options.sensitivity_options)
        found = []
        for metric in _metrics(problem):
            units, constant = additive_units(problem.cost, table, [metric])
            front = self._enumerate(problem.space, units, metric)
            within = problem.cost_violations(front.x) <= 0
            found.append(Front(front.x[within], front.omega[within], front.cost[within] + constant[metric]))
        return found


def _metrics(problem: Problem) -> list[str]:
    """Costs to draw fronts against: the objectives, else the first that is bounded, else any."""
    bounded = [bound.metric for bound in problem.cost_bounds]
    return list(dict.fromkeys(minimised_costs(problem, "hawq"))) or bounded[:1] or list(problem.cost.units)[:1]


def _evaluate(oracle: Oracle, assignments: Iterable[X]) -> None:
    for x in assignments:
        if oracle.remaining == 0:
            return
        oracle.evaluate(oracle.problem.space.decode(x))


def _bisect(oracle: Oracle, x: X) -> None:
    """The cheapest of a front, shape (n, D), cheapest first, that meets the bounds."""
    low, high = -1, len(x)  # below low nothing is expected to meet them, at high something does
    tried: set[int] = set()
    while high - low > 1 and oracle.remaining > 0:
        middle = (low + high) // 2 if tried else high - 1
        tried.add(middle)
        if oracle.evaluate(oracle.problem.space.decode(x[middle])).feasible:
            high = middle
        elif middle == len(x) - 1:
            break  # not even the least damage meets them: from there downwards
        else:
            low = middle
    _evaluate(oracle, [x[place] for place in range(min(high, len(x)) - 1, -1, -1) if place not in tried])
