"""Campaigns' assignments as NIR: what leaves computes what was evaluated, spike for spike."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError
from qsearch.evaluate.data import Split
from qsearch.export.deployment import Deployment, deploy
from qsearch.export.writing import Exported, outputs, write_agreeing
from qsearch.layers import Layer
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron

nir = pytest.importorskip("nir")

from qsearch.export.nir import FORMATS  # noqa: E402
from qsearch.spiking.nir_files import read_network  # noqa: E402

STEPS, SAMPLES = 8, 20


def spiking() -> SpikingNetwork:
    """Convolution, synapse, recurrence; leaks and thresholds for all, per channel and per neuron."""
    torch.manual_seed(4)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(2, 4, 3, padding=1),
        fire=Neuron(torch.rand(4, 1, 1) + 0.2),
        pool=sum_pool(2),
        flat=nn.Flatten(),
        down=nn.Linear(36, 8),
        synapse=Integrator(0.6),
        leaky=Neuron(0.5, torch.rand(8), reset="zero"),
        wide=nn.Linear(8, 6),
        again=RecurrentNeuron(nn.Linear(6, 6, bias=False), 0.4, 0.8),
        last=nn.Linear(6, 3),
        end=Integrator(0.9),
    )
    return SpikingNetwork(layers, "mean").eval()


class Made:
    """A network, quantised, and the samples that it is judged on."""

    def __init__(self, model: nn.Module, inputs: torch.Tensor) -> None:
        self.layers: tuple[Layer, ...] = trace_layers(model, inputs[:7])
        self.network = QuantizedNetwork(model, self.layers, [inputs[:7]])
        self.data = Split(inputs, torch.zeros(len(inputs), dtype=torch.long))

    def deploy(self, assignment: BitAssignment) -> Deployment:
        return deploy(self.network, self.layers, assignment, self.data.inputs)

    def export(self, assignment: BitAssignment, path: Path) -> Exported:
        """As ``qsearch export`` does."""
        deployment = self.deploy(assignment)
        return write_agreeing(FORMATS, deployment, self.data, outputs(self.network, self.data), path)

    def drawn(self, seed: int, lowest: int = 3) -> BitAssignment:
        random = np.random.default_rng(seed)
        return BitAssignment({site: int(random.choice([*range(lowest, 9), FLOAT_BITS])) for site in self.network.sites})


def events(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (SAMPLES, STEPS, 2, 6, 6), generator=generator).float()


@pytest.fixture(scope="module")
def made() -> Made:
    return Made(spiking(), events())


@pytest.fixture(scope="module")
def analog() -> Made:
    """Its inputs are no spikes: they are quantised."""
    return Made(spiking(), torch.rand(SAMPLES, STEPS, 2, 6, 6, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("which", ["made", "analog"])
def test_what_is_read_back_is_what_was_evaluated(
    which: str, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case: Made = request.getfixturevalue(which)
    deployment = case.deploy(case.drawn(seed))
    expected = outputs(case.network, case.data)
    assert expected.abs().sum() > 0
    FORMATS[0].write(deployment, tmp_path / "network.nir")
    assert torch.equal(outputs(FORMATS[0].load(tmp_path / "network.nir", deployment), case.data), expected)


def test_the_reader_alone_gives_it_where_inputs_are_spikes(made: Made, tmp_path: Path) -> None:
    """Registers come with the file."""
    exported = made.export(made.drawn(1), tmp_path / "network.nir")
    expected = outputs(made.network, made.data)
    found = read_network(exported.path)
    with torch.no_grad():
        assert torch.equal(found(made.data.inputs), expected)
        for module in found.modules():
            if isinstance(module, Integrator):
                module.grids = type(module.grids)()
        assert not torch.equal(found(made.data.inputs), expected)


def test_codes_are_in_the_file(analog: Made, tmp_path: Path) -> None:
    chosen = {"conv.weight": (3, 5, 32, 4), "conv.input": 6, "down.weight": 4}
    exported = analog.export(BitAssignment({**analog.drawn(2), **chosen}), tmp_path / "network.nir")
    graph = nir.read(exported.path)
    conv = json.loads(graph.nodes["conv"].metadata["qsearch"])
    assert conv["bits"] == [3, 5, 32, 4]
    assert conv["scales"][2] is None
    for kernel, (bits, scale) in enumerate(zip(conv["bits"], conv["scales"], strict=True)):
        if bits < FLOAT_BITS:
            codes = graph.nodes["conv"].weight[kernel] / np.float32(scale)
            assert np.abs(codes - codes.round()).max() < 1e-4
            assert np.abs(codes).max() < 2 ** (bits - 1) + 0.5
    quantizer = analog.network.activation_quantizer("conv.input", 6)
    assert conv["input"]["bits"] == 6
    assert conv["input"]["scale"] == quantizer.scale.item()
    assert json.loads(graph.nodes["down"].metadata["qsearch"])["bits"] == 4


def test_notes_say_what_nir_cannot_carry(analog: Made, tmp_path: Path) -> None:
    named = dict.fromkeys(analog.network.sites, 5)
    exported = analog.export(BitAssignment(named), tmp_path / "network.nir")
    assert any("registers" in note and "5 neurons" in note for note in exported.notes)
    assert any("inputs" in note for note in exported.notes)
    assert exported.agreement.largest == 0
    whole = analog.export(BitAssignment({}), tmp_path / "float.nir")
    assert len(whole.notes) == 1


def test_a_network_that_repeats_its_input(tmp_path: Path) -> None:
    torch.manual_seed(3)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        w=nn.Linear(5, 6), n=Neuron(0.6), v=nn.Linear(6, 3), m=Neuron(0.3)
    )
    made = Made(DirectSpikingNetwork(layers, 9).eval(), torch.rand(SAMPLES, 5))
    exported = made.export(made.drawn(0), tmp_path / "network.nir")
    assert exported.agreement.largest == 0


@pytest.mark.parametrize("size", [2, 3])
def test_means_stay_means_where_inputs_behind_them_are_quantised(size: int, tmp_path: Path) -> None:
    """Their scales are those of means, of inputs and of spikes."""
    torch.manual_seed(5)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        pool=nn.AvgPool2d(size, 1),
        conv=nn.Conv2d(2, 4, 3, padding=1),
        fire=Neuron(0.3),
        shrink=nn.AvgPool2d(size),
        flat=nn.Flatten(),
        last=nn.Linear(4 * ((7 - size) // size) ** 2, 3),
        end=Integrator(),
    )
    made = Made(SpikingNetwork(layers, "last").eval(), torch.rand(SAMPLES, STEPS, 2, 6, 6))
    assert {"conv.input", "last.input"} < set(made.network.sites)
    deployment = made.deploy(BitAssignment(dict.fromkeys(made.network.sites, 5)))
    FORMATS[0].write(deployment, tmp_path / "network.nir")
    expected = outputs(made.network, made.data)
    assert expected.abs().sum() > 0
    assert torch.equal(outputs(FORMATS[0].load(tmp_path / "network.nir", deployment), made.data), expected)


def test_networks_that_are_not_spiking_are_refused(tmp_path: Path) -> None:
    made = Made(nn.Sequential(nn.Linear(4, 3)), torch.rand(SAMPLES, 4))
    with pytest.raises(ConfigError, match=r"'nir' holds spiking networks; got Sequential; try onnx, safetensors"):
        made.export(BitAssignment({}), tmp_path / "network.nir")


def test_layers_that_nir_has_not_are_refused(tmp_path: Path) -> None:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        n=Neuron(), pool=nn.MaxPool2d(2), flat=nn.Flatten(), w=nn.Linear(18, 3)
    )
    made = Made(SpikingNetwork(layers).eval(), events())
    with pytest.raises(ConfigError, match=r"node for every layer; got layer 'pool' .*MaxPool2d") as refused:
        made.export(BitAssignment({}), tmp_path / "network.nir")
    assert "\n" not in str(refused.value)


def test_metadata_leave_other_tools_alone(made: Made, tmp_path: Path) -> None:
    """snntorch's reader, and any, finds plain nodes of floats."""
    exported = made.export(made.drawn(3), tmp_path / "network.nir")
    graph: Any = nir.read(exported.path)  # with nir's own checks of shapes
    kinds = {name: type(node).__name__ for name, node in graph.nodes.items()}
    assert kinds["conv"] == "Conv2d"
    assert kinds["fire"] == "IF"
    assert kinds["leaky"] == "LIF"
    assert kinds["again_recurrent"] == "Linear"
    assert graph.nodes["fire"].v_threshold.dtype == np.float32
