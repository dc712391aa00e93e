"""The paired decision: against numerical likelihoods, enumerated coverage, and scipy's t test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import multinomial, ttest_1samp

from qsearch.assignment import BitAssignment
from qsearch.errors import UserError
from qsearch.problem import Bound, Objective, Problem
from qsearch.search.aims import require_threshold
from qsearch.search.paired import (
    Target,
    certifiable_drop,
    confidence,
    difference_interval,
    score_interval,
    score_statistic,
)
from qsearch.testing.problems import separable
from qsearch.trial import Cost, Quality, Trial


def outcomes(losses: int, gains: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a quantised and a float network with so many samples that differ; half of the rest are right."""
    scores, reference = np.zeros(samples, np.float32), np.zeros(samples, np.float32)
    reference[:losses] = 1
    scores[losses : losses + gains] = 1
    both = slice(losses + gains, losses + gains + (samples - losses - gains) // 2)
    scores[both] = reference[both] = 1
    return scores, reference


def numerical_statistic(losses: int, gains: int, samples: int, difference: float) -> float:
    """(observed − δ) over its standard error at the most likely shares with that difference, found numerically."""

    def minus_likelihood(loss_share: float) -> float:
        shares = np.asarray([loss_share, loss_share + difference, 1 - 2 * loss_share - difference])
        counts = np.asarray([losses, gains, samples - losses - gains])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(shares[counts > 0], 1e-300))))

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    share = minimize_scalar(minus_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return ((gains - losses) / samples - difference) / np.sqrt((2 * share + difference - difference**2) / samples)


@pytest.mark.parametrize("counts", [(3, 1, 40), (0, 0, 50), (0, 5, 50), (7, 0, 50), (20, 30, 100)])
@pytest.mark.parametrize("difference", [-0.3, -0.05, -0.01, 0.02])
def test_the_statistic_uses_the_most_likely_table(counts: tuple[int, int, int], difference: float) -> None:
    assert score_statistic(*counts, difference) == pytest.approx(numerical_statistic(*counts, difference), rel=1e-4)


def test_without_a_discordant_pair_the_statistic_is_known() -> None:
    drop = 0.004
    assert score_statistic(0, 0, 1000, -drop) ** 2 == pytest.approx(1000 * drop / (1 - drop))
    assert score_statistic(0, 0, 1000, 0.0) == 0.0


@pytest.mark.parametrize("samples", [10, 360, 10_000])
def test_the_smallest_drop_that_samples_certify(samples: int) -> None:
    scores, reference = outcomes(0, 0, samples)
    quality, smallest = Quality.from_outcomes(scores, 0.0), certifiable_drop(samples, 0.95)
    assert confidence(quality, reference, quality.metric - 1.001 * smallest) > 0.975
    assert confidence(quality, reference, quality.metric - 0.999 * smallest) < 0.975
    one_lost = Quality.from_outcomes(outcomes(1, 0, samples)[0], 0.0)
    lost_reference = outcomes(1, 0, samples)[1]
    assert confidence(one_lost, lost_reference, float(lost_reference.mean()) - 1.001 * smallest) < 0.975


def certified_share(samples: int, loss: float, gain: float, level: float) -> float:
    """Probability that a true difference gain − loss is certified as a limit: exact, by enumeration."""
    total = 0.0
    for losses in range(40):
        for gains in range(40):
            if score_statistic(losses, gains, samples, gain - loss) >= level:
                total += multinomial.pmf(
                    [losses, gains, samples - losses - gains], samples, [loss, gain, 1 - loss - gain]
                )
    return float(total)


@pytest.mark.parametrize(("loss", "gain"), [(0.01, 0.0), (0.02, 0.0), (0.02, 0.01), (0.03, 0.005), (0.004, 0.001)])
def test_a_limit_that_is_just_missed_is_seldom_certified(loss: float, gain: float) -> None:
    assert certified_share(300, loss, gain, 1.959964) <= 0.027  # nominally 2.5 %
    assert certified_share(300, loss, gain, 1.644854) <= 0.068  # nominally 5 %


@pytest.mark.parametrize(("loss", "gain"), [(0.0, 0.0), (0.01, 0.0), (0.01, 0.01), (0.05, 0.02)])
def test_intervals_cover_the_difference_monte_carlo(loss: float, gain: float) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(400, [loss, gain, 1 - loss - gain], size=1500)[:, :2]
    intervals = {tuple(row): score_interval(*row, 400, 0.95) for row in np.unique(counts, axis=0).tolist()}
    covered = [intervals[tuple(row)][0] <= gain - loss <= intervals[tuple(row)][1] for row in counts.tolist()]
    assert np.mean(covered) >= 0.92  # nominally 0.95, which counts as small as these cannot always give


@given(
    losses=st.integers(0, 30),
    gains=st.integers(0, 30),
    more=st.integers(1, 400),
    limit=st.floats(0.0, 1.0),
)
def test_a_half_is_the_point_estimate(losses: int, gains: int, more: int, limit: float) -> None:
    scores, reference = outcomes(losses, gains, losses + gains + more)
    quality = Quality.from_outcomes(scores, 0.0)
    found = confidence(quality, reference, limit)
    assert 0 <= found <= 1
    assert (found >= 0.5) == (quality.metric >= limit)


@given(losses=st.integers(0, 12), gains=st.integers(0, 12), more=st.integers(0, 50))
def test_the_interval_inverts_the_test(losses: int, gains: int, more: int) -> None:
    samples = losses + gains + more
    if samples == 0:
        return
    low, high = score_interval(losses, gains, samples, 0.9)
    observed = (gains - losses) / samples
    assert -1 <= low <= observed + 1e-9
    assert observed - 1e-9 <= high <= 1
    if low > -1:
        assert score_statistic(losses, gains, samples, low) == pytest.approx(1.644854, abs=1e-4)
    if high < 1:
        assert score_statistic(losses, gains, samples, high) == pytest.approx(-1.644854, abs=1e-4)
    swapped = score_interval(gains, losses, samples, 0.9)
    assert swapped == pytest.approx((-high, -low), abs=1e-9)


def test_confidence_falls_with_the_limit_and_with_losses() -> None:
    limits = np.linspace(0.3, 0.6, 30)
    scores, reference = outcomes(4, 2, 100)
    quality = Quality.from_outcomes(scores, 0.0)
    assert np.all(np.diff([confidence(quality, reference, limit) for limit in limits]) <= 0)
    found = []
    for losses in range(6):
        scores, reference = outcomes(losses, 2, 100)
        found.append(confidence(Quality.from_outcomes(scores, 0.0), reference, float(reference.mean()) - 0.01))
    assert np.all(np.diff(found) < 0)


def test_other_scores_are_judged_by_students_t() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=25).astype(np.float32)
    scores = (reference + rng.normal(-0.1, 0.2, size=25)).astype(np.float32)
    quality = Quality.from_outcomes(scores, 0.0)
    limit = float(reference.mean(dtype=np.float64)) - 0.15
    d = scores.astype(float) - reference.astype(float)
    expected = 1 - ttest_1samp(d, -0.15, alternative="greater").pvalue
    assert confidence(quality, reference, limit) == pytest.approx(expected, abs=1e-9)
    interval = ttest_1samp(d, 0.0).confidence_interval(0.95)
    assert difference_interval(scores, reference, 0.95) == pytest.approx((interval.low, interval.high))


def test_differences_that_do_not_vary_leave_the_point_estimate() -> None:
    reference = np.asarray([0.25, 0.5, 2.0], np.float32)
    quality = Quality.from_outcomes(reference - np.float32(0.25), 0.0)
    mean = float(reference.mean(dtype=np.float64)) - 0.25
    assert [confidence(quality, reference, mean + step) for step in (-0.1, 0.0, 0.1)] == [1.0, 0.5, 0.0]
    assert difference_interval(quality.outcomes, reference, 0.95) is None
    one = Quality.from_outcomes(reference[:1], 0.0)
    assert confidence(one, reference[:1], 0.3) == 0.0


def test_without_outcomes_the_standard_error_counts() -> None:
    quality = Quality(0.9, 0.1, 100, 0.02)
    assert confidence(quality, None, 0.9 - 1.644854 * 0.02) == pytest.approx(0.95, abs=1e-6)
    assert confidence(quality, np.ones(100, np.float32), 0.9) == 0.5
    assert confidence(replace(quality, standard_error=0.0), None, 0.91) == 0.0
    other = Quality.from_outcomes(np.ones(10, np.float32), 0.0)
    assert confidence(other, np.ones(20, np.float32), 0.99) == 1.0


def threshold(*bounds: Bound, reference: np.ndarray | None = None) -> Problem:
    problem, _ = separable(2)
    return Problem(problem.space, problem.cost, (Objective("size", "minimize"),), bounds, float_outcomes=reference)


def trial(problem: Problem, quality: Quality | None, size: float = 1.0) -> Trial:
    cost = Cost({"size": size}, {"size": "bit"})
    state = "complete" if quality is not None else "infeasible"
    return Trial(0, BitAssignment({}), state, cost, quality, problem.violations(cost, quality))


def test_a_target_needs_the_confidence_asked_for() -> None:
    scores, reference = outcomes(1, 0, 500)
    limit = float(reference.mean()) - 0.005
    problem = threshold(Bound("accuracy", limit, True, "accuracy"), reference=reference)
    found = trial(problem, Quality.from_outcomes(scores, 0.0))
    sure = confidence(found.quality, reference, limit)
    assert 0.5 < sure < 0.95
    kept = {level: Target(problem, level).keeps(found) for level in (0.05, 0.5, sure - 1e-9, sure + 1e-9, 0.95)}
    assert list(kept.values()) == [True, True, True, False, False]


def test_a_target_lets_fewer_bits_mend_what_they_can() -> None:
    keep = Bound("accuracy", 0.5, True, "accuracy >= 0.5")
    upper, lower = Bound("size", 10.0, False, "size <= 10"), Bound("size", 5.0, True, "size >= 5")
    problem = threshold(keep, upper, lower)
    target, good = Target(problem), Quality(0.6, 0.1, 10, 0.1)
    assert target.keeps(trial(problem, None, size=11))
    assert target.keeps(trial(problem, good, size=11))
    assert not target.keeps(trial(problem, None, size=4))
    assert not target.keeps(trial(problem, replace(good, metric=0.4), size=11))
    assert not target.keeps(replace(trial(problem, None, size=7), state="failed"))


def test_a_bound_on_the_loss_is_kept_by_its_point_estimate() -> None:
    problem = threshold(Bound("loss", 0.2, False, "loss <= 0.2"))
    found = [Target(problem, 0.99).keeps(trial(problem, Quality(0.6, loss, 10, 0.1))) for loss in (0.19, 0.2, 0.21)]
    assert found == [True, True, False]


@pytest.mark.parametrize(
    ("objective", "bound"),
    [
        (Objective("accuracy", "maximize"), Bound("accuracy", 0.5, True, "accuracy >= 0.5")),
        (Objective("size", "maximize"), Bound("accuracy", 0.5, True, "accuracy >= 0.5")),
        (Objective("size", "minimize"), Bound("accuracy", 0.5, False, "accuracy <= 0.5")),
        (Objective("size", "minimize"), Bound("loss", 0.5, True, "loss >= 0.5")),
        (Objective("size", "minimize"), Bound("size", 0.5, False, "size <= 0.5")),
    ],
)
def test_a_problem_without_a_threshold_is_refused(objective: Objective, bound: Bound) -> None:
    problem, _ = separable(2)
    with pytest.raises(UserError, match=r"under a bound that keeps.*got .* under .*accuracy>=0.99\*float") as caught:
        require_threshold(Problem(problem.space, problem.cost, (objective,), (bound,)), "bisection")
    assert "\n" not in str(caught.value)
