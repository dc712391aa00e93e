"""The reward ``verdict`` by hand, and that it does not know a quality but for the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_networks import oracle_of, play, problem_of, random_actions

from qsearch.assignment import BitAssignment
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.envs.rewards import reward_of
from qsearch.envs.verdict import VerdictReward
from qsearch.errors import ConfigError
from qsearch.layers import Layer
from qsearch.problem import Objective, Problem
from qsearch.protocols import CostModel
from qsearch.trial import Cost, Quality, Trial

LATENCY, AREA = Objective("latency", "minimize"), Objective("area", "maximize")


class Chip(CostModel):
    """Two metrics; with the most bits everywhere: 16 and 64."""

    units: Mapping[str, str] = {"latency": "s", "area": "mm2"}

    def layer_cost(self, layer: Layer, weight_bits: Any, activation_bits: int) -> Mapping[str, float]:
        bits = float(np.mean(weight_bits))
        return {"latency": 2 * bits, "area": bits * activation_bits}


def chip_problem(*objectives: Objective) -> Problem:
    layers = (Layer("only", "linear", 3, 2),)
    return problem_of(layers=layers, weight_bits=(2, 4, 8), activation_bits=(4, 8), model=Chip(), objectives=objectives)


def trial_of(metric: float, violation: float, latency: float = 4.0, area: float = 16.0) -> Trial:
    return Trial(
        0,
        BitAssignment({"only.weight": 4, "only.input": 4}),
        "complete",
        Cost({"latency": latency, "area": area}, Chip.units),
        Quality(metric, 1 - metric, 100, 0.01),
        {"accuracy >= 0.9": violation},
    )


def test_by_hand() -> None:
    reward = VerdictReward(chip_problem(LATENCY))
    assert reward(trial_of(0.95, -0.1)) == pytest.approx(1 - 4 / 16)
    assert reward(trial_of(0.9, 0.0)) == pytest.approx(1 - 4 / 16), "a bound that is just met is kept"
    assert reward(trial_of(0.8, 0.1)) == reward(trial_of(0.8, 0.1, latency=2.0)) == -0.1
    assert VerdictReward(chip_problem(LATENCY), VerdictReward.Options(gap=2))(trial_of(0.8, 0.1)) == -2


def test_several_costs_count_alike_and_one_to_maximise_the_other_way() -> None:
    reward = VerdictReward(chip_problem(LATENCY, AREA))
    assert reward(trial_of(0.95, -0.1)) == pytest.approx(((1 - 4 / 16) + 16 / 64) / 2)


metrics, costs = st.floats(0, 1), st.floats(0, 16)


@given(metrics, metrics, costs, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_the_same_verdict_earns_the_same(
    metric: float, other: float, latency: float, near: float, far: float, kept: bool
) -> None:
    reward = VerdictReward(chip_problem(LATENCY))
    near, far = (-near, -far) if kept else (near + 1e-9, far + 1e-9)
    assert reward(trial_of(metric, near, latency)) == reward(trial_of(other, far, latency))


@given(costs, costs, st.floats(1e-3, 10))
def test_what_keeps_its_bounds_earns_more_than_what_does_not(dear: float, cheap: float, gap: float) -> None:
    """By the gap at least; and of what keeps them, the cheaper one more."""
    reward = VerdictReward(chip_problem(LATENCY), VerdictReward.Options(gap=gap))
    dear, cheap = max(dear, cheap), min(dear, cheap)
    assert reward(trial_of(0.9, 0.0, dear)) - reward(trial_of(0.9, 0.5, cheap)) >= gap - 1e-9
    assert reward(trial_of(0.9, 0.0, cheap)) >= reward(trial_of(0.9, 0.0, dear))


def test_a_trial_without_quality_earns_the_least_so_far() -> None:
    reward = VerdictReward(chip_problem(LATENCY))
    earlier = [trial_of(0.95, -0.1), trial_of(0.5, 0.1)]
    failed = Trial(2, earlier[0].assignment, "failed", earlier[0].cost)
    assert reward_of(reward, failed, earlier) == reward(earlier[1])


def test_a_quality_to_maximise_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs objectives that are costs; got accuracy; reward: objective"):
        VerdictReward(chip_problem(LATENCY, Objective("accuracy", "maximize")))


def test_an_environment_rewards_by_it() -> None:
    problem = problem_of(objectives=(Objective("size", "minimize"),))
    env = LayerwiseEnv(oracle_of(problem), reward=VerdictReward(problem))
    _, rewards, info = play(env, random_actions(env, 0))
    assert rewards[-1] == pytest.approx(1 - info["trial"].value("size") / problem.cost.ceiling("size"))
