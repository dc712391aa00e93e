"""Programs: what the network computes, to the last bit, whatever the assignment."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache

import pytest
import torch
from captured_networks import NETWORKS, drawn, normal, quantised
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import signed_grid
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import Program, TensorGrid, encoded, parts, stacked, state_of, takes
from qsearch.quantize.trace import trace_layers
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Neuron


@cache
def captured(name: str) -> tuple[QuantizedNetwork, Inputs, Program]:
    network, data = quantised(name)
    return network, data, Program(network, data)


def output(program: Program, network: QuantizedNetwork, data: Inputs) -> Tensor:
    with torch.inference_mode():
        found: Tensor = program.graph(*program.arguments(state_of(network)), *parts(data))[0]
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NETWORKS)
def test_gives_what_the_network_gives_to_the_last_bit(name: str, seed: int) -> None:
    network, data, program = captured(name)
    network.apply(drawn(network, seed))
    assert takes(network)
    assert torch.equal(output(program, network, data), network(data))


@pytest.mark.parametrize("bits", [*range(1, 25), FLOAT_BITS])
def test_every_bitwidth_of_every_input(bits: int) -> None:
    network, data, program = captured("residual")
    network.apply(BitAssignment(dict.fromkeys(network.input_sites, bits)))
    assert torch.equal(output(program, network, data), network(data))


def test_what_the_correction_stores_is_among_the_tensors() -> None:
    network, data = quantised("residual", correction=True)
    program = Program(network, data)
    plain = output(program, network, data)
    network.apply(drawn(network, 1, (2, 3)))
    assert torch.equal(output(program, network, data), network(data))
    assert not torch.allclose(output(program, network, data), plain)


@pytest.mark.parametrize("beside", [{"first.overlay": 2}, {"second.overlay": 1, "first.overlay": 1}, {}])
def test_overlays(beside: dict[str, int]) -> None:
    network, data = quantised("residual", overlay=8)
    program = Program(network, data)
    patterns = {site.replace("overlay", "pattern"): 0 for site in beside}
    network.apply(BitAssignment({"first.weight": 4, "second.weight": 3, "stem.weight": 2} | beside | patterns))
    assert torch.equal(output(program, network, data), network(data))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [1, 2, 8, 24])
@pytest.mark.parametrize("signed", [True, False])
def test_a_grid_of_tensors_is_the_quantiser(dtype: torch.dtype, bits: int, signed: bool) -> None:
    x = (normal(999) * 3).to(dtype)
    grid = None if bits == 1 and signed else signed_grid(bits)
    quantizer = ActivationQuantizer(bits, torch.tensor(0.37), grid)
    module = TensorGrid()
    module.settings.copy_(encoded(quantizer))
    assert torch.equal(module(x), quantizer(x))
    module.settings.copy_(encoded(None))
    assert torch.equal(module(x), x)


def test_the_network_is_left_as_it_was() -> None:
    network, data = quantised("residual", correction=True)
    network.apply(drawn(network, 2, (2, 4)))
    quantisers, before = dict(network.quantizers), network(data)
    tensors = state_of(network).tensors
    hooks = [
        (list(module._forward_pre_hooks), list(module._forward_hooks), module.training)
        for module in network.model.modules()
    ]
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    Program(network, data)
    assert network.quantizers == quantisers
    assert all(state_of(network).tensors[name] is tensor for name, tensor in tensors.items())
    assert all(torch.equal(tensor, copies[name]) for name, tensor in tensors.items())
    assert hooks == [
        (list(module._forward_pre_hooks), list(module._forward_hooks), module.training)
        for module in network.model.modules()
    ]
    assert torch.equal(network(data), before)


def test_takes_batches_of_its_shapes_only() -> None:
    _, data, program = captured("pair")
    assert isinstance(data, tuple)
    assert program.fits(data)
    assert not program.fits((data[0][:3], data[1][:3]))


@pytest.mark.parametrize(("bits", "taken"), [(24, True), (25, True), (26, False), (31, False), (FLOAT_BITS, True)])
def test_float32_holds_whole_numbers_up_to_2_to_the_24(bits: int, taken: bool) -> None:
    network, data, program = captured("pair")
    network.apply(BitAssignment({"left.input": bits}))  # signed: codes from −2^(b−1)
    assert takes(network) == taken
    if taken:
        assert torch.equal(output(program, network, data), network(data))


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x if x.sum() > 0 else -x)


def test_branches_that_depend_on_the_data_are_refused_in_one_line() -> None:
    model, data = Branching().eval(), normal(6, 4)
    network = QuantizedNetwork(model, trace_layers(model, data[:1]), [data], correction=False)
    before = network(data)
    with pytest.raises(ConfigError, match="no branches that depend on the data") as caught:
        Program(network, data)
    assert "\n" not in str(caught.value)
    assert torch.equal(network(data), before)


def test_neurons_are_refused_in_one_line() -> None:
    layers = OrderedDict[str, nn.Module](inner=nn.Linear(4, 3), neurons=Neuron(), head=nn.Linear(3, 2))
    model, data = SpikingNetwork(layers).eval(), normal(6, 3, 4)
    network = QuantizedNetwork(model, trace_layers(model, data[:1]), [data])
    with pytest.raises(ConfigError, match="a network with neurons has no graph for all its assignments"):
        Program(network, data)


def test_states_are_stacked_tensor_by_tensor() -> None:
    network, _, _ = captured("pair")
    states = []
    for bits in (2, 5):
        network.apply(BitAssignment(dict.fromkeys(network.sites, bits)))
        states.append(state_of(network))
        kept = states[-1].tensors["left.weight"].detach().clone()
    both = stacked([states[1], states[1]])
    assert both.grids.shape == (len(network.input_sites), 2, 4)
    assert torch.equal(both.tensors["left.weight"], torch.stack([kept, kept]))
