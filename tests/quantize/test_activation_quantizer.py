"""Activation quantisers: grids, scales and samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from qsearch.errors import EvaluationError
from qsearch.quantize.activations import SAMPLE, ActivationRange
from qsearch.quantize.grid import Grid, fake_quantize, signed_grid, squared_error, unsigned_grid

tensors = arrays(np.float32, st.integers(1, 40), elements=st.floats(-6, 6, width=32))


def seen(*tensors: torch.Tensor) -> ActivationRange:
    found = ActivationRange("layer.input")
    for tensor in tensors:
        found.observe(tensor)
    return found


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(squared_error(x.reshape(1, -1), y.reshape(1, -1)))


def test_values_that_are_never_negative_get_the_unsigned_grid() -> None:
    assert seen(normal(100).relu()).quantizer(4).grid == unsigned_grid(4) == Grid(0, 15)
    assert seen(normal(100)).quantizer(4).grid == signed_grid(4)
    assert seen(normal(100).relu(), -normal(100).relu()).quantizer(4).grid == signed_grid(4)


def test_one_negative_value_off_the_sample_is_not_missed() -> None:
    x = torch.ones(4 * SAMPLE)
    x[12_345] = -0.5
    assert not seen(x).unsigned


def test_one_bit_signed_is_plus_or_minus_the_mean_magnitude() -> None:
    quantizer = seen(torch.tensor([1.0, -2.0, 3.0, -2.0])).quantizer(1)
    found = quantizer(torch.tensor([5.0, -0.1, 0.0]))
    assert torch.allclose(found.abs(), quantizer.scale)
    assert found.sign().tolist() == [1.0, -1.0, 1.0]
    assert 1.9 < float(quantizer.scale) < 2.4


def test_one_bit_unsigned_has_zero_and_the_scale() -> None:
    x = normal(1000).relu()
    levels = seen(x).quantizer(1)(x).unique()
    assert levels.tolist() == [0.0, float(seen(x).quantizer(1).scale)]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_the_scale_comes_close_to_brute_force(bits: int) -> None:
    x = normal(4000).relu()
    found = error(x, seen(x).quantizer(bits)(x))
    peak = float(x.max())
    fine = [
        error(x, fake_quantize(x, torch.tensor(clip * peak / (2**bits - 1)), unsigned_grid(bits)))
        for clip in np.linspace(0.1, 1.02, 500)
    ]
    assert found <= 1.03 * min(fine)


@settings(max_examples=60, deadline=None)
@given(tensors)
def test_error_never_increases_with_bits_on_what_was_seen(x: NDArray[np.float32]) -> None:
    values = torch.from_numpy(x)
    sites = seen(values)
    weighted = torch.cat([values, torch.tensor([sites.low, sites.high])])
    errors = [error(weighted, sites.quantizer(bits)(weighted)) for bits in range(1, 10)]
    assert all(more <= fewer * (1 + 1e-5) + 1e-10 for fewer, more in itertools.pairwise(errors))


@settings(max_examples=60, deadline=None)
@given(tensors, st.integers(1, 8))
def test_idempotent(x: NDArray[np.float32], bits: int) -> None:
    values = torch.from_numpy(x)
    quantizer = seen(values).quantizer(bits)
    once = quantizer(values)
    assert torch.equal(quantizer(once), once)
    assert torch.equal(values, torch.from_numpy(x))


def test_the_order_of_asking_does_not_matter() -> None:
    x = normal(5000)
    one, other = seen(x), seen(x)
    one.quantizer(8)
    assert all(torch.equal(one.quantizer(bits).scale, other.quantizer(bits).scale) for bits in range(1, 9))


def test_the_sample_is_bounded_and_keeps_the_extremes() -> None:
    x = torch.zeros(SAMPLE * 5)
    x[777], x[888] = 100.0, -50.0
    site = seen(x, x)
    assert (site.low, site.high) == (-50.0, 100.0)
    assert len(site._sample()) <= SAMPLE + 2
    assert site._sample().max() == 100.0


def test_the_sample_sees_every_column_of_a_feature_map() -> None:
    columns = torch.arange(32.0).expand(256, 16, 32, 32)
    assert set(seen(columns)._sample().tolist()) == set(range(32))


def test_constant_zero_stays_zero() -> None:
    for bits in (1, 4):
        assert not bool(seen(torch.zeros(10)).quantizer(bits)(torch.zeros(3)).any())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_name_the_site(value: float) -> None:
    with pytest.raises(EvaluationError, match=r"layer\.input.*float network"):
        seen(torch.tensor([1.0, value]))
