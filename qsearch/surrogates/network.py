"""``Network``: what a surrogate knows of the layers of one network together, tabulated.

Notation (of :mod:`qsearch.surrogates.surrogate`)

=========  ==========================================================================================
L          layers of the network, those of one geometry apart
P          points: each geometry at each pair of bits that its kind runs at
c          how often an assignment has each point; shares, where kernels differ
Q          m_i·m_j·(exp κ_i·κ_j·Σ_ij − 1), shape (P, P): the variance of a total is c·Q·c
=========  ==========================================================================================

The posterior does not change any more, so Q is worked out once for all points; an estimate then reads a few rows of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.hardware.tabulated import Table
from qsearch.surrogates.model import Batch, LogCost, cost_mean

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Answers = NDArray[np.intp]
"""Index of the pair that answers at (w, a), shape (33, 33); −1 where none does."""

TABULATED = 2048
"""Points up to which Q is kept, 32 MiB for each metric; of larger networks the part needed is worked out each time."""


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a geometry.

    Attributes:
        table: T.
        answers: metric → which pair of ``batch`` answers.
        batch: the geometry at each pair.
    """

    table: Table
    answers: Mapping[str, Answers]
    batch: Batch


@dataclass(frozen=True)
class Runs:
    """What an assignment runs, an entry for each layer and each bitwidth among its kernels; shapes (n,).

    Attributes:
        layer: index of the layer.
        weight, activation: bits.
        share: of the layer's kernels.
    """

    layer: Rows
    weight: Rows
    activation: Rows
    share: Floats


class Network:
    """L layers, each with what is known of its geometry."""

    def __init__(self, layers: Sequence[Known], models: Mapping[str, LogCost]) -> None:
        self._models = models
        geometries = list(dict.fromkeys(layers))
        starts = np.cumsum([0, *(len(known.batch) for known in geometries)])
        start = {known: int(row) for known, row in zip(geometries, starts, strict=False)}
        self._starts = np.asarray([start[known] for known in layers], dtype=np.intp)
        self._answers = {metric: np.stack([known.answers[metric] for known in layers]) for metric in models}
        self._tables = {metric: np.stack([known.table[metric] for known in layers]) for metric in models}
        self.points = Batch(
            np.concatenate([known.batch.x for known in geometries]),
            np.concatenate([known.batch.kinds for known in geometries]),
        )

    def costs(self, metric: str, runs: Runs) -> Floats | None:
        """Each layer's cost where it runs at one bitwidth, shape (L,), 0 where it is pruned; None outside what is known."""
        if min(runs.weight.min(initial=0), runs.activation.min(initial=0)) < 0:
            return None
        if max(runs.weight.max(initial=0), runs.activation.max(initial=0)) > FLOAT_BITS:
            return None
        found = np.zeros(len(self._starts))
        found[runs.layer] = self._tables[metric][runs.layer, runs.weight, runs.activation]
        return None if np.isnan(found).any() else found

    def rows(self, metric: str, runs: Runs) -> Rows:
        """The points that are run, shape (n,)."""
        found = self._answers[metric][runs.layer, runs.weight, runs.activation]
        return np.asarray(self._starts[runs.layer] + found)

    def deviation(self, metric: str, rows: Rows, shares: Floats) -> float:
        """Standard deviation of what these points cost together; a point may stand in several rows, which err alike."""
        if len(self.points) <= TABULATED:
            among = self._spreads(metric)[rows[:, None], rows]
        else:
            different, places = np.unique(rows, return_inverse=True)
            among = self._spread(metric, self.points[different])[places[:, None], places]
        return float(np.sqrt(max(float(shares @ among @ shares), 0.0)))

    @cached_property
    def _kept(self) -> dict[str, Floats]:
        return {}

    def _spreads(self, metric: str) -> Floats:
        """Q of all points."""
        if metric not in self._kept:
            self._kept[metric] = self._spread(metric, self.points)
        return self._kept[metric]

    def _spread(self, metric: str, batch: Batch) -> Floats:
        """Q of different points."""
        mean, covariance, wide = joint(self._models[metric], batch)
        costs = cost_mean(mean, np.diag(covariance))
        return np.asarray(costs[:, None] * np.expm1(wide[:, None] * covariance * wide) * costs)


def joint(model: LogCost, batch: Batch) -> tuple[Floats, Floats, Floats]:
    """μ, Σ and κ of different points, shapes (A,), (A, A), (A,)."""
    mean, covariance = model.joint(batch)
    return mean, covariance + np.diag(model.noise(batch)), model.widening(batch)
