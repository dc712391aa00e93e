"""ONNX Runtime as a target: integers really run as integers, and compute what the float network does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch import registry
from qsearch.errors import ConfigError
from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.targets.onnx_graphs import BLOCK, identity_graph, layer_graph
from qsearch.targets.onnxruntime import OnnxRuntime
from qsearch.targets.padding import padding
from qsearch.testing.target import TargetContract

CONV = Layer("conv", "conv", 16, 24, (3, 3), (1, 1), 1, (12, 12), (12, 12), bias=True)
LAYERS = {
    "conv": CONV,
    "strided": Layer("strided", "conv", 16, 32, (3, 3), (2, 2), 1, (12, 12), (6, 6)),
    "pointwise": Layer("pointwise", "conv", 16, 32, (1, 1), (1, 1), 1, (12, 12), (12, 12)),
    "depthwise": Layer("depthwise", "conv", 32, 32, (3, 3), (1, 1), 32, (12, 12), (12, 12), bias=True),
    "grouped": Layer("grouped", "conv", 20, 12, (3, 3), (1, 1), 4, (5, 5), (5, 5)),
    "1-D": Layer("1-D", "conv", 4, 8, (3,), (1,), 1, (10,), (10,), bias=True),
    "3-D": Layer("3-D", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 5), (4, 5, 5)),
    "linear": Layer("linear", "linear", 300, 10),
    "tokens": Layer("tokens", "linear", 64, 48, input_size=(7,), output_size=(7,), bias=True),
    "embedding": Layer("embedding", "embedding", 50, 8, input_size=(6,), output_size=(6,)),
}
INTEGER = {"QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"}
FLOAT = {"Conv", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul"}


class TestOnnxRuntime(TargetContract):
    def target(self) -> Target:
        return OnnxRuntime()


def run(layer: Layer, weight_bits: int, activation_bits: int, batch: int = 1) -> np.ndarray:
    graph = layer_graph(layer, weight_bits, activation_bits, batch)
    (found,) = OnnxRuntime().session(graph).run(None, {"x": graph.x})
    return found.astype(np.float64) * graph.y_scale


def operations(layer: Layer, weight_bits: int, activation_bits: int, folder: Path) -> set[str]:
    """What is left of the graph once the runtime has optimised it."""
    file = folder / "optimised.onnx"
    OnnxRuntime().session(layer_graph(layer, weight_bits, activation_bits), str(file))
    return {node.op_type for node in onnx.load(file).graph.node}


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "embedding"])
def test_eight_bits_run_as_integers(kind, tmp_path):
    found = operations(LAYERS[kind], 8, 8, tmp_path)
    assert found & INTEGER
    assert not found & (FLOAT | {"DequantizeLinear", "QuantizeLinear"}), "neither arithmetic nor conversions in float"
    assert operations(LAYERS[kind], 32, 32, tmp_path) & FLOAT


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "embedding"])
def test_integers_compute_what_floats_do(kind):
    """Outputs below 0 are cut off, as an 8-bit output has its zero point at 0."""
    expected = run(LAYERS[kind], 32, 32)
    assert relative_error(run(LAYERS[kind], 8, 8), np.maximum(expected, 0)) < 0.02
    assert expected.shape == run(LAYERS[kind], 8, 8).shape


@pytest.mark.parametrize("kind", ["linear", "tokens"])
def test_four_bit_weights_compute_what_floats_do(kind, tmp_path):
    assert operations(LAYERS[kind], 4, 32, tmp_path) >= {"MatMulNBits"}
    error = relative_error(run(LAYERS[kind], 4, 32), run(LAYERS[kind], 32, 32))
    assert 0.02 < error < 0.2, "a sixteenth of the range is the step: neither exact nor far off"
    assert layer_graph(LAYERS["linear"], 4, 32).model.graph.initializer[0].dims == [10, -(-300 // BLOCK), BLOCK // 2]


def test_an_eight_bit_table_gives_the_rows_of_the_float_one():
    assert relative_error(run(LAYERS["embedding"], 8, 32), run(LAYERS["embedding"], 32, 32)) < 0.02


def test_the_float_graph_is_the_convolution():
    """Against sums written out: weights and input are those of the graph."""
    layer = Layer("c", "conv", 4, 6, (3, 3), (2, 2), 2, (5, 5), (3, 3))
    graph = layer_graph(layer, 32, 32)
    weight = onnx.numpy_helper.to_array(graph.model.graph.initializer[0])
    x = np.pad(graph.x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros((1, 6, 3, 3))
    for channel in range(6):
        mine = x[0, channel // 3 * 2 : channel // 3 * 2 + 2]
        for row in range(3):
            for column in range(3):
                window = mine[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                expected[0, channel, row, column] = (window * weight[channel]).sum()
    assert run(layer, 32, 32) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(size=st.integers(3, 40), kernel=st.integers(1, 5), stride=st.integers(1, 3), pad=st.integers(0, 2))
def test_padding_gives_the_output_its_size(size, kernel, stride, pad):
    if size + 2 * pad < kernel:
        return
    out = (size + 2 * pad - kernel) // stride + 1
    layer = Layer("c", "conv", 1, 1, (kernel,), (stride,), 1, (size,), (out,))
    ((before, after),) = padding(layer)
    assert (size + before + after - kernel) // stride + 1 == out
    assert 0 <= after - before <= 1


def test_equal_points_give_equal_graphs():
    first, second = layer_graph(CONV, 8, 8), layer_graph(CONV, 8, 8)
    assert first.model.SerializeToString() == second.model.SerializeToString()
    assert np.array_equal(first.x, second.x)


def test_a_batch_is_a_batch():
    assert run(CONV, 8, 8, batch=3).shape == (3, 24, 12, 12)
    assert run(LAYERS["tokens"], 32, 32, batch=3).shape == (21, 48)


def test_what_it_runs_at():
    target = OnnxRuntime()
    assert target.precisions(CONV) == ((8, 8), (32, 32))
    assert target.precisions(LAYERS["linear"]) == ((4, 32), (8, 8), (32, 32))
    assert target.precisions(LAYERS["embedding"]) == ((8, 32), (32, 32))
    with pytest.raises(ValueError, match="no graph of a conv layer at W4A4"):
        target.measure(CONV, 4, 4)


def test_a_layer_used_twice_takes_twice_as_long():
    """Medians of readings taken in turns, so that a slow moment hits both."""
    layer = Layer("wide", "linear", 512, 512, input_size=(16,), output_size=(16,))
    twice = Layer("wide", "linear", 512, 512, input_size=(16,), output_size=(16,), uses=2)
    once, both = OnnxRuntime(), OnnxRuntime()
    pairs = [(once.measure(layer, 32, 32)["latency"], both.measure(twice, 32, 32)["latency"]) for _ in range(15)]
    assert np.median([second / first for first, second in pairs]) == pytest.approx(2, rel=0.3)


def test_a_call_that_computes_nothing_takes_less_than_a_large_layer():
    """Half a millisecond would be a runtime at fault."""
    target = OnnxRuntime()
    floor = target.floor()["latency"]
    assert 0 < floor < 5e-4
    assert target.floor()["latency"] == floor, "taken once"
    large = Layer("large", "linear", 2048, 2048)
    assert min(target.measure(large, 32, 32)["latency"] for _ in range(5)) > floor


def test_the_identity_is_run():
    graph = identity_graph()
    (found,) = OnnxRuntime().session(graph).run(None, {"x": graph.x + 3})
    assert found.tolist() == [[3.0]]


def test_options_are_checked_and_told():
    made = registry.create("targets", "onnxruntime", {"threads": 2})
    assert made.versions()["threads"] == "2"
    with pytest.raises(ConfigError, match="threads in options of 'onnxruntime'"):
        registry.create("targets", "onnxruntime", {"threads": 0})


@pytest.mark.parametrize(
    ("target", "package", "extra"), [("onnxruntime", "onnxruntime", "measured"), ("zigzag", "zigzag", "simulator")]
)
def test_a_missing_package_is_told_with_its_remedy(target, package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from qsearch import registry\nfrom qsearch.errors import PluginError\n"
        f"try: registry.load('targets', {target!r})\nexcept PluginError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert f"pip install 'qsearch[{extra}]'" in done.stdout
    assert len(done.stdout.splitlines()) == 1
