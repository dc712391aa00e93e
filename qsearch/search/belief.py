"""``Belief``: what is thought of assignments not tried yet, and what trying them is worth.

Notation

=========  ==========================================================================================
y          a quality metric, its sign turned so that damage raises it: loss, or −accuracy
M          objectives, all minimised
μ, σ       belief about each objective of A candidates, shape (A, M); σ = 0 for costs
F          objective values of the feasible trials, shape (n, M)
=========  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsearch.pareto import Points, non_dominated
from qsearch.problem import Bound, Problem
from qsearch.search.acquisition import (
    expected_hypervolume_improvement,
    expected_improvement,
    probability_below,
    sampled_hypervolume_improvement,
)
from qsearch.search.surrogate import Features, Surrogate
from qsearch.trial import Trial

X = NDArray[np.int64]
Floats = NDArray[np.float64]

DRAWS = 16
"""Draws of the posterior where the expected hypervolume improvement has no closed form."""
SAMPLED = 64
"""Candidates for which draws are made: of those that none beats both at μ − σ and in the chance to be feasible."""
GROWTH = 1.1
"""The kernel's parameters are found anew when there are so many times as many trials."""
LIKELY = 0.5
"""Probability from which what is believed counts as feasible."""
MARGIN = 0.1
"""The reference point lies beyond the worst values seen by this share of their range."""


@dataclass
class Belief:
    """A surrogate of every quality metric that the problem names; costs are known."""

    problem: Problem
    features: Features
    seed: int
    _surrogates: dict[str, Surrogate] = field(default_factory=dict, init=False)
    _tuned: dict[str, int] = field(default_factory=dict, init=False)
    _prices: dict[bytes, list[float]] = field(default_factory=dict, init=False)
    _logarithmic: bool = field(default=False, init=False)
    _feasible: Points = field(init=False)
    _reference: Floats = field(init=False)

    def fit(self, x: X, trials: Sequence[Trial]) -> bool:
        """Learn from index vectors, shape (N, D), and their trials, which have a quality; False where there are none."""
        if not trials:
            return False
        self._logarithmic = all(trial.value("loss") > 0 for trial in trials)
        named = [objective.metric for objective in self.problem.objectives] + [
            bound.metric for bound in self.problem.bounds
        ]
        for metric in dict.fromkeys(named):
            if metric not in self.problem.cost.units:
                self._fit_metric(metric, x, np.asarray([trial.value(metric) for trial in trials]))
        points = np.stack([self._point(trial) for trial in trials])
        self._reference = points.max(axis=0) + MARGIN * np.ptp(points, axis=0)
        self._feasible = points[[trial.feasible for trial in trials]]
        return True

    def believe(self, x: X) -> None:
        """Go on as if the means at a batch, shape (A, D), had been observed: what a batch of proposals needs.

        Those that more likely than not break a bound on quality teach the surrogates, and are nothing to improve on.
        """
        mean, _ = self._objectives(x)
        probable = self._probability(x) >= LIKELY
        self._surrogates = {metric: surrogate.believe(x) for metric, surrogate in self._surrogates.items()}
        self._feasible = np.concatenate([self._feasible, mean[probable]])

    def worth(self, x: X) -> Floats:
        """What evaluating each of a batch is worth, shape (A, D) → (A,); the least certain first where nothing is."""
        probable = self._probability(x)
        if not len(self._feasible):
            return probable
        mean, deviation = self._objectives(x)
        gain = self._gain(mean, deviation, probable) * probable
        return gain if gain.any() else deviation.sum(axis=1)

    def _gain(self, mean: Points, deviation: Points, probable: Floats) -> Floats:
        exact = [objective.metric in self.problem.cost.units for objective in self.problem.objectives]
        if len(exact) == 1:
            return expected_improvement(mean[:, 0], deviation[:, 0], float(self._feasible.min()))
        if sorted(exact) == [False, True]:
            quality, cost = exact.index(False), exact.index(True)
            front, reference = self._feasible[:, [quality, cost]], self._reference[[quality, cost]]
            return expected_hypervolume_improvement(
                mean[:, quality], deviation[:, quality], mean[:, cost], front, reference
            )
        return self._sampled(mean, deviation, probable)

    def _sampled(self, mean: Points, deviation: Points, probable: Floats) -> Floats:
        """Over draws of independent objectives, the same for every candidate, so that noise does not rank them."""
        hopeful = np.flatnonzero(non_dominated(np.column_stack([mean - deviation, -probable])))
        if len(hopeful) > SAMPLED:
            hopeful = hopeful[np.linspace(0, len(hopeful) - 1, SAMPLED).round().astype(int)]
        half = np.random.default_rng(self.seed).standard_normal((DRAWS // 2, 1, mean.shape[1]))
        draws = mean[hopeful] + deviation[hopeful] * np.concatenate([half, -half])
        gain = np.zeros(len(mean))
        gain[hopeful] = sampled_hypervolume_improvement(draws, self._feasible, self._reference)
        return gain

    def _objectives(self, x: X) -> tuple[Points, Points]:
        """μ and σ of a batch."""
        costs = self._costs(x)
        mean, deviation = np.zeros((2, len(x), len(self.problem.objectives)))
        for column, objective in enumerate(self.problem.objectives):
            if objective.metric in costs:
                mean[:, column] = objective.sign * costs[objective.metric]
            else:
                found, deviation[:, column] = self._surrogates[objective.metric].predict(x)
                mean[:, column] = objective.sign * self._sign(objective.metric) * found
        return mean, deviation

    def _costs(self, x: X) -> dict[str, Floats]:
        """Costs of a batch; those asked for before are remembered, as a cost model may be slower than the surrogate."""
        keys = [row.tobytes() for row in x]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._prices}
        units = list(self.problem.cost.units)
        if fresh:
            found = self.problem.cost.estimate_many(x[list(fresh.values())])
            prices = np.stack([found[metric] for metric in units], axis=1)
            self._prices.update(zip(fresh, prices.tolist(), strict=True))
        table = np.asarray([self._prices[key] for key in keys]).reshape(len(x), len(units))
        return dict(zip(units, table.T, strict=True))

    def _probability(self, x: X) -> Floats:
        """That every bound on a quality is met, shape (A,), taken as independent."""
        probable = np.ones(len(x))
        for bound in self.problem.bounds:
            if bound.metric in self._surrogates:
                probable *= self._probability_of(bound, x)
        return probable

    def _probability_of(self, bound: Bound, x: X) -> Floats:
        mean, deviation = self._surrogates[bound.metric].predict(x)
        limit = float(self._turned(bound.metric, np.asarray([bound.limit]))[0])
        below = (self._sign(bound.metric) < 0) == bound.at_least
        met = probability_below(mean, deviation, limit)
        return met if below else 1.0 - met

    def _point(self, trial: Trial) -> Floats:
        """Objectives of a complete trial, minimised, in the scale of the model."""
        values = []
        for objective in self.problem.objectives:
            value = np.asarray([trial.value(objective.metric)])
            if objective.metric not in self.problem.cost.units:
                value = self._sign(objective.metric) * self._turned(objective.metric, value)
            values.append(objective.sign * float(value[0]))
        return np.asarray(values)

    def _fit_metric(self, metric: str, x: X, values: Floats) -> None:
        old, count = self._surrogates.get(metric), len(values)
        due = old is None or count >= GROWTH * self._tuned[metric]
        kernel = old.kernel if old is not None and not due else None
        turned = self._turned(metric, values)
        self._surrogates[metric] = Surrogate.fit(self.features, x, turned, seed=self.seed, kernel=kernel)
        if due:
            self._tuned[metric] = count

    def _sign(self, metric: str) -> float:
        """+1 for what damage raises, −1 for what it lowers."""
        return 1.0 if metric == "loss" else -1.0

    def _turned(self, metric: str, values: Floats) -> Floats:
        """y of a metric: losses that are positive by their logarithm."""
        if metric == "loss" and self._logarithmic:
            return np.log(np.maximum(values, np.finfo(np.float64).tiny))
        return self._sign(metric) * values
