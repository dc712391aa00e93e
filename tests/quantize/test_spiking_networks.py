"""Spiking networks under assignments: what is traced, what registers hold, what is corrected."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import DataError, SpaceError
from qsearch.layers import Layer
from qsearch.quantize import neurons as registers_of
from qsearch.quantize.network import QuantizedNetwork, Settled
from qsearch.quantize.neurons import best_range
from qsearch.quantize.trace import examine
from qsearch.sites import build_space
from qsearch.spiking.delayed import DelayedRecurrentNeuron
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid
from qsearch.spiking.network import SpikingNetwork, over_time, sum_pool
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


@pytest.mark.parametrize("bits", [8, 12, 16, 24])
@pytest.mark.parametrize("mean", [-0.2, 0.0, 0.2])
def test_a_wide_register_has_the_best_range_of_all(bits: int, mean: float) -> None:
    """States go to hundreds of thresholds: many exponents from the finest, and bits to hold them all."""
    currents = torch.randn(8, 100, 20, generator=torch.Generator().manual_seed(0)) * 0.3 + mean
    neuron = Neuron(0.1).requires_grad_(False)
    expected = neuron(currents).double().cumsum(1)
    errors = {}
    for exponent in range(-bits - 2, 8):
        grid = StateGrid(bits, exponent)
        if grid.highest * grid.step >= 0.1:
            neuron.grids = Grids(grid)
            errors[exponent] = float((neuron(currents).double().cumsum(1) - expected).square().sum())
    neuron.grids = Grids()
    assert errors[best_range(neuron, currents, bits).exponent] == min(errors.values())


@pytest.mark.parametrize("kind", [RecurrentNeuron, DelayedRecurrentNeuron])
def test_the_range_holds_what_comes_back(kind: type[RecurrentNeuron]) -> None:
    """States that only other neurons' spikes bring far above what currents could."""
    torch.manual_seed(0)
    back = nn.Linear(5, 5, bias=False)
    back.weight.data = torch.randn(5, 5) * 40
    neuron = kind(back, 1.0, 0.9).requires_grad_(False)
    currents = torch.rand(8, 40, 5, generator=torch.Generator().manual_seed(1)) * 0.3
    expected = neuron(currents).double().cumsum(1)
    errors = {}
    for exponent in range(-8, 4):
        neuron.grids = Grids(StateGrid(10, exponent))
        errors[exponent] = float((neuron(currents).double().cumsum(1) - expected).square().sum())
    neuron.grids = Grids()
    assert errors[best_range(neuron, currents, 10).exponent] == min(errors.values()) < errors[-8]


@pytest.mark.parametrize(("number", "told"), [(float("inf"), "infinity"), (float("nan"), "NaN")])
@pytest.mark.parametrize("neuron", [Neuron(1.0), Integrator(0.5)])
def test_a_range_of_currents_that_are_not_finite(neuron: Integrator, number: float, told: str) -> None:
    currents = torch.zeros(2, 5, 3)
    currents[1, 2, 0] = number
    with pytest.raises(DataError, match=f"must be finite.*{told}"):
        best_range(neuron, currents, 8)


@pytest.mark.parametrize("numbers", [2**22, 9 * STEPS * 256])
def test_ranges_do_not_depend_on_batches(monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    """All samples, or the first nine of them, which are in the third batch of four."""
    monkeypatch.setattr(registers_of, "NUMBERS", numbers)
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    layers = examine(model, data).layers
    count = min(16, numbers // (STEPS * 256))
    with torch.no_grad():
        currents = model.conv(data[:count].flatten(0, 1)).unflatten(0, (count, STEPS))
    for size in (4, 7, 16):
        found = QuantizedNetwork(model, layers, list(data.split(size)), correction=False)
        for bits in (3, 4, 6):
            assert found.register("lif.state", bits) == best_range(model.lif, currents, bits)
        assert torch.equal(torch.cat(found._neurons._currents["lif"]), currents)


class Twice(nn.Module):
    """Neurons that run on two currents."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.lif = nn.Linear(8, 4), Neuron(0.2)

    def forward(self, x: Tensor) -> Tensor:
        currents = over_time(self.fc, x)
        return (self.lif(currents=currents) + self.lif(currents * 3)).sum(1)


def test_neurons_that_run_twice_have_the_range_of_their_first_run() -> None:
    model, data = Twice().eval(), spikes(12, STEPS, 8)
    layers = examine(model, data).layers
    assert {layer.name: layer.uses for layer in layers}["lif"] == 2 * STEPS
    with torch.no_grad():
        currents = over_time(model.fc, data)
    for size in (5, 12):
        found = QuantizedNetwork(model, layers, list(data.split(size)))
        assert torch.equal(torch.cat(found._neurons._currents["lif"]), currents)
        found.apply(BitAssignment({"fc.weight": 2, "lif.state": 6}))
        assert found(data).shape == (12, 4)


def test_sites_are_those_of_the_space() -> None:
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    layers = examine(model, data).layers
    space = build_space(layers, weight_bits=(2,), activation_bits=(8,))
    found = QuantizedNetwork(model, layers, [data])
    assert set(found.sites) == {site.name for site in space.sites}
    with pytest.raises(SpaceError, match=r"no site 'lif\.threshold\.input'"):
        found.apply(BitAssignment({"lif.threshold.input": 3}))


@pytest.mark.parametrize("wrong", [0.25, -1.0])
def test_calibration_confirms_spikes(wrong: float) -> None:
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    layers = examine(model, data).layers
    data[15, 2, 1, 3, 3] = wrong
    with pytest.raises(DataError, match=f"layer 'conv' reads spikes on the example.*got {wrong:g} in calibration"):
        QuantizedNetwork(model, layers, list(data.split(8)))


def test_an_example_on_which_nothing_spikes_is_confirmed_or_refused() -> None:
    """Means over spikes are no spikes; where none comes, nobody can tell."""
    torch.manual_seed(0)
    model = SpikingNetwork(OrderedDict(lif=Neuron(3.0, 0.5), pool=nn.AvgPool2d(2), fc=nn.Conv2d(2, 3, 1))).eval()
    quiet, busy = torch.rand(7, STEPS, 2, 4, 4), 5 * torch.rand(7, STEPS, 2, 4, 4)
    layers = examine(model, quiet).layers
    assert {layer.name: layer.events for layer in layers}["fc"] == 0
    assert "fc.input" in QuantizedNetwork(model, layers, [quiet]).sites
    with pytest.raises(DataError, match="layer 'fc' reads spikes on the example"):
        QuantizedNetwork(model, layers, [quiet, busy])
    assert named(model, busy)["fc"].events is None


def test_counts_of_events_are_spikes_and_scaled_pictures_are_not() -> None:
    counts = torch.randint(0, 17, (7, STEPS, 2, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    assert named(network(), counts)["conv"].events == pytest.approx(float(counts.sum()) / 7)
    assert named(network(), counts / 16)["conv"].events is None


class Branches(nn.Module):
    """One of two neurons runs, as the first number says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.one, self.other = nn.Linear(8, 3), Neuron(0.2), Neuron(0.3, 0.9)

    def forward(self, x: Tensor) -> Tensor:
        neuron = self.one if float(x[0, 0, 0]) else self.other
        found: Tensor = neuron(over_time(self.fc, x)).sum(1)
        return found


def test_neurons_that_did_not_run_are_told_and_refused() -> None:
    model, data = Branches().eval(), spikes(7, STEPS, 8)
    data[:, 0, 0] = 1
    anatomy = examine(model, data)
    assert [(part.name, part.what, part.why) for part in anatomy.left] == [
        ("other", "Neuron", "it did not run on the example")
    ]
    found = QuantizedNetwork(model, anatomy.layers, [data])
    with pytest.raises(DataError, match="layer 'other' must run on the example too"):
        found(torch.zeros_like(data))


def test_neurons_made_from_those_of_another_library_are_told() -> None:
    snntorch = pytest.importorskip("snntorch")

    class Mine(snntorch.Leaky):  # type: ignore[misc, name-defined]  # it has no types
        pass

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(8, 4), Mine(beta=0.9)

        def forward(self, x: Tensor) -> Tensor:
            spikes, _ = self.lif(self.fc(x), self.lif.reset_mem())
            return spikes

    (part,) = examine(Other().eval(), spikes(7, 8)).left
    assert (part.name, part.what, part.why) == ("lif", "Mine", "neurons of other libraries keep their states in float")


def test_neurons_of_a_network_have_channels() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(8, 1), Neuron(0.1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.lif(self.fc(x).squeeze(-1)).sum(1, keepdim=True)
            return found

    with pytest.raises(DataError, match=r"neurons 'lif' of a network must take currents \(B, T, C, …\).*unsqueeze"):
        examine(Flat().eval(), spikes(7, STEPS, 8))


def test_spikes_are_tied_to_nothing() -> None:
    """A sum of spikes and of what is not, which stands on a stream with both: only the latter has a scale."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lif, self.b, self.c, self.d = Neuron(0.2), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            fired = self.lif(x).flatten(0, 1)
            mixed = self.b(fired) + fired
            found: Tensor = (self.c(mixed) + self.d(mixed)).unflatten(0, x.shape[:2]).sum(1)
            return found

    anatomy = examine(Mixed().eval(), torch.randn(7, STEPS, 8))
    assert {layer.name: layer.events is None for layer in anatomy.layers if layer.weighted} == {
        "b": False,
        "c": True,
        "d": True,
    }
    assert anatomy.ties["inputs"] == anatomy.ties["residual"] == (("c.input", "d.input"),)
    build_space(anatomy.layers, weight_bits=(4,), activation_bits=(4, 8), ties=anatomy.ties["residual"])


def test_a_state_without_a_threshold_has_the_range_of_the_least_error() -> None:
    currents = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(3))
    integrator = Integrator(0.8)
    grid = best_range(integrator, currents, 8)
    reach = float(integrator(currents).abs().max().detach())
    assert reach / 8 < grid.highest * grid.step < 2 * reach


def test_thresholds_bring_back_the_rate() -> None:
    """Each channel's rate comes as near to that in float as with the best of 127 thresholds, which are all tried here."""
    model, data = network(), spikes(16, STEPS, 2, 8, 8)
    corrected = QuantizedNetwork(model, examine(model, data).layers, list(data.split(5)))
    assignment = BitAssignment({"conv.weight": 2})
    corrected.apply(assignment)

    @torch.no_grad()
    def rates(weight: Tensor, thresholds: Tensor) -> Tensor:
        currents = nn.functional.conv2d(data.flatten(0, 1), weight, model.conv.bias, padding=1)
        neurons = Neuron(thresholds, 0.9)
        return neurons(currents.unflatten(0, data.shape[:2])).double().mean((0, 1, 3, 4))

    weight, stored = corrected.quantized_weight("conv.weight", 2).values, model.lif.threshold.weight
    wanted = rates(model.conv.weight, stored)
    tried = torch.stack([rates(weight, stored * 2 ** (k / 64)) for k in range(-63, 64)])
    assert bool((tried.diff(dim=0) <= 0).all())
    off = (rates(weight, corrected.model.lif.threshold.weight) - wanted).abs()
    torch.testing.assert_close(off, (tried - wanted).abs().amin(0), rtol=0, atol=1e-6)
    assert bool((off < 0.2 * (tried[63] - wanted).abs()).any())
    assert torch.equal(corrected.model.conv.bias, model.conv.bias)
    output = corrected.calibration_output()
    assert torch.equal(output, corrected(data))
    corrected.apply(BitAssignment({}))
    assert torch.equal(corrected(data), model(data))
    corrected.apply(assignment)
    assert torch.equal(corrected(data), output)
