"""Searchers that learn bits, on a spiking network: what neurons keep stands where all would, lowered alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from spiking_digits import SpikingDigits, evaluator, layers, problem, space

from qsearch.evaluate.lessons import lessons_of
from qsearch.learned.dq import Dq
from qsearch.learned.edge import ActivationSum, Edge
from qsearch.learned.fracbits import FracBits
from qsearch.learned.limits import limits_at
from qsearch.learned.network import divided
from qsearch.learned.settling import evenly
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord

SEARCHERS: dict[str, Any] = {"dq": Dq, "fracbits": FracBits, "edge": Edge}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge() -> Any:
    return evaluator()


def learned(name: str, what: Any, judge: Any) -> CampaignOracle:
    oracle = CampaignOracle(what, judge, MemoryRecord(), Budget(1))
    searcher = SEARCHERS[name](SEARCHERS[name].Options(epochs=1, batch_size=80, train_samples=160))
    searcher.check(what)
    searcher.search(oracle)
    return oracle


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
@pytest.mark.parametrize("name", SEARCHERS)
def test_the_end_point_is_within_the_bound(name: str, granularity: str, judge: Any) -> None:
    what = problem(space(granularity=granularity), budget=0.7)
    (trial,) = learned(name, what, judge).trials
    assert trial.feasible
    assert trial.assignment in what.space


@pytest.mark.parametrize("name", SEARCHERS)
def test_states_give_way_to_a_tight_bound(name: str, judge: Any) -> None:
    tight = problem(space(), budget=0.3)
    (trial,) = learned(name, tight, judge).trials
    assert trial.feasible
    few = trial.assignment["lif.state"]
    assert few < 12
    loose = problem(space(), budget=0.95)
    (trial,) = learned(name, loose, judge).trials
    assert trial.assignment["lif.state"] > few


def test_nothing_learns_but_weights_and_inputs() -> None:
    what = problem(space(), budget=0.5)
    limits = limits_at(what, 1.0)
    variables, held = divided(what.space, limits)
    assert [v.name for v in variables] == ["conv.weight", "fc.weight", "out.weight"]
    even = evenly(what.space, limits)
    assert what.cost_violations(even[None])[0] <= 0
    owners = what.space.owners
    for name in ("lif.state", "fire.state", "voltage.leak", "fire.threshold"):
        assert held[name] == owners[name].choices[even[owners[name].start]]
    assert held["conv.input"] == 8


def test_what_does_not_learn_uses_up_what_is_left_only_where_it_may() -> None:
    what = problem(space(), budget=0.5)
    limits = limits_at(what, 1.0)
    owners = what.space.owners
    stands = []
    for fill in (True, False):
        even = evenly(what.space, limits, fill=fill)
        held = divided(what.space, limits, fill=fill)[1]
        stands.append([held[name] for name in held if name in owners and not name.endswith(("weight", "input"))])
        assert stands[-1] == [
            owners[name].choices[even[owners[name].start]]
            for name in held
            if name in owners and not name.endswith(("weight", "input"))
        ]
    assert all(filled >= not_filled for filled, not_filled in zip(*stands, strict=True))
    assert stands[0] != stands[1]


def test_with_states_alone_they_are_settled_without_a_training(judge: Any) -> None:
    what = problem(space(fixed={"weights": 8, "activations": 8}), budget=0.97)
    oracle = learned("dq", what, judge)
    (trial,) = oracle.trials
    assert trial.feasible
    assert oracle.training_samples == 0
    costs = what.cost.estimate_many(np.stack([what.space.encode(trial.assignment), what.space.highest]))["memory"]
    assert costs[0] < costs[1]


def test_states_are_no_activations_of_the_edge_scheme() -> None:
    bits = np.asarray([[8]]), np.asarray([8])
    found = {layer.name: ActivationSum().layer_costs(layer, *bits)["activation_sum"][0] for layer in layers()}
    assert {name for name, value in found.items() if value} == {"conv", "fc", "out"}
    fc = next(layer for layer in layers() if layer.name == "fc")
    assert found["fc"] == fc.input_elements


def test_lessons_give_neurons_their_registers(judge: Any) -> None:
    given = lessons_of(SpikingDigits(), layers(), judge.network)
    assert given.calibrated.register("lif.state", 12).bits == 12
