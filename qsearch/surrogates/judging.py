"""How good a surrogate is on points that it did not learn from.

A relative error is |m − t| / t, with m the mean cost that the surrogate answers and t what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from qsearch.measurements import Point
from qsearch.surrogates.learner import Costs, Learned
from qsearch.surrogates.model import Batch, LogCost, cost_mean

Floats = NDArray[np.float64]

RESAMPLES = 2000
"""Bootstrap samples of held-out points."""
LEVEL = 0.9
"""Of intervals, and of the coverage."""


@dataclass(frozen=True)
class Judgement:
    """Errors of one metric.

    Attributes:
        median: relative error.
        interval: of the median, by a percentile bootstrap over the points, at :data:`LEVEL`.
        ninetieth: percentile of the relative error.
        coverage: share of the points within the :data:`LEVEL` interval that the surrogate gave for a measurement of them.
    """

    median: float
    interval: tuple[float, float]
    ninetieth: float
    coverage: float


@dataclass(frozen=True)
class HeldOut:
    """Points with their costs.

    Attributes:
        points: A of them.
        costs: metric → shape (A,).
        batch: their features.
    """

    points: tuple[Point, ...]
    costs: Mapping[str, Floats]
    batch: Batch

    @classmethod
    def of(cls, measured: Sequence[tuple[Point, Costs]]) -> HeldOut:
        """Measured points."""
        points = tuple(point for point, _ in measured)
        metrics = measured[0][1] if measured else ()
        costs = {metric: np.asarray([costs[metric] for _, costs in measured]) for metric in metrics}
        return cls(points, costs, Batch.of(points))

    def error(self, learned: Learned) -> float:
        """Median relative error of the metric where it is greatest."""
        return max(
            float(np.median(relative_errors(model, self.batch, self.costs[metric])))
            for metric, model in learned.models.items()
        )

    def judgements(self, learned: Learned, seed: int) -> dict[str, Judgement]:
        """Errors of each metric."""
        return {metric: judged(model, self.batch, self.costs[metric], seed) for metric, model in learned.models.items()}


def relative_errors(model: LogCost, batch: Batch, costs: Floats) -> Floats:
    """See the module. Shape (A,)."""
    mean, variance = model.predict(batch)
    return np.abs(cost_mean(mean, variance + model.noise(batch)) / costs - 1.0)


def judged(model: LogCost, batch: Batch, costs: Floats, seed: int) -> Judgement:
    """Errors of a model on A points."""
    errors = relative_errors(model, batch, costs)
    rng = np.random.default_rng(seed)
    medians = np.median(errors[rng.integers(len(errors), size=(RESAMPLES, len(errors)))], axis=1)
    low, high = np.quantile(medians, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    away = np.abs(np.log(costs) - model.mean(batch))
    within = away <= norm.ppf((1 + LEVEL) / 2) * model.deviation(batch)
    return Judgement(
        float(np.median(errors)), (float(low), float(high)), float(np.quantile(errors, 0.9)), float(within.mean())
    )
