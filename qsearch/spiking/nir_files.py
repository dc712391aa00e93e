"""``read_network``: a NIR file as a spiking network.

NIR, the neuromorphic intermediate representation (Pedersen et al., Nature Communications 2024), is what snntorch, sinabs,
norse, spikingjelly and the tools of several chips exchange networks in.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from qsearch.errors import DataError, PluginError, QSearchError
from qsearch.spiking.assembly import Assembly, absorb
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.graph import INPUT, total, wired
from qsearch.spiking.network import Readout, SpikingNetwork, over_time
from qsearch.spiking.neurons import Reset
from qsearch.spiking.nir_said import VERSION, said_in

try:
    import h5py  # NIR's container: nir brings it
    import nir

    from qsearch.spiking import nir_graph, nir_nodes
except ImportError as error:
    raise PluginError("NIR files need the package nir", fix="pip install 'qsearch[spiking]'") from error

STEP = 1e-4
"""Seconds of a step where neither the caller nor the file says: what snntorch writes."""

DAMAGES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
"""What HDF5 and nir raise of files that are damaged, or not what they seem to be."""

MOST_INPUTS = 2**26
"""Numbers that reach a network in a step."""


def read_network(
    path: Path,
    *,
    reset: Reset = "subtract",
    several: bool = False,
    readout: Readout = "sum",
    step: float | None = None,
    unsaid: float = STEP,
) -> SpikingNetwork:
    """A spiking network from a NIR file: (B, T, \\*S) → (B, C).

    Its layers have the names of NIR's nodes, with underscores for what cannot stand in a name. Resistances, Δt/τ and means
    of pooled spikes go into the weights beside them where those can take them in, so that spikes stay whole numbers; where
    they cannot, they are layers of their own (:class:`~qsearch.spiking.rescale.Rescale`); a file of ours may say that
    means stay. See
    :mod:`qsearch.spiking.nir_nodes` for NIR's equations step by step.

    Args:
        path: the file.
        reset, several: how neurons reset, and whether they may spike several times in a step; NIR does not say.
        readout: see :class:`~qsearch.spiking.network.SpikingNetwork`. What a file of
            :func:`~qsearch.spiking.nir_writing.write_network` says itself counts before ``reset``, ``several`` and it.
        step: Δt, in the unit of the file's time constants (NIR's is the second); what the file says if None. Of no
            consequence where nothing leaks. Where it is another than the file says, so are leaks and resistances.
        unsaid: Δt where neither ``step`` nor the file says; 10⁻⁴ is what snntorch writes.

    Raises:
        DataError: no such file, or no NIR file; a node of a type that is not known; parameters or shapes that do not fit;
            a cycle other than spikes that come back to their IF or LIF; nodes that are not connected.
    """
    if step is not None and not step > 0:
        raise DataError("a step must take time", got=step)
    graph = _loaded(path)
    drawing = nir_graph.drawn(graph)
    said = _of_network(graph)
    duration = step or said.get("step", unsaid)
    exact = duration == said.get("step")
    assembly = _assembled(drawing, nir_nodes.Reading(duration, reset, several, exact=exact))
    absorb(assembly)
    readout = said.get("readout", readout)
    if "repeats" in said:
        return DirectSpikingNetwork(assembly.modules, said["repeats"], readout)
    return wired(assembly.modules, assembly.sources, assembly.outputs, readout)


def read_said(path: Path) -> dict[str, dict[str, Any]]:
    """What a file of :func:`~qsearch.spiking.nir_writing.write_network` says of its nodes: name → as it was told.

    Raises:
        DataError: as :func:`read_network`.
    """
    return {name: said_in(node.metadata) for name, node in _loaded(path).nodes.items()}


def _loaded(path: Path) -> nir.NIRGraph:
    """The graph of a file."""
    if not path.is_file():
        raise DataError("a NIR file must be there", got=str(path))
    try:
        with h5py.File(path, "r") as file:
            content = nir.serialization.hdf2dict(file["node"])
    except DAMAGES as error:
        raise DataError("a network's file must be NIR", got=f"{path} ({' '.join(str(error).split())})") from error
    _check_types(content, "")
    try:
        graph = nir.dict2NIRNode(content)
    except DAMAGES as error:
        raise DataError(
            f"{path} must be a NIR file whose nodes are whole",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}",
        ) from error
    if not isinstance(graph, nir.NIRGraph):
        raise DataError(f"{path} must hold a NIR graph", got=type(graph).__name__)
    return graph


def _of_network(graph: nir.NIRGraph) -> dict[str, Any]:
    """What a file of ours says of its network."""
    said = said_in(graph.metadata)
    if said.get("version", VERSION) != VERSION:
        raise DataError(f"metadata of qsearch in a NIR file must be of version {VERSION}", got=said["version"])
    step, repeats = said.get("step", STEP), said.get("repeats", 1)
    whole = isinstance(step, float) and 0 < step < math.inf and type(repeats) is int and repeats > 0
    if said and not (whole and said.get("readout") in get_args(Readout)):
        raise DataError("metadata of qsearch in a NIR file must be whole", got=str(said))
    return said


def _check_types(content: Any, name: str) -> None:
    """Raise unless all nodes are of known types; graphs' shapes are checked here, later, and not by nir."""
    if not isinstance(content, dict) or not isinstance(content.get("nodes", {}), dict):
        raise DataError(f"node {name!r} of a NIR file must be a group, and so must its nodes", got="a number or a text")
    kind = content.get("type")
    if kind not in nir_nodes.KNOWN:
        raise DataError(
            f"node {name!r} must be of a type that can be read",
            got=str(kind),
            fix=f"known: {', '.join(nir_nodes.KNOWN)}",
        )
    if kind == "NIRGraph":
        content["type_check"] = False
    for key, node in content.get("nodes", {}).items():
        _check_types(node, f"{name}.{key}" if name else key)


def _assembled(drawing: nir_graph.Drawing, reading: nir_nodes.Reading) -> Assembly:
    """Modules of all nodes, whose shapes fit."""
    order = nir_graph.in_order(drawing)
    entry, ending = drawing.only(nir.Input), drawing.only(nir.Output)
    inner = [name for name in order if name not in (entry, ending)]
    names = nir_graph.safe_names(inner, {INPUT, *dir(SpikingNetwork(OrderedDict())), "sources", "outputs"})
    found = Assembly(OrderedDict(), {}, ())
    last, shapes = {entry: INPUT}, dict[str, tuple[int, ...]]()
    for name in inner:
        reads = tuple(last[source] for source in drawing.before(name))
        node = drawing.nodes[name]
        for suffix, module in nir_nodes.parts_of(name, node, reading, drawing.recurrent.get(name)):
            part = names[name]
            if suffix:
                part = nir_graph.safe_names([part + suffix], {*names.values(), *found.modules})[part + suffix]
            found.modules[part], found.sources[part] = module, reads
            reads = (part,)
        last[name] = reads[0]
        if (declared := nir_nodes.declared_shape(node)) is not None:
            shapes[last[name]] = declared
    found.outputs = tuple(last[source] for source in drawing.before(ending))
    if not found.modules:
        raise DataError("a NIR graph must have nodes between its Input and its Output", got="none")
    shape = drawing.nodes[entry].input_type.get("input")
    if shape is not None:
        _check_shapes(found, _extents(shape), shapes)
    return found


def _extents(shape: Any) -> tuple[int, ...]:
    """The shape that an Input says.

    Raises:
        DataError: it is none, or too large.
    """
    found = np.atleast_1d(shape)
    whole = found.dtype.kind in "iuf" and found.ndim == 1 and found.size > 0 and bool(np.all(found == np.floor(found)))
    extents = tuple(int(extent) for extent in found) if whole and np.isfinite(found).all() else ()
    if not extents or min(extents) < 1 or math.prod(extents) > MOST_INPUTS:
        raise DataError(f"an Input must have a shape of at most {MOST_INPUTS} numbers", got=f"{found.tolist()}")
    return extents


@torch.no_grad()
def _check_shapes(assembly: Assembly, shape: tuple[int, ...], declared: dict[str, tuple[int, ...]]) -> None:
    """Raise unless zeros of the Input's shape pass through, and neurons have the shapes of their parameters."""
    found = {INPUT: torch.zeros(1, 1, *shape)}
    for name, module in assembly.modules.items():
        try:
            reached = total(found, assembly.sources[name])
            found[name] = over_time(module, reached)
        except (QSearchError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"node {name!r} must take what reaches it", got=" ".join(str(error).split())) from error
        if name in declared and declared[name] != tuple(found[name].shape[2:]):
            raise DataError(
                f"node {name!r} must have the shape of what reaches it",
                got=f"{declared[name]}, and {tuple(reached.shape[2:])} reaches it",
            )
