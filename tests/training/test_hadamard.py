"""The Hadamard transform: Sylvester's matrix, exact products, golden blocks, and what it does to a lone peak."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import block_diag
from scipy.linalg import hadamard as sylvester

from qsearch.training.hadamard import block, pad, padded, transform


@pytest.mark.parametrize(("extent", "size"), [(64, 64), (96, 32), (10, 2), (11, 1), (1, 1)])
def test_blocks_are_the_largest_power_of_two_that_divides(extent: int, size: int) -> None:
    assert block(extent) == size


@given(st.integers(1, 1 << 20), st.integers(0, 12))
def test_a_bounded_block_divides_too(extent: int, exponent: int) -> None:
    size = block(extent, 1 << exponent)
    assert extent % size == 0
    assert size <= 1 << exponent
    assert size == 1 << exponent or (extent // size) % 2


@pytest.mark.parametrize(("extent", "largest"), [(64, None), (96, None), (10, None), (11, None), (64, 8), (96, 16)])
def test_it_is_the_product_with_sylvesters_matrix(extent: int, largest: int | None) -> None:
    x = np.random.default_rng(0).integers(-7, 8, (3, 2, extent)).astype(np.float32)
    size = block(extent, largest)
    matrix = block_diag(*[sylvester(size)] * (extent // size))
    found = transform(torch.from_numpy(x), largest)
    assert found.shape == x.shape
    np.testing.assert_array_equal(found.numpy(), x @ matrix)  # whole numbers stay whole


@pytest.mark.parametrize("extent", [64, 96, 10, 11])
def test_products_are_exact(extent: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randint(-7, 8, (rows, extent), generator=generator).float() for rows in (5, 4))
    assert torch.equal(transform(a) @ transform(c).T / block(extent), a @ c.T)
    a, c = (torch.randn(rows, extent, generator=generator, dtype=torch.float64) for rows in (5, 4))
    torch.testing.assert_close(transform(a) @ transform(c).T / block(extent), a @ c.T, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 200), st.sampled_from([1, 2, 4, 32]))
def test_twice_is_the_block_times_as_much(extent: int, largest: int) -> None:
    x = torch.arange(extent).float()
    assert torch.equal(transform(transform(x, largest), largest), block(extent, largest) * x)


def test_the_input_and_its_layout_are_left_alone() -> None:
    x = torch.arange(24).float().view(3, 8)
    kept = x.clone()
    assert torch.equal(transform(x.T.contiguous().T), transform(x))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("extent", [4, 64, 256])
def test_a_lone_peak_is_spread_evenly(extent: int) -> None:
    """max / root mean square falls from √n to 1."""
    row = torch.zeros(extent)
    row[extent // 3] = -0.7

    def peak(x: torch.Tensor) -> float:
        return float(x.abs().max() / x.square().mean().sqrt())

    assert peak(row) == pytest.approx(extent**0.5)
    assert peak(transform(row)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("extent", "largest", "size"), [(10, 32, 16), (11, 32, 16), (32, 32, 32), (33, 32, 64), (100, 32, 128), (1, 8, 1)]
)
def test_padding_makes_blocks(extent: int, largest: int, size: int) -> None:
    assert padded(extent, largest) == size
    x = torch.ones(2, extent)
    assert pad(x, largest).shape == (2, size)
    assert pad(x, largest).sum() == 2 * extent
    assert block(size, largest) == min(size, largest)


def test_padding_keeps_products() -> None:
    generator = torch.Generator().manual_seed(0)
    a, c = (torch.randint(-7, 8, (rows, 11), generator=generator).float() for rows in (5, 4))
    wide, other = pad(a, 32), pad(c, 32)
    assert torch.equal(transform(wide) @ transform(other).T / 16, a @ c.T)
