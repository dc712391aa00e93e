"""``write_network``: a spiking network as a NIR file.

Notation of :mod:`qsearch.spiking.nir_nodes`. A step takes Δt; a leak λ becomes τ = Δt/(1 − λ) with R = τ/Δt, so that currents
count as they are. Leaks and thresholds that have a register are written as the values that it holds.

What NIR has no place for (kinds of reset, registers of states, what the writer adds) stands in metadata, see
:mod:`qsearch.spiking.nir_said`: :func:`~qsearch.spiking.nir_files.read_network` gives a network back that computes the same to
the last bit, in float and in fixed point, but for means of pooled values, which move into the weights behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qsearch.errors import DataError, PluginError
from qsearch.spiking.assembly import Array
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.graph import INPUT, Sources, total, wiring
from qsearch.spiking.network import SpikingNetwork, over_time
from qsearch.spiking.neurons import Constant, Integrator, Neuron, RecurrentNeuron
from qsearch.spiking.nir_said import VERSION, as_metadata, said_of
from qsearch.spiking.rescale import Rescale

try:
    import nir
except ImportError as error:
    raise PluginError("NIR files need the package nir", fix="pip install 'qsearch[spiking]'") from error

STEP = 1e-4
"""Seconds of a step, as snntorch has it."""

PASSED_OVER = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity)
"""Layers that do nothing in evaluation."""

Shape = tuple[int, ...]


def write_network(
    network: SpikingNetwork,
    path: Path,
    shape: Sequence[int],
    *,
    step: float = STEP,
    told: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a network as a NIR file, each layer as a node of its name.

    Args:
        path: the file; replaced if it is there.
        shape: S of the network's inputs (B, T, \\*S), without samples and steps.
        step: Δt in s.
        told: what metadata say of layers beyond :mod:`qsearch.spiking.nir_said`: name → what JSON can hold.

    Raises:
        DataError: a layer that NIR has no node for, or that does not take such inputs; names the layer.
        OSError: the file cannot be written.
    """
    graph = _drawn(network, tuple(shape), step, told or {})
    graph.metadata = as_metadata(_said_of_network(network, step))
    nir.write(path, graph)


def _drawn(network: SpikingNetwork, shape: Shape, step: float, told: Mapping[str, Mapping[str, Any]]) -> nir.NIRGraph:
    """The graph of a network; what is passed over is no node of it."""
    sources, outputs = wiring(network)
    shapes, gives = _shapes(network, sources, outputs, shape)
    entry, ending = _free("input", shapes), _free("output", shapes)
    nodes: dict[str, nir.NIRNode] = {entry: nir.Input(np.array(shape))}
    edges: list[tuple[str, str]] = []
    stands: dict[str, tuple[str, ...]] = {INPUT: (entry,)}
    for name, module in network.named_children():
        reads = tuple(part for source in sources[name] for part in stands[source])
        stands[name] = reads if isinstance(module, PASSED_OVER) else (name,)
        if isinstance(module, PASSED_OVER):
            continue
        nodes[name] = _node(name, module, shapes[name], step, told.get(name, {}))
        edges += [(source, name) for source in reads]
        if isinstance(module, RecurrentNeuron):
            back = _free(f"{name}_recurrent", shapes)
            nodes[back] = _node(back, module.recurrent, shapes[name], step, told.get(f"{name}.recurrent", {}))
            edges += [(name, back), (back, name)]
    nodes[ending] = nir.Output(np.array(gives))
    edges += [(part, ending) for source in outputs for part in stands[source]]
    twice = [edge for edge in edges if edges.count(edge) > 1]
    if twice:
        raise DataError("a layer must read another once to fit into NIR", got=str(twice[0]))
    return nir.NIRGraph(nodes, edges, type_check=False)


def _said_of_network(network: SpikingNetwork, step: float) -> dict[str, Any]:
    repeats = {"repeats": network.steps} if isinstance(network, DirectSpikingNetwork) else {}
    return {"version": VERSION, "step": float(step), "readout": network.readout} | repeats


@torch.no_grad()
def _shapes(
    network: SpikingNetwork, sources: Sources, outputs: tuple[str, ...], shape: Shape
) -> tuple[dict[str, Shape], Shape]:
    """What reaches each layer, and what is read out, without samples and steps."""
    parameter = next(network.parameters(), torch.zeros(0))
    found, shapes = {INPUT: parameter.new_zeros(1, 1, *shape)}, dict[str, Shape]()
    for name, module in network.named_children():
        reached = total(found, sources[name])
        shapes[name] = tuple(reached.shape[2:])
        try:
            found[name] = over_time(module, reached)
        except (RuntimeError, IndexError, ValueError, DataError) as error:
            raise DataError(f"layer {name!r} must take what reaches it", got=" ".join(str(error).split())) from error
    return shapes, tuple(total(found, outputs).shape[2:])


def _node(name: str, module: nn.Module, shape: Shape, step: float, told: Mapping[str, Any]) -> nir.NIRNode:
    """The node of a layer that takes a shape."""
    make = next((make for kind, make in _MAKERS.items() if isinstance(module, kind)), None)
    try:
        if make is None:
            known = sorted(kind.__name__ for kind in (*_MAKERS, *PASSED_OVER))
            raise DataError("NIR has no node for it", got=type(module).__name__, fix=f"known: {', '.join(known)}")
        node = make(module, shape, step)
    except DataError as error:
        raise DataError(f"layer {name!r} must fit into NIR", got=str(error)) from error
    said = said_of(module) if isinstance(module, Integrator) else {}
    node.metadata = as_metadata({**said, **told})
    return node


def _linear(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    if len(shape) != 1:
        raise DataError("a linear layer must take vectors", got=f"shape {shape}", fix="flatten before it")
    if module.bias is None:
        return nir.Linear(_array(module.weight))
    return nir.Affine(_array(module.weight), _array(module.bias))


def _conv(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    if module.padding_mode != "zeros":
        raise DataError("a convolution must pad with zeros", got=module.padding_mode)
    one = isinstance(module, nn.Conv1d)
    bias = np.zeros(module.out_channels, dtype=np.float32) if module.bias is None else _array(module.bias)
    sizes = [module.stride, module.padding, module.dilation]
    stride, padding, dilation = ((size[0] if one and isinstance(size, tuple) else size) for size in sizes)
    return (nir.Conv1d if one else nir.Conv2d)(
        shape[1] if one else shape[1:], _array(module.weight), stride, padding, dilation, module.groups, bias
    )


def _pool(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    if module.ceil_mode or not (module.count_include_pad or not np.any(module.padding)):
        raise DataError("windows must be whole, and count what pads them", got="some that are not")
    if module.divisor_override not in (None, 1):
        raise DataError("pooling must give sums or means", got=f"sums over {module.divisor_override}")
    kind = nir.AvgPool2d if module.divisor_override is None else nir.SumPool2d
    return kind(*(_pair(size) for size in (module.kernel_size, module.stride, module.padding)))


def _flatten(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    start, end = (axis - (axis > 0) for axis in (module.start_dim, module.end_dim))
    if module.start_dim == 0:
        raise DataError("samples must not be flattened", got="start_dim 0")
    return nir.Flatten(np.array(shape), start, end)


def _rescale(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    if bool(module.drive.any()):
        raise DataError("NIR has no constant currents", got="a Rescale with a drive")
    return nir.Scale(_spread(module.gain, shape))


def _neuron(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    threshold = _spread(_stored(module.threshold, module.grids.threshold), shape)
    if module.leak is None:
        return nir.IF(np.ones_like(threshold), threshold, np.zeros_like(threshold))
    tau, resistance = _time_constant(module, shape, step)
    return nir.LIF(tau, resistance, np.zeros_like(tau), threshold, np.zeros_like(tau))


def _integrator(module: Any, shape: Shape, step: float) -> nir.NIRNode:
    if module.leak is None:
        return nir.I(np.ones(shape, dtype=np.float32))
    tau, resistance = _time_constant(module, shape, step)
    return nir.LI(tau, resistance, np.zeros_like(tau))


def _time_constant(module: Any, shape: Shape, step: float) -> tuple[Array, Array]:
    """τ = Δt/(1 − λ) and R = τ/Δt."""
    leak = _stored(module.leak, module.grids.leak).detach().double()
    tau = step / (1 - leak)
    return _spread(tau, shape), _spread(tau / step, shape)


def _stored(constant: Constant, grid: Any) -> Tensor:
    """Constants as a register holds them."""
    return constant.weight if grid is None else grid.values(constant.weight.double())


def _spread(values: Tensor, shape: Shape) -> Array:
    """A number per neuron."""
    found = values.detach().float().cpu()
    return np.ascontiguousarray((found.reshape(()) if found.numel() == 1 else found).expand(shape).numpy())


def _array(values: Tensor) -> Array:
    return values.detach().float().cpu().numpy()


def _pair(size: Any) -> Array:
    return np.broadcast_to(np.asarray(size), (2,)).copy()


def _free(name: str, taken: Mapping[str, Any]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)


_MAKERS: dict[type[nn.Module], Callable[[Any, Shape, float], nir.NIRNode]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.AvgPool2d: _pool,
    nn.Flatten: _flatten,
    Rescale: _rescale,
    Neuron: _neuron,
    Integrator: _integrator,
}
