"""Counts of kernels and tiles against loops that sort and fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.hardware.kernels import count_at_least, sum_over_kernels, tiles_at_least, within_classes

KERNEL_BITS = st.lists(st.integers(0, 32), min_size=1, max_size=40)
WIDTH = st.integers(1, 9)


def filled_tiles(bits, width):
    """Highest bits of each tile, kernels taken from the highest to the lowest; pruned kernels are in no tile."""
    left = sorted((b for b in bits if b > 0), reverse=True)
    tiles = []
    while left:
        tile, left = left[:width], left[width:]
        tiles.append(max(tile))
    return tiles


@given(KERNEL_BITS, WIDTH)
def test_tiles_are_those_of_sorting_and_filling(bits, width):
    at_least = tiles_at_least(np.asarray([bits]), len(bits), width, range(1, 33))
    exactly = within_classes(at_least)[:, 0]
    tiles = filled_tiles(bits, width)
    assert exactly.tolist() == [tiles.count(b) for b in range(1, 33)]
    assert at_least.sum() == sum(tiles)


@given(KERNEL_BITS, WIDTH, st.data())
def test_raising_a_kernel_lowers_no_count(bits, width, data):
    kernel = data.draw(st.integers(0, len(bits) - 1))
    raised = [*bits]
    raised[kernel] = data.draw(st.integers(bits[kernel], 32))
    low, high = (tiles_at_least(np.asarray([b]), len(bits), width, range(1, 33)) for b in (bits, raised))
    assert np.all(high >= low)


@given(st.integers(0, 32), st.integers(1, 100), WIDTH)
def test_one_number_stands_for_all_kernels(bits, kernels, width):
    short, full = np.asarray([[bits]]), np.full((1, kernels), bits)
    thresholds = (1, 3, 5, 9, 17, 25)
    assert count_at_least(short, kernels, thresholds).tolist() == count_at_least(full, kernels, thresholds).tolist()
    tiles = tiles_at_least(short, kernels, width, thresholds)[:, 0]
    assert tiles.tolist() == [-(-kernels // width) * (bits >= t) for t in thresholds]
    table = np.arange(33) ** 2
    assert sum_over_kernels(short, kernels, table) == sum_over_kernels(full, kernels, table) == kernels * bits**2


@pytest.mark.parametrize("kernels", [127, 128, 255, 256, 32_767, 32_768, 70_000])
def test_counts_of_many_kernels_do_not_overflow(kernels):
    bits = np.full((2, kernels), 4)
    bits[1, :5] = 0
    assert count_at_least(bits, kernels, (1, 4, 5)).tolist() == [[kernels, kernels - 5]] * 2 + [[0, 0]]
    assert count_at_least(bits[:1, :1], kernels, (1, 4, 5)).tolist() == [[kernels]] * 2 + [[0]]


@given(st.lists(KERNEL_BITS.map(lambda bits: (bits * 40)[:7]), min_size=1, max_size=9))
def test_a_batch_is_counted_row_by_row(rows):
    found = count_at_least(np.asarray(rows), 7, range(33))
    assert found.T.tolist() == [[sum(b >= t for b in row) for t in range(33)] for row in rows]
