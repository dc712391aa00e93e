"""``hawq``: the Pareto front of Hessian trace times perturbation (HAWQ-V2, Dong et al., NeurIPS 2020).

The damage of an assignment is predicted as Ω = Σ_i Tr̄(H_i)·‖Q(W_i) − W_i‖², Tr̄ the mean of the Hessian's eigenvalues
over the weights of layer i: what the sensitivity ``hessian`` has in its table. The front of Ω against a cost that adds
up is enumerated (:mod:`qsearch.search.hawq_front`), and evaluated as the objectives ask:

- quality only: the least Ω within the bounds first, then on along the front to what is cheaper;
- quality against costs: the ends of the front, then the middle of its widest gap in cost, until all is evaluated;
- one cost: bisection along the front for the cheapest assignment that meets the bounds, then what is cheaper still,
  as quality may not rise and fall with Ω everywhere.

It ends with the front, which may be before the budget is spent.

Under bounds on several costs, fronts are enumerated against weighted sums of them, Σ_m w_m·c_m(x)/limit_m, for the weights
w ≥ 0 of sum 1 that are multiples of 1/``PARTS``, and what they have within the bounds is put together: the order of the
bounds does not matter. The front against one cost is exact; this is near it, as an assignment that is best within several
bounds need be on none of these fronts. The searcher ``ilp`` takes several rows exactly. A limit on a metric of which the network has the greatest of its layers'
strikes out the choices over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch import registry
from qsearch.errors import UserError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher, SensitivityTable
from qsearch.registry import PluginOptions
from qsearch.search.aims import minimised_costs
from qsearch.search.hawq_front import Front, every_assignment, monotone, require_separate
from qsearch.search.knapsack import undominated
from qsearch.search.spreading import alternate, spread
from qsearch.search.units import Floats, Unit, additive_units, cost_units, maxima, require_additive

X = NDArray[np.int64]

PARTS = 4
"""Steps from one weight to another, where several costs matter."""
SUM = "weighted sum"
"""What units cost once their costs are weighted."""


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
        for objective in _objectives(problem):
            metrics = list(_scales(problem, objective))
            for metric in set(metrics) & maxima(problem.cost):
                raise UserError(
                    "hawq needs a cost that is a sum over layers", got=f"{metric}, a maximum", fix="use 'ilp' or 'gp'"
                )
            units, _ = cost_units(problem.cost, [*metrics, *_greatest(problem)])
            if self.options.monotone:
                require_separate(units)
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
        """The front against each cost among the objectives, or against what is bounded, of what is within the bounds."""
        table = oracle.sensitivity(self.options.sensitivity, self.options.sensitivity_options)
        return [self._front(oracle.problem, table, objective) for objective in _objectives(oracle.problem)]

    def _front(self, problem: Problem, table: SensitivityTable, objective: str | None) -> Front:
        """What the fronts against weighted sums of the costs have within the bounds, as one front."""
        scales = _scales(problem, objective)
        axis = scales if objective is None else {objective: 1.0}
        greatest = _greatest(problem)
        units, _ = additive_units(problem.cost, table, [*scales, *greatest])
        units = [_struck(unit, greatest) for unit in units]
        found = Front(np.zeros((0, problem.space.dimension), dtype=np.int64), np.zeros(0), np.zeros(0))
        if not all(len(unit.choices) for unit in units):
            return found
        for shares in _simplex(len(scales)):
            weights = dict(zip(scales, shares / list(scales.values()), strict=True))
            front = self._enumerate(problem.space, _weighted(units, weights), SUM)
            found = _joined(found, _within(problem, front, axis))
        return found


def _within(problem: Problem, front: Front, axis: Mapping[str, float]) -> Front:
    """What a front has within the bounds, its cost the sum of some costs, each as a share of its scale."""
    within = problem.cost_violations(front.x) <= 0
    totals = problem.cost.estimate_many(front.x)
    cost = np.sum([totals[metric] / scale for metric, scale in axis.items()], axis=0)
    return Front(front.x[within], front.omega[within], cost[within])


def _joined(one: Front, other: Front) -> Front:
    """The front of both."""
    x = np.concatenate([one.x, other.x])
    omega, cost = np.concatenate([one.omega, other.omega]), np.concatenate([one.cost, other.cost])
    keep = undominated(omega, cost)
    return Front(x[keep], omega[keep], cost[keep])


def _objectives(problem: Problem) -> list[str] | list[None]:
    """Costs to draw a front against each: those of the objectives; None for the sum of what is bounded."""
    return list(dict.fromkeys(minimised_costs(problem, "hawq"))) or [None]


def _scales(problem: Problem, objective: str | None) -> dict[str, float]:
    """The costs that matter to a front, in alphabetical order, each with its limit, or else its highest value.

    They are the objective and what is bounded from above, else what is bounded from below, else any one.
    """
    upper = {metric: limit for metric, limit in _upper(problem).items() if metric not in maxima(problem.cost)}
    sums = [metric for metric in problem.cost.units if metric not in maxima(problem.cost)]
    lower = {bound.metric for bound in problem.cost_bounds} & set(sums)
    named = {*upper, *filter(None, [objective])} or lower or set((sums or list(problem.cost.units))[:1])
    highest = problem.cost.estimate_many(problem.space.highest[None])
    found = {metric: abs(upper.get(metric, float(highest[metric][0]))) for metric in sorted(named)}
    return {metric: scale or 1.0 for metric, scale in found.items()}


def _upper(problem: Problem) -> dict[str, float]:
    """The least upper limit of each cost that has one."""
    found: dict[str, float] = {}
    for bound in problem.cost_bounds:
        if not bound.at_least:
            found[bound.metric] = min(bound.limit, found.get(bound.metric, np.inf))
    return found


def _greatest(problem: Problem) -> dict[str, float]:
    """Upper limits of the costs of which the network has the greatest of its layers': they strike out choices."""
    return {metric: limit for metric, limit in _upper(problem).items() if metric in maxima(problem.cost)}


def _struck(unit: Unit, limits: Mapping[str, float]) -> Unit:
    """A unit without its choices over the limits."""
    allowed = np.ones(len(unit.choices), dtype=np.bool_)
    for metric, limit in limits.items():
        allowed &= unit.costs[metric] <= limit
    costs = {metric: cost[allowed] for metric, cost in unit.costs.items()}
    return Unit(unit.decisions, unit.choices[allowed], unit.damage[allowed], costs)


def _simplex(count: int) -> Floats:
    """Weights that are multiples of 1/``PARTS`` and sum to 1, shape (n, count)."""
    grid = np.stack(np.unravel_index(np.arange((PARTS + 1) ** count), [PARTS + 1] * count), axis=1)
    return np.asarray(grid[grid.sum(axis=1) == PARTS] / PARTS)


def _weighted(units: Sequence[Unit], weights: Mapping[str, float]) -> list[Unit]:
    """The units with one cost, a weighted sum."""
    return [
        replace(unit, costs={SUM: np.sum([weight * unit.costs[metric] for metric, weight in weights.items()], axis=0)})
        for unit in units
    ]


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
