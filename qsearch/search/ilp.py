"""``ilp``: integer programming on additive sensitivities.

The damage of an assignment is predicted as the sum of the damages of its choices, each measured with the rest of the
network in float (:class:`qsearch.protocols.SensitivityTable`). Under a cost that adds up too, the assignment of least
predicted damage within the bounds is found exactly (:mod:`qsearch.search.program`). Evaluations are spent on the
solutions, in an order that depends on the objectives:

- quality only: the k best solutions under the bounds, best first. Validation quality picks among near-optimal ones;
- quality against costs: the predicted Pareto front of each cost, its widest gap halved first, then the next front;
- one cost, under a bound on quality: bisection on the cost for the cheapest solution that meets the bound, then
  cheaper ones in order of predicted damage.

Speed, one thread: 0.01 s for 200 layers × 49 joint choices under one limit, 0.1 s for 10,000 kernels × 7, 0.03 s for the 64
best of 50 layers. Under several limits that bind, or with ties across layers, HiGHS takes 0.1 to 0.5 s for each solution.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch import registry
from qsearch.errors import CostModelError, InfeasibleError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import minimised_costs
from qsearch.search.program import Program
from qsearch.search.spreading import alternate
from qsearch.search.units import additive_units, maxima, require_additive
from qsearch.trial import Trial

X = NDArray[np.int64]
"""An index vector, shape (D,)."""

RESOLUTION = 1e-9
"""Costs closer than this, relatively, are the same cost."""
BISECTION = 1e-3
"""Bisection on the cost ends at this share of its first interval."""


class IntegerProgram(Searcher):
    """Exact on the predicted damage, for costs that add up over layers; bits per kernel: over kernels too (size, bops).

    Cost models say that they add up over kernels by ``kernel_additive``; those of tiled arrays, such as bismo, do not.
    See the module for what it evaluates, and when.
    """

    stochastic = False

    class Options(PluginOptions):
        """What predicts the damage, and when to stop."""

        sensitivity: str = "one-at-a-time"
        """Plug-in that predicts the damage of each choice."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)
        solutions: int | None = Field(default=None, ge=1)
        """Stop after this many assignments; without it, when the budget is spent or nothing is left to try."""
        gap: float = Field(default=0.0, ge=0.0, lt=1.0, allow_inf_nan=False)
        """Relative gap to the best possible damage at which a solution is accepted; 0 proves the optimum."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def check(self, problem: Problem) -> None:
        """Raise unless integer programming can search the problem.

        Raises:
            UserError: the cost model is not additive, or a cost is to be maximised; the sensitivity is unknown or its
                options are not valid.
        """
        minimised_costs(problem, "integer programming")
        require_additive(problem.cost, problem.cost_bounds)
        registry.create("sensitivities", self.options.sensitivity, self.options.sensitivity_options)

    def search(self, oracle: Oracle) -> None:
        """Solve, evaluate, and go on to the next solution.

        Raises:
            UserError: the cost model is not additive, or a cost is to be maximised.
            InfeasibleError: no assignment meets the bounds.
        """
        relaxed = self._relaxed(oracle)
        costs = minimised_costs(oracle.problem, "integer programming")
        if len(oracle.problem.objectives) > 1 and costs:
            self._spend(oracle, alternate([_fronts(relaxed, metric) for metric in costs]), relaxed)
        elif costs and len(oracle.problem.bounds) > len(oracle.problem.cost_bounds):
            self._threshold(oracle, relaxed, costs[0])
        else:
            self._spend(oracle, _ranked(relaxed, costs[0] if costs else None), relaxed)

    def _relaxed(self, oracle: Oracle) -> Relaxed:
        return Relaxed(oracle, self.options)

    def _spend(self, oracle: Oracle, solutions: Iterator[X], relaxed: Relaxed) -> None:
        """Evaluate solutions for as long as there is budget."""
        while self._open(oracle):
            x = next(solutions, None)
            if x is None:
                return
            relaxed.evaluate(x)

    def _threshold(self, oracle: Oracle, relaxed: Relaxed, metric: str) -> None:
        """The cheapest solution that meets the bounds on quality."""
        low, high = relaxed.floor(metric), np.inf
        x = relaxed.first()
        if relaxed.evaluate(x).feasible:
            high = relaxed.cost(x, metric)
            resolution = BISECTION * (high - low)
            while high - low > resolution and self._open(oracle):
                middle = (low + high) / 2
                probe = relaxed.best({metric: middle})
                if probe is not None and relaxed.evaluate(probe).feasible:
                    high = relaxed.cost(probe, metric)
                else:
                    low = middle
        tried: list[X] = []
        while self._open(oracle):
            caps = {metric: high * (1 - RESOLUTION)} if np.isfinite(high) else {}
            probe = relaxed.best(caps, tried)
            if probe is None:
                return
            tried.append(probe)
            if relaxed.evaluate(probe).feasible:
                high = min(high, relaxed.cost(probe, metric))

    def _open(self, oracle: Oracle) -> bool:
        limit = self.options.solutions
        return oracle.remaining > 0 and (limit is None or len(oracle.trials) < limit)


class Solvable(Protocol):
    """A program whose solutions come in order."""

    def ranked(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> Iterator[X]:
        """See :meth:`qsearch.search.program.Program.ranked`."""
        ...

    def cost(self, x: X, metric: str) -> float:
        """See :meth:`qsearch.search.program.Program.cost`."""
        ...


class Relaxed:
    """The problem as the integer program sees it: predicted damage for quality, sums for costs.

    Raises:
        UserError: a cost model that is not additive.
        EvaluationError: sensitivities that are not finite.
    """

    def __init__(self, oracle: Oracle, options: IntegerProgram.Options) -> None:
        self._oracle = oracle
        self._problem = problem = oracle.problem
        metrics = [bound.metric for bound in problem.cost_bounds] + minimised_costs(problem, "integer programming")
        self._metrics = tuple(dict.fromkeys(metrics))
        require_additive(problem.cost, problem.cost_bounds)  # before the sensitivities are paid for
        table = oracle.sensitivity(options.sensitivity, options.sensitivity_options)
        units, constant = additive_units(problem.cost, table, self._metrics)
        self._additive = Program(tuple(units), constant, problem.cost_bounds, options.gap, maxima(problem.cost))
        self._program: Solvable = self._additive

    def first(self) -> X:
        """The solution of least damage within the bounds; checks that the cost model is additive, as it claims.

        Raises:
            InfeasibleError: there is none.
            CostModelError: the sum of the layers' costs is not the network's cost.
        """
        x = self.best({})
        if x is None:
            labels = ", ".join(bound.label for bound in self._problem.cost_bounds)
            raise InfeasibleError(
                "no assignment meets all cost bounds together", got=labels, fix="raise a limit, or allow more choices"
            )
        estimated = self._problem.cost.estimate_many(x[None])
        for metric in self._metrics:
            total, summed = float(estimated[metric][0]), self.cost(x, metric)
            if not np.isclose(total, summed, rtol=1e-6, atol=0.0):
                raise CostModelError(
                    f"{metric} of an additive cost model must be the sum of its layers' costs",
                    got=f"{total:.6g} for the network, {summed:.6g} as a sum",
                    fix="set additive = False on the cost model",
                )
        return x

    def best(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> X | None:
        """The best solution within bounds and caps that is not in ``cuts``; None where there is none."""
        return next(self.ranked(caps, cuts, minimise), None)

    def ranked(self, caps: Mapping[str, float], cuts: Sequence[X] = (), minimise: str | None = None) -> Iterator[X]:
        """Solutions within bounds and caps that are not in ``cuts``, in order of damage, or of the cost ``minimise``.

        What is within a solver's tolerance of a bound, but over it, is passed over.
        """
        return (x for x in self._program.ranked(caps, cuts, minimise) if self._within(x, caps))

    def _within(self, x: X, caps: Mapping[str, float]) -> bool:
        under = all(self.cost(x, metric) <= cap for metric, cap in caps.items())
        return under and float(self._problem.cost_violations(x[None])[0]) <= 0

    def floor(self, metric: str, cuts: Sequence[X] = ()) -> float:
        """The least cost within the bounds, of what is not in ``cuts``; infinite where nothing is left."""
        x = self.best({}, cuts, minimise=metric)
        return np.inf if x is None else self.cost(x, metric)

    def cost(self, x: X, metric: str) -> float:
        """Cost of a solution, as the sum of its parts."""
        return self._program.cost(x, metric)

    def evaluate(self, x: X) -> Trial:
        """The oracle's answer to a solution."""
        return self._oracle.evaluate(self._problem.space.decode(x))


def _ranked(relaxed: Relaxed, minimise: str | None) -> Iterator[X]:
    """Solutions in order of predicted damage, or of the cost ``minimise``."""
    relaxed.first()
    yield from relaxed.ranked({}, minimise=minimise)


def _fronts(relaxed: Relaxed, metric: str) -> Iterator[X]:
    """The predicted Pareto front of damage against one cost, then the front of what is left, and so on."""
    relaxed.first()
    known: list[X] = []
    while True:
        count = len(known)
        for x in _front(relaxed, metric, tuple(known)):
            known.append(x)
            yield x
        if len(known) == count:
            return


def _front(relaxed: Relaxed, metric: str, shut: tuple[X, ...]) -> Iterator[X]:
    """The predicted front without the solutions ``shut``: its ends, then inside its widest gap, until none is left.

    A gap (low, high) is an open interval of costs in which no solution of the front is known. The best solution up
    to its middle either lies in it, and splits it, or shows that its lower half is empty; then the one just below its
    upper end is next.
    """
    top = relaxed.best({}, shut)
    if top is None:
        return
    yield top
    low, high = relaxed.floor(metric, shut), relaxed.cost(top, metric)
    bottom = relaxed.best({metric: low * (1 + RESOLUTION)}, shut)
    if bottom is not None and low < high * (1 - RESOLUTION):
        yield bottom
    gaps = [(low - high, low, high)]
    while gaps:
        _, low, high = heapq.heappop(gaps)
        for cap in ((low + high) / 2, high * (1 - RESOLUTION)):
            x = relaxed.best({metric: cap}, shut) if high - low > RESOLUTION * high else None
            if x is None:
                continue
            cost = relaxed.cost(x, metric)
            if cost > low * (1 + RESOLUTION):
                yield x
                heapq.heappush(gaps, (low - cost, low, cost))
                heapq.heappush(gaps, (cap - high, cap, high))
                break
            low = cap
