"""Environments of a spiking network: what is seen of neurons, how they are shown, and who decides them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from small_networks import ENVIRONMENTS, oracle_of
from spiking_digits import STEPS, layers, problem, space

from qsearch.envs.budget import Allowance
from qsearch.envs.features import AUTOQ, HAQ, columns, static_features
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.envs.schedule import Schedule


@pytest.mark.parametrize("names", [HAQ, AUTOQ])
def test_a_state_is_to_neurons_what_an_activation_is_to_a_layer(names: tuple[str, ...]) -> None:
    bits = space()
    seen = static_features(names, Schedule.by_layer(bits), layers())[:, columns(names)["activation"]]
    roles = [bits.site(variable.name).role for variable in bits.variables]
    assert seen.tolist() == [float(role in ("activation", "state")) for role in roles]
    assert set(roles) == {"weight", "activation", "state", "leak", "threshold"}


def test_features_of_neurons_are_those_of_their_layers() -> None:
    bits, place = space(), columns(HAQ)
    found = static_features(HAQ, Schedule.by_layer(bits), layers())
    by_name = {layer.name: layer for layer in layers()}
    owners = [by_name[bits.site(variable.name).layer] for variable in bits.variables]
    for name, values in {
        "params": [float(layer.params) for layer in owners],
        "feature_map": [float(math.prod(layer.input_size)) for layer in owners],
        "layer": [float(layers().index(layer)) for layer in owners],
    }.items():
        low, high = min(values), max(values)
        expected = [(value - low) / (high - low) for value in values]
        assert found[:, place[name]] == pytest.approx(expected), name
    lif = by_name["lif"]
    assert (lif.params, lif.uses, lif.neurons) == (1, STEPS, 54)


def test_a_line_for_each_of_layers_neurons_and_thresholds() -> None:
    env = LayerwiseEnv(oracle_of(problem(space(), budget=None)), render_mode="ansi")
    env.reset()
    assert env.render().splitlines() == [
        "conv            weight  ·     input  ·",
        "lif             leak  ·       state  ·",
        "lif.threshold   threshold  ·",
        "fc              weight  ·     input =1",
        "fire            leak =1       state  ·",
        "fire.threshold  threshold  ·",
        "out             weight  ·     input =1",
        "voltage         leak  ·       state  ·",
    ]


def test_a_step_of_the_upper_level_for_each_thing_that_neurons_keep() -> None:
    env = HierarchicalEnv(oracle_of(problem(space(granularity="kernel"))))
    assert [(s.weight and s.weight.name, s.activation and s.activation.name) for s in env.steps] == [
        ("conv.weight", "conv.input"),
        (None, "lif.leak"),
        (None, "lif.state"),
        (None, "lif.threshold"),
        ("fc.weight", None),
        (None, "fire.state"),
        (None, "fire.threshold"),
        ("out.weight", None),
        (None, "voltage.leak"),
        (None, "voltage.state"),
    ]


@pytest.mark.parametrize("budget", ["project", "mask"])
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_episode_of_the_most_bits_ends_within_the_bound(name: str, budget: str) -> None:
    oracle = oracle_of(problem(space(granularity="kernel"), budget=0.5))
    env = ENVIRONMENTS[name](oracle, budget=budget)
    env.reset(seed=0)
    ended = False
    while not ended:
        seen, _, ended, _, info = env.step(np.ones(env.action_space.shape, dtype=np.float32))
        assert env.observation_space.contains(seen)
    assert info["trial"].feasible
    assert info["trial"].cost.totals["memory"] > 0.8 * oracle.problem.bounds[0].limit


def test_masks_leave_room_for_states_to_come() -> None:
    what = problem(space(), budget=0.5)
    env = KernelwiseEnv(oracle_of(what), budget="mask")
    env.reset(seed=0)
    allowance, x = Allowance(what, env.schedule), what.space.lowest
    for t, decision in enumerate(env.schedule.decisions):
        limit = allowance.allowed(t)
        rows = np.repeat(x[None], len(decision.choices), axis=0)
        rows[:, decision.start] = np.arange(len(decision.choices))
        assert limit == max(1, int((what.overruns(rows) <= 0).sum())), decision.variable.name
        allowance.take(t, limit - 1)
        x[decision.start] = limit - 1
