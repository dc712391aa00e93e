"""Spiking networks under assignments: what is traced, what registers hold, what is corrected."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import SpaceError
from qsearch.layers import Layer
from qsearch.quantize.network import QuantizedNetwork, Settled
from qsearch.quantize.neurons import best_range
from qsearch.quantize.trace import examine
from qsearch.sites import build_space
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid
from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Grids, Integrator, Neuron, RecurrentNeuron

STEPS = 6


def spikes(*shape: int, rate: float = 0.25, seed: int = 0) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def network(*, several: bool = False) -> SpikingNetwork:
    torch.manual_seed(1)
    return SpikingNetwork(
        OrderedDict(
            conv=nn.Conv2d(2, 4, 3, padding=1),
            lif=Neuron(torch.full((4, 1, 1), 0.3), 0.9),
            pool=sum_pool(2),
            flat=nn.Flatten(),
            fc=nn.Linear(64, 5),
            out=Neuron(0.5, several=several),
        )
    ).eval()


def named(model: nn.Module, data: Tensor) -> dict[str, Layer]:
    return {layer.name: layer for layer in examine(model, data).layers}


def test_layers_synapses_neurons_and_thresholds() -> None:
    data = spikes(7, STEPS, 2, 8, 8)
    found = named(network(), data)
    assert list(found) == ["conv", "lif", "lif.threshold", "fc", "out", "out.threshold"]
    assert [found[name].kind for name in found] == ["conv", "neuron", "threshold", "linear", "neuron", "threshold"]
    assert {layer.uses for layer in found.values()} == {STEPS}
    assert (found["lif"].neurons, found["lif"].constants, found["lif"].macs) == (256, 1, STEPS * 256)
    assert found["lif.threshold"].params == 4
    assert (found["out"].constants, found["out"].macs) == (0, 0)
    assert found["fc"].macs == STEPS * 64 * 5


def test_spikes_are_counted_where_they_arrive() -> None:
    data = spikes(7, STEPS, 2, 8, 8)
    model = network()
    found = named(model, data)
    with torch.no_grad():
        fired = model.lif(model.conv(data.flatten(0, 1)).unflatten(0, (7, STEPS)))
    assert found["conv"].events == pytest.approx(float(data.sum()) / 7)
    assert found["lif"].events == found["fc"].events == pytest.approx(float(fired.sum()) / 7)


def test_analog_inputs_are_no_spikes() -> None:
    found = named(network(), torch.rand(7, STEPS, 2, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert found["conv"].events is None
    assert found["fc"].events is not None


def test_an_ordinary_network_has_no_events() -> None:
    assert named(nn.Sequential(nn.Linear(4, 3)), spikes(7, 4))["0"].events is None


def test_a_recurrent_layer_runs_at_every_step() -> None:
    torch.manual_seed(0)
    model = SpikingNetwork(OrderedDict(fc=nn.Linear(8, 5), cell=RecurrentNeuron(nn.Linear(5, 5), 0.2, 0.8))).eval()
    found = named(model, spikes(7, STEPS, 8))
    assert (found["cell.recurrent"].uses, found["cell.recurrent"].macs) == (STEPS, STEPS * 25)
    assert found["cell.recurrent"].events is not None


def test_the_space_has_a_site_for_each_part() -> None:
    space = build_space(
        examine(network(), spikes(7, STEPS, 2, 8, 8)).layers,
        weight_bits=(2, 8),
        activation_bits=(8,),
        state_bits=(4, 16),
        leak_bits=(3, 6),
        threshold_bits=(5,),
    )
    assert {site.name: (site.role, site.choices) for site in space.sites} == {
        "conv.weight": ("weight", (2, 8)),
        "conv.input": ("spikes", (1,)),
        "lif.leak": ("leak", (3, 6)),
        "lif.state": ("state", (4, 16)),
        "lif.threshold": ("threshold", (5,)),
        "fc.weight": ("weight", (2, 8)),
        "fc.input": ("spikes", (1,)),
        "out.leak": ("leak", (1,)),
        "out.state": ("state", (4, 16)),
        "out.threshold": ("threshold", (5,)),
    }
    assert space.fixed == {"conv.input": 1, "fc.input": 1, "out.leak": 1}
    assert space.reference(8)["conv.input"] == 1


def test_names_of_groups_and_of_the_ends() -> None:
    layers = examine(network(), spikes(7, STEPS, 2, 8, 8)).layers
    fixed = {"states": 12, "out.state": 16, "last": 8, "leaks": 7, "activations": 4, "lif.threshold": 3}
    space = build_space(layers, weight_bits=(2, 8), activation_bits=(8,), fixed=fixed)
    assert space.fixed == {
        "lif.state": 12,
        "out.state": 16,
        "fc.weight": 8,
        "fc.input": 1,
        "conv.input": 1,
        "lif.leak": 7,
        "out.leak": 1,
        "lif.threshold": 3,
    }


def test_a_state_needs_two_bits() -> None:
    layers = examine(network(), spikes(7, STEPS, 2, 8, 8)).layers
    with pytest.raises(SpaceError, match=r"state bits of 'lif\.state' must be at least 2"):
        build_space(layers, weight_bits=(2,), activation_bits=(8,), state_bits=(1, 4))


@pytest.fixture(scope="module")
def quantized() -> tuple[QuantizedNetwork, SpikingNetwork, Tensor]:
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    return QuantizedNetwork(model, examine(model, data).layers, list(data.split(7)), correction=False), model, data


def test_float_changes_nothing(quantized: tuple[QuantizedNetwork, SpikingNetwork, Tensor]) -> None:
    found, model, data = quantized
    found.apply(BitAssignment(dict.fromkeys(found.sites, FLOAT_BITS)))
    assert torch.equal(found(data), model(data))


def test_spikes_stay_as_they_are(quantized: tuple[QuantizedNetwork, SpikingNetwork, Tensor]) -> None:
    found, model, data = quantized
    found.apply(BitAssignment({"conv.input": 1, "fc.input": 1, "out.leak": 1}))
    assert torch.equal(found(data), model(data))


def test_every_site_does_what_it_says(quantized: tuple[QuantizedNetwork, SpikingNetwork, Tensor]) -> None:
    found, model, data = quantized
    bits = {"conv.weight": 4, "lif.state": 7, "lif.leak": 5, "lif.threshold": 6, "out.state": 9, "out.threshold": 3}
    found.apply(BitAssignment(bits))
    mine = copy.deepcopy(model)
    mine.conv.weight.data = found.quantized_weight("conv.weight", 4).values
    mine.lif.grids = Grids(
        *(found.register(f"lif.{part}", bits[f"lif.{part}"]) for part in ("state", "leak", "threshold"))
    )
    mine.out.grids = Grids(found.register("out.state", 9), None, found.register("out.threshold", 3))
    assert torch.equal(found(data), mine(data))
    assert not torch.equal(found(data), model(data))


@pytest.mark.parametrize(("site", "bits", "fewest"), [("lif.state", 1, 2), ("lif.leak", 0, 1), ("lif.threshold", 0, 1)])
def test_bits_that_registers_do_not_take(
    quantized: tuple[QuantizedNetwork, SpikingNetwork, Tensor], site: str, bits: int, fewest: int
) -> None:
    with pytest.raises(SpaceError, match=f"takes one bitwidth of at least {fewest}"):
        quantized[0].apply(BitAssignment({site: bits}))


def test_registers_that_were_settled_are_used() -> None:
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    registers = {"lif.state": StateGrid(6, -3), "lif.threshold": ConstantGrid(4, -2, fewest=1)}
    found = QuantizedNetwork(model, examine(model, data).layers, [data], settled=Settled(registers=registers))
    assert found.register("lif.state", 6) == StateGrid(6, -3)
    assert found.register("lif.threshold", 4) == ConstantGrid(4, -2, fewest=1)
    assert found.register("lif.state", 7) != StateGrid(6, -3)


def test_ranges_do_not_depend_on_what_was_asked_before() -> None:
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    layers = examine(model, data).layers
    fresh, used = (QuantizedNetwork(model, layers, [data]) for _ in range(2))
    used.apply(BitAssignment({"conv.weight": 2}))
    assert not torch.equal(used.model.lif.threshold.weight, model.lif.threshold.weight)
    for site in ("lif.state", "lif.threshold", "out.state"):
        for bits in (3, 5, 8):
            assert used.register(site, bits) == fresh.register(site, bits)


@pytest.mark.parametrize("bits", [3, 4, 6, 10])
@pytest.mark.parametrize("neuron", [Neuron(0.7, 0.9), Neuron(1.3, several=True), Neuron(0.4, reset="zero")])
def test_the_range_is_the_best_of_all(neuron: Neuron, bits: int) -> None:
    currents = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(3))
    expected = neuron(currents).detach().cumsum(1)
    errors = {}
    for exponent in range(-bits - 8, 8):
        grid = StateGrid(bits, exponent)
        if grid.highest * grid.step >= float(neuron.threshold.weight.detach().max()):
            neuron.grids = Grids(grid)
            errors[exponent] = float((neuron(currents).detach().cumsum(1) - expected).square().sum())
    neuron.grids = Grids()
    assert errors[best_range(neuron, currents, bits).exponent] == min(errors.values())
    assert neuron.grids == Grids()


def test_a_state_without_a_threshold_has_the_range_of_the_least_error() -> None:
    currents = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(3))
    integrator = Integrator(0.8)
    grid = best_range(integrator, currents, 8)
    reach = float(integrator(currents).abs().max().detach())
    assert reach / 8 < grid.highest * grid.step < 2 * reach


def test_thresholds_take_out_what_happened_to_the_rate() -> None:
    """Two thresholds of one layer, by hand: each channel's rate under the assignment over its rate in float."""
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    layers = examine(model, data).layers
    plain = QuantizedNetwork(model, layers, [data], correction=False)
    corrected = QuantizedNetwork(model, layers, list(data.split(5)))
    assignment = BitAssignment({"conv.weight": 2})
    plain.apply(assignment)
    corrected.apply(assignment)

    def rates(weight: Tensor) -> Tensor:
        with torch.no_grad():
            currents = nn.functional.conv2d(data.flatten(0, 1), weight, model.conv.bias, padding=1)
            return model.lif(currents.unflatten(0, data.shape[:2])).mean((0, 1, 3, 4))

    ratio = (rates(plain.quantized_weight("conv.weight", 2).values) / rates(model.conv.weight)).clamp(0.5, 2)
    assert (ratio - 1).abs().max() > 0.05
    torch.testing.assert_close(corrected.model.lif.threshold.weight[:, 0, 0], 0.3 * ratio)
    assert torch.equal(corrected.model.conv.bias, model.conv.bias)
    output = corrected.calibration_output()
    assert torch.equal(output, corrected(data))
    corrected.apply(BitAssignment({}))
    assert torch.equal(corrected(data), model(data))
    corrected.apply(assignment)
    assert torch.equal(corrected(data), output)
