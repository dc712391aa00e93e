"""Closed forms against Monte Carlo, and the sampled hypervolume against the closed one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.pareto import hypervolume
from qsearch.search.acquisition import (
    expected_hypervolume_improvement,
    expected_improvement,
    probability_below,
    sampled_hypervolume_improvement,
)

DRAWS = np.random.default_rng(0).standard_normal(400_000)
FRONT = np.asarray([[1.0, 6.0], [2.0, 4.0], [4.0, 3.0], [5.0, 1.0]])
REFERENCE = np.asarray([6.0, 8.0])


@pytest.mark.parametrize(("mean", "deviation", "best"), [(0.0, 1.0, 0.0), (2.0, 0.5, 1.5), (-1.0, 3.0, 0.2)])
def test_expected_improvement_is_the_mean_of_the_improvements(mean, deviation, best):
    sampled = np.maximum(best - (mean + deviation * DRAWS), 0)
    found = expected_improvement(np.asarray([mean]), np.asarray([deviation]), best)[0]
    assert found == pytest.approx(sampled.mean(), abs=4 * sampled.std() / len(DRAWS) ** 0.5)


def test_expected_improvement_of_certainty_is_the_improvement():
    found = expected_improvement(np.asarray([1.0, 2.0, 3.0]), np.zeros(3), 2.5)
    assert found == pytest.approx([1.5, 0.5, 0.0])


@pytest.mark.parametrize(("mean", "deviation", "limit"), [(0.0, 1.0, 0.3), (2.0, 0.5, 1.0)])
def test_probability_below_is_the_share_of_draws_below(mean, deviation, limit):
    found = probability_below(np.asarray([mean]), np.asarray([deviation]), limit)[0]
    assert found == pytest.approx((mean + deviation * DRAWS <= limit).mean(), abs=0.004)


def test_probability_below_of_certainty_is_zero_or_one():
    assert probability_below(np.asarray([1.0, 3.0]), np.zeros(2), 2.0).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("front", [FRONT, FRONT[:1], FRONT[:0], np.vstack([FRONT, [[5.0, 5.0], [9.0, 0.5]]])])
@pytest.mark.parametrize(
    ("mean", "deviation", "cost"),
    [(3.0, 1.0, 2.0), (0.5, 0.3, 7.0), (5.5, 2.0, 0.5), (3.0, 1.0, 4.0), (2.0, 1.0, 8.5)],
    ids=["inside", "best quality", "least cost", "at a point's cost", "beyond the reference"],
)
def test_expected_hypervolume_improvement_is_the_mean_growth(front, mean, deviation, cost):
    values = mean + deviation * DRAWS[:1000]
    before = hypervolume(front, REFERENCE)
    grown = [hypervolume(np.vstack([front, [value, cost]]), REFERENCE) - before for value in values]
    found = expected_hypervolume_improvement(
        np.asarray([mean]), np.asarray([deviation]), np.asarray([cost]), front, REFERENCE
    )[0]
    assert found == pytest.approx(np.mean(grown), abs=4 * np.std(grown) / len(grown) ** 0.5 + 1e-9)


points = st.lists(st.tuples(*[st.floats(0, 10)] * 2), min_size=0, max_size=8)


@settings(max_examples=60, deadline=None)
@given(points, st.floats(0, 10), st.floats(0, 10))
def test_without_uncertainty_it_is_the_growth_of_the_hypervolume(front, value, cost):
    front = np.asarray(front).reshape(-1, 2)
    found = expected_hypervolume_improvement(np.asarray([value]), np.zeros(1), np.asarray([cost]), front, REFERENCE)[0]
    grown = hypervolume(np.vstack([front, [value, cost]]), REFERENCE) - hypervolume(front, REFERENCE)
    assert found == pytest.approx(grown, abs=1e-9)


def test_sampled_growth_agrees_with_the_closed_form():
    mean, deviation, cost = np.asarray([3.0, 0.5, 5.5]), np.asarray([1.0, 0.3, 2.0]), np.asarray([2.0, 7.0, 0.5])
    drawn = mean + deviation * np.random.default_rng(1).standard_normal((3000, 3))
    samples = np.stack([drawn, np.broadcast_to(cost, drawn.shape)], axis=2)
    closed = expected_hypervolume_improvement(mean, deviation, cost, FRONT, REFERENCE)
    assert sampled_hypervolume_improvement(samples, FRONT, REFERENCE) == pytest.approx(closed, rel=0.06)


def test_sampled_growth_in_three_objectives_is_the_growth_of_the_hypervolume():
    rng = np.random.default_rng(2)
    front, reference = rng.random((6, 3)), np.full(3, 0.9)
    samples = rng.random((1, 20, 3))
    before = hypervolume(front, reference)
    grown = [hypervolume(np.vstack([front, point]), reference) - before for point in samples[0]]
    assert sampled_hypervolume_improvement(samples, front, reference) == pytest.approx(grown, abs=1e-12)
    assert max(grown) > 0
