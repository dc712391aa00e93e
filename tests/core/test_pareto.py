"""Dominance against brute force; hypervolume by hand, by inclusion and exclusion, and by Monte Carlo."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.pareto import hypervolume, non_dominated


@st.composite
def point_sets(draw, most=7, largest=5):
    """Small integer coordinates: many ties and duplicates, and exact volumes."""
    objectives = draw(st.integers(1, 4))
    rows = st.lists(st.integers(0, largest), min_size=objectives, max_size=objectives)
    points = draw(st.lists(rows, min_size=1, max_size=most))
    return np.asarray(points, dtype=np.float64)


def dominates(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def union_of_boxes(points, reference):
    """Volume of the union of [point, reference], by inclusion and exclusion over all subsets."""
    inside = [point for point in points if np.all(point < reference)]
    volume = 0.0
    for count in range(1, len(inside) + 1):
        for subset in itertools.combinations(inside, count):
            volume += (-1) ** (count + 1) * np.prod(reference - np.max(subset, axis=0))
    return volume


@given(point_sets(most=20))
def test_non_dominated_is_what_no_other_point_dominates(points):
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


def test_equal_points_stay_together_and_nothing_is_nothing():
    assert non_dominated(np.asarray([[1.0, 2.0], [1.0, 2.0], [1.0, 3.0]])).tolist() == [True, True, False]
    assert non_dominated(np.zeros((0, 2))).tolist() == []


@given(point_sets())
def test_hypervolume_is_the_union_of_boxes(points):
    reference = np.full(points.shape[1], 4.0)
    assert hypervolume(points, reference) == pytest.approx(union_of_boxes(points, reference), abs=1e-9)


@pytest.mark.parametrize(
    ("points", "reference", "volume"),
    [
        ([[1.0]], [4.0], 3.0),
        ([[1, 1]], [3, 4], 6.0),
        ([[1, 3], [2, 2], [3, 1]], [4, 4], 6.0),  # a staircase of 3 + 2 + 1 unit squares
        ([[1, 3], [2, 2], [3, 1], [3, 3]], [4, 4], 6.0),  # a dominated point adds nothing
        ([[0, 0, 1], [0, 1, 0], [1, 0, 0]], [2, 2, 2], 7.0),  # 2³ without the corner cube at the origin
        ([[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]], [2, 2, 2, 2], 15.0),
        ([[4, 0], [0, 4]], [4, 4], 0.0),  # on the border
        ([[5, 0]], [4, 4], 0.0),
        ([[4.2, 1]], [4, 4], 0.0),  # just beyond it
        ([[4.2, 1], [1, 3.9]], [4, 4], 0.3),
    ],
)
def test_hypervolume_by_hand(points, reference, volume):
    assert hypervolume(np.asarray(points, float), np.asarray(reference, float)) == pytest.approx(volume)


def test_hypervolume_of_nothing():
    assert hypervolume(np.zeros((0, 3)), np.ones(3)) == 0.0


def test_unknown_values_add_nothing():
    points = np.asarray([[1.0, 1.0], [np.nan, 0.0]])
    assert hypervolume(points, np.asarray([3.0, 4.0])) == 6.0


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_hypervolume_against_monte_carlo(objectives):
    rng = np.random.default_rng(objectives)
    points, reference = rng.random((12, objectives)) * 1.2, np.ones(objectives)
    draws = rng.random((200_000, objectives))
    share = np.mean(np.any(np.all(draws[:, None] >= points, axis=2), axis=1))
    error = np.sqrt(share * (1 - share) / len(draws))
    assert hypervolume(points, reference) == pytest.approx(share, abs=5 * error)


@given(point_sets(), st.data())
def test_another_point_never_lowers_the_volume(points, data):
    reference = np.full(points.shape[1], 4.5)
    kept = data.draw(st.integers(0, len(points)))
    assert hypervolume(points[:kept], reference) <= hypervolume(points, reference) + 1e-9


def test_a_front_of_hundreds_is_quick():
    angle = np.linspace(0.01, np.pi / 2 - 0.01, 300)
    points = 1 - np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = time.perf_counter()
    volume = hypervolume(points, np.ones(2))
    assert time.perf_counter() - start < 2
    assert volume == pytest.approx(np.pi / 4, abs=0.01)
