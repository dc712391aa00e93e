"""QDQ graphs in onnxruntime, and their constants read by onnx alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export_networks import EVERY_KIND, Case, agrees, case
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.export.deployment import IntegerWeight
from qsearch.export.onnx_qdq import FORMATS, Qdq, container

FULL = Qdq((4, 8, 16))
MIXED = {"weights": [2, 4, 8], "activations": [4, 8], "by_kernel": True}


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {value.name: value for value in model.graph.initializer}


def written(case: Case, path: Path, **choices: object) -> onnx.ModelProto:
    """The graph of mixed bits, and that it agrees."""
    exported = case.export(FORMATS, case.assignment(**choices), path)  # type: ignore[arg-type]
    agrees(exported)
    assert exported.runtime == "onnxruntime"
    return onnx.load(exported.path)


@pytest.mark.slow
@pytest.mark.parametrize("by_kernel", [False, True])
def test_digits_agree(digits: Case, by_kernel: bool, tmp_path: Path) -> None:
    for seed in range(2):
        activations = (1, 2, 3, 5, 8, 12, 32)
        written(
            digits, tmp_path / "n.onnx", weights=EVERY_KIND, activations=activations, by_kernel=by_kernel, seed=seed
        )


@pytest.mark.slow
@pytest.mark.parametrize("which", ["small", "attention"])
def test_every_kind_of_grid(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Bits per kernel and a module that is used twice; grids of 8 and 16 bits, narrower ones, and wider."""
    one: Case = request.getfixturevalue(which)
    for seed in range(3):
        activations = (1, 3, 8, 11, 16, 20, 28, 32)
        written(one, tmp_path / "n.onnx", weights=(*EVERY_KIND, 28), activations=activations, by_kernel=True, seed=seed)


@pytest.mark.parametrize(
    ("bits", "kind", "opset"),
    [(2, TensorProto.INT4, 21), (4, TensorProto.INT4, 21), (5, TensorProto.INT8, 18), (12, TensorProto.INT16, 21)],
)
def test_weights_are_stored_in_the_narrowest_type(
    small: Case, tmp_path: Path, bits: int, kind: int, opset: int
) -> None:
    """And scales times codes are the weights of the evaluation, in every bit."""
    model = written(small, tmp_path / "n.onnx", weights=[bits], activations=[8])
    found = constants(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    for site in small.kernels:
        assert found[f"{site}.codes"].data_type == kind
        codes = numpy_helper.to_array(found[f"{site}.codes"]).astype(np.float32)
        scales = numpy_helper.to_array(found[f"{site}.scale"])
        values = codes * scales.reshape(-1, *[1] * (codes.ndim - 1))
        assert np.array_equal(values, small.network.quantized_weight(site, bits).values.numpy())


def test_nodes_are_named_by_layers_and_nothing_else_travels_along(small: Case, tmp_path: Path) -> None:
    model = written(small, tmp_path / "n.onnx", weights=(4, 32), activations=(3, 8), by_kernel=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"first/Conv", "again/Conv", "again/Conv_2", "head/Gemm", "first.weight/DequantizeLinear"} <= set(names)
    assert {node.op_type for node in model.graph.node if node.name.startswith("first.weight/")} <= {
        "DequantizeLinear",
        "ScatterND",
    }
    assert {node.domain for node in model.graph.node} == {""}
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    read = {name for node in model.graph.node for name in node.input}
    assert set(constants(model)) <= read
    assert [extent.dim_param for extent in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", "", "", ""]
    content = (tmp_path / "n.onnx").read_bytes()
    assert str(Path(__file__).parent).encode() not in content


def test_four_bits_take_half_of_eight(small: Case, tmp_path: Path) -> None:
    """Where a runtime has no integers of 4 bits, the next wider ones hold the same codes."""
    deployment = small.deploy(small.assignment([4], [8]))
    FULL.write(deployment, tmp_path / "four.onnx")
    Qdq((8, 16)).write(deployment, tmp_path / "eight.onnx")
    four, eight = (constants(onnx.load(tmp_path / name)) for name in ("four.onnx", "eight.onnx"))
    name = "again.weight.codes"
    assert np.prod(four[name].dims) == 2 * len(four[name].raw_data)
    assert (numpy_helper.to_array(eight["again.weight.scale"]) > 0).all()
    values = [
        numpy_helper.to_array(found[name]).astype(np.float32)
        * numpy_helper.to_array(found["again.weight.scale"])[:, None, None, None]
        for found in (four, eight)
    ]
    assert np.array_equal(*values)


def in_session(file: Path, samples: Tensor, *, optimised: bool = True) -> Tensor:
    """What a user's session gives, every setting as onnxruntime has it; or one without optimisations."""
    options = onnxruntime.SessionOptions()
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: samples.numpy()})[0])


def test_the_session_that_users_have_decides(linear: Case, tmp_path: Path) -> None:
    """It rounds biases of the plain graph, and changes predictions; of the guarded graph it does not."""
    exported = linear.export(FORMATS, linear.assignment(**MIXED), tmp_path / "n.onnx")
    expected = linear.network(linear.samples)
    torch.testing.assert_close(in_session(exported.path, linear.samples), expected.clone(), atol=1e-5, rtol=0)
    assert "do not agree: 196 of 200" in exported.notes[0]
    assert exported.notes[-1].startswith("a Max before each QuantizeLinear, which changes no value")


def test_guarding_changes_no_value(linear: Case, tmp_path: Path) -> None:
    """Nor far below the grid; signed grids, those of 16 bits and narrower ones included."""
    deployment = linear.deploy(linear.assignment([4], [3, 8, 12, 16]))
    samples = torch.cat([linear.samples, -1000 * linear.samples])
    for name, format_ in {"plain": FULL, "guarded": Qdq((4, 8, 16), guarded=True)}.items():
        format_.write(deployment, tmp_path / name)
    plain, guarded = (in_session(tmp_path / name, samples, optimised=False) for name in ("plain", "guarded"))
    assert torch.equal(plain, guarded)
    kinds = [[node.op_type for node in onnx.load(tmp_path / name).graph.node] for name in ("plain", "guarded")]
    assert [kind.count("Max") for kind in kinds] == [0, 3]


def test_a_plain_graph_that_agrees_is_left_plain(small: Case, tmp_path: Path) -> None:
    model = written(small, tmp_path / "n.onnx", weights=[8], activations=[8])
    assert "Max" not in {node.op_type for node in model.graph.node}


def kernels(bits: list[int], size: int) -> IntegerWeight:
    """A weight of kernels of ``size`` weights; its codes do not matter."""
    values = torch.zeros(len(bits), size)
    return IntegerWeight("a.weight", np.asarray(bits), values.to(torch.int32), torch.ones(len(bits)), values)


@pytest.mark.parametrize(
    ("bits", "size", "width"),
    [
        ([4, 4], 1, None),  # 36 bits a kernel, 32 as a float
        ([4, 4], 2, 4),  # 40, and 64
        ([8, 8], 2, 8),  # 48, and 64
        ([9, 2], 2, 16),  # 64, and 64
        ([17, 2], 100, None),
        ([8, 32, 32, 32], 100, None),  # 4 · 832 + 3 · 3264 = 13,120, and 12,800
        ([4, 32, 32, 32], 100, 4),  # 4 · 432 + 3 · 3264 = 11,520
    ],
)
def test_floats_are_stored_where_they_take_less(bits: list[int], size: int, width: int | None) -> None:
    assert container(kernels(bits, size), (4, 8, 16)) == width


def test_a_weight_that_is_stored_as_floats(small: Case, tmp_path: Path) -> None:
    bits = small.assignment([4], [8]).replace({"again.weight": 20})
    exported = small.export(FORMATS, bits, tmp_path / "n.onnx")
    agrees(exported)
    assert "weights of 1 layers as floats: codes and scales would take more" in exported.notes
    model = onnx.load(exported.path)
    assert not [node for node in model.graph.node if node.name.startswith("again.weight/")]
    values = numpy_helper.to_array(constants(model)["again.weight"])
    assert np.array_equal(values, small.network.quantized_weight("again.weight", 20).values.numpy())


def test_negative_scales_are_told(small: Case, tmp_path: Path) -> None:
    exported = small.export(FORMATS, small.assignment([4], [8], seed=3), tmp_path / "n.onnx")
    found = constants(onnx.load(exported.path))
    negative = sum(int((numpy_helper.to_array(found[f"{site}.scale"]) < 0).sum()) for site in small.kernels)
    assert negative > 0
    told = f"{negative} kernels keep a negative scale, as their codes fill the type: "
    assert f"{told}compilers that ask for positive scales do not take them" in exported.notes


class _Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.special.bessel_j0(x))


def test_an_operator_that_onnx_has_not_is_named(tmp_path: Path) -> None:
    odd = case(_Bessel(), torch.randn(20, 6))
    deployment = odd.deploy(odd.assignment([8], [8]))
    with pytest.raises(ConfigError, match=r"'onnx'.*bessel_j0.*try torch, safetensors, json, csv"):
        FULL.write(deployment, tmp_path / "n.onnx")
