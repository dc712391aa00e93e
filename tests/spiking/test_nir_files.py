"""NIR files against a simulation of NIR's equations, and against the tools that write them.

Weights, resistances and inputs are multiples of 1/8, thresholds lie between, leaks are 1/2 or none: float32 holds every
state, so that networks and simulation give the same to the last bit.
"""

from __future__ import annotations

import itertools
import os
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
from qsearch.spiking.graph import SpikingGraph
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron

nir = pytest.importorskip("nir")

from nir_simulation import simulate  # noqa: E402

from qsearch.spiking.nir_files import read_network  # noqa: E402
from qsearch.spiking.rescale import Rescale  # noqa: E402

DT = 1e-4
STEPS = 8
NMNIST = Path(os.environ.get("QSEARCH_DATA", Path(__file__).parents[3] / "shared" / "data")) / "nmnist"


class Drawn:
    """Numbers of nodes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def eighths(self, *shape: int) -> np.ndarray:
        return (self.random.integers(-8, 9, shape) / 8).astype(np.float32)

    def thresholds(self, *shape: int) -> np.ndarray:
        return (self.random.integers(2, 12, shape) / 8 + 2**-20).astype(np.float32)

    def spikes(self, *shape: int) -> np.ndarray:
        return self.random.integers(0, 3, (STEPS, *shape)).astype(np.float32)

    def affine(self, given: int, gives: int) -> Any:
        return nir.Affine(self.eighths(gives, given), self.eighths(gives))

    def conv(self, given: int, gives: int, size: tuple[int, int], **options: Any) -> Any:
        told = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1} | options
        weight = self.eighths(gives, given // told["groups"], 3, 3)
        return nir.Conv2d(size, weight, bias=self.eighths(gives), **told)

    def fire(self, *shape: int, r: float = 1.0) -> Any:
        return nir.IF(np.full(shape, r, np.float32), self.thresholds(*shape), np.zeros(shape, np.float32))

    def leaky(self, *shape: int, r: float = 2.0, v_leak: float = 0.0) -> Any:
        """λ = 1/2."""
        tau = np.full(shape, 2 * DT)
        return nir.LIF(tau, np.full(shape, r), np.full(shape, v_leak), self.thresholds(*shape), np.zeros(shape))


def row(*nodes: Any, shape: tuple[int, ...], gives: tuple[int, ...]) -> Any:
    """A graph of nodes in a row, with names that need care."""
    names = ["input", *(f"layer.{number}" for number in range(len(nodes))), "output"]
    found = dict(zip(names, [nir.Input(np.array(shape)), *nodes, nir.Output(np.array(gives))], strict=True))
    return nir.NIRGraph(found, list(itertools.pairwise(names)), type_check=False)


def written(graph: Any, folder: Path) -> Path:
    path = folder / "network.nir"
    nir.write(path, graph)
    return path


def over_steps(network: nn.Module, inputs: np.ndarray) -> np.ndarray:
    """What a network gives in each step, of inputs (T, *S)."""
    x = torch.from_numpy(inputs)[None]
    with torch.no_grad():
        sums = torch.stack([network(x[:, :steps])[0] for steps in range(1, len(inputs) + 1)])
    return torch.diff(sums, dim=0, prepend=torch.zeros_like(sums[:1])).numpy()


def check(graph: Any, inputs: np.ndarray, folder: Path, reset: str = "subtract", **options: Any) -> Any:
    """Read a graph back and hold it against its simulation."""
    network = read_network(written(graph, folder), reset=reset, **options)
    expected = simulate(graph, inputs, reset=reset)
    assert np.ptp(expected) > 0
    assert np.array_equal(over_steps(network, inputs), expected)
    return network


def kinds(network: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in network.children()]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("seed", range(4))
def test_a_row_of_layers(seed: int, reset: str, tmp_path: Path) -> None:
    n = Drawn(seed)
    graph = row(
        n.conv(2, 4, (6, 6)),
        n.fire(4, 6, 6),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        n.conv(4, 4, (3, 3), groups=2, stride=2),
        n.leaky(4, 2, 2),
        nir.Flatten(np.array([4, 2, 2]), 0, -1),
        n.affine(16, 5),
        n.leaky(5),
        shape=(2, 6, 6),
        gives=(5,),
    )
    network = check(graph, n.spikes(2, 6, 6), tmp_path, reset)
    assert [name for name, _ in network.named_children()] == [f"layer_{number}" for number in range(8)]
    assert kinds(network) == ["Conv2d", "Neuron", "AvgPool2d", "Conv2d", "Neuron", "Flatten", "Linear", "Neuron"]


def test_one_dimension(tmp_path: Path) -> None:
    n = Drawn(3)
    conv = nir.Conv1d(9, n.eighths(3, 2, 3), 2, 1, 1, 1, n.eighths(3))
    graph = row(
        conv, n.fire(3, 5), nir.Flatten(np.array([3, 5]), 0, -1), n.affine(15, 2), n.fire(2), shape=(2, 9), gives=(2,)
    )
    check(graph, n.spikes(2, 9), tmp_path)


def test_integrators_scales_and_thresholds(tmp_path: Path) -> None:
    n = Drawn(2)
    leaks = nir.LI(np.full(4, 2 * DT), np.full(4, 2.0), np.zeros(4))
    graph = row(
        n.affine(3, 4),
        nir.Threshold(n.thresholds(4)),
        n.affine(4, 4),
        nir.Scale(n.eighths(4)),
        leaks,
        shape=(3,),
        gives=(4,),
    )
    assert kinds(check(graph, n.spikes(3), tmp_path)) == ["Linear", "Neuron", "Linear", "Integrator"]
    graph = row(n.affine(3, 4), nir.I(np.full(4, 0.5)), shape=(3,), gives=(4,))
    assert kinds(check(graph, n.spikes(3), tmp_path)) == ["Linear", "Integrator"]


def test_synapses(tmp_path: Path) -> None:
    n = Drawn(3)
    each = {"tau_syn": np.full(4, 2 * DT), "tau_mem": np.full(4, 4 * DT), "r": np.full(4, 2.0), "v_leak": np.zeros(4)}
    fires = nir.CubaLIF(**each, v_threshold=n.thresholds(4), w_in=4.0)
    network = check(row(n.affine(3, 4), fires, shape=(3,), gives=(4,)), n.spikes(3), tmp_path)
    assert [(name, type(layer)) for name, layer in network.named_children()][1:] == [
        ("layer_1_synapse", Integrator),
        ("layer_1", Neuron),
    ]
    assert [network.layer_1_synapse.leak.weight.item(), network.layer_1.leak.weight.item()] == [0.5, 0.75]
    drawn_up = nir.CubaLI(**{**each, "v_leak": np.full(4, 0.25)}, w_in=4.0)
    network = check(row(n.affine(3, 4), drawn_up, shape=(3,), gives=(4,)), n.spikes(3), tmp_path)
    assert kinds(network) == ["Linear", "Integrator", "Rescale", "Integrator"]
    check(row(n.affine(3, 4), nir.CubaLI(**each, w_in=4.0), shape=(3,), gives=(4,)), n.spikes(3), tmp_path)


def test_parts_of_nodes_have_names_of_their_own(tmp_path: Path) -> None:
    n = Drawn(3)
    each = {"tau_syn": np.full(4, 2 * DT), "tau_mem": np.full(4, 4 * DT), "r": np.full(4, 2.0), "v_leak": np.zeros(4)}
    fires = nir.CubaLIF(**each, v_threshold=n.thresholds(4), w_in=4.0)
    names = ["input", "n_synapse", "n", "output"]
    nodes = [nir.Input(np.array([3])), n.affine(3, 4), fires, nir.Output(np.array([4]))]
    graph = nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(itertools.pairwise(names)), type_check=False)
    network = check(graph, n.spikes(3), tmp_path)
    assert [name for name, _ in network.named_children()] == ["n_synapse", "n_synapse_", "n"]


def branching(n: Drawn, *, nested: bool = False) -> Any:
    """A residual block and a second way to the end; within a graph of its own if nested."""
    block = {
        "conv": n.conv(2, 2, (4, 4)),
        "fire": n.fire(2, 4, 4),
        "again": n.conv(2, 2, (4, 4)),
    }
    inner = [("conv", "fire"), ("fire", "again")]
    rest = {
        "sum": n.fire(2, 4, 4),
        "flat": nir.Flatten(np.array([2, 4, 4]), 0, -1),
        "last": n.affine(32, 3),
        "side": nir.Flatten(np.array([2, 4, 4]), 0, -1),
        "beside": n.affine(32, 3),
        "end": n.leaky(3, r=1.0),
    }
    ends = {"input": nir.Input(np.array([2, 4, 4])), "output": nir.Output(np.array([3]))}
    edges = [
        ("sum", "flat"),
        ("flat", "last"),
        ("last", "end"),
        ("input", "side"),
        ("side", "beside"),
        ("beside", "end"),
    ]
    edges += [("input", "sum"), ("end", "output")]
    if not nested:
        return nir.NIRGraph(
            {**ends, **block, **rest}, [*inner, *edges, ("input", "conv"), ("again", "sum")], type_check=False
        )
    block |= {"in": nir.Input(np.array([2, 4, 4])), "out": nir.Output(np.array([2, 4, 4]))}
    graph = nir.NIRGraph(block, [*inner, ("in", "conv"), ("again", "out")], type_check=False)
    return nir.NIRGraph(
        {**ends, "block": graph, **rest}, [*edges, ("input", "block"), ("block", "sum")], type_check=False
    )


@pytest.mark.parametrize("seed", range(3))
def test_branches_that_join(seed: int, tmp_path: Path) -> None:
    network = check(branching(Drawn(seed)), Drawn(seed + 50).spikes(2, 4, 4), tmp_path)
    assert isinstance(network, SpikingGraph)


def test_nested_graphs(tmp_path: Path) -> None:
    inputs = Drawn(9).spikes(2, 4, 4)
    network = read_network(written(branching(Drawn(4), nested=True), tmp_path))
    assert {"block_conv", "block_fire", "block_again"} < dict(network.named_children()).keys()
    assert np.array_equal(over_steps(network, inputs), simulate(branching(Drawn(4)), inputs))


@pytest.mark.parametrize("leaks", [False, True])
@pytest.mark.parametrize("weights", ["Linear", "Affine"])
def test_recurrence(leaks: bool, weights: str, tmp_path: Path) -> None:
    n = Drawn(5)
    back = n.affine(4, 4) if weights == "Affine" else nir.Linear(n.eighths(4, 4))
    neuron = n.leaky(4, r=1.0) if leaks else n.fire(4, r=0.5)
    nodes = {"input": nir.Input(np.array([3])), "in": n.affine(3, 4), "n": neuron, "back": back}
    nodes["output"] = nir.Output(np.array([4]))
    edges = [("input", "in"), ("in", "n"), ("n", "back"), ("back", "n"), ("n", "output")]
    graph = nir.NIRGraph(nodes, edges, type_check=False)
    inputs = n.spikes(3)
    network = read_network(written(graph, tmp_path))
    assert isinstance(network.n, RecurrentNeuron)
    assert kinds(network) == ["Linear", "RecurrentNeuron"]
    nodes["bias"] = nodes.pop("back")
    expected = recurrent_simulation(nodes, inputs)
    assert np.ptp(expected) > 0
    assert np.array_equal(over_steps(network, inputs), expected)


def recurrent_simulation(nodes: dict[str, Any], inputs: np.ndarray) -> np.ndarray:
    """Spikes come back a step later, and a bias is there from the first."""
    neuron, back = nodes["n"], nodes["bias"]
    leak, gain = (0.5, neuron.r * 0.5) if isinstance(neuron, nir.LIF) else (1.0, neuron.r)
    v, spikes, found = np.zeros(4), np.zeros(4), []
    for x in inputs:
        current = nodes["in"].weight @ x + nodes["in"].bias + back.weight @ spikes + getattr(back, "bias", 0)
        v = leak * v + gain * current
        spikes = (v >= neuron.v_threshold).astype(float)
        v = v - spikes * neuron.v_threshold
        found.append(spikes)
    return np.stack(found)


def test_resistances_and_leak_voltages_go_into_weights(tmp_path: Path) -> None:
    n = Drawn(6)
    neuron = n.leaky(4, r=0.5, v_leak=0.25)
    affine = n.affine(3, 4)
    network = check(row(affine, neuron, shape=(3,), gives=(4,)), n.spikes(3), tmp_path)
    assert kinds(network) == ["Linear", "Neuron"]
    assert np.array_equal(network.layer_0.weight.detach().numpy(), affine.weight * 0.25)
    assert np.array_equal(network.layer_0.bias.detach().numpy(), affine.bias * 0.25 + 0.125)


def test_factors_that_no_weight_can_take_in_stay(tmp_path: Path) -> None:
    n = Drawn(7)
    each = n.fire(2, 4, 4)
    each.r = (n.random.integers(1, 5, (2, 4, 4)) / 4).astype(np.float32)
    network = check(row(n.conv(2, 2, (4, 4)), each, shape=(2, 4, 4), gives=(2, 4, 4)), n.spikes(2, 4, 4), tmp_path)
    assert kinds(network) == ["Conv2d", "Rescale", "Neuron"]
    network = check(row(n.fire(4, r=0.5), n.affine(4, 3), shape=(4,), gives=(3,)), n.spikes(4), tmp_path)
    assert kinds(network) == ["Rescale", "Neuron", "Linear"]


def test_means_of_pooled_spikes_are_sums(tmp_path: Path) -> None:
    n = Drawn(8)
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    nodes = (n.fire(2, 4, 4), pool, nir.Flatten(np.array([2, 2, 2]), 0, -1), n.affine(8, 3), n.fire(3))
    network = check(row(*nodes, shape=(2, 4, 4), gives=(3,)), n.spikes(2, 4, 4), tmp_path)
    assert kinds(network) == ["Neuron", "AvgPool2d", "Flatten", "Linear", "Neuron"]
    assert network.layer_1.divisor_override == 1
    assert np.array_equal(network.layer_3.weight.detach().numpy(), nodes[3].weight / 4)
    network = check(
        row(n.fire(2, 4, 4), pool, n.fire(2, 2, 2), shape=(2, 4, 4), gives=(2, 2, 2)), n.spikes(2, 4, 4), tmp_path
    )
    assert any(isinstance(layer, Rescale) for layer in network)


def test_constants_are_as_few_numbers_as_they_can_be(tmp_path: Path) -> None:
    def shape_of(thresholds: np.ndarray) -> tuple[int, ...]:
        node = nir.IF(np.ones_like(thresholds), thresholds, np.zeros_like(thresholds))
        path = written(row(node, shape=thresholds.shape, gives=thresholds.shape), tmp_path)
        return tuple(next(iter(read_network(path))).threshold.weight.shape)

    assert shape_of(np.full((2, 3, 3), 0.7)) == (1,)
    assert shape_of(np.arange(1.0, 3)[:, None, None] * np.ones((2, 3, 3))) == (2, 1, 1)
    assert shape_of(np.arange(1.0, 19).reshape(2, 3, 3)) == (2, 3, 3)
    assert shape_of(np.arange(1.0, 5)) == (4,)


def test_the_length_of_a_step(tmp_path: Path) -> None:
    path = written(row(Drawn(1).leaky(3), shape=(3,), gives=(3,)), tmp_path)
    assert read_network(path).layer_0.leak.weight.item() == 0.5
    assert read_network(path, step=DT / 2).layer_0.leak.weight.item() == 0.75
    with pytest.raises(DataError, match="at least a step"):
        read_network(path, step=1.0)
    with pytest.raises(DataError, match="must take time"):
        read_network(path, step=0.0)


def test_names_that_a_network_cannot_have(tmp_path: Path) -> None:
    n = Drawn(1)
    names = ["in put", "forward", "a.b", "a_b", "readout", "out"]
    nodes = [nir.Input(np.array([3])), *(n.affine(3, 3) for _ in range(4)), nir.Output(np.array([3]))]
    graph = nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(itertools.pairwise(names)), type_check=False)
    network = check(graph, n.spikes(3), tmp_path)
    assert [name for name, _ in network.named_children()] == ["forward_", "a_b", "a_b_", "readout_"]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 4), reset=st.sampled_from(["subtract", "zero"]))
def test_any_feed_forward_graph(seed: int, depth: int, reset: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Weights and neurons in turn; every weight reads some of the neurons before it, or the input."""
    n = Drawn(seed)
    nodes: dict[str, Any] = {"input": nir.Input(np.array([4])), "output": nir.Output(np.array([4]))}
    edges, before = [], ["input"]
    for level in range(depth):
        for source in n.random.choice(before, n.random.integers(1, len(before) + 1), replace=False):
            nodes[f"w{level}{source}"] = n.affine(4, 4)
            edges += [(str(source), f"w{level}{source}"), (f"w{level}{source}", f"n{level}")]
        nodes[f"n{level}"] = n.fire(4) if n.random.random() < 0.5 else n.leaky(4)
        before.append(f"n{level}")
    ends = [name for name in before[1:] if all(source != name for source, _ in edges)]
    graph = nir.NIRGraph(nodes, edges + [(name, "output") for name in ends], type_check=False)
    inputs = n.spikes(4)
    network = read_network(written(graph, tmp_path_factory.mktemp("nir")), reset=reset)  # type: ignore[arg-type]
    assert np.array_equal(over_steps(network, inputs), simulate(graph, inputs, reset=reset))


def edited(**changes: Any) -> Any:
    """A small graph, with nodes replaced or added, and edges."""
    n = Drawn(1)
    nodes = {
        "input": nir.Input(np.array([3])),
        "w": n.affine(3, 4),
        "n": n.fire(4),
        "output": nir.Output(np.array([4])),
    }
    edges = [("input", "w"), ("w", "n"), ("n", "output"), *changes.pop("edges", [])]
    nodes |= changes
    kept = {name: node for name, node in nodes.items() if node is not None}
    return nir.NIRGraph(kept, [(a, b) for a, b in edges if a in kept and b in kept], type_check=False)


LIF_TO_5 = nir.LIF(np.ones(4), np.ones(4), np.zeros(4), np.ones(4), np.full(4, 0.5))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"n": nir.Delay(np.ones(4))}, "'n' must be of a type that can be read; got Delay; known: Affine"),
        ({"input": None}, "one Input; got 0"),
        ({"output": None}, "one Output; got 0"),
        ({"other": nir.Input(np.array([3]))}, r"one Input; got 2 \(input, other\)"),
        ({"back": nir.Linear(np.ones((3, 4))), "edges": [("n", "back"), ("back", "w")]}, "a cycle through 'back', 'n', 'w'"),
        ({"edges": [("n", "n")]}, "a cycle through 'n'"),
        ({"loose": nir.Linear(np.ones((3, 4)))}, "between its Input and its Output; got 'loose'"),
        ({"w": nir.Linear(np.ones((4, 2)))}, "node 'w' must take what reaches it"),
        ({"n": Drawn(1).fire(5)}, "node 'n' must take what reaches it"),
        ({"n": LIF_TO_5}, "'n' of type LIF cannot be read; got v_reset must be 0; got 0.5"),
        ({"n": nir.IF(np.ones(4), -np.ones(4), np.zeros(4))}, "'n' of type IF cannot be read; got thresholds must be above 0"),
        ({"w": nir.Affine(np.ones((4, 3)), np.ones(3))}, "'w' of type Affine cannot be read"),
        ({"w": nir.Linear(np.ones((2, 4, 3)))}, "two axes"),
        ({"w": nir.Linear(np.full((4, 3), np.nan))}, "'w' of type Linear .* weight must be real numbers; got NaN"),
        ({"w": nir.Linear(np.full((4, 3), 1j))}, "weight must be real numbers; got complex"),
        ({"w": nir.Linear(np.full((4, 3), np.inf))}, "'w' of type Linear .* must be finite in float32"),
        ({"w": nir.Linear(np.full((4, 3), 1e300))}, "must be finite in float32"),
        ({"w": nir.Affine(np.ones((4, 3)), np.full(4, np.inf))}, "must be finite in float32"),
        ({"n": nir.IF(np.full(4, np.nan), np.ones(4), np.zeros(4))}, "'n' of type IF .* r must be real numbers; got NaN"),
        ({"n": nir.IF(np.full(4, np.inf), np.ones(4), np.zeros(4))}, "'n' of type IF .* must be finite; got inf"),
        ({"input": nir.Input(np.array([-3]))}, r"Input must have a shape of at most 67108864 numbers; got \[-3\]"),
        ({"input": nir.Input(np.array([10**14]))}, r"Input must have a shape .* got \[100000000000000\]"),
        ({"input": nir.Input(np.array([2.5]))}, r"Input must have a shape .* got \[2\.5\]"),
    ],
)  # fmt: skip
def test_graphs_that_cannot_run_are_refused_in_a_line(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=told) as refused:
        read_network(written(edited(**changes), tmp_path))
    assert "\n" not in str(refused.value)


def test_files_that_are_no_graphs_are_refused_in_a_line(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    text, other, node, broken = (tmp_path / name for name in ("text.nir", "other.nir", "node.nir", "broken.nir"))
    text.write_text("no NIR")
    with h5py.File(other, "w") as file:
        file["weights"] = np.ones(3)
    nir.write(node, Drawn(1).affine(2, 2))
    nir.write(broken, edited())
    with h5py.File(broken, "a") as file:
        del file["node/nodes/w/weight"]
    for path, told in (
        (tmp_path / "none", "be there"),
        (text, "must be NIR"),
        (other, "must be NIR"),
        (node, "NIR graph"),
    ):
        with pytest.raises(DataError, match=told) as refused:
            read_network(path)
        assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="whole"):
        read_network(broken)


def test_an_edge_to_nowhere_is_refused(tmp_path: Path) -> None:
    graph = edited()
    graph.edges.append(("n", "nowhere"))
    with pytest.raises(DataError, match="'n' to 'nowhere'"):
        read_network(written(graph, tmp_path))


def test_layers_of_a_graph_read_what_is_before_them() -> None:
    layers = OrderedDict(a=nn.Identity(), b=nn.Identity())
    with pytest.raises(DataError, match="'a' must read layers before it"):
        SpikingGraph(layers, {"a": ("b",), "b": ("a",)}, ("b",))


def frames(data: Any, numbers: range, bin_us: int) -> np.ndarray:
    """Events per polarity, place and bin, (n, T, 2, 34, 34), of recordings of 300 ms."""
    steps = 300_000 // bin_us
    found = np.zeros((len(numbers), steps, 2, 34, 34), np.float32)
    for row_, number in enumerate(numbers):
        part = slice(data["offsets"][number], data["offsets"][number + 1])
        at = (data["t_us"][part] // bin_us).astype(int)
        kept = at < steps
        where = (at, *(data[key][part] for key in ("p", "y", "x")))
        np.add.at(found[row_], tuple(axis[kept] for axis in where), 1)
    return found


def accuracy(count: int) -> float:
    """Of the network from sinabs on the first recordings, in bins of 10 ms; as sinabs runs it, with several spikes a step."""
    if not NMNIST.is_dir():
        pytest.skip(f"no N-MNIST at {NMNIST}")
    network = read_network(NMNIST / "cnn_sinabs.nir", several=True)
    with np.load(NMNIST / "nmnist_train1k.npz") as file:
        data = {key: file[key] for key in file.files}
    right = 0
    with torch.no_grad():
        for start in range(0, count, 20):
            inputs = torch.from_numpy(frames(data, range(start, start + 20), 10_000))
            right += int((network(inputs).argmax(1).numpy() == data["label"][start : start + 20]).sum())
    return right / count


def test_a_network_of_sinabs() -> None:
    assert accuracy(200) == 0.985


@pytest.mark.slow
def test_a_network_of_sinabs_on_all_recordings() -> None:
    assert accuracy(1000) == 0.989


OLD = pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
"""snntorch 1.0 calls what nirtorch will drop."""


@OLD
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")  # of what does not leak
def test_what_snntorch_writes(tmp_path: Path) -> None:
    """Its files say neither how neurons reset nor when; a reset to zero is the same at once and at the next step.

    It writes parameters in the shape that they have; nir wants one per neuron.
    """
    snn = pytest.importorskip("snntorch")
    export = pytest.importorskip("snntorch.export_nir")
    torch.manual_seed(1)
    hidden: dict[str, Any] = {"init_hidden": True, "reset_mechanism": "zero"}
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        snn.Leaky(beta=torch.full((3, 6, 6), 0.9), threshold=torch.full((3, 6, 6), 0.5), **hidden),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 6),
        snn.Leaky(beta=torch.ones(6), threshold=torch.full((6,), 0.4), **hidden),
        nn.Linear(6, 4),
        snn.Synaptic(torch.full((4,), 0.6), torch.full((4,), 0.7), torch.full((4,), 0.8), reset_delay=False, **hidden),
    )
    nir.write(tmp_path / "network.nir", export.export_to_nir(network, torch.rand(1, 2, 6, 6), ignore_dims=[0]))
    ours = read_network(tmp_path / "network.nir", reset="zero")
    inputs = torch.rand(5, 25, 2, 6, 6) * 1.5
    for module in network:
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    with torch.no_grad():
        expected = torch.stack([network(step) for step in inputs.unbind(1)], 1).sum(1)
        assert 0.02 < expected.mean() / 25 < 0.9
        assert torch.equal(ours(inputs), expected)


@OLD
def test_what_snntorch_writes_of_recurrent_neurons(tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch")
    export = pytest.importorskip("snntorch.export_nir")
    torch.manual_seed(2)
    neuron = snn.RLeaky(beta=0.8, linear_features=5, init_hidden=True, reset_mechanism="zero", reset_delay=False)
    network = nn.Sequential(nn.Linear(3, 5), neuron)
    nir.write(tmp_path / "network.nir", export.export_to_nir(network, torch.rand(3)))
    ours = read_network(tmp_path / "network.nir", reset="zero")
    inputs = torch.randn(5, 25, 3)
    neuron.reset_mem()
    with torch.no_grad():
        expected = torch.stack([network(step) for step in inputs.unbind(1)], 1).sum(1)
        assert expected.sum() > 20
        assert torch.equal(ours(inputs), expected)


def test_nodes_of_one_name_are_refused(tmp_path: Path) -> None:
    """Of a graph within the graph, once it is opened, and beside it."""
    n = Drawn(1)
    ends = {"input": nir.Input(np.array([2])), "output": nir.Output(np.array([2]))}
    inner = nir.NIRGraph({**ends, "w": n.affine(2, 2)}, [("input", "w"), ("w", "output")], type_check=False)
    edges = [("input", "g"), ("g", "g.w"), ("g.w", "output")]
    for middle in ({"g": inner, "g.w": n.affine(2, 2)}, {"g.w": n.affine(2, 2), "g": inner}):
        with pytest.raises(DataError, match=r"must have different names; got 'g\.w'"):
            read_network(written(nir.NIRGraph({**ends, **middle}, edges, type_check=False), tmp_path))


@pytest.mark.parametrize("place", ["node", "node/nodes", "node/nodes/w"])
def test_numbers_in_the_place_of_groups_are_refused(place: str, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = written(edited(), tmp_path)
    with h5py.File(path, "a") as file:
        del file[place]
        file[place] = 3
    with pytest.raises(DataError) as refused:
        read_network(path)
    assert "\n" not in str(refused.value)


def test_damaged_files_are_refused_in_a_line_or_read(tmp_path: Path) -> None:
    """Cut, or with bytes changed."""
    path = written(edited(), tmp_path)
    content, random, told = path.read_bytes(), np.random.default_rng(0), []
    for attempt in range(90):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = random.integers(0, len(content), (1, 5, 50)[attempt % 3])
        damaged[places] = random.integers(0, 256, len(places))
        path.write_bytes(damaged[: random.integers(len(content)) if attempt % 2 else None].tobytes())
        try:
            read_network(path)
        except DataError as error:
            told.append(str(error))
    assert len(told) > 45
    assert not any("\n" in line for line in told)
