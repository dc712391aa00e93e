"""Networks that are written as NIR and read back compute the same, to the last bit; and others can run what is written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qsearch.errors import DataError
from qsearch.spiking.delayed import DelayedNeuron, DelayedRecurrentNeuron
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.fixed_point import StateGrid, leak_grid, threshold_grid
from qsearch.spiking.graph import INPUT, SpikingGraph
from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Grids, Integrator, Neuron, RecurrentNeuron

nir = pytest.importorskip("nir")

from nir_simulation import simulate  # noqa: E402

from qsearch.spiking.nir_files import read_network  # noqa: E402
from qsearch.spiking.nir_writing import write_network  # noqa: E402
from qsearch.spiking.rescale import Rescale  # noqa: E402

SHAPE = (2, 6, 6)
RESETS, READOUTS = ("subtract", "zero"), ("sum", "mean", "last", "greatest")


def back(network: SpikingNetwork, folder: Path, shape: tuple[int, ...] = SHAPE, **options: Any) -> SpikingNetwork:
    write_network(network, folder / "network.nir", shape, **options)
    return read_network(folder / "network.nir")


def same(one: SpikingNetwork, other: SpikingNetwork, inputs: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(other.eval()(inputs), one.eval()(inputs))


def registers(neuron: Any, bits: int) -> Any:
    """A neuron in fixed point."""
    threshold = getattr(neuron, "threshold", None)
    neuron.grids = Grids(
        StateGrid(bits + 2, 4 - bits),
        None if neuron.leak is None else leak_grid(bits),
        None if threshold is None else threshold_grid(bits, threshold.weight.detach().max().item()),
    )
    return neuron


def everything(
    seed: int, *, bits: int | None, reset: Any = "subtract", several: bool = False
) -> OrderedDict[str, nn.Module]:
    """One of each kind of layer."""
    torch.manual_seed(seed)
    how: dict[str, Any] = {"reset": reset, "several": several}
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(2, 4, 3, padding=1),
        fire=Neuron(torch.rand(4, 1, 1) + 0.3, **how),
        pool=sum_pool(2),
        thin=nn.Conv2d(4, 4, 3, groups=2, bias=False, padding="same"),
        leaky=Neuron(0.4, torch.rand(4, 3, 3), **how),
        flat=nn.Flatten(),
        drop=nn.Dropout(),
        down=nn.Linear(36, 8),
        synapse=Integrator(torch.rand(8)),
        delayed=DelayedNeuron(1.3, 0.7, several=several),
        wide=nn.Linear(8, 6, bias=False),
        again=RecurrentNeuron(nn.Linear(6, 6), 0.5, torch.rand(6), **how),
        onto=nn.Linear(6, 5),
        circle=DelayedRecurrentNeuron(nn.Linear(5, 5, bias=False), 0.5, 0.3, several=several),
        last=nn.Linear(5, 4),
        end=Integrator(0.3),
    )
    if bits is not None:
        for layer in layers.values():
            if isinstance(layer, Integrator):
                registers(layer, bits)
    return layers


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([None, 3, 6, 12]),
    reset=st.sampled_from(RESETS),
    several=st.booleans(),
    readout=st.sampled_from(READOUTS),
)
def test_a_round_trip_changes_nothing(
    seed: int, bits: int | None, reset: Any, several: bool, readout: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    network = SpikingNetwork(everything(seed, bits=bits, reset=reset, several=several), readout)
    found = back(network, tmp_path_factory.mktemp("nir"))
    inputs = 3 * torch.rand(2, 9, *SHAPE)
    assert same(network, found, inputs)
    kept = {name: module for name, module in network.named_children() if name != "drop"}
    assert [(name, type(layer)) for name, layer in found.named_children()] == [
        (name, type(layer)) for name, layer in kept.items()
    ]
    for name, layer in kept.items():
        if isinstance(layer, Integrator):
            assert getattr(found, name).grids == layer.grids


def test_registers_count() -> None:
    """Or else the round trip above would show nothing of them."""
    inputs = 3 * torch.rand(2, 9, *SHAPE)
    with torch.no_grad():
        found = [SpikingNetwork(everything(3, bits=bits)).eval()(inputs) for bits in (None, 3, 6)]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_branches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = OrderedDict[str, nn.Module](
        a=nn.Conv2d(2, 2, 3, padding=1),
        n=Neuron(0.5),
        b=nn.Conv2d(2, 2, 3, padding=1),
        m=Neuron(0.5, 0.9),
        flat=nn.Flatten(),
        side=nn.Flatten(),
        out=nn.Linear(72, 3),
        beside=nn.Linear(72, 3),
    )
    sources = {"a": (INPUT,), "n": ("a",), "b": ("n",), "m": ("b", "n"), "flat": ("m",), "side": (INPUT,)}
    sources |= {"out": ("flat",), "beside": ("side",)}
    network = SpikingGraph(layers, sources, ("out", "beside"), "mean")
    found = back(network, tmp_path)
    assert isinstance(found, SpikingGraph)
    assert same(network, found, torch.rand(2, 7, *SHAPE))


def test_what_is_read_twice_is_refused(tmp_path: Path) -> None:
    """NIR's edges are a set."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(n=Neuron(), drop=nn.Dropout(), m=Neuron())
    network = SpikingGraph(layers, {"n": (INPUT,), "drop": ("n",), "m": ("n", "drop")}, ("m",))
    with pytest.raises(DataError, match=r"once to fit into NIR; got \('n', 'm'\)"):
        write_network(network, tmp_path / "network.nir", (3,))


def test_what_repeats_its_input(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DirectSpikingNetwork(OrderedDict(w=nn.Linear(5, 4), n=Neuron(1.0)), 12)
    found = back(network, tmp_path, (5,))
    assert isinstance(found, DirectSpikingNetwork)
    assert same(network, found, torch.rand(8, 5))


def test_others_compute_the_same_in_float(tmp_path: Path) -> None:
    """What is written is NIR: its own equations, of eighths and halves, give the same."""
    torch.manual_seed(2)
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(2, 3, 3, padding=1),
        fire=Neuron(torch.tensor([0.5, 0.75, 1.0]).reshape(3, 1, 1) + 2**-20),
        pool=sum_pool(2),
        flat=nn.Flatten(),
        down=nn.Linear(27, 4),
        end=Neuron(1 + 2**-20, 0.5),
    )
    network = SpikingNetwork(layers)
    with torch.no_grad():
        for weights in (layers["conv"].parameters(), layers["down"].parameters()):
            for weight in weights:
                weight.copy_((8 * weight).round() / 8)
    path = tmp_path / "network.nir"
    write_network(network, path, SHAPE)
    inputs = torch.randint(0, 3, (1, 8, *SHAPE)).float()
    with torch.no_grad():
        expected = network(inputs)[0].numpy()
    assert expected.sum() > 0
    assert np.array_equal(simulate(nir.read(path), inputs[0].numpy()).sum(0), expected)


def test_registers_are_written_as_values_and_as_metadata(tmp_path: Path) -> None:
    neuron = Neuron(0.9, 0.83)
    neuron.grids = Grids(StateGrid(8, -4), leak_grid(3), threshold_grid(4, 0.9))
    path = tmp_path / "network.nir"
    write_network(SpikingNetwork(OrderedDict(n=neuron)), path, (2,), step=1e-3, told={"n": {"core": 7}})
    node = nir.read(path).nodes["n"]
    assert np.allclose(node.tau, 1e-3 / (1 - 0.875))
    assert np.allclose(node.v_threshold, 0.875)
    said = json.loads(node.metadata["qsearch"])
    assert said == {
        "reset": "subtract",
        "several": False,
        "delayed": False,
        "leak": [0.875],
        "grids": {
            "state": {"bits": 8, "exponent": -4},
            "leak": {"bits": 3, "exponent": -3, "fewest": 0},
            "threshold": {"bits": 4, "exponent": -4, "fewest": 1},
        },
        "core": 7,
    }
    assert read_network(path).n.leak.weight.tolist() == [0.875]


def test_names_of_ends_do_not_collide(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = OrderedDict[str, nn.Module](output=nn.Linear(3, 3), input=Neuron(0.3), n_recurrent=nn.Linear(3, 3))
    layers["n"] = RecurrentNeuron(nn.Linear(3, 3), 0.2)
    network = SpikingNetwork(layers)
    found = back(network, tmp_path, (3,))
    assert same(network, found, torch.rand(4, 9, 3))
    assert list(dict(found.named_children())) == list(layers)


def test_means_are_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = OrderedDict[str, nn.Module](n=Neuron(0.5), pool=nn.AvgPool2d(2), flat=nn.Flatten(), w=nn.Linear(18, 3))
    layers["scale"] = Rescale(torch.tensor([1.0, 2.0, 3.0]))
    network = SpikingNetwork(layers)
    inputs = torch.rand(2, 6, *SHAPE)
    found = back(network, tmp_path)
    assert found.pool.divisor_override == 1
    with torch.no_grad():
        assert torch.allclose(found(inputs), network(inputs), rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.MaxPool2d(2), "no node for it; got MaxPool2d; known: AvgPool2d"),
        (nn.BatchNorm2d(2), "no node for it"),
        (nn.AvgPool2d(2, ceil_mode=True), "whole"),
        (nn.AvgPool2d(2, divisor_override=3), "sums or means"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "pad with zeros"),
        (nn.Linear(6, 2), "flatten before it"),
        (nn.Conv2d(3, 2, 3), "must take what reaches it"),
        (Rescale(1.0, 0.5), "constant currents"),
    ],
)
def test_layers_that_nir_has_not_are_refused(layer: nn.Module, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as refused:
        write_network(SpikingNetwork(OrderedDict(odd=layer)), tmp_path / "network.nir", SHAPE)
    assert "'odd'" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "network.nir").exists()


@pytest.mark.parametrize("said", ["{", "[1]", '{"grids": {"state": {"bits": 4}}}', '{"grids": 3}', '{"reset": "half"}'])
def test_damaged_metadata_are_refused(said: str, tmp_path: Path) -> None:
    path = tmp_path / "network.nir"
    write_network(SpikingNetwork(OrderedDict(n=Neuron())), path, (2,))
    graph = nir.read(path)
    graph.nodes["n"].metadata["qsearch"] = said
    nir.write(path, graph)
    with pytest.raises(DataError) as refused:
        read_network(path)
    assert "'n'" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        *("{", '{"step": 0.0}', '{"step": "1"}', '{"readout": "most"}', '{"repeats": 0}'),
        '{"readout": "sum", "step": Infinity}',
        '{"readout": "sum", "step": 1e-4, "version": 2}',
        '{"readout": "sum", "step": 1e-4, "repeats": true}',
    ],
)
def test_damaged_metadata_of_a_network_are_refused(said: str, tmp_path: Path) -> None:
    path = tmp_path / "network.nir"
    write_network(SpikingNetwork(OrderedDict(n=Neuron())), path, (2,))
    graph = nir.read(path)
    graph.metadata["qsearch"] = said
    nir.write(path, graph)
    with pytest.raises(DataError, match="metadata of qsearch"):
        read_network(path)


MISSING = """
import importlib, sys
from qsearch.errors import PluginError
for missing, module in (("nir", "nir_files"), ("nir", "nir_writing"), ("snntorch", "snntorch_networks")):
    sys.modules[missing] = None
    try:
        importlib.import_module(f"qsearch.spiking.{module}")
    except PluginError as error:
        print(error)
    del sys.modules[missing]
"""


def test_a_missing_package_is_named() -> None:
    found = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True)
    told = "files need the package nir", "files need the package nir", "of snntorch need the package snntorch"
    for line, ends in zip(found.stdout.splitlines(), told, strict=True):
        assert line.endswith(f"{ends}; pip install 'qsearch[spiking]'")


def test_leaks_and_resistances_are_of_the_same_step(tmp_path: Path) -> None:
    """λ = 1 − Δt/τ and g = R·Δt/τ: in a fifth of the step a fifth leaks, and a fifth of the current counts."""
    network = SpikingNetwork(OrderedDict(w=nn.Linear(4, 3), n=Neuron(1.0, 0.9)))
    path = tmp_path / "network.nir"
    write_network(network, path, (4,), step=1e-3)
    as_said, shorter = read_network(path, step=1e-3), read_network(path, step=2e-4)
    assert as_said.n.leak.weight.tolist() == network.n.leak.weight.tolist()
    assert torch.equal(as_said.w.weight, network.w.weight)
    assert shorter.n.leak.weight.item() == pytest.approx(0.98)
    assert torch.allclose(shorter.w.weight, network.w.weight / 5)
    assert read_network(path, unsaid=7.0).n.leak.weight.tolist() == network.n.leak.weight.tolist()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"leak": [5.0]}, r"leaks must be within \[0, 1\]"),
        ({"leak": [float("nan")]}, r"leaks must be within \[0, 1\]"),
        ({"leak": ["a"]}, "must be whole"),
        ({"several": "no"}, "several in metadata of qsearch must be of type bool; got no"),
        ({"delayed": 1}, "delayed in metadata of qsearch must be of type bool; got 1"),
        ({"reset": ["zero"]}, "reset in metadata of qsearch must be of type str"),
        ({"grids": {"threshold": {"bits": 2.5, "exponent": 0}}}, "register 'threshold' .* must be whole numbers"),
        ({"grids": {"state": {"bits": True, "exponent": 0}}}, "register 'state' .* must be whole numbers"),
        ({"grids": {"state": {"bits": 400, "exponent": 0}}}, r"bits of a state's register must be within 2\.\.31"),
    ],
)
def test_metadata_that_make_no_sense_are_refused(said: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "network.nir"
    write_network(SpikingNetwork(OrderedDict(n=Neuron(1.0, 0.5))), path, (2,), told={"n": said})
    with pytest.raises(DataError, match=f"'n' of type LIF cannot be read; got .*{told}"):
        read_network(path)
