"""``Learner``: which points to measure next, until the model is good enough or the measurements are spent.

A point that fails is never asked for again, and does not count as a sample. Choices depend on the seed and the answers
only: a learner that is started again over kept measurements goes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import ConfigError, DataError
from qsearch.measurements import Point
from qsearch.surrogates.acquire import State, rule
from qsearch.surrogates.design import latin_hypercube
from qsearch.surrogates.model import LEAST, Batch, LogCost
from qsearch.surrogates.transfer import fit_with_source

Floats = NDArray[np.float64]
Costs = Mapping[str, float]
"""Metric → cost of one point, greater than 0."""

START = 10
"""Points of the Latin hypercube that learning starts from."""
GROWTH = 1.05
"""The kernel's parameters are found anew when there are so many times as many observations. On HAQ's table every time was no better."""


@dataclass(frozen=True)
class Plan:
    """How to learn.

    Attributes:
        samples: points to learn from, at most.
        acquire: how the next one is chosen, one of :data:`qsearch.surrogates.acquire.RULES`.
        start: points of the first design; as many as ``samples``, it is all there is.
        error: stop when the judge says so little; None to spend all samples.
        per_kind: one process for each kind of layers.
        seed: of designs and of what is drawn.
    """

    samples: int
    acquire: str = "variance"
    start: int = START
    error: float | None = None
    per_kind: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Learned:
    """What a learner knows.

    Attributes:
        models: metric → posterior over log cost.
        rows: of the pool, those measured, in order, shape (N,).
        costs: metric → cost measured there, shape (N,).
        failed: rows that gave no cost.
    """

    models: Mapping[str, LogCost]
    rows: tuple[int, ...]
    costs: Mapping[str, Floats]
    failed: tuple[int, ...] = ()


@dataclass
class Learner:
    """Active learning over a pool of points.

    Args:
        points: the pool.
        metrics: what a measurement gives; the first is what ``ei`` minimises.
        measure: row of the pool → costs; None where it failed.
        plan: how to learn.
        sources: metric → a model of another target to transfer from.

    Raises:
        ConfigError: an unknown acquisition, or a pool smaller than ``samples``.
    """

    points: Sequence[Point]
    metrics: Sequence[str]
    measure: Callable[[int], Costs | None]
    plan: Plan
    sources: Mapping[str, LogCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rule = rule(self.plan.acquire, self.metrics)
        if len(self.points) < self.plan.samples:
            raise ConfigError(
                f"the pool must have as many points as samples are asked for, {self.plan.samples}",
                got=f"{len(self.points)} points",
                fix="ask for fewer samples, or for more bits or workloads",
            )
        self._pool = Batch.of(self.points)
        self._rng = np.random.default_rng(self.plan.seed)
        self._free = np.ones(len(self.points), dtype=bool)
        self._rows: list[int] = []
        self._costs: list[list[float]] = []
        self._failed: list[int] = []
        self._models: dict[str, LogCost] = {}
        self._tuned = 0

    def learn(
        self,
        judge: Callable[[Learned], float] | None = None,
        on_sample: Callable[[int, float | None], None] | None = None,
    ) -> Learned:
        """Measure and learn.

        Args:
            judge: the model's error, for ``plan.error``.
            on_sample: called with the number of samples and the judge's last answer.

        Raises:
            DataError: too few measurements succeeded to learn from.
        """
        error: float | None = None
        for row in self._first():
            self._ask(row)
            if on_sample is not None:
                on_sample(len(self._rows), None)
        while True:
            learned = self._fit()
            if judge is not None:
                error = judge(learned)
                if on_sample is not None:
                    on_sample(len(self._rows), error)
            good = self.plan.error is not None and error is not None and error <= self.plan.error
            if good or not self._one_more():
                return self._calibrated(learned)

    def _calibrated(self, learned: Learned) -> Learned:
        """With honest deviations: at the end only, as they change neither costs nor what is worth measuring by variance."""
        models = {metric: model.calibrated(self.plan.seed) for metric, model in learned.models.items()}
        return replace(learned, models=models)

    def _first(self) -> list[int]:
        """Rows of the start: random ones for ``random``, else a Latin hypercube, of each kind if each has its process."""
        count = min(self.plan.start, self.plan.samples)
        if self.plan.acquire == "random":
            return [int(row) for row in self._rng.choice(len(self.points), count, replace=False)]
        if not self.plan.per_kind:
            return latin_hypercube(self._pool.x, count, self.plan.seed)
        kinds, sizes = np.unique(self._pool.kinds, return_counts=True)
        if LEAST * len(kinds) > self.plan.samples:
            raise ConfigError(
                f"a model for each of {len(kinds)} kinds of layers needs at least {LEAST * len(kinds)} samples",
                got=self.plan.samples,
            )
        beyond = max(count - LEAST * len(kinds), 0)
        shares = np.minimum(LEAST + (beyond * sizes) // sizes.sum(), sizes)
        return [
            row
            for kind, share in zip(kinds, shares.tolist(), strict=True)
            for row in latin_hypercube(
                self._pool.x, share, self.plan.seed, np.flatnonzero(self._pool.kinds == kind).tolist()
            )
        ]

    def _one_more(self) -> bool:
        """Measure the most worthwhile point that gives an answer; False when samples or points are spent."""
        state = State(self._pool, np.flatnonzero(self._free), self._models, np.log(self._costs), self._rng)
        if len(self._rows) >= self.plan.samples or not len(state.free):
            return False
        best_first = np.argsort(-self._rule(state), kind="stable")
        return any(self._ask(int(state.free[index])) for index in best_first)

    def _ask(self, row: int) -> bool:
        """Measure a point; whether it gave costs to learn from."""
        found = self.measure(row)
        self._free[row] = False
        if found is None:
            self._failed.append(row)
            return False
        self._rows.append(row)
        self._costs.append([found[metric] for metric in self.metrics])
        return True

    def _fit(self) -> Learned:
        count = len(self._rows)
        if count < LEAST:
            raise DataError(
                f"at least {LEAST} measurements must succeed to learn from, with costs greater than 0",
                got=f"{count} of {count + len(self._failed)}",
            )
        batch, costs = self._pool[np.asarray(self._rows)], np.asarray(self._costs)
        due = count >= GROWTH * self._tuned
        for column, metric in enumerate(self.metrics):
            self._models[metric] = fit_with_source(
                batch,
                np.log(costs[:, column]),
                seed=self.plan.seed,
                per_kind=self.plan.per_kind,
                source=self.sources.get(metric),
                known=None if due else self._models[metric],
            )
        self._tuned = count if due else self._tuned
        return Learned(
            dict(self._models),
            tuple(self._rows),
            dict(zip(self.metrics, costs.T, strict=True)),
            tuple(self._failed),
        )
