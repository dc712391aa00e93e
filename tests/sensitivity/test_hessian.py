"""Hessian sensitivity against exact Hessians of small networks."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from float_networks import Given, Gives, perceptron
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError, PluginError
from qsearch.layers import Layer
from qsearch.protocols import Probe, SensitivityTable
from qsearch.sensitivity.floating import searched_sites
from qsearch.sensitivity.hessian import Curvature, Hessian, curvatures
from qsearch.sensitivity.hutchinson import Trace, estimate
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

LAYERS = (Layer("0", "linear", 3, 4), Layer("2", "linear", 4, 3))
MANY = {"samples": 12, "standard_error": 1e-6, "probes": 400, "max_probes": 400}
"""Options that take all probes."""


def space(**options: object) -> SearchSpace:
    return build_space(LAYERS, **{"weight_bits": [2, 4, 32], "activation_bits": [3, 8], **options})


def table(space: SearchSpace, **options: object) -> SensitivityTable:
    return Hessian(Hessian.Options(**options)).table(space, Gives(perceptron))


def exact_weight_diagonal(network: Given, name: str) -> Tensor:
    """Diagonal of the Hessian of the mean loss with respect to a weight, of its shape."""
    weight = dict(network.model.named_parameters())[name].detach()

    def loss(values: Tensor) -> Tensor:
        return network.loss(functional_call(network.model, {name: values}, (network.inputs,)), network.targets)

    hessian = torch.autograd.functional.hessian(loss, weight)
    return hessian.reshape(weight.numel(), -1).diagonal().reshape(weight.shape)


def exact_input_trace(network: Given, layer: int) -> float:
    """Trace of the Hessian of the mean loss with respect to all inputs of a layer."""
    with torch.no_grad():
        x = network.model[:layer](network.inputs)

    def loss(values: Tensor) -> Tensor:
        return network.loss(network.model[layer:](values), network.targets)

    hessian = torch.autograd.functional.hessian(loss, x)
    return float(hessian.reshape(x.numel(), -1).trace())


def traces(space: SearchSpace, probes: int = 3000) -> dict[str, tuple[NDArray[np.float64], float]]:
    curvature = Curvature(perceptron(), searched_sites(space), None, 0)
    found = estimate(curvature.draw, 1e-6, probes=probes, most=probes)
    return {name: (trace.parts, trace.standard_error) for name, trace in found.items()}


def test_traces_of_weights_and_inputs_per_layer() -> None:
    network = perceptron()
    found = traces(space())
    expected = {f"{n}.weight": float(exact_weight_diagonal(network, f"{n}.weight").sum()) for n in (0, 2)}
    expected |= {f"{n}.input": exact_input_trace(network, n) for n in (0, 2)}
    for name, value in expected.items():
        parts, error = found[name]
        assert parts.shape == (1,)
        assert 0 < error < 0.05 * abs(value)
        assert float(parts[0]) == pytest.approx(value, abs=4 * error)


def test_traces_per_kernel() -> None:
    found = traces(space(granularity="kernel"))
    for name in ("0.weight", "2.weight"):
        expected = exact_weight_diagonal(perceptron(), name).sum(1).numpy()
        assert found[name][0] == pytest.approx(expected, abs=0.05 * np.abs(expected).max())


def test_standard_errors_hold_the_exact_trace() -> None:
    expected = exact_input_trace(perceptron(), 2)
    hits = 0
    for seed in range(60):
        curvature = Curvature(perceptron(), searched_sites(space()), None, seed)
        trace = estimate(curvature.draw, 1e-9, probes=24, most=24)["2.input"]
        hits += abs(trace.value - expected) <= 2 * trace.standard_error
    assert hits >= 51  # 95 % of 60 is 57; 51 or fewer has a chance below 1 %


def test_damage_is_half_the_mean_trace_times_the_squared_error() -> None:
    network, found = perceptron(), table(space(), **MANY).damage
    weight = network.model[0].weight.detach()
    trace = float(exact_weight_diagonal(network, "0.weight").sum())
    for position, bits in enumerate((2, 4)):
        error = float((weight - network.quantized_weight("0.weight", bits)).square().sum())
        assert found["0.weight"][0, position] == pytest.approx(0.5 * trace / 12 * error, rel=0.2)
    assert found["0.weight"][0, 2] == 0
    x = torch.tanh(network.model[0](network.inputs)).detach()
    error = float((x - network.quantized_input("2.input", 3, x)).square().sum())
    assert found["2.input"][0, 0] == pytest.approx(0.5 * exact_input_trace(network, 2) / x.numel() * error, rel=0.2)


def test_an_input_perturbed_at_random_does_the_predicted_damage() -> None:
    """Monte Carlo: the mean rise of the loss under small noise of any shape is ½ · trace · variance."""
    network, generator = perceptron(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        x, scale = torch.tanh(network.model[0](network.inputs)), 0.05
        start = float(network.loss(network.model[2](x), network.targets))
        rises = []
        for _ in range(2000):
            n = scale * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            pair = [float(network.loss(network.model[2](x + s * n), network.targets)) for s in (1, -1)]
            rises.append(sum(pair) / 2 - start)
    expected = 0.5 * traces(space())["2.input"][0][0] * scale**2
    assert np.mean(rises) == pytest.approx(expected, rel=0.1)


def test_it_is_deterministic_and_the_seed_matters() -> None:
    few = {"samples": 12, "probes": 4, "max_probes": 4, "standard_error": 10.0}
    first, again, other = table(space(), **few), table(space(), **few), table(space(), seed=1, **few)
    for name, value in first.damage.items():
        assert value.tobytes() == again.damage[name].tobytes()
    assert any(value.tobytes() != other.damage[name].tobytes() for name, value in first.damage.items())


def test_passes_are_counted() -> None:
    """12 samples: one pass to see the inputs, 3 for a graph, 6 for each product, of weights and of inputs."""
    few = {"samples": 12, "probes": 4, "max_probes": 4, "standard_error": 10.0}
    assert table(space(), **few).samples == 12 * (1 + 3 + 2 * 6 * 4)
    assert table(space(fixed={"activations": 8}), **few).samples == 12 * (3 + 6 * 4)
    assert table(space(), **{**few, "samples": 5}).samples == 5 * (1 + 3 + 2 * 6 * 4)


def test_a_tie_takes_the_sum_of_its_sites_and_what_is_fixed_is_left_out() -> None:
    layers = (Layer("0", "linear", 3, 4), Layer("2", "linear", 4, 3))
    apart = build_space(layers, weight_bits=[2, 4], activation_bits=[8], fixed={"activations": 8})
    tied = build_space(
        layers, weight_bits=[2, 4], activation_bits=[8], fixed={"activations": 8}, ties=[("0.weight", "2.weight")]
    )
    few = {"samples": 12, "probes": 4, "max_probes": 4, "standard_error": 10.0}
    alone, together = table(apart, **few).damage, table(tied, **few).damage
    assert set(together) == {"0.weight"}
    assert together["0.weight"] == pytest.approx(alone["0.weight"] + alone["2.weight"])


def test_negative_curvature_counts_as_none() -> None:
    def hill(output: Tensor, target: Tensor) -> Tensor:
        return -output.square().mean()

    def make() -> Given:
        network = perceptron()
        network.criterion = hill
        return network

    few = Hessian.Options(samples=12, probes=8, max_probes=8, standard_error=100.0)
    found = Hessian(few).table(space(), Gives(make)).damage
    assert found["2.weight"].tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("parts", "error", "expected"),
    [
        ([3.0], 0.5, [3.0]),
        ([0.2], 0.5, [0.5]),
        ([-0.2], 0.5, [0.3]),
        ([-0.8], 0.5, [0.0]),
        ([4.0, -1.0], 0.5, [4.0, 0.0]),
        ([0.1, 0.1], 1.0, [0.5, 0.5]),
    ],
)
def test_a_trace_that_may_be_zero_counts_as_what_it_may_be(
    parts: list[float], error: float, expected: list[float]
) -> None:
    assert curvatures(Trace(np.asarray(parts), error, 8)).tolist() == pytest.approx(expected)


def test_traces_that_are_not_known_well_enough_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="qsearch"):
        table(space(), samples=12, probes=2, max_probes=2, standard_error=1e-9)
    assert "4 of 4 Hessian traces are known less well than asked for after 2 probes" in caplog.text


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: (output - 3).abs().mean(),
        lambda output, target: output.detach().square().mean(),
        lambda output, target: output.argmax(1).double().mean(),
    ],
    ids=["piecewise linear", "detached", "of whole numbers"],
)
def test_a_loss_without_a_second_derivative_says_what_still_works(loss: object) -> None:
    def make() -> Given:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3)).double()
        return Given(model, torch.randn(8, 3, dtype=torch.float64), torch.zeros(8), loss)

    one = build_space([Layer("0", "linear", 3, 3)], weight_bits=[2], activation_bits=[2])
    with pytest.raises(
        EvaluationError, match=r"differentiated twice; got .*; use the sensitivity one-at-a-time, noise"
    ):
        Hessian(Hessian.Options()).table(one, Gives(make))


def test_a_trace_that_is_not_finite_names_its_site() -> None:
    def make() -> Given:
        network = perceptron()
        network.criterion = lambda output, target: (output * 1e200).pow(4).mean()
        return network

    with pytest.raises(EvaluationError, match=r"sensitivity of site '0\.weight' must be finite"):
        Hessian(Hessian.Options()).table(space(fixed={"activations": 8}), Gives(make))


def test_an_evaluator_without_a_float_network_is_told() -> None:
    class Blind:
        def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
            raise AssertionError

    with pytest.raises(PluginError, match=r"Blind without a method float_network.*one-at-a-time"):
        Hessian(Hessian.Options()).table(space(), Blind())


class Once(torch.autograd.Function):
    """Mean square, whose backward pass autograd does not follow."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        ctx.save_for_backward(output)
        return output.square().mean()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return gradient * 2 * output / output.numel()


def test_a_loss_that_is_differentiated_once_only_is_told() -> None:
    def make() -> Given:
        network = perceptron()
        network.criterion = lambda output, target: Once.apply(output)
        return network

    with pytest.raises(EvaluationError, match=r"differentiated twice; got .*though it changes with the outputs"):
        Hessian(Hessian.Options()).table(space(), Gives(make))


def test_a_second_derivative_of_rounding_is_none() -> None:
    def make() -> Given:
        network = perceptron()
        network.criterion = lambda output, target: output.sum() + 1e-9 * output.square().sum()
        network.model[1] = nn.Identity()
        return network

    one = space(fixed={"activations": 8, "0.weight": 8})
    with pytest.raises(EvaluationError, match="zero everywhere"):
        Hessian(Hessian.Options()).table(one, Gives(make))


class Asked(Gives):
    """Also answers on calibration data, always with the same divergence."""

    divergence = 0.5

    def probe(self, assignment: BitAssignment) -> Probe:
        return Probe(1.0, self.divergence, 7)


class Detach(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def cut() -> Given:
    """No gradient reaches the first layer."""
    network = perceptron()
    network.model[1] = Detach()
    return network


def test_a_layer_that_no_gradient_reaches_is_asked_about() -> None:
    few = {"samples": 12, "probes": 4, "max_probes": 4, "standard_error": 10.0}
    sensitivity, asked = Hessian(Hessian.Options(**few)), Asked(cut)
    with pytest.raises(EvaluationError, match=r"none at '0\.(weight|input)'.*one-at-a-time, noise"):
        sensitivity.table(space(), asked)
    asked.divergence = 0.0
    found = sensitivity.table(space(), asked)
    assert not found.damage["0.weight"].any()
    assert found.damage["2.weight"].any()
    assert found.samples == 12 * (1 + 3 + 2 * 6 * 4) + 2 * 7


def test_a_round_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_probes must be at least probes, which is 8"):
        registry.create("sensitivities", "hessian", {"max_probes": 4})


def test_a_network_that_recomputes_what_it_has_forgotten_is_told() -> None:
    """The second run of its layers would add other perturbations than the first."""

    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x, use_reentrant=False)

    def recomputing() -> Given:
        found = perceptron()
        found.model = Checkpointed(*found.model)
        return found

    with pytest.raises(EvaluationError, match=r"got RuntimeError: torch.utils.checkpoint runs layers a second time"):
        Hessian(Hessian.Options()).table(space(), Gives(recomputing))
    table(space())
