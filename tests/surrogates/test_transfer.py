"""Transfer: twice the source and one needs half the samples; a source with nothing to say is not listened to."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_costs import points, roofline

from qsearch.measurements import Point
from qsearch.surrogates.judging import relative_errors
from qsearch.surrogates.learner import Learned, Learner, Plan
from qsearch.surrogates.model import Batch, LogCost
from qsearch.surrogates.transfer import fit_with_source

POOL = points()
BATCH = Batch.of(POOL)


def uneven(point: Point) -> float:
    """With bits that suit the hardware and bits that do not: hard to learn alone."""
    _, weight, activation = point
    return roofline(point) * float(np.exp(0.3 * np.sin(2.0 * weight) + 0.3 * np.sin(1.5 * activation)))


F = np.asarray([uneven(point) for point in POOL])
F /= np.median(F)
SOURCE = LogCost.fit(BATCH[np.arange(0, len(POOL), 2)], np.log(F[::2]), seed=0)
SHUFFLED = np.random.default_rng(0).permutation(F)
UNRELATED = LogCost.fit(BATCH[np.arange(0, len(POOL), 2)], np.log(SHUFFLED[::2]), seed=0)


def learn(costs: np.ndarray, source: LogCost | None, seed: int) -> tuple[int, LogCost]:
    """Samples to a median relative error of 8 % on the rest, and the model."""

    def judge(learned: Learned) -> float:
        rest = np.setdiff1d(np.arange(len(POOL)), learned.rows)
        return float(np.median(relative_errors(learned.models["latency"], BATCH[rest], costs[rest])))

    sources = {} if source is None else {"latency": source}
    plan = Plan(100, error=0.08, seed=seed)
    learned = Learner(POOL, ("latency",), lambda row: {"latency": float(costs[row])}, plan, sources).learn(judge)
    return len(learned.rows), learned.models["latency"]


def test_twice_the_source_and_one_needs_half_the_samples() -> None:
    alone = [learn(2 * F + 1, None, seed)[0] for seed in range(3)]
    transferred = [learn(2 * F + 1, SOURCE, seed) for seed in range(3)]
    assert np.mean([count for count, _ in transferred]) <= 0.5 * np.mean(alone)
    assert all(model.source is SOURCE for _, model in transferred)


@pytest.mark.slow
def test_an_unrelated_source_costs_at_most_five_percent() -> None:
    alone = [learn(2 * F + 1, None, seed)[0] for seed in range(2)]
    beside = [learn(2 * F + 1, UNRELATED, seed) for seed in range(2)]
    assert np.mean([count for count, _ in beside]) <= 1.05 * np.mean(alone)
    assert all(model.source is None for _, model in beside)


def test_a_power_of_the_source_is_found() -> None:
    """f² in costs is ρ = 2 in logs."""
    rows = np.arange(0, len(POOL), 20)
    model = LogCost.fit(BATCH[rows], 2 * SOURCE.mean(BATCH[rows]), seed=0, source=SOURCE)
    assert model.slope == pytest.approx(2)
    np.testing.assert_allclose(model.mean(BATCH), 2 * SOURCE.mean(BATCH), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_leave_one_out_tells_a_source_from_one_with_nothing_to_say(seed: int) -> None:
    rows = np.random.default_rng(seed).choice(len(POOL), 20, replace=False)
    y = np.log(2 * F[rows] + 1)
    assert fit_with_source(BATCH[rows], y, seed=seed, source=SOURCE).source is SOURCE
    assert fit_with_source(BATCH[rows], y, seed=seed, source=UNRELATED).source is None
