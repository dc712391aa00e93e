"""Surrogate gradients: of a spike, by their formulas and antiderivatives; through time, against a network unrolled by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.spiking.fixed_point import StateGrid, leak_grid, threshold_grid
from qsearch.spiking.neurons import Grids, Integrator, Neuron, RecurrentNeuron, Reset
from qsearch.spiking.surrogate import ALPHA, GAMMA, SLOPE, SurrogateName, derivative, spikes_of

NAMES: tuple[SurrogateName, ...] = get_args(SurrogateName)


def triangle(z: float) -> float:
    """∫ γ·max(0, 1 − |z|) from −∞."""
    if abs(z) >= 1:
        return GAMMA * (z > 0)
    return GAMMA * ((1 + z) ** 2 / 2 if z < 0 else 1 - (1 - z) ** 2 / 2)


def arctan(z: float) -> float:
    return math.atan(math.pi / 2 * ALPHA * z) / math.pi + 0.5


def fast_sigmoid(z: float) -> float:
    return z / (1 + SLOPE * abs(z))


ANTIDERIVATIVES: dict[SurrogateName, Callable[[float], float]] = {
    "triangle": triangle,
    "arctan": arctan,
    "fast-sigmoid": fast_sigmoid,
}


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_by_finite_differences_of_their_antiderivatives(name: SurrogateName) -> None:
    z = torch.linspace(-3, 3, 121, dtype=torch.float64) + 0.003  # away from the kinks
    found, step = derivative(name, z), 1e-6
    expected = [(ANTIDERIVATIVES[name](at + step) - ANTIDERIVATIVES[name](at - step)) / (2 * step) for at in z.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)
    assert bool((derivative(name, -z) == found).all())


def test_derivatives_by_hand() -> None:
    z = torch.tensor([-2.0, -0.5, 0.0, 0.5])
    assert derivative("triangle", z).tolist() == [0, 0.5, 1, 0.5]
    assert derivative("arctan", z)[2] == 1
    torch.testing.assert_close(derivative("arctan", z)[1], torch.tensor(1 / (1 + (math.pi / 2) ** 2)))
    torch.testing.assert_close(derivative("fast-sigmoid", z), torch.tensor([1 / 121, 1 / 12.25, 1, 1 / 12.25]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("several", [False, True])
def test_gradients_of_a_spike(name: SurrogateName, several: bool) -> None:
    """∂S/∂u = ∂S/∂z / θ and ∂S/∂θ = −∂S/∂z · u/θ²; one for z at and above 0 where a neuron may spike several times."""
    state = torch.tensor([-1.0, 0.3, 0.79, 0.8, 1.0, 2.5], dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    spikes = spikes_of(state, threshold, name, several=several)
    assert spikes.tolist() == ([0, 0, 0, 1, 1, 3] if several else [0, 0, 0, 1, 1, 1])
    weights = torch.arange(1.0, 7.0, dtype=torch.float64)
    by_state, by_threshold = torch.autograd.grad((spikes * weights).sum(), (state, threshold))
    u = state.detach()
    slope = derivative(name, u / 0.8 - 1)
    if several:
        slope[u >= 0.8] = 1
    torch.testing.assert_close(by_state, weights * slope / 0.8)
    torch.testing.assert_close(by_threshold, -(weights * slope * u / 0.64).sum()[None])


def test_spikes_without_gradients_are_the_same() -> None:
    state, threshold = torch.linspace(-2, 5, 100), torch.tensor([0.7])
    for several in (False, True):
        plain = spikes_of(state, threshold, "triangle", several=several)
        assert not plain.requires_grad
        found = spikes_of(state.clone().requires_grad_(), threshold, "triangle", several=several)
        assert torch.equal(found, plain)
        with torch.no_grad():
            assert torch.equal(spikes_of(state.clone().requires_grad_(), threshold, "arctan", several=several), plain)


def stand_in(z: Tensor, spikes: Tensor, name: SurrogateName) -> Tensor:
    """Spikes in value, the antiderivative in gradient: written out in functions that autograd knows."""
    soft = {
        "triangle": lambda: torch.where(z < 0, (1 + z).clamp_min(0) ** 2, 2 - (1 - z).clamp_min(0) ** 2) * GAMMA / 2,
        "arctan": lambda: torch.atan(math.pi / 2 * ALPHA * z) / math.pi,
        "fast-sigmoid": lambda: z / (1 + SLOPE * z.abs()),
    }[name]()
    return spikes.detach() + soft - soft.detach()


def unrolled(parts: dict[str, Tensor], inputs: Tensor, name: SurrogateName, reset: Reset) -> Tensor:
    """Two layers of neurons, the second recurrent, an integrator; step by step."""
    batch, steps = inputs.shape[:2]
    u, v, w = (inputs.new_zeros(batch, size) for size in (5, 4, 3))
    sent, total = inputs.new_zeros(batch, 4), inputs.new_zeros(batch, 3)
    for step in range(steps):
        u = parts["leak"] * u + functional.linear(inputs[:, step], parts["first"])
        spikes = stand_in(u / parts["threshold"] - 1, (u >= parts["threshold"]).double(), name)
        u = u - parts["threshold"] * spikes if reset == "subtract" else torch.where(spikes > 0.5, 0.0, u)
        v = v + functional.linear(spikes, parts["second"]) + functional.linear(sent, parts["back"])
        sent = stand_in(v / 0.5 - 1, (v >= 0.5).double(), name)
        v = v - 0.5 * sent if reset == "subtract" else torch.where(sent > 0.5, 0.0, v)
        w = 0.75 * w + functional.linear(sent, parts["third"])
        total = total + w
    return total


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reset", get_args(Reset))
def test_gradients_through_time_are_those_of_a_network_unrolled_by_hand(name: SurrogateName, reset: Reset) -> None:
    torch.manual_seed(0)
    sizes = {"first": (5, 6), "second": (4, 5), "back": (4, 4), "third": (3, 4)}
    parts = {key: torch.randn(size, dtype=torch.float64) for key, size in sizes.items()}
    parts |= {"leak": torch.rand(5).double(), "threshold": (torch.rand(5) + 0.5).double()}
    first, second, third = nn.Linear(6, 5, bias=False), nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)
    back = nn.Linear(4, 4, bias=False)
    layers = {"first": first, "second": second, "third": third, "back": back}
    hidden = Neuron(parts["threshold"], parts["leak"], reset=reset, surrogate=name).double()
    feedback = RecurrentNeuron(back, 0.5, reset=reset, surrogate=name).double()
    output = Integrator(0.75).double()
    for key, layer in layers.items():
        layer.double().weight.data = parts[key].clone()
    inputs = torch.randn(3, 9, 6, dtype=torch.float64)
    found = output(third(feedback(second(hidden(first(inputs)))))).sum(1)
    assert hidden.leak is not None
    learnt = [layer.weight for layer in layers.values()] + [hidden.leak.weight, hidden.threshold.weight]
    leaves = {key: value.clone().requires_grad_() for key, value in parts.items()}
    expected = unrolled(leaves, inputs, name, reset)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), learnt)
    theirs = torch.autograd.grad((expected * weights).sum(), [leaves[key] for key in (*layers, "leak", "threshold")])
    assert all(bool((gradient != 0).any()) for gradient in theirs)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other)


def gradient_of(module: Integrator, currents: Tensor) -> Tensor:
    """Of the sum of what comes out, by the currents."""
    currents = currents.clone().requires_grad_()
    (found,) = torch.autograd.grad(module(currents).sum(), currents)
    return found


def test_gradients_of_a_state_in_fixed_point_are_those_of_float_within_the_range() -> None:
    """An integrator's are sums of powers of the leak, whatever is rounded."""
    torch.manual_seed(0)
    currents = torch.randn(4, 8, 3, dtype=torch.float64) * 0.2
    module = Integrator(0.75).double()
    expected = gradient_of(module, currents)
    module.grids = Grids(StateGrid(8, -5), leak_grid(2))
    torch.testing.assert_close(gradient_of(module, currents), expected)


def test_gradients_do_not_flow_from_where_a_state_is_saturated() -> None:
    """Within ±2, the third of four currents fills the register: no state from there on tells of what came before."""
    module = Integrator()
    module.grids = Grids(StateGrid(6, -4))
    currents = torch.tensor([[0.5, 0.5, 9.0, -0.25], [0.5, 0.5, 0.5, -0.25], [-0.5, -0.5, -9.0, 0.25]])
    assert gradient_of(module, currents).tolist() == [[2, 1, 0, 1], [4, 3, 2, 1], [2, 1, 0, 1]]


@pytest.mark.parametrize("reset", get_args(Reset))
def test_neurons_in_fixed_point_learn_all_that_they_keep(reset: Reset) -> None:
    """Currents, leaks and thresholds have finite gradients that are close to those in float where registers are wide."""
    torch.manual_seed(0)
    currents = torch.randn(4, 10, 3, dtype=torch.float64) * 0.5 + 0.3

    def gradients(grids: Grids) -> tuple[Tensor, ...]:
        module = Neuron(torch.tensor([0.5, 0.75, 1.0]), torch.tensor([0.5, 0.75, 0.875]), reset=reset).double()
        module.grids = grids
        given: Any = currents.clone().requires_grad_()
        assert module.leak is not None
        return torch.autograd.grad(module(given).sum(), (given, module.leak.weight, module.threshold.weight))

    wide = Grids(StateGrid(30, -26), leak_grid(3), threshold_grid(4, 1.0))
    for found, expected in zip(gradients(wide), gradients(Grids()), strict=True):
        assert bool((expected != 0).any())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    narrow = Grids(StateGrid(5, -2), leak_grid(2), threshold_grid(2, 1.0))
    for found in gradients(narrow):
        assert bool(found.isfinite().all())
        assert bool((found != 0).any())


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives_are_those_of_the_surrogate(name: SurrogateName) -> None:
    """As the curvature of a loss asks for: ∂²S/∂z² by finite differences of ∂S/∂z."""
    state = torch.tensor([-0.2, 0.4, 0.9, 1.3, 1.8], dtype=torch.float64, requires_grad=True)
    threshold = torch.ones(1, dtype=torch.float64)
    spikes = spikes_of(state, threshold, name, several=False)
    (first,) = torch.autograd.grad(spikes.sum(), state, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), state)
    z, step = state.detach() - 1, 1e-6
    torch.testing.assert_close(second, (derivative(name, z + step) - derivative(name, z - step)) / (2 * step))
