"""Both operands of a product of two activations are sites: every sensitivity against plain functional code."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from float_networks import Attention, Given, Gives, Product, attention, half_square, rounded
from torch import Tensor, nn

from qsearch.layers import Layer
from qsearch.sensitivity.fisher import Fisher
from qsearch.sensitivity.floating import changed_inputs, forward, searched_sites
from qsearch.sensitivity.hessian import Curvature
from qsearch.sensitivity.hutchinson import estimate
from qsearch.sensitivity.noise import Noise
from qsearch.sensitivity.quantization_error import QuantizationError
from qsearch.sites import build_space

TOKENS = {"input_size": (4,), "output_size": (4,)}
LAYERS = (
    *(Layer(name, "linear", 3, 2, **TOKENS) for name in ("query", "key", "value")),
    Layer("scores", "matmul", 2, 4, **TOKENS),
    Layer("context", "matmul", 4, 2, **TOKENS),
    Layer("head", "linear", 2, 3),
)
CHOICES = (2, 4, 32)
SPACE = build_space(LAYERS, weight_bits=CHOICES, activation_bits=CHOICES)
OPERANDS = ("scores.input", "scores.other", "context.input", "context.other")


def ends(network: Given) -> dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Operand → its values on all samples, and the outputs as a function of it; no hooks are involved."""
    model = network.model
    assert isinstance(model, Attention)
    with torch.no_grad():
        q, k, v = model.operands(network.inputs)
        weights = torch.softmax(q @ k / 2**0.5, -1)
    return {
        "scores.input": (q, lambda x: model.end(x, k, v)),
        "scores.other": (k, lambda x: model.end(q, x, v)),
        "context.input": (weights, lambda x: model.finish(x, v)),
        "context.other": (v, lambda x: model.finish(weights, x)),
    }


@pytest.mark.parametrize("name", OPERANDS)
def test_an_operand_is_changed_alone(name: str) -> None:
    network = attention()
    x, output = ends(network)[name]
    with torch.no_grad():
        expected = output(x + 0.5)
        with changed_inputs(network, {SPACE.site(name): lambda value: value + 0.5}):
            assert torch.allclose(forward(network, network.inputs), expected)
        assert torch.allclose(forward(network, network.inputs), output(x))


def test_both_operands_are_changed_together() -> None:
    network = attention()
    first, second = SPACE.site("scores.input"), SPACE.site("scores.other")
    model = network.model
    assert isinstance(model, Attention)
    with torch.no_grad():
        q, k, v = model.operands(network.inputs)
        with changed_inputs(network, {first: lambda x: 2 * x, second: lambda x: x - 1}):
            found = forward(network, network.inputs)
        assert torch.allclose(found, model.end(2 * q, k - 1, v))


@pytest.mark.parametrize("name", OPERANDS)
def test_the_empirical_fisher_matrix_is_that_of_gradients_taken_one_by_one(name: str) -> None:
    """A product is linear in each operand, so that d is the gradient by the operand times its change, exactly."""
    found = Fisher(Fisher.Options(gradient="loss")).table(SPACE, Gives(attention)).damage[name][0]
    network = attention()
    x, output = ends(network)[name]
    for column, bits in enumerate(CHOICES):
        change = torch.zeros_like(x) if bits == 32 else rounded(x, bits) - x
        leaf = x.clone().requires_grad_(True)
        losses = torch.nn.functional.cross_entropy(output(leaf), network.targets, reduction="sum")
        directions = (torch.autograd.grad(losses, leaf)[0] * change).sum((1, 2))
        assert found[column] == pytest.approx(float(0.5 * directions.square().mean()), rel=1e-9)


def test_interactions_of_operands_are_those_of_their_directions() -> None:
    options = Fisher.Options(gradient="loss", interactions=True)
    found = Fisher(options).table(SPACE, Gives(attention)).interactions
    network = attention()
    rows = {}
    for name in ("scores.other", "context.other"):
        x, output = ends(network)[name]
        leaf = x.clone().requires_grad_(True)
        losses = torch.nn.functional.cross_entropy(output(leaf), network.targets, reduction="sum")
        rows[name] = (torch.autograd.grad(losses, leaf)[0] * (rounded(x, 2) - x)).sum((1, 2))
    expected = float((rows["scores.other"] * rows["context.other"]).mean())
    assert found["scores.other", "context.other"][0, 0] == pytest.approx(expected, rel=1e-9)


def test_traces_of_operands_are_those_of_the_exact_hessian() -> None:
    curvature = Curvature(attention(), searched_sites(SPACE), None, 0)
    found = estimate(curvature.draw, 1e-6, probes=1500, most=1500)
    network = attention()
    for name in OPERANDS:
        x, output = ends(network)[name]

        def loss(values: Tensor, output: Callable[[Tensor], Tensor] = output) -> Tensor:
            return network.loss(output(values), network.targets)

        hessian = torch.autograd.functional.hessian(loss, x)
        expected = float(hessian.reshape(x.numel(), -1).trace())
        assert float(found[name].parts[0]) == pytest.approx(expected, abs=4 * found[name].standard_error), name
        assert 0 < found[name].standard_error < 0.2 * np.abs(expected) + 1e-3


class Outer(nn.Module):
    """(5, 4) · (4, 3) a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.product = nn.Linear(3, 5), nn.Linear(3, 3), Product()

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x).transpose(1, 2), self.right(x)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.product(*self.operands(x))
        return found


def outer() -> Given:
    torch.manual_seed(1)
    return Given(Outer().double(), torch.randn(6, 4, 3, dtype=torch.float64), torch.zeros(6), half_square)


def test_noise_on_one_operand_by_hand() -> None:
    """Loss ½·mean (A·B)²: noise of a step Δ on B raises it by Δ²/24 · ΣA² / (samples · rows of A); of A likewise."""
    layers = (Layer("product", "matmul", 4, 3, input_size=(5,), output_size=(5,)),)
    space = build_space(layers, weight_bits=(4,), activation_bits=(3, 4))
    found = Noise(Noise.Options(draws=300)).table(space, Gives(outer)).damage
    network = outer()
    assert isinstance(network.model, Outer)
    a, b = (part.detach() for part in network.model.operands(network.inputs))
    for column, bits in enumerate((3, 4)):
        share = 4.0**-bits / 24 / 6
        assert found["product.other"][0, column] == pytest.approx(share * float(a.square().sum()) / 5, rel=0.1)
        assert found["product.input"][0, column] == pytest.approx(share * float(b.square().sum()) / 3, rel=0.1)


@pytest.mark.parametrize("name", OPERANDS)
def test_the_quantisation_error_of_an_operand(name: str) -> None:
    found = QuantizationError(QuantizationError.Options(normalise="energy")).table(SPACE, Gives(attention))
    x, _ = ends(attention())[name]
    expected = [float((x - rounded(x, bits)).square().sum() / x.square().sum()) for bits in (2, 4)]
    assert found.damage[name][0].tolist() == pytest.approx([*expected, 0.0])
