"""Fake-quantisation against torch's and ONNX's, on the same scales."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from qsearch.quantize import grid
from qsearch.quantize.grid import (
    Grid,
    codes,
    fake_quantize,
    search_scales,
    signed_grid,
    squared_error,
    unsigned_grid,
)

values = arrays(np.float32, (3, 17), elements=st.floats(-8, 8, width=32))


@pytest.mark.parametrize(
    ("bits", "signed", "unsigned"), [(1, (-1, 0), (0, 1)), (2, (-2, 1), (0, 3)), (8, (-128, 127), (0, 255))]
)
def test_grids_have_all_levels(bits: int, signed: tuple[int, int], unsigned: tuple[int, int]) -> None:
    assert signed_grid(bits) == Grid(*signed)
    assert unsigned_grid(bits) == Grid(*unsigned)


def test_rounding_is_half_to_even_and_clips() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.49, 3.5, 99.0, -99.0])
    expected = torch.tensor([0.0, 2.0, 2.0, 0.0, -2.0, -2.0, 3.0, 3.0, 3.0, -4.0])
    assert torch.equal(fake_quantize(x, torch.tensor(1.0), signed_grid(3)), expected)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("make", [signed_grid, unsigned_grid])
def test_equals_torch_per_tensor(bits: int, make: type[Grid]) -> None:
    grid = make(bits)
    scale = 2.0 ** (2 - bits)  # a power of two: torch multiplies by 1/s, which is exact only then
    x = torch.cat(
        [torch.randn(20_000, generator=torch.Generator().manual_seed(bits)), torch.arange(-64, 64) * scale / 2]
    )
    expected = torch.fake_quantize_per_tensor_affine(x, scale, 0, grid.low, grid.high)
    assert torch.equal(fake_quantize(x, torch.tensor(scale), grid), expected)


@pytest.mark.parametrize("bits", range(2, 9))
def test_equals_torch_per_channel(bits: int) -> None:
    grid = signed_grid(bits)
    x = torch.randn(16, 300, generator=torch.Generator().manual_seed(bits))
    scales = 2.0 ** torch.randint(-8, 2, (16,), generator=torch.Generator().manual_seed(bits)).float()
    zero = torch.zeros(16, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(x, scales, zero, 0, grid.low, grid.high)
    assert torch.equal(fake_quantize(x, scales[:, None], grid), expected)


@pytest.mark.parametrize("bits", [4, 8])
def test_equals_torch_on_any_scale_away_from_ties(bits: int) -> None:
    grid, scale = signed_grid(bits), 0.0137
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(1)) * scale * 2**bits / 3
    x = x[((x / scale).remainder(1) - 0.5).abs() > 1e-3]
    expected = torch.fake_quantize_per_tensor_affine(x, scale, 0, grid.low, grid.high)
    torch.testing.assert_close(fake_quantize(x, torch.tensor(scale), grid), expected, rtol=1e-6, atol=0)


def onnx_round_trip(x: NDArray[np.float32], scales: NDArray[np.float32], kind: int) -> NDArray[np.float32]:
    """QuantizeLinear then DequantizeLinear by onnxruntime, one scale per row of ``x``."""
    zeros = helper.make_tensor("zero", kind, scales.shape, np.zeros(scales.shape, dtype=np.int32))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        "round trip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [onnx.numpy_helper.from_array(scales, "scale"), zeros],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        (TensorProto.INT8, signed_grid(8)),
        (TensorProto.UINT8, unsigned_grid(8)),
        (TensorProto.INT4, signed_grid(4)),
        (TensorProto.UINT4, unsigned_grid(4)),
    ],
)
def test_equals_onnx_bit_for_bit_ties_included(kind: int, grid: Grid) -> None:
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(-3, 2, 64)).astype(np.float32)
    steps = np.concatenate([np.arange(grid.low - 3, grid.high + 4), np.arange(grid.low - 3, grid.high + 4) + 0.5])
    ties = steps.astype(np.float32)[None] * scales[:, None]
    x = np.concatenate([ties, rng.normal(0, grid.high, (64, 500)).astype(np.float32) * scales[:, None]], axis=1)
    ours = fake_quantize(torch.from_numpy(x), torch.from_numpy(scales)[:, None], grid).numpy()
    assert np.array_equal(ours, onnx_round_trip(x, scales, kind))


@given(values, st.integers(1, 8), st.floats(2**-8, 4, width=32))
def test_idempotent(x: NDArray[np.float32], bits: int, scale: float) -> None:
    grid, s = signed_grid(bits), torch.tensor(scale)
    once = fake_quantize(torch.from_numpy(x), s, grid)
    assert torch.equal(fake_quantize(once, s, grid), once)


def test_the_input_is_left_as_it_is() -> None:
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    fake_quantize(x, torch.tensor(0.1), signed_grid(3))
    assert torch.equal(x, before)


def exhaustive_error(x: Tensor, grid: Grid, mirrored: bool) -> float:
    """Least squared error over a very fine grid of clips, by brute force."""
    peak = float(x.abs().max())
    scales = torch.linspace(0.02 * peak / max(grid.high, 1), 1.02 * peak / max(grid.high, 1), 20_000)[:, None]
    scales = torch.cat([scales, -scales]) if mirrored else scales
    return float(squared_error(x.expand(len(scales), -1), fake_quantize(x[None], scales, grid)).min())


@pytest.mark.parametrize("bits", range(2, 7))
@pytest.mark.parametrize("kind", ["normal", "laplace", "skewed", "uniform"])
def test_the_search_comes_close_to_brute_force(bits: int, kind: str) -> None:
    rng = np.random.default_rng(bits)
    draw = {
        "normal": rng.normal(size=144),
        "laplace": rng.laplace(size=144),
        "skewed": rng.gamma(1.0, size=144) - 0.3,
        "uniform": rng.uniform(-1, 1, 144),
    }[kind]
    x = torch.from_numpy(draw.astype(np.float32))
    scale = search_scales(x[None], signed_grid(bits), None, mirrored=True)
    found = float(squared_error(x[None], fake_quantize(x[None], scale[:, None], signed_grid(bits))))
    assert found <= 1.05 * exhaustive_error(x, signed_grid(bits), mirrored=True)


def test_a_carried_scale_is_never_made_worse() -> None:
    x = torch.randn(32, 9, generator=torch.Generator().manual_seed(3))
    carried = x.abs().mean(-1)
    scale = search_scales(x, signed_grid(2), carried, mirrored=True)
    error = squared_error(x, fake_quantize(x, scale[:, None], signed_grid(2)))
    assert bool((error <= squared_error(x, fake_quantize(x, carried[:, None], signed_grid(2)))).all())


def test_codes_are_within_the_grid() -> None:
    q = codes(torch.linspace(-9, 9, 1001), torch.tensor(0.25), signed_grid(4))
    assert (float(q.min()), float(q.max())) == (-8.0, 7.0)
    assert torch.equal(q, q.round())


def test_large_tensors_are_searched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 30, generator=torch.Generator().manual_seed(5))
    carried = x.abs().mean(-1)
    whole = search_scales(x, signed_grid(3), carried, mirrored=True)
    monkeypatch.setattr(grid, "BLOCK", 200)
    monkeypatch.setattr(grid, "CHUNK", 2000)
    assert torch.equal(search_scales(x, signed_grid(3), carried, mirrored=True), whole)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 8, 12, 16, 24, 31])
@pytest.mark.parametrize("make", [signed_grid, unsigned_grid])
def test_half_precision_is_quantised_in_float32(kind: torch.dtype, bits: int, make: type[Grid]) -> None:
    x = torch.randn(500, generator=torch.Generator().manual_seed(bits)).to(kind)
    scale, grid = torch.tensor(3.0 / 2**bits), make(bits)
    found = fake_quantize(x, scale, grid)
    assert found.dtype == kind
    assert torch.equal(found, fake_quantize(x.float(), scale, grid).to(kind))


@pytest.mark.parametrize(
    ("make", "bits"), [(signed_grid, 26), (signed_grid, 31), (unsigned_grid, 25), (unsigned_grid, 31)]
)
def test_the_ends_of_wide_grids_are_exact(make: type[Grid], bits: int) -> None:
    grid = make(bits)
    q = codes(torch.tensor([-1e30, 1e30, 3.0]), torch.tensor(1.0), grid)
    assert q.tolist() == [grid.low, grid.high, 3]
    assert fake_quantize(torch.tensor([0.3]), torch.tensor(0.1), grid).dtype == torch.float32
