"""Bit streams against bytes written by hand, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.export.bits import pack, signed, unpack


def test_bytes_by_hand() -> None:
    """Codes 1, −2, 3 in 3 bits are 001, 110, 011: lowest bits first 100 011 110, then 5 in 6 bits, 101 000."""
    stream = pack([(np.array([1, -2, 3]), 3), (np.array([5]), 6)])
    assert stream.tolist() == [int("10001111"[::-1], 2), int("01010000"[::-1], 2)]


@pytest.mark.parametrize(
    ("bits", "codes"), [(1, [1, -1]), (2, [-2, 1]), (8, [-128, 127]), (31, [-(1 << 30), (1 << 30) - 1])]
)
def test_ends_of_the_grids(bits: int, codes: list[int]) -> None:
    stored = [int(code < 0) if bits == 1 else code for code in codes]
    assert signed(unpack(pack([(np.array(stored), bits)]), [(2, bits)])[0], bits).tolist() == codes


def test_nothing_is_no_bytes() -> None:
    assert pack([]).tolist() == []
    assert unpack(pack([]), [(0, 5)])[0].tolist() == []


@given(
    st.lists(st.tuples(st.integers(2, 32), st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=9)), max_size=6)
)
def test_there_and_back(runs: list[tuple[int, list[int]]]) -> None:
    parts = [
        (np.array([((v >> 0) + (1 << (b - 1))) % (1 << b) - (1 << (b - 1)) for v in values], np.int64), b)
        for b, values in runs
    ]
    stream = pack(parts)
    assert len(stream) == -(-sum(len(values) * bits for values, bits in parts) // 8)
    found = unpack(stream, [(len(values), bits) for values, bits in parts])
    for (values, bits), back in zip(parts, found, strict=True):
        assert signed(back, bits).tolist() == values.tolist()
