"""States, leaks and thresholds in tables of sensitivities: probed, in the unit of the table, and counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from spiking_digits import evaluator, layers, space, trained

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import PluginError
from qsearch.protocols import SensitivityTable
from qsearch.sensitivity.floating import NEURONS, tensor_variables
from qsearch.sensitivity.probed_sites import completed
from qsearch.sensitivity_tables import check_table
from qsearch.space import SearchSpace
from qsearch.spiking.neurons import Neuron
from qsearch.spiking.surrogate import derivative

LOOKING = ("fisher", "hessian", "noise", "quantization-error")
PREDICTING = ("fisher", "hessian", "quantization-error")
QUICK = {"hessian": {"samples": 24, "probes": 2, "max_probes": 4}}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def judge() -> Any:
    return evaluator()


def table_of(name: str, bits: SearchSpace, judge: Any, **options: Any) -> SensitivityTable:
    table = registry.create("sensitivities", name, {**QUICK.get(name, {}), **options}).table(bits, judge)
    check_table(bits, table)
    return table


def kept(bits: SearchSpace) -> list[Any]:
    """Variables of what neurons keep."""
    return [v for v in bits.variables if bits.site(v.name).role in NEURONS]


@pytest.mark.parametrize("granularity", ["layer", "kernel"])
@pytest.mark.parametrize("name", [*LOOKING, "one-at-a-time", "pairwise"])
def test_every_table_is_whole_and_finite(name: str, granularity: str, judge: Any) -> None:
    bits = space(granularity=granularity)
    table = table_of(name, bits, judge)
    assert set(table.damage) == {v.name for v in bits.variables}
    assert {"fc.input", "fire.leak"}.isdisjoint(table.damage)
    if name in PREDICTING:
        assert all((damage >= 0).all() for damage in table.damage.values())
    for variable in kept(bits):
        fewest, *_, most = table.damage[variable.name][0]
        assert most >= 0, variable.name
        assert fewest > most or name == "noise", variable.name


@pytest.mark.parametrize("name", LOOKING)
def test_tensors_have_the_damages_that_they_have_alone(name: str, judge: Any) -> None:
    bits = space()
    fixed = space(fixed={"states": 32, "leaks": 32, "thresholds": 32})
    whole, alone = table_of(name, bits, judge), table_of(name, fixed, judge)
    assert set(alone.damage) == {v.name for v in tensor_variables(bits)}
    for variable, damage in alone.damage.items():
        np.testing.assert_allclose(whole.damage[variable], damage, rtol=1e-6, atol=1e-12)


def test_noise_has_the_rise_of_the_loss_of_a_probe(judge: Any) -> None:
    bits = space()
    table = table_of("noise", bits, judge)
    start = judge.probe(BitAssignment({"fc.input": 1, "out.input": 1})).loss
    for variable in kept(bits):
        for bits_, found in zip(variable.choices, table.damage[variable.name][0], strict=True):
            rise = judge.probe(BitAssignment({variable.name: bits_, "fc.input": 1, "out.input": 1})).loss - start
            assert found == pytest.approx(max(rise, 0.0), abs=1e-6)


@pytest.mark.parametrize("name", PREDICTING)
def test_predictions_and_probes_meet_at_one_rate(name: str, judge: Any) -> None:
    bits = space()
    table, probes = table_of(name, bits, judge), table_of("one-at-a-time", bits, judge)
    rate = table.damage["lif.state"][0, 0] / probes.damage["lif.state"][0, 0]
    for variable in kept(bits):
        np.testing.assert_allclose(table.damage[variable.name], rate * probes.damage[variable.name], rtol=1e-4)
    middle = {v.name: v.choices[(len(v.choices) - 1) // 2] for v in tensor_variables(bits)}
    predicted = sum(table.damage[n][0, bits.owners[n].choices.index(b)] for n, b in middle.items())
    assert predicted == pytest.approx(rate * judge.probe(BitAssignment(middle)).divergence, rel=1e-4)


def test_a_state_costs_fisher_what_a_weight_of_the_same_measured_damage_costs(judge: Any) -> None:
    """Without the rate, weights would count a fraction of states: the surrogate is no derivative."""
    bits = space()
    table, probes = table_of("fisher", bits, judge), table_of("one-at-a-time", bits, judge)
    ratios = {v.name: table.damage[v.name][0, 0] / probes.damage[v.name][0, 0] for v in bits.variables}
    weights = np.exp(np.mean([np.log(ratios[v.name]) for v in tensor_variables(bits)]))
    assert weights / 4 < ratios["lif.state"] < 4 * weights
    assert weights < 0.6


def test_samples_of_probes_are_counted(judge: Any) -> None:
    bits = space()
    alone = space(fixed={"states": 32, "leaks": 32, "thresholds": 32})
    probes = sum(len(v.choices) for v in kept(bits)) + 2  # that of the float network, and that of the rate
    per_probe = judge.probe(bits.decode(bits.lowest)).samples
    for name, asked in (("quantization-error", probes), ("noise", probes - 1)):
        more = table_of(name, bits, judge).samples - table_of(name, alone, judge).samples
        assert more == asked * per_probe


@pytest.mark.parametrize("name", LOOKING)
def test_with_nothing_but_states_to_decide_damages_are_those_of_probes(name: str, judge: Any) -> None:
    bits = space(fixed={"weights": 32, "activations": 32, "leaks": 32, "thresholds": 32})
    assert {bits.site(v.name).role for v in bits.variables} == {"state"}
    measure = "loss" if name == "noise" else "kl"
    table, probes = table_of(name, bits, judge), table_of("one-at-a-time", bits, judge, measure=measure)
    for variable in bits.variables:
        np.testing.assert_allclose(table.damage[variable.name], np.maximum(probes.damage[variable.name], 0), atol=1e-7)


def test_a_tie_of_a_weight_with_a_state_is_probed_as_one(judge: Any) -> None:
    bits = space(weight_bits=[4, 8], state_bits=[4, 8], ties=[("fc.weight", "fire.state")])
    found, probes = table_of("fisher", bits, judge), table_of("one-at-a-time", bits, judge)
    rate = found.damage["lif.state"][0, 0] / probes.damage["lif.state"][0, 0]
    assert found.damage["fc.weight"][0, 0] == pytest.approx(rate * probes.damage["fc.weight"][0, 0], rel=1e-4)


def test_an_evaluator_that_cannot_be_probed_is_told_so(judge: Any) -> None:
    class Mute:
        evaluate, float_network = judge.evaluate, judge.float_network

    with pytest.raises(PluginError, match="fisher sensitivity needs an evaluator that answers on calibration data"):
        registry.create("sensitivities", "fisher", {}).table(space(), Mute())
    fixed = space(fixed={"states": 32, "leaks": 32, "thresholds": 32})
    assert completed(SensitivityTable({}, 3), fixed, Mute(), "fisher").samples == 3


@pytest.mark.parametrize("surrogate", ["triangle", "arctan", "fast-sigmoid"])
def test_spikes_have_the_second_derivative_of_their_surrogate(surrogate: Any) -> None:
    """L = (S − y)², S = [w·x ≥ θ]:  L″ = 2·(σ′² + (S − y)·σ″)·(x/θ)², σ the surrogate; σ″ by finite differences."""
    neuron, x, theta, y = Neuron(0.8, surrogate=surrogate), 1.5, 0.8, 0.25
    for value in (0.3, 0.7):  # below the threshold, and above it
        w = torch.tensor([[[value]]], requires_grad=True)
        spikes = neuron(w * x)
        loss = (spikes - y).square().sum()
        (first,) = torch.autograd.grad(loss, [w], create_graph=True)
        second = torch.autograd.grad(first.sum(), [w])[0].item()
        z = torch.tensor(value * x / theta - 1, dtype=torch.float64)
        slope = derivative(surrogate, z)
        bend = (derivative(surrogate, z + 1e-6) - derivative(surrogate, z - 1e-6)) / 2e-6
        s = float(value * x >= theta)
        assert first.item() == pytest.approx(float(2 * (s - y) * slope * x / theta), rel=1e-5)
        assert second == pytest.approx(float(2 * (slope**2 + (s - y) * bend) * (x / theta) ** 2), rel=1e-4)


def test_the_fixture_can_spike() -> None:
    assert trained().training is False
    assert all(layer.events > 1 for layer in layers() if layer.kind == "threshold")
