"""Intervals against tables, scipy's independent implementations and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qsearch.report.statistics import (
    is_share,
    mean_interval,
    paired_difference,
    paired_interval,
    quality_interval,
    wilson_interval,
)
from qsearch.trial import Quality


def test_wilson_reproduces_newcombes_table() -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    for correct, samples, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        found = wilson_interval(correct, samples)
        assert found.low == pytest.approx(low, abs=5e-5)
        assert found.high == pytest.approx(high, abs=5e-5)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    correct, samples = case
    expected = stats.binomtest(correct, samples).proportion_ci(method="wilson")
    found = wilson_interval(correct, samples)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= found.mean <= found.high <= 1


@pytest.mark.parametrize("case", [(5, 4), (-1, 4), (0, 0)])
def test_wilson_refuses_impossible_counts(case: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="samples"):
        wilson_interval(*case)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20))
def test_mean_interval_equals_scipy(values: list[float]) -> None:
    found = mean_interval(values)
    error = stats.sem(values)
    if error == 0:
        assert found.low == found.high == pytest.approx(found.mean)
        return
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_one_run_has_a_mean_and_no_interval() -> None:
    found = mean_interval([0.5])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_mean_interval_covers_nineteen_times_in_twenty() -> None:
    draws = np.random.default_rng(0).normal(3, 2, (4000, 3))
    hits = np.mean([interval.low <= 3 <= interval.high for interval in map(mean_interval, draws)])
    assert hits == pytest.approx(0.95, abs=0.012)


def table(both: int, ours: int, theirs: int, neither: int) -> np.ndarray:
    return np.repeat([0.0, 1.0, -1.0, 0.0], [both, ours, theirs, neither])


def test_paired_interval_reproduces_the_approval_survey() -> None:
    """Agresti, Categorical Data Analysis (2nd ed., section 10.1): 794, 150, 86, 570; −0.04 with (−0.06, −0.02)."""
    differences = table(794, 86, 150, 570)
    found = paired_interval(differences, share=False)
    assert (found.mean, found.low, found.high) == pytest.approx((-0.04, -0.0587, -0.0213), abs=5e-5)
    near = paired_interval(differences, share=True)
    assert (near.low, near.high) == pytest.approx((found.low, found.high), abs=5e-4)


@given(st.tuples(*[st.integers(0, 60)] * 3).filter(any))
def test_the_ends_of_a_paired_interval_solve_tangos_equation(cells: tuple[int, int, int]) -> None:
    """(c − b − nΔ)² = z²·n·(2p̃ + Δ − Δ²), p̃ the share of losses that is likeliest at Δ (Tango 1998), by its quadratic."""
    same, gains, losses = cells
    n = same + gains + losses
    found = paired_interval(table(same, gains, losses, 0), share=True)
    for end in (found.low, found.high):
        if abs(end) < 1 - 1e-9 and abs(end - found.mean) > 1e-9:
            b = -gains - losses + (2 * n - gains + losses) * end
            p = (np.sqrt(b * b + 8 * n * losses * end * (1 - end)) - b) / (4 * n)
            assert (gains - losses - n * end) ** 2 == pytest.approx(1.959964**2 * n * (2 * p + end - end**2), rel=1e-4)
    assert found.low <= found.mean <= found.high


def test_paired_interval_of_means_over_two_runs_adds_two_samples() -> None:
    differences = np.repeat([0.5, -0.5, 0.0, 1.0], [3, 5, 40, 2])
    found = paired_interval(differences, share=True)
    more = np.concatenate([differences, [0.0]])
    n = len(differences) + 2
    centre = more.sum() / n
    error = np.sqrt(((np.square(more).sum() + 1) / n - centre**2) / n)
    assert (found.low, found.high) == pytest.approx((centre - 1.959964 * error, centre + 1.959964 * error), abs=1e-6)


@pytest.mark.parametrize(("gain", "loss"), [(0.005, 0.01), (0.02, 0.05), (0.0, 0.003)])
def test_paired_interval_covers_with_few_discordant_pairs(gain: float, loss: float) -> None:
    """Monte Carlo on 360 samples; the plain interval fails here, at 0.66 for the last case."""
    rng = np.random.default_rng(1)
    counts = rng.multinomial(360, [gain, loss, 1 - gain - loss], size=3000)
    hits = []
    for ours, theirs, rest in counts:
        found = paired_interval(table(rest, ours, theirs, 0), share=True)
        hits.append(found.low <= gain - loss <= found.high)
    assert np.mean(hits) >= 0.94


def test_networks_that_agree_everywhere_still_have_an_interval() -> None:
    quality = Quality.from_outcomes(np.ones(100, dtype=np.float32), 0.1)
    found = paired_difference([quality], [quality])
    assert found is not None
    assert found.mean == 0
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(1.959964**2 / (100 + 1.959964**2), abs=1e-6)


def test_paired_difference_averages_over_runs() -> None:
    rng = np.random.default_rng(2)
    reference = Quality.from_outcomes((rng.random(200) < 0.9).astype(np.float32), 0.1)
    runs = [Quality.from_outcomes((rng.random(200) < share).astype(np.float32), 0.1) for share in (0.7, 0.8, 0.85)]
    found = paired_difference(runs, [reference] * 3)
    assert found is not None
    assert found.mean == pytest.approx(np.mean([run.metric for run in runs]) - reference.metric)


def test_paired_difference_of_scores_is_the_t_like_interval() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = (rng.normal(size=500).astype(np.float32) for _ in range(2))
    found = paired_difference([Quality.from_outcomes(ours, 0.0)], [Quality.from_outcomes(theirs, 0.0)])
    gap = ours.astype(np.float64) - theirs
    half = 1.959964 * gap.std(ddof=1) / 500**0.5
    assert found is not None
    assert (found.low, found.high) == pytest.approx((gap.mean() - half, gap.mean() + half), abs=1e-6)


def test_no_outcomes_no_paired_difference() -> None:
    plain = Quality(0.9, 0.1, 10, 0.1)
    known = Quality.from_outcomes(np.ones(10, dtype=np.float32), 0.1)
    assert paired_difference([plain], [known]) is None
    assert paired_difference([known], [Quality.from_outcomes(np.ones(9, dtype=np.float32), 0.1)]) is None
    assert paired_difference([], []) is None


def test_quality_interval_follows_the_kind_of_score() -> None:
    share = Quality.from_outcomes(np.asarray([1, 1, 1, 0], dtype=np.float32), 0.1)
    assert is_share(share)
    assert quality_interval(share) == wilson_interval(3, 4)
    score = Quality.from_outcomes(np.asarray([0.5, 1, 0.2], dtype=np.float32), 0.1)
    assert not is_share(score)
    found = quality_interval(score)
    assert found.high == pytest.approx(score.metric + 1.959964 * score.standard_error)
