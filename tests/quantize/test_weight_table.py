"""Quantised weights: known answers, and properties over random kernels."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import DataError
from qsearch.quantize import weights
from qsearch.quantize.grid import fake_quantize, signed_grid, squared_error
from qsearch.quantize.weights import WeightTable, quantize_weight

kernels = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.floats(-4, 4, width=32))


def weight(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def table(values: torch.Tensor) -> WeightTable:
    return WeightTable("layer.weight", values)


def test_one_bit_is_plus_or_minus_the_mean_magnitude() -> None:
    found = table(torch.tensor([[1.0, -3.0, 0.5, -1.5]])).quantized(1)
    assert found.values.tolist() == [[1.5, -1.5, 1.5, -1.5]]
    assert found.codes.tolist() == [[1, -1, 1, -1]]


def test_zero_bits_prune_and_float_bits_leave_alone() -> None:
    w = weight(4, 3, 3, 3)
    assert not bool(table(w).values(0).any())
    assert torch.equal(table(w).values(FLOAT_BITS), w)
    assert table(w).errors(0) == pytest.approx(w.double().square().sum((1, 2, 3)).numpy())
    assert not table(w).errors(FLOAT_BITS).any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_weight_on_the_grid_is_found_exactly(bits: int) -> None:
    grid = signed_grid(bits)
    levels = torch.arange(grid.low, grid.high + 1).float()
    w = torch.stack([levels * 0.25, levels * -0.5])
    assert torch.allclose(table(w).values(bits), w, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 7, 8, 9, 12, 16])
def test_values_are_codes_times_scales_on_the_grid(bits: int) -> None:
    found = table(weight(6, 4, 3, 3)).quantized(bits)
    assert torch.equal(found.values, found.codes.float() * found.scales.reshape(-1, 1, 1, 1))
    low, high = (-1, 1) if bits == 1 else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert int(found.codes.min()) >= low
    assert int(found.codes.max()) <= high
    assert not found.codes.dtype.is_floating_point


@settings(max_examples=60, deadline=None)
@given(kernels)
def test_error_never_increases_with_bits(w: NDArray[np.float32]) -> None:
    errors = np.stack([table(torch.from_numpy(w)).errors(bits) for bits in range(17)])
    slack = 1e-12 + 1e-6 * errors[:-1]
    assert np.all(errors[1:] <= errors[:-1] + slack)


@settings(max_examples=60, deadline=None)
@given(kernels, st.integers(2, 8))
def test_idempotent_on_its_own_scales(w: NDArray[np.float32], bits: int) -> None:
    found = table(torch.from_numpy(w)).quantized(bits)
    again = fake_quantize(found.values, found.scales[:, None], signed_grid(bits))
    assert torch.equal(again, found.values)


def test_errors_are_those_of_the_values() -> None:
    w = weight(5, 7)
    found = table(w).quantized(3)
    assert found.errors.numpy() == pytest.approx(squared_error(w, found.values).numpy())


def test_the_longer_side_of_the_grid_serves_the_longer_tail() -> None:
    tail = torch.tensor([2.0, 1.0, 0.9, 0.1, -0.1, -0.9, -1.0, 0.0])
    w = torch.stack([tail, -tail])
    found = table(w).quantized(2)
    assert found.scales[0] < 0 < found.scales[1]
    assert torch.equal(found.values[0], -found.values[1])


def test_the_free_sign_lowers_the_error_of_skewed_kernels() -> None:
    rng = np.random.default_rng(0)
    w = torch.from_numpy((rng.gamma(1.5, size=(64, 72)) - 0.8).astype(np.float32))
    found = table(w).quantized(3)
    scales = torch.linspace(0.02, 1.2, 2000)[:, None, None]
    unmirrored = squared_error(w[None], fake_quantize(w[None], scales, signed_grid(3))).amin(0)
    assert float(found.errors.sum()) < 0.9 * float(unmirrored.sum())


def test_clipping_beats_the_widest_range_by_far_at_few_bits() -> None:
    w = weight(16, 144)
    widest = w.abs().amax(-1, keepdim=True) / 3.5
    assert float(table(w).quantized(3).errors.sum()) < 0.7 * float(
        squared_error(w, fake_quantize(w, widest, signed_grid(3))).sum()
    )


def test_the_order_of_asking_does_not_matter() -> None:
    w = weight(8, 30)
    upwards, downwards = table(w), table(w)
    up = [upwards.values(bits) for bits in range(9)]
    down = [downwards.values(bits) for bits in reversed(range(9))]
    assert all(torch.equal(one, other) for one, other in zip(up, reversed(down), strict=True))


def test_row_gather_equals_each_kernel_on_its_own() -> None:
    w = weight(9, 4, 3, 3)
    bits = np.array([0, 1, 2, 3, 4, 8, 16, 32, 3])
    found = table(w).values(bits)
    for row, value in enumerate(bits.tolist()):
        expected = table(w[row : row + 1]).values(value)
        assert torch.equal(found[row : row + 1], expected), f"kernel {row} at {value} bits"


def test_kernels_do_not_see_each_other() -> None:
    w = weight(3, 20)
    assert torch.equal(quantize_weight(w, 4).values[1:2], quantize_weight(w[1:2], 4).values)


def test_a_dead_kernel_stays_zero() -> None:
    w = weight(3, 10)
    w[1] = 0
    for bits in (0, 1, 2, 8, 12):
        found = table(w).quantized(bits)
        assert not bool(found.values[1].any())
        assert bool((found.scales != 0).all())


@pytest.mark.parametrize("magnitude", [1e-44, 1e-38, 1e-20, 1e20, 3e37])
def test_extreme_magnitudes_stay_finite(magnitude: float) -> None:
    w = weight(2, 50).double().mul(magnitude).float()
    for bits in range(1, 12):
        assert bool(torch.isfinite(table(w).values(bits)).all())


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match=r"layer\.weight.*finite"):
        table(torch.tensor([[1.0, float("nan")]]))


def test_a_small_network_is_tabulated_quickly() -> None:
    """ResNet-20's 270,000 weights at 1..8 bits, on one thread: others spin while they wait on a machine with other work."""
    tables = [table(weight(64, 64, 3, 3, seed=seed)) for seed in range(7)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    start = time.process_time()
    try:
        for one in tables:
            one.quantized(8)
        assert time.process_time() - start < 3.0
    finally:
        torch.set_num_threads(threads)


def test_bitwidths_that_are_not_asked_for_cost_only_their_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = weights.encode

    def watched(weight: torch.Tensor, bits: int, scales: torch.Tensor | None) -> weights.QuantizedWeight:
        encoded.append(bits)
        return encode(weight, bits, scales)

    monkeypatch.setattr(weights, "encode", watched)
    one = table(weight(40, 16))
    for bits in (8, 3, 16, 8):
        one.quantized(bits)
    assert encoded == [8, 3, 16]


def test_a_table_equals_a_chain_of_single_bitwidths() -> None:
    w = weight(12, 5)
    one, scales = table(w), None
    for bits in range(1, 25):
        alone = quantize_weight(w, bits, scales)
        found = one.quantized(bits)
        assert torch.equal(found.values, alone.values)
        assert torch.equal(found.codes, alone.codes)
        assert torch.equal(found.errors, alone.errors)
        scales = alone.scales


def test_weights_are_quantised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    w = weight(40, 16)
    w[7] = 0
    whole = [table(w).quantized(bits) for bits in (0, 1, 4, 12)]
    monkeypatch.setattr(weights, "BLOCK", 50)
    for one in whole:
        part = table(w).quantized(one.bits)
        assert torch.equal(part.values, one.values)
        assert torch.equal(part.codes, one.codes)
        assert torch.equal(part.scales, one.scales)


@pytest.mark.parametrize("bits", [24, 25, 26, 28, 31])
def test_codes_of_wide_grids_are_within_them(bits: int) -> None:
    """Float32 cannot hold the ends of these grids: 2^30 − 1 is 2^30 there."""
    w = torch.cat([weight(8, 60), -weight(8, 60).abs()])
    found, grid = table(w).quantized(bits), signed_grid(bits)
    assert int(found.codes.min()) >= grid.low
    assert int(found.codes.max()) <= grid.high
    values = found.codes.double() * found.scales.double()[:, None]
    assert torch.equal(values.float(), found.values)
    assert float((values - w.double()).abs().max()) <= 2.0 ** (3 - bits)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [1, 4, 8, 16, 20, 31])
def test_weights_of_half_precision_are_those_of_float32_rounded(kind: torch.dtype, bits: int) -> None:
    w = weight(6, 40).to(kind)
    half, single = table(w).quantized(bits), table(w.float()).quantized(bits)
    assert half.values.dtype == kind
    assert torch.equal(half.codes, single.codes)
    assert torch.equal(half.values, single.values.to(kind))
