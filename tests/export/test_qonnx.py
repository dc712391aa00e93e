"""Quant nodes in qonnx's own execution, and what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from export_networks import EVERY_KIND, Case, agrees
from onnx import NodeProto
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.general.bipolar_quant import binary_quant
from qonnx.custom_op.general.intquant import int_quant
from qonnx.util.cleanup import cleanup_model

from qsearch.export.deployment import IntegerWeight
from qsearch.export.onnx_quant import FORMATS, QUANT
from qsearch.export.writing import Exported


@pytest.mark.slow
@pytest.mark.parametrize("by_kernel", [False, True])
def test_digits_agree(digits: Case, by_kernel: bool, tmp_path: Path) -> None:
    bits = digits.assignment(EVERY_KIND, (1, 2, 3, 5, 8, 12, 32), by_kernel=by_kernel)
    agrees(digits.export(FORMATS, bits, tmp_path / "n.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["small", "attention"])
def test_other_networks_agree(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    one: Case = request.getfixturevalue(which)
    bits = one.assignment(EVERY_KIND, (1, 3, 8, 12, 32), by_kernel=True, seed=1)
    agrees(one.export(FORMATS, bits, tmp_path / "n.onnx"))


def test_the_file_runs_in_qonnx_as_it_is(small: Case, tmp_path: Path) -> None:
    """Loaded, cleaned up as its users do, and executed on one sample; data types are inferred from the nodes."""
    bits = small.assignment((1, 4, 6), (3, 8), by_kernel=True).replace({"head.weight": 1})
    exported = small.export(FORMATS, bits, tmp_path / "n.onnx")
    agrees(exported)
    model = ModelWrapper(str(exported.path))
    nodes = [node for node in model.graph.node if node.domain == QUANT]
    assert {node.op_type for node in nodes} == {"Quant", "BipolarQuant"}
    widths = {float(model.get_initializer(node.input[3])) for node in nodes if node.op_type == "Quant"}
    assert widths == {3.0, 6.0, 8.0}
    expected = small.network(small.samples[:3])
    for cleaned in (model, cleanup_model(model)):
        for sample, row in zip(small.samples[:3], expected, strict=True):
            found = execute_onnx(cleaned, {cleaned.graph.input[0].name: sample[None].numpy()})
            y = torch.from_numpy(found[cleaned.graph.output[0].name])
            torch.testing.assert_close(y[0], row.clone(), atol=1e-4, rtol=0)


def first_weight(case: Case, bits: tuple[int, ...], path: Path) -> tuple[ModelWrapper, Exported, IntegerWeight]:
    """The graph with given bits of the first layer's kernels, and that weight."""
    assignment = case.assignment([8], [8]).replace({"first.weight": bits})
    exported = case.export(FORMATS, assignment, path)
    agrees(exported)
    return ModelWrapper(str(exported.path)), exported, case.deploy(assignment).weights["first.weight"]


def nodes_of(model: ModelWrapper, site: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.name.startswith(f"{site}/")]


@pytest.mark.parametrize(
    ("bits", "width"), [((0, 1, 2, 3, 4, 5, 7, 8), 8), ((1, 2, 1, 2, 2, 1, 2, 1), 2), ((1, 0, 1, 1, 1, 1, 1, 1), 2)]
)
def test_one_node_at_the_widest_bits(small: Case, tmp_path: Path, bits: tuple[int, ...], width: int) -> None:
    """It gives every kernel of the evaluation in every bit; the metadata have the bits of each."""
    model, exported, stored = first_weight(small, bits, tmp_path / "n.onnx")
    (node,) = nodes_of(model, "first.weight")
    x, scale, zero, found = (model.get_initializer(name) for name in node.input)
    assert (node.op_type, found.shape, float(found)) == ("Quant", (), width)
    assert np.array_equal(int_quant(x, scale, zero, found, True, False, "ROUND"), stored.values.numpy())
    assert (scale.ravel()[np.asarray(bits) == 0] == 1).all()
    assert json.loads(model.get_metadata_prop("qsearch.bits.first.weight")) == list(bits)
    assert json.loads(model.get_metadata_prop("qsearch.bits.again.weight")) == 8
    assert any("weights of 1 layers carry the widest bits of their kernels" in note for note in exported.notes)


def test_weights_of_two_levels(small: Case, tmp_path: Path) -> None:
    model, exported, stored = first_weight(small, (1,) * 8, tmp_path / "n.onnx")
    (node,) = nodes_of(model, "first.weight")
    x, scale = (model.get_initializer(name) for name in node.input)
    assert node.op_type == "BipolarQuant"
    assert np.array_equal(binary_quant(x, scale), stored.values.numpy())
    assert not any("widest" in note for note in exported.notes)


def test_floats_where_a_kernel_is_one(small: Case, tmp_path: Path) -> None:
    model, exported, stored = first_weight(small, EVERY_KIND, tmp_path / "n.onnx")
    assert nodes_of(model, "first.weight") == []
    assert np.array_equal(model.get_initializer("first.weight"), stored.values.numpy())
    assert "weights of 1 layers as floats, as kernels at 32 bits are among them" in exported.notes
    assert json.loads(model.get_metadata_prop("qsearch.bits.first.weight")) == list(EVERY_KIND)


def test_no_joined_weights(small: Case, tmp_path: Path) -> None:
    """FINN folds a Quant with scales into the layer that reads it, and into nothing else."""
    bits = small.assignment((0, 1, 2, 5, 8), [8], by_kernel=True)
    exported = small.export(FORMATS, bits, tmp_path / "n.onnx")
    graph = ModelWrapper(str(exported.path)).graph
    assert not {"Concat", "Gather"} & {node.op_type for node in graph.node}


def test_qonnx_does_not_execute_a_bitwidth_per_kernel() -> None:
    """Why weights carry their widest bits. When this fails, a tensor of bitwidths will do."""
    x, scale, zero = np.ones((2, 3), np.float32), np.ones((2, 1), np.float32), np.float32(0)
    with pytest.raises(ValueError, match="truth value"):
        int_quant(x, scale, zero, np.array([[4.0], [8.0]], np.float32), True, False, "ROUND")
