"""A network's ONNX graph with markers where it quantises, and the markers' replacement.

The exporter of torch draws the graph of a module whose quantisers leave a marker each: a node ``qsearch::Weight`` or
``qsearch::Input`` with its site as attribute. A :class:`Dialect` then says what stands in their places, so that QDQ and
QONNX are the same graph but for that. The graph names its nodes by the layers, and no file of the machine that made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.errors import PluginError
from qsearch.export.capture import Captured, capture
from qsearch.export.deployment import Deployment, IntegerWeight
from qsearch.export.formats import WITHOUT_GRAPH, unsupported
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.quiet import quietly

try:
    import onnx
    import onnxscript  # noqa: F401  # torch.onnx needs it, and would say so less clearly
    from onnx import NodeProto, TensorProto, helper, numpy_helper
except ImportError as error:
    raise PluginError(
        "the formats 'onnx' and 'qonnx' need the packages onnx and onnxscript", fix="pip install 'qsearch[export]'"
    ) from error

MARKERS = "qsearch"
"""Domain of the markers."""


class Nodes:
    """Nodes and constants that take the place of a marker; names must be unique in the graph.

    Attributes:
        nodes, constants: so far.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}

    def node(self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; its name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | TensorProto) -> str:
        """Add a constant, once; its name."""
        if name not in self.constants:
            made = value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value, order="C"))
            made.name = name
            self.constants[name] = made
        return name


class Dialect(Protocol):
    """How a format writes weights and quantised inputs."""

    def weight(self, nodes: Nodes, stored: IntegerWeight, output: str) -> None:
        """Write the nodes that give a weight."""
        ...

    def activation(self, nodes: Nodes, site: str, quantizer: ActivationQuantizer, x: str, output: str) -> None:
        """Write the nodes that quantise one site; a layer that is used twice has two of them, with the same constants."""
        ...


class _Marker(nn.Module):
    """Leaves a node of the domain ``MARKERS`` in the graph."""

    def __init__(self, operator: str, site: str, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.operator, self.site, self.dtype = operator, site, dtype

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the shape of ``x``; its values mean nothing."""
        found: Tensor = torch.onnx.ops.symbolic(
            f"{MARKERS}::{self.operator}",
            (x,),
            {"site": self.site},
            dtype=self.dtype or x.dtype,
            shape=x.shape,
            version=1,
        )
        return found


def draw(name: str, deployment: Deployment, dialect: Dialect, opset: int) -> tuple[onnx.ModelProto, Captured]:
    """The graph of a deployment in one dialect.

    Args:
        name: the format, for messages.

    Raises:
        ConfigError: a network without a graph, or an operator that ONNX has not.
    """
    module = deployment.module(
        weight=lambda stored: _Marker("Weight", stored.site, stored.values.dtype),
        activation=lambda site, _: _Marker("Input", site),
    )
    captured = capture(module, deployment.example)
    try:
        with quietly():
            program = torch.onnx.export(captured.program, dynamo=True, opset_version=opset, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise unsupported(name, error, f"torch, {WITHOUT_GRAPH}") from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _name_nodes(model.graph)
    _replace_markers(model.graph, deployment, dialect)
    _unique(model.graph)
    _remove_unused(model.graph)
    _name_batch(model.graph)
    kept = [entry for entry in model.opset_import if entry.domain != MARKERS]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = "qsearch", ""
    return model, captured


def _replace_markers(graph: onnx.GraphProto, deployment: Deployment, dialect: Dialect) -> None:
    """Have the dialect write what stands in the place of each marker, named after its site."""
    nodes, uses = Nodes(), Counter[str]()
    renamed: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        if node.domain != MARKERS:
            nodes.nodes.append(node)
            continue
        site, start = helper.get_node_attr_value(node, "site").decode(), len(nodes.nodes)
        uses[site] += 1
        if node.op_type == "Weight":
            renamed[node.output[0]] = site
            if uses[site] == 1:  # a module that is used again reads the same weight
                dialect.weight(nodes, deployment.weights[site], site)
        else:
            output = site if uses[site] == 1 else f"{site}_{uses[site]}"
            renamed[node.output[0]] = output
            dialect.activation(nodes, site, deployment.inputs[site], node.input[0], output)
        for written in nodes.nodes[start:]:
            written.name = f"{site}/{written.op_type}"
    del graph.node[:]
    graph.node.extend(nodes.nodes)
    graph.initializer.extend(nodes.constants.values())
    del graph.value_info[:]


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Name nodes by the modules that they belong to, and drop what else the exporter noted about them."""
    for node in graph.node:
        node.name = f"{_scope(node)}/{node.op_type}".removeprefix("/")
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del graph.metadata_props[:]
    graph.doc_string = ""


def _scope(node: NodeProto) -> str:
    """The module that a node comes from, by what the exporter noted."""
    scopes: Mapping[str, str] = {entry.key: entry.value for entry in node.metadata_props}
    listed = [part.strip(" '\"") for part in scopes.get("pkg.torch.onnx.name_scopes", "").strip("[]").split(",")]
    return listed[-2] if len(listed) > 1 else ""


def _unique(graph: onnx.GraphProto) -> None:
    """Number the nodes that share a name."""
    seen = Counter[str]()
    for node in graph.node:
        seen[node.name] += 1
        if seen[node.name] > 1:
            node.name = f"{node.name}_{seen[node.name]}"


def _name_batch(graph: onnx.GraphProto) -> None:
    """Call the number of samples "batch", where it is open."""
    ends = [*graph.input, *graph.output]
    open_ = {value.type.tensor_type.shape.dim[0].dim_param for value in graph.input if value.type.tensor_type.shape.dim}
    for value in ends:
        for extent in value.type.tensor_type.shape.dim:
            if extent.dim_param and extent.dim_param in open_:
                extent.dim_param = "batch"


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop constants that no node reads: the codes that markers stood for."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [value for value in graph.initializer if value.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
