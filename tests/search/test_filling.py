"""Reverse water-filling against closed forms, SciPy, dynamic programming and brute force."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import LinearConstraint, minimize

from qsearch.errors import EvaluationError
from qsearch.search.filling import fill, reverse_water_filling, to_choices
from qsearch.testing.problems import kernels, optimal_loss

EVEN = [tuple(range(9)), (2, 4, 6, 8), (3,), (1, 5)]
UNEVEN = [(2, 4, 8), (0, 2, 3, 4), (0, 1, 2, 3, 5, 8), (4, 5, 32)]


def wide(seed: int, count: int, spread: float = 1.5) -> np.ndarray:
    """Log-normal sensitivities; ``spread`` is the deviation of the bits they ask for."""
    return 4.0 ** np.random.default_rng(seed).normal(0.0, spread, size=count)


def damage(sensitivity: np.ndarray, bits: np.ndarray) -> float:
    return float(np.sum(sensitivity * 4.0 ** -np.asarray(bits, dtype=float)))


sensitivities = arrays(np.float64, st.integers(1, 12), elements=st.floats(1e-6, 1e6))


# real-valued bits


@pytest.mark.parametrize("seed", range(5))
def test_closed_form_where_nothing_clips(seed):
    s = wide(seed, 20, spread=0.8)
    expected = 6.0 + 0.5 * np.log2(s / np.exp(np.mean(np.log(s))))
    assert 2 < expected.min() < expected.max() < 10
    assert reverse_water_filling(s, 6.0, 2.0, 10.0) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("goal", [0.2, 2.0, 4.0, 7.9])
@pytest.mark.parametrize("seed", range(4))
def test_conditions_of_an_optimum_where_kernels_clip(seed, goal):
    s, low, high = wide(seed, 40, spread=2.5), 0.0, 8.0
    bits = reverse_water_filling(s, goal, low, high)
    marginal = np.log(4) * s * 4.0**-bits
    inside = (bits > low + 1e-9) & (bits < high - 1e-9)
    assert inside.any()
    assert (~inside).any()
    price = marginal[inside].mean()
    assert bits.mean() == pytest.approx(goal, abs=1e-9)
    assert marginal[inside] == pytest.approx(price, rel=1e-8)
    assert (marginal[bits <= low + 1e-9] <= price * (1 + 1e-8)).all()
    assert (marginal[bits >= high - 1e-9] >= price * (1 - 1e-8)).all()


@pytest.mark.parametrize("goal", [1.0, 3.0, 5.5])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_optimum_that_scipy_finds(seed, goal):
    s, low, high = wide(seed, 8, spread=2.0), 0.0, 6.0
    s /= s.sum()
    found = minimize(
        lambda b: np.log(np.sum(s * 4.0**-b)),  # the logarithm has the same optimum and a better scale
        np.full(8, goal),
        jac=lambda b: -np.log(4) * s * 4.0**-b / np.sum(s * 4.0**-b),
        bounds=[(low, high)] * 8,
        constraints=[LinearConstraint(np.ones((1, 8)), 8 * goal, 8 * goal)],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    bits = reverse_water_filling(s, goal, low, high)
    assert damage(s, bits) == pytest.approx(np.exp(found.fun), rel=1e-6)
    assert bits == pytest.approx(found.x, abs=1e-2)


@given(sensitivities, st.floats(0, 8), st.floats(0, 8))
def test_bits_rise_with_the_goal_and_meet_it(s, one, other):
    less, more = (reverse_water_filling(s, goal, 0.0, 8.0) for goal in sorted((one, other)))
    assert (less <= more + 1e-9).all()
    assert less.mean() == pytest.approx(min(one, other), abs=1e-9)


@given(sensitivities, st.floats(0, 8), st.randoms(use_true_random=False), st.floats(1e-3, 1e3))
def test_neither_order_nor_scale_matters(s, goal, random, factor):
    order = random.sample(range(len(s)), len(s))
    bits = reverse_water_filling(s, goal, 0.0, 8.0)
    assert reverse_water_filling(s[order], goal, 0.0, 8.0) == pytest.approx(bits[order], abs=1e-9)
    assert reverse_water_filling(s * factor, goal, 0.0, 8.0) == pytest.approx(bits, abs=1e-9)


@given(sensitivities, st.floats(0, 8))
def test_more_sensitive_kernels_get_no_fewer_bits(s, goal):
    bits = reverse_water_filling(s, goal, 0.0, 8.0)
    assert (np.diff(bits[np.argsort(s)]) >= -1e-9).all()


@pytest.mark.parametrize("value", [0.0, 1e-300, 1.0, 1e300])
def test_equal_sensitivities_get_the_goal(value):
    assert reverse_water_filling(np.full(7, value), 3.25, 0.0, 8.0) == pytest.approx(np.full(7, 3.25))


def test_kernels_of_no_sensitivity_come_last():
    s = np.asarray([1.0, 0.0, 4.0, 0.0])
    assert reverse_water_filling(s, 2.0, 0.0, 8.0) == pytest.approx([3.5, 0.0, 4.5, 0.0])
    assert reverse_water_filling(s, 4.0, 0.0, 8.0) == pytest.approx([8.0, 0.0, 8.0, 0.0])
    assert reverse_water_filling(s, 5.0, 0.0, 8.0) == pytest.approx([8.0, 2.0, 8.0, 2.0])
    assert fill(s, 5.0, range(9)).tolist() == [8, 2, 8, 2]
    assert fill(s, 2.0, range(9)).tolist() == [4, 0, 4, 0]


@pytest.mark.parametrize(("goal", "expected"), [(-3.0, 2), (1.0, 2), (9.0, 8), (np.inf, 8), (-np.inf, 2)])
def test_goals_beyond_the_range(goal, expected):
    assert reverse_water_filling(wide(0, 5), goal, 2.0, 8.0) == pytest.approx(np.full(5, expected))
    assert np.asarray([2, 4, 8])[fill(wide(0, 5), goal, (2, 4, 8))].tolist() == [expected] * 5


def test_one_kernel_takes_the_choice_below_its_goal():
    assert reverse_water_filling(np.asarray([3.0]), 4.7, 0.0, 8.0) == pytest.approx([4.7])
    for s, goal in itertools.product([0.0, 3.0], [2.0, 3.9, 4.0, 7.999, 8.0]):
        expected = int(np.searchsorted([2, 4, 8], goal, side="right")) - 1
        assert fill(np.asarray([s]), goal, (2, 4, 8)).tolist() == [expected]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -1.0])
def test_sensitivities_that_are_no_damage_are_refused(wrong):
    with pytest.raises(EvaluationError, match="finite and at least 0"):
        fill(np.asarray([1.0, wrong]), 4.0, range(9))


def test_a_goal_that_is_not_a_number_is_refused():
    with pytest.raises(EvaluationError, match="goal of a layer must be a number"):
        reverse_water_filling(np.ones(3), float("nan"), 0.0, 8.0)


# whole choices


def least(s: np.ndarray, goal: float, choices: tuple[int, ...]) -> float:
    """The least damage of all assignments with a mean of at most ``goal``, by brute force."""
    bits = np.asarray(list(itertools.product(choices, repeat=len(s))), dtype=float)
    fits = bits[bits.sum(1) <= goal * len(s) + 1e-9]
    return float((s * 4.0**-fits).sum(1).min())


def refused(s: np.ndarray, indices: np.ndarray, choices: tuple[int, ...]) -> float:
    """What the best step that was not taken would save; the best is the one that saves the most per bit."""
    table = np.asarray(choices, dtype=float)
    open_ = indices < len(table) - 1
    here, there = table[indices[open_]], table[indices[open_] + 1]
    saves = s[open_] * (4.0**-here - 4.0**-there)
    return float(saves[np.argmax(saves / (there - here))]) if open_.any() else 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(EVEN), st.integers(1, 4), st.floats(0.0, 1.1))
def test_evenly_spaced_choices_are_filled_optimally(seed, choices, count, share):
    s, goal = wide(seed, count), choices[0] + share * (choices[-1] - choices[0])
    indices = fill(s, goal, choices)
    assert damage(s, np.asarray(choices)[indices]) == pytest.approx(least(s, goal, choices), rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(UNEVEN), st.integers(1, 5), st.floats(0.0, 1.1))
def test_other_choices_are_filled_within_one_step_of_the_optimum(seed, choices, count, share):
    s, goal = wide(seed, count), choices[0] + share * (choices[-1] - choices[0])
    indices = fill(s, goal, choices)
    found, best = damage(s, np.asarray(choices)[indices]), least(s, goal, choices)
    assert best * (1 - 1e-12) <= found <= best * (1 + 1e-12) + refused(s, indices, choices)


@pytest.mark.parametrize("goal", [1.3, 4.0, 6.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_large_layer_is_filled_optimally(seed, goal):
    problem, evaluator = kernels(300, mean=goal, seed=seed)
    indices = fill(evaluator.variances["layer0.weight"], goal, range(9))
    assert evaluator.losses(indices[None])[0] == pytest.approx(optimal_loss(problem, evaluator), rel=1e-9)


@pytest.mark.parametrize("choices", UNEVEN[:3])
def test_uneven_choices_lose_little_in_a_large_layer(choices):
    problem, evaluator = kernels(200, choices=choices, mean=3.3)
    indices = fill(evaluator.variances["layer0.weight"], 3.3, choices)
    assert evaluator.losses(indices[None])[0] == pytest.approx(optimal_loss(problem, evaluator), rel=2e-3)


@given(sensitivities, st.floats(-1, 40), st.sampled_from(EVEN + UNEVEN))
def test_the_mean_is_never_above_the_goal_and_nothing_that_fits_is_left(s, goal, choices):
    table = np.asarray(choices)
    indices = fill(s, goal, choices)
    bits = table[indices]
    assert bits.mean() <= max(goal, table[0]) + 1e-8
    room = goal * len(s) - bits.sum()
    open_ = indices < len(table) - 1
    assert all(step > room - 1e-6 for step in table[indices[open_] + 1] - table[indices[open_]])


@given(sensitivities, st.floats(0, 8), st.floats(0, 8))
def test_damage_does_not_rise_with_the_goal(s, one, other):
    less, more = (fill(s, goal, range(9)) for goal in sorted((one, other)))
    assert damage(s, more) <= damage(s, less) * (1 + 1e-12)


@given(sensitivities, st.floats(0, 8), st.sampled_from(EVEN + UNEVEN), st.randoms(use_true_random=False))
def test_order_matters_only_among_equals(s, goal, choices, random):
    # a step's worth is compared after rounding, so sensitivities a rounding apart count as equal
    offsets = np.sort(0.5 * np.log2(s))
    steps = np.subtract.outer(offsets, offsets)[~np.eye(len(s), dtype=bool)]
    table = np.asarray(choices, dtype=float)
    worths = table[:-1] + 0.5 * np.log2(np.diff(table) / (1 - 4.0 ** -np.diff(table)))
    gaps = np.subtract.outer(worths, worths).ravel()
    assume(not np.isclose(np.subtract.outer(steps, gaps), 0.0, atol=1e-9).any())
    order = random.sample(range(len(s)), len(s))
    assert fill(s[order], goal, choices).tolist() == fill(s, goal, choices)[order].tolist()


def test_equals_are_served_in_order():
    assert fill(np.ones(5), 2.4, range(9)).tolist() == [3, 3, 2, 2, 2]
    assert fill(np.zeros(5), 2.4, range(9)).tolist() == [3, 3, 2, 2, 2]


@given(sensitivities, st.data())
def test_real_bits_from_elsewhere_are_rounded_to_a_sum_at_most_theirs(s, data):
    real = data.draw(arrays(np.float64, len(s), elements=st.floats(0, 8)))
    bits = to_choices(s, real, range(9))
    assert (bits >= np.floor(real)).all()
    assert real.sum() - 1 < bits.sum() <= real.sum() + 1e-6


@pytest.mark.parametrize("choices", [range(9), range(33), (2, 4, 8)])
def test_ten_thousand_kernels_are_filled_in_no_time(choices):
    s = wide(0, 10_000)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        fill(s, 3.7, choices)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05
