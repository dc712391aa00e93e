"""One layer as an ONNX graph, from its geometry alone, at a precision that ONNX Runtime has kernels for.

Notation

======  ==================================================================================
x, W    input and weight; random, from a fixed seed: a layer's time does not depend on values
s_x     scale of an 8-bit input: 1/255, zero point 0: inputs lie in 0..1, as behind a ReLU
s_W     scales of 8-bit weights, one per output channel: max|W| / 127
s_y     scale of an 8-bit output, 1/255 of four standard deviations of y: √(1/3) of W's gain
======  ==================================================================================

==========  ========================================================================================
(32, 32)    float32: Conv, Gemm, Gather
(8, 8)      uint8 input and output, int8 weights: DequantizeLinear → Conv or Gemm → QuantizeLinear,
            which the runtime turns into one integer operation. Numbers come and go as 8 bits, as
            between the layers of an 8-bit network
(8, 32)     embeddings: an int8 table, whose rows are made float after they are looked up
(4, 32)     linear layers: float input, int4 weights in blocks of 32 with a scale each (MatMulNBits)
==========  ========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qsearch.layers import Layer
from qsearch.targets.padding import padding

SEED = 0
BLOCK = 32
"""Weights that share a scale at 4 bits, the runtime's usual number."""
IR_VERSION = 10
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class LayerGraph:
    """A model with one input ``x`` and one output ``y``.

    Attributes:
        model: the ONNX model.
        x: an input.
        y_scale: what an integer output is to be multiplied by; 1 of a float one.
    """

    model: onnx.ModelProto
    x: NDArray[np.generic]
    y_scale: float = 1.0


@dataclass
class _Builder:
    """Nodes and constants while a graph grows."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output


def layer_graph(layer: Layer, weight_bits: int, activation_bits: int, batch: int = 1, opset: int = 21) -> LayerGraph:
    """The graph of a layer, used once.

    Raises:
        ValueError: a precision that is not in the table above.
    """
    rng = np.random.default_rng(SEED)
    weight = weights(layer, rng)
    x = inputs(layer, batch, rng)
    builder = _Builder()
    match (layer.kind, weight_bits, activation_bits):
        case ("embedding", 32, 32):
            builder.node("Gather", [builder.constant("W", weight), "x"], "y")
            found = x, TensorProto.FLOAT, 1.0
        case ("embedding", 8, 32):
            found = x, TensorProto.FLOAT, _integer_table(builder, weight)
        case ("conv" | "linear", 32, 32):
            _operation(builder, layer, "x", builder.constant("W", weight), _bias(builder, layer), "y")
            found = x, TensorProto.FLOAT, 1.0
        case ("conv" | "linear", 8, 8):
            found = np.rint(x * 255).astype(np.uint8), TensorProto.UINT8, _integer(builder, layer, weight)
        case ("linear", 4, 32):
            _blocks(builder, layer, weight)
            found = x, TensorProto.FLOAT, 1.0
        case _:
            raise ValueError(f"no graph of a {layer.kind} layer at W{weight_bits}A{activation_bits}")
    x, element, y_scale = found
    return LayerGraph(_model(builder, layer, x, element, batch, opset), x, y_scale)


def identity_graph(opset: int = 21) -> LayerGraph:
    """A graph that computes nothing: one number in, the same out."""
    x = np.zeros((1, 1), dtype=np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    return LayerGraph(model, x)


def weights(layer: Layer, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random weights with a gain of 1: shape (c_out, c_in/g, *k) of a convolution, (c_out, c_in) of a linear layer."""
    if layer.kind == "embedding":
        return rng.standard_normal((layer.in_channels, layer.out_channels), dtype=np.float32)
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    return rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def inputs(layer: Layer, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """A random input in multiples of 1/255 within 0..1, tokens as rows; row numbers for an embedding."""
    if layer.kind == "embedding":
        return rng.integers(layer.in_channels, size=(batch, *layer.output_size))
    shape = (batch, layer.in_channels, *layer.input_size)
    if layer.kind == "linear":
        shape = (batch * layer.positions, layer.in_channels)
    return (rng.integers(256, size=shape) / 255).astype(np.float32)


def _output_shape(layer: Layer, batch: int) -> tuple[int, ...]:
    if layer.kind == "embedding":
        return (batch, *layer.output_size, layer.out_channels)
    if layer.kind == "linear":
        return (batch * layer.positions, layer.out_channels)
    return (batch, layer.out_channels, *layer.output_size)


def _model(
    builder: _Builder, layer: Layer, x: NDArray[np.generic], element: int, batch: int, opset: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        builder.nodes,
        "layer",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", element, _output_shape(layer, batch))],
        builder.constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(_MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _operation(builder: _Builder, layer: Layer, x: str, weight: str, bias: list[str], output: str) -> str:
    """Conv or Gemm."""
    if layer.kind == "linear":
        return builder.node("Gemm", [x, weight, *bias], output, transB=1)
    pads = padding(layer)
    return builder.node(
        "Conv",
        [x, weight, *bias],
        output,
        kernel_shape=list(layer.kernel),
        strides=list(layer.stride),
        group=layer.groups,
        pads=[before for before, _ in pads] + [after for _, after in pads],
    )


def _bias(builder: _Builder, layer: Layer) -> list[str]:
    return [builder.constant("b", np.zeros(layer.out_channels, dtype=np.float32))] if layer.bias else []


def _integer(builder: _Builder, layer: Layer, weight: NDArray[np.float32]) -> float:
    """DequantizeLinear → operation → QuantizeLinear; the output's scale."""
    x_scale, y_scale = np.float32(1 / 255), np.float32(4 * np.sqrt(1 / 3) / 255)
    codes, scales = _per_channel(weight)
    zero = builder.constant("zero", np.asarray(0, np.uint8))
    builder.node("DequantizeLinear", ["x", builder.constant("x_scale", np.asarray(x_scale)), zero], "x_float")
    zeros = builder.constant("W_zero", np.zeros_like(scales, dtype=np.int8))
    inner = [builder.constant("W_int", codes), builder.constant("W_scale", scales), zeros]
    builder.node("DequantizeLinear", inner, "W", axis=0)
    bias = []
    if layer.bias:
        b_scale = builder.constant("b_scale", x_scale * scales)
        b_int = builder.constant("b_int", np.zeros(layer.out_channels, dtype=np.int32))
        b_zero = builder.constant("b_zero", np.zeros(layer.out_channels, dtype=np.int32))
        bias = [builder.node("DequantizeLinear", [b_int, b_scale, b_zero], "b", axis=0)]
    _operation(builder, layer, "x_float", "W", bias, "y_float")
    builder.node("QuantizeLinear", ["y_float", builder.constant("y_scale", np.asarray(y_scale)), zero], "y")
    return float(y_scale)


def _per_channel(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes within −127..127 and a scale for each index of the first axis."""
    others = tuple(range(1, weight.ndim))
    scales = np.abs(weight).max(axis=others) / np.float32(127)
    codes = np.rint(weight / np.expand_dims(scales, others)).astype(np.int8)
    return codes, scales.astype(np.float32)


def _integer_table(builder: _Builder, weight: NDArray[np.float32]) -> float:
    """Gather of 8-bit rows, then DequantizeLinear with one scale."""
    scale = np.float32(np.abs(weight).max() / 127)
    codes = np.rint(weight / scale).astype(np.int8)
    builder.node("Gather", [builder.constant("W_int", codes), "x"], "rows")
    builder.node("DequantizeLinear", ["rows", builder.constant("W_scale", np.asarray(scale))], "y")
    return 1.0


def _blocks(builder: _Builder, layer: Layer, weight: NDArray[np.float32]) -> None:
    """MatMulNBits: two codes of 0..15 around 8 to a byte, the first in its low half; blocks of ``BLOCK`` inputs."""
    rows, columns = weight.shape
    count = -(-columns // BLOCK)
    padded = np.zeros((rows, count * BLOCK), dtype=np.float32)
    padded[:, :columns] = weight
    blocks = padded.reshape(rows, count, BLOCK)
    scales = np.abs(blocks).max(axis=2) / np.float32(7)
    codes = (np.rint(blocks / scales[:, :, None]) + 8).astype(np.uint8)
    packed = codes[:, :, 0::2] | (codes[:, :, 1::2] << 4)
    inner = ["x", builder.constant("W_int", packed), builder.constant("W_scale", scales.astype(np.float32).ravel())]
    settings = {"K": columns, "N": rows, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    bias = _bias(builder, layer)
    result = builder.node("MatMulNBits", inner, "product" if bias else "y", domain=_MICROSOFT, **settings)
    if bias:
        builder.node("Add", [result, *bias], "y")
