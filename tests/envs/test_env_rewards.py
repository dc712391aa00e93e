"""Rewards by hand, their monotonicity, and what a failed trial earns."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import ENVIRONMENTS, oracle_of, play, problem_of, random_actions

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.envs.rewards import (
    AutoqReward,
    HaqReward,
    ObjectiveReward,
    ReleqReward,
    intrinsic,
    reward_of,
)
from qsearch.layers import Layer
from qsearch.problem import Objective
from qsearch.protocols import CostModel
from qsearch.trial import Cost, Quality, Trial

FLOAT = {"accuracy": 0.8, "loss": 0.5}


class Chip(CostModel):
    """Three metrics; with the most bits everywhere: 16, 64 and 2."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "area": "mm2"}

    def layer_cost(self, layer, weight_bits, activation_bits):
        bits = float(np.mean(weight_bits))
        return {"latency": 2 * bits, "energy": bits * activation_bits, "area": 2.0}


def chip_problem(**settings):
    return problem_of(
        layers=(Layer("only", "linear", 3, 2),),
        weight_bits=(2, 4, 8),
        activation_bits=(4, 8),
        model=Chip(),
        float_quality=FLOAT,
        **settings,
    )


def trial_of(metric=0.7, loss=0.6, violations=None, *, quality=True, number=0, **costs):
    totals = {"latency": 8.0, "energy": 16.0, "area": 2.0, **costs}
    return Trial(
        number,
        BitAssignment({"only.weight": 4, "only.input": 4}),
        "complete" if quality else "failed",
        Cost(totals, Chip.units),
        Quality(metric, loss, 100, 0.01) if quality else None,
        violations or {},
    )


def test_haq_is_a_tenth_of_the_difference_in_percent():
    assert HaqReward(chip_problem())(trial_of(0.7)) == pytest.approx(0.1 * (70 - 80))
    assert HaqReward(problem_of())(trial_of(0.7)) == pytest.approx(0.1 * 70), "an unknown float accuracy counts as 0"


def test_objective_reward_by_hand():
    objectives = (Objective("accuracy", "maximize"), Objective("latency", "minimize"), Objective("loss", "minimize"))
    reward = ObjectiveReward(chip_problem(objectives=objectives), ObjectiveReward.Options(penalty=4))
    trial = trial_of(0.7, 0.6, {"latency <= 4": 0.25, "accuracy >= 0.5": -0.4, "energy <= 8": 0.5})
    assert reward(trial) == pytest.approx(10 * (0.7 - 0.8) - 8 / 16 - 10 * (0.6 - 0.5) - 4 * (0.25 + 0.5))


def test_objective_reward_of_accuracy_alone_is_haqs():
    problem = chip_problem()
    for metric in (0.0, 0.3, 0.9):
        assert ObjectiveReward(problem)(trial_of(metric)) == pytest.approx(HaqReward(problem)(trial_of(metric)))


def test_releq_by_hand():
    reward = ReleqReward(chip_problem(), ReleqReward.Options(cost="energy"))
    q, s = 0.7 / 0.8, 16 / 64
    assert reward(trial_of(0.7)) == pytest.approx((1 - s**0.2) * q ** (0.4 / q))
    assert reward(trial_of(0.3)) == -1.0
    assert ReleqReward(chip_problem())(trial_of(0.7)) == pytest.approx((1 - (8 / 16) ** 0.2) * q ** (0.4 / q))
    bounded = ReleqReward(chip_problem(bounds={"energy": 0.5}))
    assert bounded(trial_of(0.7)) == pytest.approx(reward(trial_of(0.7))), "the bounded cost is the state"


def test_releq_without_a_float_accuracy():
    """An unknown one, or one of 0, counts as 1."""
    for known in ({}, {"accuracy": 0.0}):
        problem = problem_of(layers=(Layer("only", "linear", 3, 2),), model=Chip(), float_quality=known)
        assert ReleqReward(problem)(trial_of(0.9)) == pytest.approx((1 - 0.5**0.2) * 0.9 ** (0.4 / 0.9))


shares = st.floats(0, 1, allow_subnormal=False)


@given(shares, shares, st.floats(0.4, 1.5), st.floats(0.05, 1), st.floats(0.05, 1))
def test_releq_falls_in_the_state(low, high, quality, a, b):
    reward = ReleqReward(chip_problem(), ReleqReward.Options(a=a, b=b))
    low, high = sorted((low, high))
    assert reward.value(quality, high) <= reward.value(quality, low)
    if high - low > 1e-6:
        assert reward.value(quality, high) < reward.value(quality, low)


@given(shares, st.floats(0, 1.5), st.floats(0, 1.5), st.floats(0.05, 1), st.floats(0.05, 0.95))
def test_releq_does_not_fall_in_the_quality(state, low, high, b, threshold):
    reward = ReleqReward(chip_problem(), ReleqReward.Options(b=b, threshold=threshold))
    low, high = sorted((low, high))
    assert reward.value(low, state) <= reward.value(high, state) + 1e-12


def test_releq_jumps_at_the_threshold_only():
    reward = ReleqReward(chip_problem(), ReleqReward.Options(threshold=0.4))
    grid = np.linspace(0.2, 1.4, 120_001)
    values = np.asarray([reward.value(quality, 0.3) for quality in grid])
    jumps = np.flatnonzero(np.abs(np.diff(values)) > 1e-3)
    assert len(jumps) == 1
    assert grid[jumps[0]] < 0.4 <= grid[jumps[0] + 1] + 1e-12
    assert values[jumps[0]] == -1.0
    above = np.diff(values[jumps[0] + 1 :]) / np.diff(grid[jumps[0] + 1 :])
    assert np.abs(np.diff(above)).max() < 1e-3, "the gradient is continuous beyond the threshold"


def test_autoq_modes_by_hand():
    problem = chip_problem()
    guaranteed = AutoqReward(problem, AutoqReward.Options(mode="accuracy-guaranteed"))
    costs = math.log(8 / 16) + math.log(16 / 64) + math.log(2 / 2)
    assert guaranteed(trial_of(0.7)) == pytest.approx(2 * math.log(0.7) - 0.5 * costs)
    constrained = AutoqReward(problem, AutoqReward.Options(mode="resource-constrained"))
    assert constrained(trial_of(0.7)) == pytest.approx(math.log(0.7))
    own = AutoqReward(problem, AutoqReward.Options(weights={"accuracy": 3, "area": 0, "energy": 1}))
    assert own(trial_of(0.7)) == pytest.approx(3 * math.log(0.7) - 0.5 * math.log(8 / 16) - math.log(16 / 64))


def test_autoq_is_netscores_logarithm():
    """Ω = log(m² / (c_1^½·c_2^½)), up to the constant of the references."""
    reward = AutoqReward(chip_problem())
    trials = [trial_of(0.7), trial_of(0.5, latency=4.0, energy=9.0)]
    scores = [math.log(t.value("accuracy") ** 2 / (t.value("latency") * t.value("energy")) ** 0.5) for t in trials]
    assert reward(trials[0]) - reward(trials[1]) == pytest.approx(scores[0] - scores[1])


def test_autoq_of_nothing_is_finite():
    assert np.isfinite(AutoqReward(chip_problem())(trial_of(0.0, latency=0.0, energy=0.0)))


def test_intrinsic_by_hand():
    assert intrinsic(5.0, 3.5, -2.0, 0.0) == -1.5
    assert intrinsic(5.0, 3.5, -2.0, 1.0) == -2.0
    assert intrinsic(5.0, 3.5, -2.0, 0.25) == pytest.approx(-0.75 * 1.5 - 0.5)


@pytest.mark.parametrize(
    "name", [name for name in registry.names("rewards") if name != "verdict"]
)  # which asks for costs
def test_every_reward_is_built_by_its_name(name):
    problem = chip_problem()
    reward = registry.create("rewards", name, None, problem)
    assert np.isfinite(reward(trial_of(0.7)))
    assert reward(trial_of(0.75)) > reward(trial_of(0.7))


def test_a_trial_without_quality_earns_the_least_so_far():
    reward = HaqReward(chip_problem())
    failed = trial_of(quality=False)
    earlier = [trial_of(0.7), trial_of(0.6), failed]
    assert reward_of(reward, trial_of(0.5), earlier) == pytest.approx(-3)
    assert reward_of(reward, failed, earlier) == pytest.approx(-2)
    assert reward_of(reward, failed, [failed]) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_becomes_the_least_so_far(value):
    def odd(trial):
        return value if trial.value("accuracy") == 0.5 else trial.value("accuracy")

    assert reward_of(odd, trial_of(0.5), [trial_of(0.7), trial_of(0.5), trial_of(0.6)]) == pytest.approx(0.6)
    assert reward_of(odd, trial_of(0.5), []) == 0.0


class NotANumber:
    """An evaluator whose second answer is NaN."""

    def __init__(self):
        self.calls = 0

    def evaluate(self, assignment, *, fidelity=1.0, seed=0):
        self.calls += 1
        return Quality(math.nan if self.calls == 2 else 0.5 + 0.1 * self.calls, 1.0, 10, 0.1)


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("reward", ["objective", "haq", "releq", "autoq"])
def test_failed_and_nan_evaluations_give_finite_rewards(name, reward, caplog):
    for fails, evaluator in ((frozenset({1}), None), (frozenset(), NotANumber())):
        oracle = oracle_of(problem_of(), fails_at=fails)
        oracle.evaluator = evaluator or oracle.evaluator
        env = ENVIRONMENTS[name](oracle, reward=reward)
        earned = [play(env, random_actions(env, seed))[1][-1] for seed in range(3)]
        assert [trial.state for trial in oracle.trials] == ["complete", "failed", "complete"]
        assert np.isfinite(earned).all()
        assert earned[1] == earned[0], "the least so far"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_function_of_a_trial_is_a_reward(name):
    env = ENVIRONMENTS[name](oracle_of(problem_of()), reward=lambda trial: 7.0 + trial.number)
    assert play(env, random_actions(env, 0))[1][-1] == 7.0


def test_the_environments_reward_comes_from_validation_quality_through_the_oracle():
    oracle = oracle_of(problem_of(float_quality={"accuracy": 0.9}))
    env = ENVIRONMENTS["layerwise"](oracle, reward="haq")
    _, rewards, info = play(env, random_actions(env, 0))
    assert rewards[-1] == pytest.approx(10 * (info["trial"].quality.metric - 0.9))
