"""Copies to work on: parametrised weights become values, and the original is left as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from qsearch.assignment import BitAssignment
from qsearch.quantize.copies import duplicate, evaluation_copy
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.quantize.weights import WeightTable


class Doubled(nn.Module):
    """A parametrisation of a user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def old(function: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Without its warning that it is old."""

    def apply(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return function(module)

    return apply


def pruned_twice(module: nn.Module) -> nn.Module:
    prune.l1_unstructured(module, "weight", 0.3)
    return prune.random_unstructured(module, "weight", 0.3)


KINDS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own, twice": lambda module: parametrize.register_parametrization(
        parametrize.register_parametrization(module, "weight", Doubled()), "weight", Doubled()
    ),
    "weight and bias": lambda module: parametrize.register_parametrization(
        parametrizations.weight_norm(module), "bias", Doubled()
    ),
    "old weight_norm": old(nn.utils.weight_norm),
    "old spectral_norm": old(nn.utils.spectral_norm),
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "pruned twice": pruned_twice,
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    wrap = KINDS[kind]
    return nn.Sequential(wrap(nn.Conv2d(2, 4, 3)), nn.ReLU(), nn.Flatten(), wrap(nn.Linear(36, 3))).eval()


@pytest.fixture
def data() -> Tensor:
    return torch.randn(12, 2, 5, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_computes_the_same_with_plain_weights(kind: str, data: Tensor) -> None:
    model = build(kind)
    copied = evaluation_copy(model)
    with torch.no_grad():
        assert torch.equal(copied(data), model(data))
    for module in (copied[0], copied[3]):
        assert isinstance(module._parameters["weight"], nn.Parameter)
        assert isinstance(module._parameters["bias"], nn.Parameter)
        assert not module._forward_pre_hooks
        assert type(module) in (nn.Conv2d, nn.Linear)
    assert not any(parameter.requires_grad for parameter in copied.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_is_left_as_it_is_and_can_still_be_trained(kind: str, data: Tensor) -> None:
    model = build(kind)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(data).detach()
    for _ in range(2):
        evaluation_copy(model)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == state.keys()
    output = model(data)
    assert torch.equal(output, before)
    output.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("correction", [False, True])
def test_parametrised_networks_are_quantised_by_their_values(
    kind: str, correction: bool, data: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(kind)
    with torch.no_grad():
        expected, effective = model(data), model[0].weight.clone()
    with caplog.at_level("WARNING", logger="qsearch"):
        layers = trace_layers(model, data)
    assert not caplog.records
    assert [layer.bias for layer in layers] == [True, True]
    network = QuantizedNetwork(model, layers, [data], correction=correction)
    assert torch.equal(network(data), expected)
    network.apply(BitAssignment({"0.weight": 2, "3.weight": 3, "3.input": 4}))
    assert torch.equal(network.model[0].weight, WeightTable("", effective).values(2))
    assert not torch.equal(network(data), expected)


def test_a_duplicate_keeps_its_parametrisations_and_its_mode() -> None:
    for kind in ("weight_norm", "old weight_norm"):
        model = build(kind).train()
        copied = duplicate(model)
        assert copied.training
        assert copied.state_dict().keys() == model.state_dict().keys()
        assert all(parameter.requires_grad for parameter in copied.parameters())
        assert not {id(one) for one in copied.parameters()} & {id(other) for other in model.parameters()}
