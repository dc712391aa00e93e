"""Spiking networks: layer by layer against step by step, whole layers in whole numbers, readouts, and bad input."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from qsearch.errors import ConfigError, DataError
from qsearch.spiking.fixed_point import StateGrid, leak_grid, threshold_grid
from qsearch.spiking.network import Readout, SpikingNetwork, read_out, sum_pool
from qsearch.spiking.neurons import Grids, Integrator, Neuron
from qsearch.testing.spiking import integer_neuron, shifted


def network(readout: Readout = "sum") -> SpikingNetwork:
    """A convolution, neurons, a pool, a linear layer and neurons."""
    torch.manual_seed(0)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(2, 3, 3, bias=False),
        neurons=Neuron(torch.full((3, 1, 1), 0.5), 0.875),
        pool=sum_pool(2),
        flat=nn.Flatten(),
        linear=nn.Linear(12, 4, bias=False),
        out=Neuron(0.75, reset="zero"),
    )
    return SpikingNetwork(layers, readout)


def events(samples: int = 5, steps: int = 12) -> Tensor:
    torch.manual_seed(1)
    return (torch.rand(samples, steps, 2, 6, 6) < 0.4).float()


def test_layer_by_layer_is_step_by_step() -> None:
    found, inputs = network()(events()), events()
    model = network()
    u, v, total = torch.zeros(5, 3, 4, 4), torch.zeros(5, 4), torch.zeros(5, 4)
    weight, linear = (model.get_parameter(f"{name}.weight").detach() for name in ("conv", "linear"))
    for step in range(12):
        u = 0.875 * u + functional.conv2d(inputs[:, step], weight)
        spikes = (u >= 0.5).float()
        u = u - 0.5 * spikes
        pooled = spikes.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2))
        v = v + pooled.flatten(1) @ linear.T
        sent = (v >= 0.75).float()
        v = torch.where(sent > 0, 0.0, v)
        total = total + sent
    assert 0 < int(total.sum()) < total.numel() * 12
    assert torch.equal(found, total)


def convolved(maps: NDArray[np.int64], kernels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers: (N, c_in, h, w) and (c_out, c_in, k, k) → (N, c_out, h − k + 1, w − k + 1)."""
    size = kernels.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(maps, (size, size), (2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", windows, kernels))


@settings(max_examples=40)
@given(st.integers(2, 24), st.integers(1, 8), st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_whole_layers_are_exact_in_whole_numbers(
    state_bits: int, leak_bits: int, conv_bits: int, linear_bits: int, seed: int
) -> None:
    """Weights are codes on power-of-two scales: synapses and neurons of both layers are integer arithmetic, to the end."""
    rng = np.random.default_rng(seed)
    model, inputs = network("sum"), events()
    places, codes = {"conv": conv_bits + 1, "linear": linear_bits}, {}
    for name, bits in (("conv", conv_bits), ("linear", linear_bits)):
        parameter = model.get_parameter(f"{name}.weight")
        codes[name] = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), tuple(parameter.shape))
        parameter.data = torch.tensor(codes[name] * 2.0 ** -places[name], dtype=torch.float32)
    neurons, out = model.get_submodule("neurons"), model.get_submodule("out")
    assert isinstance(neurons, Neuron)
    assert isinstance(out, Neuron)
    neurons.grids = Grids(StateGrid(state_bits, 1 - state_bits), leak_grid(leak_bits), threshold_grid(3, 0.5))
    out.grids = Grids(StateGrid(state_bits, 2 - state_bits), None, threshold_grid(4, 0.75))
    maps = convolved(inputs.flatten(0, 1).numpy().astype(np.int64), codes["conv"]).reshape(5, 12, 3, 4, 4)
    _, spikes = integer_neuron(neurons).run(shifted(maps, places["conv"] + 1 - state_bits))
    pooled = spikes.reshape(5, 12, 3, 2, 2, 2, 2).sum((4, 6)).reshape(5, 12, 12)
    _, sent = integer_neuron(out).run(shifted(pooled @ codes["linear"].T, places["linear"] + 2 - state_bits))
    assert np.array_equal(model(inputs).detach().numpy(), sent.sum(1))


def test_readouts() -> None:
    values = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [2.0, 0.0]]])
    expected = {"sum": [6.0, -6.0], "mean": [2.0, -2.0], "last": [2.0, 0.0], "greatest": [3.0, 0.0]}
    assert set(expected) == set(get_args(Readout))
    for readout in get_args(Readout):
        assert read_out(values, readout).tolist() == [expected[readout]]
    states = OrderedDict[str, nn.Module](voltage=Integrator(0.5))
    assert SpikingNetwork(states, "last")(values).tolist() == [[3.75, -2.5]]


def test_pools_pass_spikes_on_as_whole_numbers() -> None:
    spikes = (torch.rand(4, 3, 6, 6) < 0.5).float()
    found = sum_pool(2)(spikes)
    assert torch.equal(found, found.round())
    assert found.sum() == spikes.sum()


def test_half_precision_all_the_way() -> None:
    model = network().half()
    found = model(events().half())
    assert found.dtype == torch.float16
    assert bool(found.isfinite().all())


def test_copies_pickles_and_state_dicts_of_networks() -> None:
    model, inputs = network("mean"), events()
    expected = model(inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.readout == "mean"
        assert torch.equal(other(inputs), expected)
    assert list(model.state_dict()) == [
        "conv.weight",
        "neurons.leak.weight",
        "neurons.threshold.weight",
        "linear.weight",
        "out.threshold.weight",
    ]
    fresh = network("mean")
    for parameter in fresh.parameters():
        parameter.data.fill_(0.1)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(inputs), expected)


def test_no_samples_give_no_outputs() -> None:
    assert network()(events()[:0]).shape == (0, 4)


@pytest.mark.parametrize("shape", [(5, 0, 2, 6, 6), (5, 12)])
def test_no_steps_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="T ≥ 1"):
        network()(torch.zeros(shape))


def test_neurons_within_a_layer_are_refused() -> None:
    """They would see samples for steps."""
    inner = nn.Sequential(nn.Linear(4, 4), Neuron())
    with pytest.raises(DataError, match="some within 'block'"):
        SpikingNetwork(OrderedDict(block=inner))


def test_an_unknown_readout_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown readout 'max'"):
        SpikingNetwork(OrderedDict(neurons=Neuron()), "max")  # type: ignore[arg-type]
