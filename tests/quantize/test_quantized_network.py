"""The quantised network: what an assignment does to it, and what it leaves alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import DataError, SpaceError
from qsearch.quantize.activations import ActivationRange
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.quantize.weights import WeightTable


class Network(nn.Module):
    """Two convolutions with batch-norm, one of them used with a keyword, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        for norm in (self.bn1, self.bn2):
            nn.init.uniform_(norm.running_mean, -0.2, 0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(input=x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model() -> Network:
    return Network().eval()


@pytest.fixture
def data() -> Tensor:
    return torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def quantized(model: nn.Module, data: Tensor, *, correction: bool = False) -> QuantizedNetwork:
    return QuantizedNetwork(model, trace_layers(model, data[:1]), list(data.split(10)), correction=correction)


def assignment(weights: int, activations: int = FLOAT_BITS) -> BitAssignment:
    return BitAssignment(
        {
            f"{name}.{part}": bits
            for name in ("conv1", "conv2", "head")
            for part, bits in (("weight", weights), ("input", activations))
        }
    )


def test_sites_are_those_of_the_layers(model: Network, data: Tensor) -> None:
    assert set(quantized(model, data).sites) == set(assignment(8))


@pytest.mark.parametrize("correction", [False, True])
def test_float_changes_nothing_bit_for_bit(model: Network, data: Tensor, correction: bool) -> None:
    network = quantized(model, data, correction=correction)
    with torch.inference_mode():
        expected = model(data)
    assert torch.equal(network(data), expected)
    network.apply(assignment(2, 3))
    assert not torch.equal(network(data), expected)
    network.apply(assignment(FLOAT_BITS))
    assert torch.equal(network(data), expected)


def test_equals_a_network_quantised_by_hand(model: Network, data: Tensor) -> None:
    """Weights from the tables, activations from the ranges, functional convolutions."""
    network = quantized(model, data)
    network.apply(assignment(3, 4))

    def inputs(site: str, x: Tensor) -> Tensor:
        return network.activation_quantizer(f"{site}.input", 4)(x)

    def weights(layer: nn.Module) -> Tensor:
        return WeightTable("", layer.weight).quantized(3).values

    with torch.no_grad():
        x = functional.conv2d(inputs("conv1", data), weights(model.conv1), padding=1)
        x = functional.relu(model.bn1(x))
        x = functional.conv2d(inputs("conv2", x), weights(model.conv2), padding=1)
        x = functional.relu(model.bn2(x)).mean((2, 3))
        expected = functional.linear(inputs("head", x), weights(model.head), model.head.bias)
    assert torch.equal(network(data), expected)


def test_activation_ranges_come_from_the_float_network(model: Network, data: Tensor) -> None:
    network = quantized(model, data)
    by_hand = ActivationRange("conv2.input")
    with torch.no_grad():
        for batch in data.split(10):
            by_hand.observe(functional.relu(model.bn1(model.conv1(batch))))
    assert torch.equal(network.activation_quantizer("conv2.input", 3).scale, by_hand.quantizer(3).scale)
    assert by_hand.unsigned
    assert network.activation_quantizer("conv1.input", 8).grid.low == -128


def test_kernel_wise_bits_gather_rows(model: Network, data: Tensor) -> None:
    network = quantized(model, data)
    bits = np.array([0, 1, 2, 4, 8, FLOAT_BITS])
    network.apply(assignment(FLOAT_BITS).replace({"conv1.weight": bits}))
    expected = torch.stack(
        [WeightTable("", model.conv1.weight[k : k + 1]).values(int(b))[0] for k, b in enumerate(bits)]
    )
    assert torch.equal(network.model.conv1.weight, expected)


@pytest.mark.parametrize("correction", [False, True])
def test_no_drift(model: Network, data: Tensor, correction: bool) -> None:
    """A, B, A gives A again, and so does a network that never saw B."""
    network = quantized(model, data, correction=correction)
    first_bits, other = assignment(3, 4), assignment(1, 2)
    network.apply(first_bits)
    first, state = network(data), copy.deepcopy(network.model.state_dict())
    network.apply(other)
    network.apply(first_bits)
    assert torch.equal(network(data), first)
    assert all(torch.equal(state[key], value) for key, value in network.model.state_dict().items())
    fresh = quantized(model, data, correction=correction)
    fresh.apply(first_bits)
    assert torch.equal(fresh(data), first)


def test_the_network_given_is_never_touched(model: Network, data: Tensor) -> None:
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    network = quantized(model, data, correction=True)
    network.apply(assignment(2, 2))
    network(data)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_shared_weights_are_quantised_on_their_own(data: Tensor) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 6)
            self.head = nn.Linear(6, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens)).mean(1)

    model = Tied().eval()
    tokens = torch.randint(0, 20, (16, 5), generator=torch.Generator().manual_seed(0))
    network = QuantizedNetwork(model, trace_layers(model, tokens[:1]), [tokens])
    assert set(network.sites) == {"embed.weight", "head.weight", "head.input"}
    network.apply(BitAssignment({"embed.weight": 2}))
    assert torch.equal(network.model.head.weight, model.head.weight)
    assert not torch.equal(network.model.embed.weight, model.embed.weight)


def test_works_inside_inference_mode(model: Network, data: Tensor) -> None:
    outside = quantized(model, data, correction=True)
    outside.apply(assignment(3, 4))
    with torch.inference_mode():
        inside = quantized(model, data, correction=True)
        inside.apply(assignment(3, 4))
        inside.apply(assignment(2, 4))
        inside.apply(assignment(3, 4))
        assert torch.equal(inside(data), outside(data))


def test_calibration_output_is_the_output_on_the_calibration_data(model: Network, data: Tensor) -> None:
    for correction in (False, True):
        network = quantized(model, data, correction=correction)
        for bits in (assignment(3, 4), assignment(FLOAT_BITS)):
            network.apply(bits)
            torch.testing.assert_close(network.calibration_output(), network(data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"conv3.weight": 4}, "no site 'conv3.weight'.*did you mean 'conv"),
        ({"conv1.weight": [4, 3]}, "'conv1.weight' has 6 kernels"),
        ({"conv1.input": [4, 3]}, "takes one bitwidth"),
        ({"conv1.input": 0}, "at least 1"),
    ],
)
def test_assignments_that_do_not_fit_are_refused(
    model: Network, data: Tensor, bits: dict[str, int], message: str
) -> None:
    network = quantized(model, data, correction=True)
    with pytest.raises(SpaceError, match=message):
        network.apply(BitAssignment(bits))
    network.apply(assignment(FLOAT_BITS))
    with torch.inference_mode():
        assert torch.equal(network(data), model(data))


def test_no_calibration_data_is_refused(model: Network, data: Tensor) -> None:
    with pytest.raises(DataError, match="at least one batch"):
        QuantizedNetwork(model, trace_layers(model, data[:1]), [])


def test_a_layer_of_another_network_is_refused(model: Network, data: Tensor) -> None:
    layers = trace_layers(nn.Sequential(nn.Conv2d(3, 2, 3)), data[:1])
    with pytest.raises(DataError, match="must have the layer '0'"):
        QuantizedNetwork(model, layers, [data])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize("bits", [2, 8, 16, 31])
def test_networks_of_half_precision(
    kind: torch.dtype, correction: bool, bits: int, model: Network, data: Tensor
) -> None:
    """At many bits they compute nearly what they compute in float; at few, what a float32 network nearly does."""
    half = quantized(model.to(kind), data.to(kind), correction=correction)
    floating = half(data.to(kind))
    half.apply(assignment(bits, bits))
    assert half(data.to(kind)).dtype == kind
    single = quantized(copy.deepcopy(model).float(), data.to(kind).float(), correction=correction)
    single.apply(assignment(bits, bits))
    spread = float(single(data.to(kind).float()).std())
    expected = floating if bits >= 16 else single(data.to(kind).float())
    difference = (half(data.to(kind)).float() - expected.float()).abs().mean()
    assert float(difference) <= 0.1 * spread


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        (lambda x: {"logits": x}, "a dict"),
        (lambda x: (x, x), "a tuple"),
        (lambda x: x.mean(), r"shape \(\)"),
        (lambda x: x.transpose(0, 1), r"shape \(4, 10\)"),
    ],
    ids=["dict", "tuple", "scalar", "samples last"],
)
@pytest.mark.parametrize("correction", [False, True])
def test_outputs_must_be_one_tensor_with_a_row_per_sample(
    answer: Callable[[Tensor], object], got: str, correction: bool, data: Tensor
) -> None:
    class Answering(Network):
        def forward(self, x: Tensor) -> Tensor:
            return answer(super().forward(x))

    message = rf"Answering must give one tensor with a row per sample, here 10; got {got}; wrap it"
    with pytest.raises(DataError, match=message):
        quantized(Answering().eval(), data, correction=correction)
