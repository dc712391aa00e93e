"""Actions and bits: equal-width bins, always in range."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from small_networks import ENVIRONMENTS, oracle_of, play, problem_of

from qsearch.envs.actions import bits_at, position_of, to_action, to_actions, to_index
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.layers import Layer

bit_choices = st.sets(st.integers(0, 32), min_size=1, max_size=9).map(lambda bits: tuple(sorted(bits)))


@pytest.mark.parametrize(("low", "high", "naive"), [(1, 8, (0, 8)), (3, 8, (2, 8)), (2, 7, (2, 8))])
def test_saturated_actions_stay_in_range(low, high, naive):
    """G13: HAQ's rounding leaves the range at an end; numpy's ``round`` is half to even."""
    span = (low - 0.5, high + 0.5)
    assert tuple(int(np.round((span[1] - span[0]) * action + span[0])) for action in (0.0, 1.0)) == naive
    bits = list(range(low, high + 1))
    assert bits[to_index(0.0, len(bits))] == low
    assert bits[to_index(1.0, len(bits))] == high


@pytest.mark.parametrize(
    ("action", "bits"),
    [
        (0.0, 3),
        (1.0, 8),
        (-0.2, 3),
        (1.2, 8),
        (-math.inf, 3),
        (math.inf, 8),
        (math.nan, 3),
        (np.nextafter(np.float32(1), np.float32(0)), 8),
        (np.float32(0.5), 6),
        (np.nextafter(np.float32(0.5), np.float32(0)), 5),
    ],
)
def test_any_action_gives_bits_in_range(action, bits):
    """Within the environment: six choices, 3..8 bits; what is recorded is an action of the space with the same choice."""
    problem = problem_of(layers=(Layer("only", "linear", 3, 1),), weight_bits=range(3, 9), fixed={"activations": 8})
    for shape in ((), (1,)):
        env = LayerwiseEnv(oracle_of(problem))
        _, _, info = play(env, [np.full(shape, action)])
        assert info["trial"].assignment["only.weight"] == bits
        assert env.action_space.contains(info["executed_actions"][0])
        _, _, again = play(env, info["executed_actions"])
        assert again["trial"] is info["trial"]


@pytest.mark.parametrize(("action", "bits"), [(-1, 3), (0, 3), (5, 8), (6, 8), (np.int64(2), 5), (math.nan, 3)])
def test_any_discrete_action_gives_bits_in_range(action, bits):
    problem = problem_of(layers=(Layer("only", "linear", 3, 1),), weight_bits=range(3, 9), fixed={"activations": 8})
    _, _, info = play(LayerwiseEnv(oracle_of(problem), discrete=True), [action])
    assert info["trial"].assignment["only.weight"] == bits
    assert info["executed_actions"].dtype == np.int64


def test_actions_at_the_edge_of_a_bin_are_what_is_recorded():
    """3/7 lies below its own 32-bit rounding, which is what the replay holds."""
    problem = problem_of(layers=(Layer("only", "linear", 3, 1),), weight_bits=range(2, 9), fixed={"activations": 8})
    for edge in np.arange(8) / 7:
        for action in (edge, np.nextafter(edge, 0), np.nextafter(edge, 1)):
            env = LayerwiseEnv(oracle_of(problem))
            _, _, info = play(env, [[action]])
            assert to_index(float(info["executed_actions"][0, 0]), 7) == info["executed"][0]


@pytest.mark.parametrize("count", [2, 3, 5, 7, 9, 33])
def test_uniform_actions_give_uniform_choices(count):
    actions = np.random.default_rng(count).random(20_000)
    counts = np.bincount([to_index(action, count) for action in actions], minlength=count)
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("name", ["layerwise", "kernelwise"])
def test_uniform_actions_give_uniform_bits_in_every_decision(name):
    """Without a budget, for all decisions of an episode; HAQ's rounding fails this at the ends of the range."""
    env = ENVIRONMENTS[name](oracle_of(problem_of(weight_bits=(1, 2, 3, 4, 8), activation_bits=(3, 5, 8))))
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(600):
        env.reset()
        for action in rng.random((len(env.schedule), 1), dtype=np.float32):
            env.decide(action)
        rows.append(env.schedule.taken(env.x))
    for column, count in zip(np.stack(rows, axis=1), env.schedule.counts, strict=True):
        assert stats.chisquare(np.bincount(column, minlength=count)).pvalue > 1e-5


@given(st.integers(1, 33), st.data())
def test_an_actions_bin_is_found_again(count, data):
    index = data.draw(st.integers(0, count - 1))
    assert to_index(to_action(index, count), count) == index
    assert to_index(float(np.float32(to_action(index, count))), count) == index
    (action,) = to_actions(np.asarray([index]), np.asarray([count]))
    assert action == np.float32(to_action(index, count))


@given(bit_choices, st.floats(0, 1))
def test_positions_and_bits_are_each_others_inverse_and_in_range(choices, share):
    bits = choices[0] + share * (choices[-1] - choices[0])
    position = position_of(bits, choices)
    assert 0 <= position <= 1
    assert bits_at(position, choices) == pytest.approx(bits)


@given(bit_choices, st.floats(0, 32))
def test_answering_with_a_position_takes_the_nearest_choice(choices, bits):
    found = choices[to_index(position_of(bits, choices), len(choices))]
    assert abs(found - bits) <= min(abs(choice - bits) for choice in choices) + 1e-9


def test_positions_by_hand():
    assert position_of(5.0, (0, 2, 4, 8)) == pytest.approx((2.25 + 0.5) / 4)
    assert position_of(9.0, (0, 2, 4, 8)) == pytest.approx(3.5 / 4)
    assert bits_at(0.0, (2, 4)) == 2
    assert bits_at(0.5, (2, 4)) == 3


def test_a_site_with_fewer_choices_has_bins_of_its_own():
    env = KernelwiseEnv(oracle_of(problem_of(weight_bits=(0, 2, 4, 8), activation_bits=(4, 8))))
    _, _, info = play(env, [[0.6]] * len(env.schedule))
    assert info["trial"].assignment["stem.weight"] == 4
    assert info["trial"].assignment["stem.input"] == 8
    discrete = KernelwiseEnv(env.oracle, discrete=True)
    discrete.reset()
    for decision in discrete.schedule.decisions:
        choices = len(decision.choices)
        assert discrete.action_masks().tolist() == [True] * choices + [False] * (4 - choices)
        discrete.decide(3)
    assert discrete.x.tolist() == discrete.schedule.space.highest.tolist()
