"""``onnx``: a graph of standard operators, quantised by QuantizeLinear and DequantizeLinear.

==============================  ==================================================================================
in the network                  in the graph
==============================  ==================================================================================
weight, every kernel ≤ 4 bits   INT4 codes, DequantizeLinear with a scale per kernel (opset 21)
weight, ≤ 8, 16 bits            INT8, INT16 (opset 21) codes, likewise
some kernels at 32 bits         ScatterND puts their floats into the decoded weight
weight, more bits               its values as floats: codes and scales would take more; likewise wherever they do
input, ≤ 8 bits                 QuantizeLinear to UINT8 or INT8, Clip of the codes where the grid is narrower
input, ≤ 16 bits                the same in UINT16 or INT16 (opset 21), but x is clipped: Clip knows no 16-bit integers
input, 1 bit signed             ±s by Where
input, more bits                Div, Round, Clip, Mul
==============================  ==================================================================================

Kernels of fewer bits than their container hold codes of their own narrower range. A negative scale mirrors a kernel's
grid. Its sign is moved to the codes where the container holds them all, as some compilers ask for positive scales;
where −2^(b−1) fills the container, the scale stays negative, which the standard allows and onnxruntime computes.

What decides is the session that users have, with all optimisations. One of them, WeightBiasQuantization, rounds the bias
of a float layer whose outputs are quantised, to integers of a scale that the layer's inputs and weights give: outputs change.
Where predictions do so too, the graph is written *guarded*: each QuantizeLinear reads Max(x, low·s), low the least value
of its type. That is what it saturates at anyway, so no value changes, but the optimisation no longer finds its pattern.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import EvaluationError, PluginError
from qsearch.export.capture import sample_by_sample
from qsearch.export.deployment import Deployment, IntegerWeight
from qsearch.export.formats import Runtime
from qsearch.export.modules import EXACT_BITS
from qsearch.export.onnx_graph import Nodes, draw
from qsearch.export.signs import NEGATIVE, positive_scales
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import Grid, signed_grid, unsigned_grid
from qsearch.quantize.modules import Inputs

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper
except ImportError as error:
    raise PluginError(
        "the format 'onnx' needs the packages onnx and onnxruntime", fix="pip install 'qsearch[export]'"
    ) from error

OLD_OPSET, NEW_OPSET = 18, 21
"""The least that torch writes; and the first with integers of 4 and of 16 bits."""

SCALE_BITS, INDEX_BITS = 32, 64
"""Of a kernel's scale, and of the place of a kernel that keeps its floats."""


class Qdq:
    """Writes and loads ``.onnx`` files.

    Args:
        containers: bits of the types that weights may be stored in.
        guarded: keep onnxruntime from quantising biases; see the module.
    """

    suffix = ".onnx"
    runtime = "onnxruntime"

    def __init__(self, containers: Sequence[int], *, guarded: bool = False) -> None:
        self.containers, self.guarded = tuple(containers), guarded
        self.told = f"weights in integers of {', '.join(map(str, containers))} bits{', guarded' if guarded else ''}"

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """See :class:`qsearch.export.formats.Format`."""
        dialect = _QdqDialect(self.containers, self.guarded)
        opset = self._opset(deployment)
        model, captured = draw("onnx", deployment, dialect, opset)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)
        return [f"opset {opset}, {captured.note}", *dialect.notes()]

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The graph in onnxruntime as users load it, with all its optimisations."""
        return session_runtime(path)

    def _opset(self, deployment: Deployment) -> int:
        """The lowest that has all types that are needed."""
        widths = {container(weight, self.containers) for weight in deployment.weights.values()}
        sixteen = any(8 < quantizer.bits <= 16 for quantizer in deployment.inputs.values())
        return NEW_OPSET if sixteen or widths & {4, 16} else OLD_OPSET


class _QdqDialect:
    """Standard operators; see the module's table."""

    def __init__(self, containers: Sequence[int], guarded: bool) -> None:
        self._containers, self._guarded = containers, guarded
        self._stored: dict[str, int | None] = {}
        self._negative = 0

    def notes(self) -> list[str]:
        """Which types hold the weights, what negative scales mean, and whether the graph is guarded."""
        widths = list(self._stored.values())
        found = [
            f"weights of {widths.count(width)} layers in INT{width}" for width in self._containers if width in widths
        ]
        if None in widths:
            found.append(f"weights of {widths.count(None)} layers as floats: codes and scales would take more")
        if self._negative:
            found.append(f"{self._negative} kernels {NEGATIVE.format(end='type')}")
        if self._guarded:
            found.append(
                "a Max before each QuantizeLinear, which changes no value, keeps onnxruntime from rounding biases"
            )
        return found

    def weight(self, nodes: Nodes, stored: IntegerWeight, output: str) -> None:
        """See :class:`qsearch.export.onnx_graph.Dialect`."""
        width = self._stored[stored.site] = container(stored, self._containers)
        if width is None:
            nodes.constant(output, stored.values.numpy())
            return
        codes, scales = positive_scales(stored, 1 << (width - 1))
        self._negative += int((scales < 0).sum())
        values = nodes.constant(f"{stored.site}.codes", _tensor(codes, width))
        scale = nodes.constant(f"{stored.site}.scale", scales)
        rows = stored.float_kernels
        decoded = output if not len(rows) else f"{stored.site}.decoded"
        nodes.node("DequantizeLinear", [values, scale], decoded, axis=0)
        if len(rows):
            places = nodes.constant(f"{stored.site}.float_kernels", rows.numpy()[:, None])
            floats = nodes.constant(f"{stored.site}.floats", stored.values[rows].numpy())
            nodes.node("ScatterND", [decoded, places, floats], output)

    def activation(self, nodes: Nodes, site: str, quantizer: ActivationQuantizer, x: str, output: str) -> None:
        """See :class:`qsearch.export.onnx_graph.Dialect`."""
        if quantizer.grid is None:
            _two_levels(nodes, site, quantizer, x, output)
        elif quantizer.bits > 16:
            _in_float(nodes, site, quantizer, x, output)
        else:
            _in_integers(nodes, site, quantizer, quantizer.grid, x, output, guarded=self._guarded)


def container(stored: IntegerWeight, containers: Sequence[int]) -> int | None:
    """The narrowest of several widths that holds the codes of a weight; None where its floats take less."""
    width = next((width for width in sorted(containers) if width >= stored.widest), None)
    if width is None or stored.is_float:
        return None
    kernels, size, floats = len(stored.bits), stored.codes[0].numel(), len(stored.float_kernels)
    taken = kernels * (width * size + SCALE_BITS) + floats * (FLOAT_BITS * size + INDEX_BITS)
    return width if taken <= kernels * FLOAT_BITS * size else None


def session_runtime(path: Path) -> Runtime:
    """A file in onnxruntime, on one thread.

    Raises:
        EvaluationError: it does not take the graph, as one that lacks a type.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no public class
        reason = " ".join(str(error).split())[:200]
        raise EvaluationError("onnxruntime must run the graph that was written", got=reason) from error
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Inputs) -> Tensor:
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        found = session.run(None, {name: part.numpy() for name, part in zip(names, parts, strict=True)})
        return torch.from_numpy(found[0])

    open_ = all(isinstance(value.shape[0], str) for value in session.get_inputs())
    return run if open_ else sample_by_sample(run)


def _in_integers(
    nodes: Nodes, site: str, quantizer: ActivationQuantizer, grid: Grid, x: str, output: str, *, guarded: bool
) -> None:
    """QuantizeLinear and DequantizeLinear, with a Clip where the grid is narrower than the type."""
    width = 8 if quantizer.bits <= 8 else 16
    element = np.dtype(f"{'int' if grid.low else 'uint'}{width}")
    scale, zero = nodes.constant(f"{site}.scale", _scalar(quantizer.scale)), np.zeros((), element)
    parameters = [scale, nodes.constant(f"{site}.zero", zero)]
    narrow = grid != (signed_grid if grid.low else unsigned_grid)(width)
    ends = np.asarray([grid.low, grid.high])
    if narrow and width == 16:
        x = nodes.node(
            "Clip", [x, *_ends(nodes, site, ends.astype(np.float32) * _scalar(quantizer.scale))], f"{output}.clipped"
        )
    if guarded:
        lowest = np.float32(np.iinfo(element).min) * _scalar(quantizer.scale)
        x = nodes.node("Max", [x, nodes.constant(f"{site}.lowest", np.asarray(lowest))], f"{output}.guarded")
    codes = nodes.node("QuantizeLinear", [x, *parameters], f"{output}.codes")
    if narrow and width == 8:
        codes = nodes.node("Clip", [codes, *_ends(nodes, site, ends.astype(element))], f"{output}.clipped")
    nodes.node("DequantizeLinear", [codes, *parameters], output)


def _ends(nodes: Nodes, site: str, ends: NDArray[Any]) -> list[str]:
    """Names of two constants, the lower and the upper."""
    low, high = (value.reshape(()) for value in ends)
    return [nodes.constant(f"{site}.low", low), nodes.constant(f"{site}.high", high)]


def _two_levels(nodes: Nodes, site: str, quantizer: ActivationQuantizer, x: str, output: str) -> None:
    """−s below zero, else s."""
    zero = nodes.constant(f"{site}.zero", np.zeros((), np.float32))
    below = nodes.node("Less", [x, zero], f"{output}.below")
    ends = _ends(nodes, site, np.asarray([-1, 1], np.float32) * _scalar(quantizer.scale))
    nodes.node("Where", [below, *ends], output)


def _in_float(nodes: Nodes, site: str, quantizer: ActivationQuantizer, x: str, output: str) -> None:
    """Codes that no integer type of QuantizeLinear holds, in floats; in double precision where float is not exact."""
    assert quantizer.grid is not None
    exact = quantizer.bits <= EXACT_BITS
    element = np.float32 if exact else np.float64
    scale = nodes.constant(f"{site}.scale", _scalar(quantizer.scale).astype(element))
    ends = _ends(nodes, site, np.asarray([quantizer.grid.low, quantizer.grid.high], element))
    wide = x if exact else nodes.node("Cast", [x], f"{output}.wide", to=TensorProto.DOUBLE)
    divided = nodes.node("Div", [wide, scale], f"{output}.divided")
    rounded = nodes.node("Round", [divided], f"{output}.rounded")
    codes = nodes.node("Clip", [rounded, *ends], f"{output}.codes")
    product = nodes.node("Mul", [codes, scale], output if exact else f"{output}.product")
    if not exact:
        nodes.node("Cast", [product], output, to=TensorProto.FLOAT)


def _scalar(scale: Tensor) -> NDArray[np.float32]:
    return scale.detach().numpy().astype(np.float32).reshape(())


def _tensor(codes: NDArray[np.int64], width: int) -> TensorProto:
    """Codes as a tensor; two of 4 bits share a byte, the first in its low half."""
    if width > 4:
        return onnx.numpy_helper.from_array(codes.astype(f"int{width}"))
    halves = (codes.ravel() & 15).astype(np.uint8)
    halves = np.append(halves, np.zeros(len(halves) % 2, np.uint8))
    return helper.make_tensor("", TensorProto.INT4, codes.shape, (halves[0::2] | halves[1::2] << 4).tobytes(), raw=True)


FULL, WIDE = (4, 8, 16), (8, 16)

FORMATS = (Qdq(FULL), Qdq(FULL, guarded=True), Qdq(WIDE), Qdq(WIDE, guarded=True))
"""Plain where that agrees, as the runtime then has its integer kernels; 4 bits in 8 where it has no INT4."""
