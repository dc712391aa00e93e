"""Networks of snntorch against what they become here: an independent implementation of the same neurons.

Weights and inputs are random reals, so that no state meets its threshold to the last bit, where the two differ by design.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qsearch.errors import DataError
from qsearch.spiking.delayed import DelayedNeuron
from qsearch.spiking.fixed_point import StateGrid, leak_grid, threshold_grid
from qsearch.spiking.neurons import Grids, Integrator, Neuron, RecurrentNeuron

snn = pytest.importorskip("snntorch")

from qsearch.spiking.snntorch_networks import from_snntorch  # noqa: E402

T, B, N = 30, 4, 6
HIDDEN = {"init_hidden": True}


def in_snntorch(network: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    """Spikes (B, T, …) of a network of snntorch, step by step, from states of zero."""
    for module in network.modules():
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    network.eval()
    with torch.no_grad():
        return torch.stack([network(step) for step in inputs.unbind(1)], 1)


def in_ours(network: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    """Spikes (B, T, …) of what it becomes: one step more of the sum each."""
    ours = from_snntorch(network).eval()
    with torch.no_grad():
        sums = torch.stack([ours(inputs[:, :steps]) for steps in range(1, inputs.shape[1] + 1)], 1)
    return torch.diff(sums, dim=1, prepend=torch.zeros_like(sums[:, :1]))


def driven(neuron: nn.Module, scale: float = 1.0) -> tuple[nn.Sequential, torch.Tensor]:
    """A neuron behind a linear layer, and inputs for them."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(5, N), neuron)
    return network, scale * torch.randn(B, T, 5)


def check_same(network: nn.Sequential, inputs: torch.Tensor) -> torch.Tensor:
    expected = in_snntorch(network, inputs)
    found = in_ours(network, inputs)
    assert 0.01 < expected.mean() < 0.9
    assert torch.equal(found, expected)
    return expected


@pytest.mark.parametrize("beta", [1.0, 0.9, 0.5, torch.linspace(0.3, 1.0, N)], ids=["if", "0.9", "0.5", "each"])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_leaky(beta: Any, reset: str) -> None:
    check_same(*driven(snn.Leaky(beta=beta, threshold=0.8, reset_mechanism=reset, **HIDDEN)))


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_leaky_that_resets_at_once(reset: str) -> None:
    neuron = snn.Leaky(beta=0.7, reset_mechanism=reset, reset_delay=False, **HIDDEN)
    network, inputs = driven(neuron, scale=0.5)
    check_same(network, inputs)
    assert type(from_snntorch(network)[1]) is Neuron


def test_a_delayed_reset_is_another_network() -> None:
    network, inputs = driven(snn.Leaky(beta=0.5, **HIDDEN))
    ours = from_snntorch(network)
    assert isinstance(ours[1], DelayedNeuron)
    at_once = Neuron(1.0, 0.5)
    assert not torch.equal(at_once(ours[0](inputs)), ours[1](ours[0](inputs)))


def test_a_delayed_reset_in_fixed_point() -> None:
    """In whole numbers: U ← ⌊λ̂·U⌉ + X − ⌊(1 − λ̂)·Θ⌉·S of the step before, then U ← U − Θ·S."""
    neuron = DelayedNeuron(0.9, 0.6)
    neuron.grids = Grids(StateGrid(7, -4), leak_grid(3), threshold_grid(5, 0.9))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-4, 18, (40,), generator=generator).tolist()
    kept, threshold, owed = 5 / 8, round(29 / 32 * 16), round(3 / 8 * round(29 / 32 * 16))
    state = sent = 0
    expected = []
    for code in codes:
        state = max(-64, min(63, round(kept * state) + code - owed * sent))
        sent = int(state >= threshold)
        state -= threshold * sent
        expected.append(sent)
    assert 5 < sum(expected) < 35
    assert neuron(torch.tensor(codes).reshape(1, 40, 1) / 16).flatten().tolist() == expected


def test_learnt_parameters_are_taken() -> None:
    neuron = snn.Leaky(
        beta=torch.rand(N), threshold=torch.rand(N) + 0.2, learn_beta=True, learn_threshold=True, **HIDDEN
    )
    network, inputs = driven(neuron)
    with torch.no_grad():
        neuron.beta.add_(torch.linspace(-0.2, 0.3, N))
        neuron.threshold.mul_(1.1)
    check_same(network, inputs)
    assert torch.equal(from_snntorch(network)[1].leak.weight, neuron.beta.detach().clamp(0, 1))


def test_lapicque() -> None:
    for options in ({"beta": 0.8}, {"R": 5.0, "C": 0.4}, {"beta": 0.8, "R": 2.0}):
        check_same(*driven(snn.Lapicque(threshold=0.3, **options, **HIDDEN)))


@pytest.mark.parametrize(("reset", "delay"), [("subtract", True), ("subtract", False), ("zero", False)])
def test_synaptic(reset: str, delay: bool) -> None:
    neuron = snn.Synaptic(alpha=0.6, beta=0.7, threshold=2.0, reset_mechanism=reset, reset_delay=delay, **HIDDEN)
    network, inputs = driven(neuron, scale=0.5)
    check_same(network, inputs)
    assert [type(layer) for layer in from_snntorch(network)][1] is Integrator


@pytest.mark.parametrize(("reset", "delay"), [("subtract", True), ("subtract", False), ("zero", False)])
@pytest.mark.parametrize("beta", [1.0, 0.8])
def test_recurrent(reset: str, delay: bool, beta: float) -> None:
    torch.manual_seed(3)
    neuron = snn.RLeaky(beta=beta, linear_features=N, reset_mechanism=reset, reset_delay=delay, **HIDDEN)
    network, inputs = driven(neuron, scale=0.5)
    check_same(network, inputs)
    assert isinstance(from_snntorch(network)[1], RecurrentNeuron)


def test_recurrent_one_to_one_and_by_convolution() -> None:
    own = snn.RLeaky(beta=0.8, V=torch.linspace(-1, 1, N), all_to_all=False, **HIDDEN)
    check_same(*driven(own))
    torch.manual_seed(5)
    maps = snn.RLeaky(beta=0.8, conv2d_channels=3, kernel_size=3, threshold=0.5, **HIDDEN)
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), maps, nn.Flatten(), nn.Linear(75, N), snn.Leaky(0.9, threshold=0.3, **HIDDEN)
    )
    check_same(network, torch.randn(B, T, 2, 5, 5))


def convolutional() -> nn.Sequential:
    """Convolutions, normalisation, pooling, dropout; statistics that are not 0 and 1."""
    torch.manual_seed(11)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        snn.Leaky(beta=0.9, **HIDDEN),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3, bias=False),
        snn.Leaky(beta=0.8, threshold=0.3, **HIDDEN),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, N),
        nn.BatchNorm1d(N),
        snn.Leaky(beta=0.7, threshold=0.5, **HIDDEN),
    )
    for norm in (network[1], network[10]):
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.4)
    return network


def test_convolutional() -> None:
    network, inputs = convolutional(), torch.rand(B, T, 2, 12, 12)
    expected, found = in_snntorch(network, inputs), in_ours(network, inputs)
    assert 0.01 < expected.mean() < 0.9
    assert (found != expected).float().mean() < 2e-3  # normalisations are folded: rounding may move a spike by a step
    ours = from_snntorch(network)
    assert [type(layer).__name__ for layer in ours] == [
        *("Conv2d", "DelayedNeuron", "AvgPool2d", "Conv2d", "DelayedNeuron", "AvgPool2d"),
        *("Flatten", "Linear", "DelayedNeuron"),
    ]
    assert ours[2].divisor_override == 1


def test_the_original_is_left_as_it_was() -> None:
    network = convolutional()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    from_snntorch(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (snn.Alpha(alpha=0.9, beta=0.8, **HIDDEN), "Alpha"),
        (nn.LSTM(3, 3), "LSTM"),
        (snn.Leaky(0.9, reset_mechanism="none", **HIDDEN), "'none'"),
        (snn.Lapicque(beta=0.9, reset_mechanism="zero", **HIDDEN), "delayed"),
        (snn.Synaptic(0.9, 0.8, reset_mechanism="zero", **HIDDEN), "reset_delay=False"),
        (snn.Leaky(0.9, graded_spikes_factor=2.0, **HIDDEN), "graded_spikes_factor"),
        (snn.RLeaky(0.9, V=1.0, all_to_all=False, **HIDDEN), "one number per neuron"),
        (nn.BatchNorm1d(3), "behind a weight"),
    ],
)
def test_what_has_no_counterpart_is_refused(layer: nn.Module, told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        from_snntorch(nn.Sequential(layer))
    assert "\n" not in str(refused.value)


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(DataError, match="must have layers"):
        from_snntorch(nn.Sequential())
