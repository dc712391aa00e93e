"""``qonnx``: Quant nodes of any bitwidth, as FINN and hls4ml read them (Pappalardo et al., arXiv:2206.07527).

==================================  ===============================================================================
in the network                      in the graph, domain qonnx.custom_op.general
==================================  ===============================================================================
weight                              Quant of ŵ with a scale per kernel, signed, not narrow, at the widest bits in it
every kernel at 1 bit               BipolarQuant, likewise
some kernels at 32 bits             ŵ as floats, without a Quant; so too where all kernels are pruned
input                               Quant, signed or not, narrow where its lowest code is unused; BipolarQuant for ±s
==================================  ===============================================================================

The operator's definition allows a bitwidth per kernel, as a tensor; qonnx 1.0 has none of it: its execution asks
``if bitwidth == 1`` of the tensor, and its inference of types, on which FINN's compiler rests, asserts a scalar. Several
nodes whose outputs are joined do not help: FINN folds a Quant with scales into the layer that reads it, and a Concat is
none. Hence one node at the widest bits: a narrower kernel's codes, ±1 and the zeros of a pruned one lie on that grid with
the kernel's own scale, so that ŵ is the same in every bit. The bits of each weight are in the file's metadata, under
``qsearch.bits.SITE``: JSON, one number, or a list with one for each kernel.

A mirrored kernel, whose scale is negative, has its sign moved to the weight where its grid holds all negated codes.
Shapes are fixed, for one sample, as both readers ask for. qonnx executes a graph node by node, which is slow but in the
order of the file; many samples go through it together where their number can be changed, else one after the other.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qsearch.errors import PluginError
from qsearch.export.capture import sample_by_sample
from qsearch.export.deployment import Deployment, IntegerWeight
from qsearch.export.formats import Runtime
from qsearch.export.onnx_graph import Nodes, draw
from qsearch.export.signs import NEGATIVE, positive_scales
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid, signed_grid
from qsearch.quantize.modules import Inputs

try:
    import onnx
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.change_batchsize import ChangeBatchSize
    from qonnx.transformation.infer_shapes import InferShapes
except ImportError as error:
    raise PluginError(
        "the format 'qonnx' needs the packages onnx and qonnx", fix="pip install 'qsearch[export]'"
    ) from error

log = logging.getLogger(__name__)

OPSET = 18
"""The least that torch writes."""

BITS = "qsearch.bits."
"""Prefix of the keys of the bits of each weight."""

ONE_SAMPLE = "qsearch.samples"
"""Key of the note in a file whose number of samples cannot be changed."""

QUANT = "qonnx.custom_op.general"
"""Domain of Quant and BipolarQuant."""


class Qonnx:
    """Writes and loads QONNX files."""

    suffix = ".qonnx.onnx"
    told = "Quant nodes"
    runtime = "qonnx"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`."""
        dialect = _QuantDialect()
        model, captured = draw("qonnx", deployment, dialect, OPSET)
        _fix_batch(model.graph)
        model.opset_import.append(onnx.helper.make_opsetid(QUANT, 1))
        shaped = ModelWrapper(model).transform(InferShapes())
        if not captured.any_batch:
            shaped.set_metadata_prop(ONE_SAMPLE, "its graph is bound to one")
        for site in deployment.weights:
            shaped.set_metadata_prop(f"{BITS}{site}", json.dumps(deployment.assignment[site]))
        shaped.save(str(path))
        return [f"opset {OPSET}, shapes fixed for one sample", *dialect.notes()]

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The graph in qonnx."""
        return execution(path)


class _QuantDialect:
    """Quant nodes; see the module's table."""

    def __init__(self) -> None:
        self._widened = self._float = self._negative = 0

    def notes(self) -> list[str]:
        """Which weights do not show the bits of their kernels, and how many scales stayed negative."""
        found = []
        if self._widened:
            found.append(
                f"weights of {self._widened} layers carry the widest bits of their kernels, as readers take one bitwidth "
                f"per weight; values are the same, and the metadata have each kernel's bits ({BITS}SITE)"
            )
        if self._float:
            found.append(f"weights of {self._float} layers as floats, as kernels at 32 bits are among them")
        if self._negative:
            found.append(f"{self._negative} kernels {NEGATIVE.format(end='grid')}")
        return found

    def weight(self, nodes: Nodes, stored: IntegerWeight, output: str) -> None:
        """See :class:`qsearch.export.onnx_graph.Dialect`."""
        values = stored.values.numpy().astype(np.float32)
        if len(stored.float_kernels) or not stored.widest:
            self._float += bool(len(stored.float_kernels))
            nodes.constant(output, values)
            return
        two_levels = bool((np.abs(stored.codes.numpy()) == 1).all() and stored.widest == 1)
        bits = 1 if two_levels else max(stored.widest, 2)
        self._widened += bool((stored.bits != bits).any())
        scales = positive_scales(stored, 2 if two_levels else 1 << (bits - 1))[1]
        self._negative += int((scales < 0).sum())
        x = nodes.constant(f"{output}.values", values)
        scale = nodes.constant(f"{output}.scale", scales.reshape(-1, *[1] * (values.ndim - 1)))
        if two_levels:
            nodes.node("BipolarQuant", [x, scale], output, domain=QUANT)
        else:
            _quant(nodes, output, x, scale, bits, output, grid=signed_grid(bits))

    def activation(self, nodes: Nodes, site: str, quantizer: ActivationQuantizer, x: str, output: str) -> None:
        """See :class:`qsearch.export.onnx_graph.Dialect`."""
        scale = nodes.constant(f"{site}.scale", quantizer.scale.detach().numpy().astype(np.float32).reshape(()))
        if quantizer.grid is None:
            nodes.node("BipolarQuant", [x, scale], output, domain=QUANT)
        else:
            _quant(nodes, site, x, scale, quantizer.bits, output, grid=quantizer.grid)


def _quant(nodes: Nodes, name: str, x: str, scale: str, bits: int, output: str, *, grid: Grid) -> str:
    zero = nodes.constant(f"{name}.zero", np.zeros((), np.float32))
    width = nodes.constant(f"{name}.bits", np.asarray(bits, np.float32))
    narrow = grid.low == -grid.high  # the lowest code is left out
    settings = {"signed": int(grid.low < 0), "narrow": int(narrow), "rounding_mode": "ROUND"}
    return nodes.node("Quant", [x, scale, zero, width], output, domain=QUANT, **settings)


def execution(path: Path) -> Runtime:
    """A file in qonnx's own execution."""
    model = ModelWrapper(str(path))
    names, output = [value.name for value in model.graph.input], model.graph.output[0].name

    def run(inputs: Inputs) -> Tensor:
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        count = len(parts[0])
        sized = model if count == 1 else model.transform(ChangeBatchSize(count)).transform(InferShapes())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)
            found = execute_onnx(sized, {name: part.numpy() for name, part in zip(names, parts, strict=True)})
        return torch.from_numpy(found[output])

    def together(inputs: Inputs) -> Tensor:
        try:
            return run(inputs)
        except Exception as error:  # the exceptions of every runtime that qonnx calls
            log.debug("qonnx takes no batch of this graph: %s", error)
        return sample_by_sample(run)(inputs)

    return together if model.get_metadata_prop(ONE_SAMPLE) is None else sample_by_sample(run)


def _fix_batch(graph: onnx.GraphProto) -> None:
    """One sample in every open extent."""
    for value in (*graph.input, *graph.output):
        for extent in value.type.tensor_type.shape.dim:
            if extent.dim_param:
                extent.dim_value = 1


FORMATS = (Qonnx(),)
