"""Conversion: rates of one neuron, what becomes of units and of long times, and what is refused."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from qsearch.errors import ConfigError, DataError
from qsearch.spiking.chain import simplified
from qsearch.spiking.conversion import OUTPUT, Conversion, balanced, convert
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron

CURRENTS = st.floats(-2, 3, allow_subnormal=False)
THRESHOLDS = st.floats(0.05, 2)
STEPS = st.integers(1, 60)


def drawn(*modules: nn.Module) -> nn.Sequential:
    """A network with weights, and statistics of batch norms, drawn at random, in evaluation mode."""
    network, generator = nn.Sequential(*modules), torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.dim() > 1:
            value.copy_(noise * math.sqrt(2 / value[0].numel()))
        elif name.endswith("running_var"):
            value.copy_(noise.square() + 0.5)
        elif value.dim() == 1:
            value.copy_(noise * 0.2 + 0.2)
    return network.eval()


def inputs(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


HYBRID = (
    nn.Conv3d(1, 4, (3, 3, 3)),
    nn.BatchNorm3d(4),
    nn.ReLU(),
    nn.Conv3d(4, 3, (3, 3, 3), bias=False),
    nn.ReLU(),
    nn.Flatten(1, 2),
    nn.Conv2d(12, 6, 3),
    nn.BatchNorm2d(6),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(54, 5),
)
"""3-D, then 2-D convolutions, as for patches of hyperspectral images: (B, 1, bands, H, W), here of 8 bands and 9×9."""

NETWORKS: dict[str, tuple[nn.Sequential, Tensor]] = {
    "linear": (
        drawn(nn.Flatten(), nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3)),
        inputs(20, 3, 4),
    ),
    "1-D": (
        drawn(
            nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)
        ),
        inputs(20, 2, 10),
    ),
    "2-D": (
        drawn(
            nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6, affine=False), nn.ReLU()),
            nn.AvgPool2d(2, padding=1),
            nn.Conv2d(6, 4, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        inputs(20, 2, 14, 14),
    ),
    "pools": (
        drawn(
            nn.Conv2d(1, 3, 3),
            nn.AvgPool2d(2, divisor_override=3),
            nn.ReLU(),
            nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Flatten(),
        ),
        inputs(20, 1, 14, 14),
    ),
    "3-D and 2-D": (drawn(*HYBRID), inputs(20, 1, 8, 9, 9)),
}


class _Rate(nn.Module):
    """What a neuron gives in infinitely many steps of a constant current."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.threshold = neuron.threshold.weight

    def forward(self, x: Tensor) -> Tensor:
        return (x / self.threshold).clamp(0, 1)


def in_the_limit(network: SpikingNetwork) -> nn.Sequential:
    """A spiking network with rates in the place of spikes."""
    parts = OrderedDict(network.named_children())
    return nn.Sequential(
        *(
            _Rate(part) if isinstance(part, Neuron) else nn.Identity() if isinstance(part, Integrator) else part
            for part in parts.values()
        )
    )


@given(current=CURRENTS, threshold=THRESHOLDS, steps=STEPS)
@example(current=2.0, threshold=0.5, steps=7)
def test_the_rate_of_a_neuron_is_its_clipped_current(current: float, threshold: float, steps: int) -> None:
    spikes = Neuron(threshold)(torch.full((1, steps, 1), current, dtype=torch.float64))
    rate = float(spikes.detach().sum()) / steps
    assert abs(rate - min(max(current / threshold, 0.0), 1.0)) <= 1 / steps + 1e-6


@given(excess=st.floats(0, 5), threshold=THRESHOLDS, steps=STEPS)
def test_a_neuron_with_more_than_its_threshold_always_fires(excess: float, threshold: float, steps: int) -> None:
    exact = torch.tensor(threshold, dtype=torch.float32)
    spikes = Neuron(exact)((exact + excess).expand(1, steps, 1))
    assert int(spikes.sum()) == steps


@given(current=CURRENTS, threshold=THRESHOLDS, steps=STEPS, shift=st.booleans())
def test_a_converted_neuron_gives_its_clipped_current(
    current: float, threshold: float, steps: int, shift: bool
) -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    how = Conversion(steps=steps, balancing="max", shift=shift)
    found = convert(network, torch.tensor([[threshold]]), how)(torch.tensor([[current]]))
    error = float(found.detach()) - min(max(current, 0.0), threshold)
    assert abs(error) <= (threshold / (2 * steps) if shift else threshold / steps) + 1e-5
    assert shift or error <= 1e-5


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("per", ["layer", "channel"])
def test_rates_in_the_place_of_spikes_give_the_network(name: str, per: Any) -> None:
    network, data = NETWORKS[name]
    converted = convert(network, data, Conversion(steps=1, balancing="max", per=per, shift=False))
    with torch.no_grad():
        torch.testing.assert_close(in_the_limit(converted)(data), network(data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_approached_as_steps_grow(name: str) -> None:
    network, data = NETWORKS[name]
    errors = {}
    with torch.no_grad():
        expected = network(data)
        for steps in (4, 32, 256):
            found = convert(network, data, Conversion(steps=steps, balancing="max"))(data)
            errors[steps] = float((found - expected).norm() / expected.norm())
    assert errors[256] < errors[32] < errors[4]
    assert errors[256] < 0.02


def test_a_layer_that_spikes_counts_its_rates() -> None:
    network, data = NETWORKS["linear"]
    spiking = convert(network, data, Conversion(steps=300, balancing="max", last="spike"))
    output = dict(spiking.named_children())[OUTPUT]
    assert isinstance(output, Neuron)
    with torch.no_grad():
        expected = network(data)
        threshold = float(output.threshold.weight)
        assert threshold == pytest.approx(float(expected.max()), rel=1e-5)
        counts = spiking(data)
        torch.testing.assert_close(counts, counts.round())
        torch.testing.assert_close(counts / 300 * threshold, expected.clamp_min(0), atol=0.02 * threshold, rtol=0)


def test_an_end_with_a_relu_is_converted_like_one_without() -> None:
    network, data = NETWORKS["linear"]
    how = Conversion(steps=5, last="spike")
    with_relu = nn.Sequential(*network, nn.ReLU())
    torch.testing.assert_close(convert(with_relu, data, how)(data), convert(network, data, how)(data))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_simplified_chain_computes_the_same(name: str) -> None:
    network, data = NETWORKS[name]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    parts = simplified(network)
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(parts)(data), network(data), rtol=1e-4, atol=1e-5)
    assert not any("Norm" in type(part).__name__ for part in parts.values())
    torch.testing.assert_close(dict(network.state_dict()), before)


def test_the_first_maximum_is_before_its_neurons_and_others_behind_theirs() -> None:
    network = drawn(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )  # fmt: skip
    data = inputs(8, 1, 14, 14)
    spiking = convert(network, data, Conversion(steps=3))
    assert list(dict(spiking.named_children())) == ["0", "2", "1", "3", "4", "5", "6", "7", OUTPUT]
    with torch.no_grad():
        torch.testing.assert_close(nn.Sequential(simplified(network))(data), network(data))


def test_spikes_stay_whole_numbers_through_average_pooling() -> None:
    network, data = NETWORKS["2-D"]
    spiking = convert(network, data, Conversion(steps=3))
    seen: list[Tensor] = []
    convolutions = [part for part in spiking if isinstance(part, nn.Conv2d | nn.Linear)]
    for part in convolutions[1:]:
        part.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    spiking(data)
    assert len(seen) == len(convolutions) - 1 > 0
    assert all(torch.equal(found, found.round()) and bool((found > 0).any()) for found in seen)


def test_direct_input_is_the_input_repeated() -> None:
    network, data = NETWORKS["3-D and 2-D"]
    direct = convert(network, data, Conversion(steps=4, leak=0.9))
    repeated = SpikingNetwork(OrderedDict(direct.named_children()), direct.readout)
    with torch.no_grad():
        expected = repeated(data.unsqueeze(1).expand(-1, 4, *data.shape[1:]))
        torch.testing.assert_close(direct(data), expected, rtol=1e-4, atol=1e-5)


def test_thresholds_are_percentiles_or_maxima() -> None:
    currents = torch.arange(-10, 10).float().view(1, 2, 10).expand(5, -1, -1)
    assert balanced(currents, "layer", 100, "").tolist() == [9]
    assert balanced(currents, "layer", 95, "").tolist() == [8]
    # the first channel is never above 0
    assert balanced(currents, "channel", 100, "").tolist() == [[9], [9]]
    assert balanced(currents[..., 1:] + 10, "channel", 100, "").tolist() == [[9], [19]]
    with pytest.raises(DataError, match=r"currents of layer 'a' must be above 0 at the 50th percentile.*got -1\.0"):
        balanced(currents, "layer", 50, "a")


def test_weights_leaks_and_thresholds_take_gradients() -> None:
    network, data = NETWORKS["2-D"]
    spiking = convert(network, data, Conversion(steps=4, leak=0.95)).requires_grad_(True)
    spiking(data).square().sum().backward()
    names = [name for name, _ in spiking.named_parameters()]
    assert sum("leak" in name for name in names) == sum("threshold" in name for name in names) == 3
    for name, parameter in spiking.named_parameters():
        assert parameter.grad is not None, name
        assert bool((parameter.grad != 0).any()), name


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "no sequence": (nn.Linear(2, 2), "must be one nn.Sequential.*got Linear"),
    "no layer": (nn.Sequential(nn.Flatten()), "must have a convolution or a linear layer"),
    "kind": (nn.Sequential(nn.Linear(4, 4), nn.GELU()), "got GELU at '1'; take nn.ReLU"),
    "unknown kind": (nn.Sequential(nn.Linear(4, 4), nn.Bilinear(2, 2, 2)), "got Bilinear at '1'; build"),
    "no ReLU": (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "layer '0' must have a ReLU behind it"),
    "two ReLUs": (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.ReLU(), nn.Linear(4, 4)),
        "ReLU '2' must follow a layer",
    ),
    "shape before a ReLU": (
        nn.Sequential(nn.Conv1d(4, 4, 1), nn.Flatten(), nn.ReLU(), nn.Linear(4, 2)),
        "ReLU '2' must follow a layer of its own.*got '1' before it",
    ),
    "norm": (nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)), "batch norm '0' must stand right behind"),
    "norm behind a ReLU": (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 4)),
        "batch norm '2' must stand right behind.*got '1' before it",
    ),
    "norm without statistics": (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        "must have statistics",
    ),
    "end": (
        nn.Sequential(nn.Conv1d(4, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
        "a ReLU behind the last layer must be the end of the network",
    ),
    "tokens": (nn.Sequential(nn.Linear(4, 4)), "one row of numbers per sample.*put an nn.Flatten"),
    "extents": (nn.Sequential(nn.Conv1d(3, 4, 1)), "'0' must run on the calibration data"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_told_in_one_line(name: str) -> None:
    network, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as caught:
        convert(network, torch.rand(3, 4, 4), Conversion())
    assert "\n" not in str(caught.value)


def test_a_relu_may_stand_in_several_places() -> None:
    relu = nn.ReLU()
    network = drawn(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    converted = convert(network, inputs(9, 4), Conversion(steps=1, balancing="max", shift=False))
    assert sum(isinstance(part, Neuron) for part in converted) == 2
    with torch.no_grad():
        torch.testing.assert_close(in_the_limit(converted)(inputs(9, 4)), network(inputs(9, 4)))


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
def test_weights_that_are_computed_are_refused(normed: Any) -> None:
    network = nn.Sequential(normed(nn.Linear(4, 4)), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(DataError, match="the weight of '0' must be a plain parameter"):
        convert(network, inputs(9, 4), Conversion())


def test_channels_that_are_mixed_need_one_threshold() -> None:
    network = drawn(nn.Conv1d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Unflatten(1, (2, 8)), nn.Conv1d(2, 2, 1))
    data = inputs(6, 1, 4)
    with pytest.raises(DataError, match=r"channels of the input of '4' must each have one threshold.*per layer"):
        convert(network, data, Conversion(per="channel"))
    converted = convert(network, data, Conversion(steps=1, per="layer", balancing="max", shift=False))
    with torch.no_grad():
        torch.testing.assert_close(in_the_limit(converted)(data), network(data), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least one step; got 0"),
        ({"percentile": 0.0}, r"within \(0, 100\]"),
        ({"leak": 2.0}, r"leak must be within \[0, 1\]; got 2\.0"),
        ({"leak": float("nan")}, r"leak must be within \[0, 1\]; got nan"),
        ({"per": "chanel"}, "unknown per 'chanel'; .*channel"),
        ({"balancing": "mean"}, "unknown balancing 'mean'"),
        ({"last": "spikes"}, "unknown last 'spikes'; .*spike"),
        ({"reset": "none"}, "unknown reset 'none'"),
        ({"surrogate": "box"}, "unknown surrogate 'box'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Conversion(**options)
    if "steps" in options:
        with pytest.raises(ConfigError, match=message):
            DirectSpikingNetwork(OrderedDict(), 0)


def test_calibration_data_must_be_there() -> None:
    with pytest.raises(DataError, match=r"must be of shape \(N, …\), N ≥ 1"):
        convert(nn.Sequential(nn.Linear(4, 4)), torch.rand(0, 4), Conversion())
