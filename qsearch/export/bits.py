"""Integers in a stream of bits: each in its own number of bits, the lowest bit of each first, no gaps.

The first bit is the lowest of the first byte. The last byte is filled up with zeros. An integer is stored as its lowest b
bits, two's complement where it is negative; one of 1 bit is −1 where the bit is set, else +1.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def pack(parts: Iterable[tuple[NDArray[np.int64], int]]) -> Bytes:
    """Runs of integers, each run with its bits, 1..32, as bytes."""
    streams = [_spread(values, bits) for values, bits in parts]
    return np.packbits(np.concatenate(streams or [np.zeros(0, np.uint8)]), bitorder="little")


def unpack(stream: Bytes, counts: Iterable[tuple[int, int]]) -> list[NDArray[np.int64]]:
    """Unsigned integers of a stream, given how many of how many bits each run has."""
    spread, start, found = np.unpackbits(stream, bitorder="little"), 0, []
    for count, bits in counts:
        block = spread[start : start + count * bits].reshape(count, bits)
        found.append(block.astype(np.int64) @ (1 << np.arange(bits, dtype=np.int64)))
        start += count * bits
    return found


def signed(values: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """What unsigned integers of b bits stand for as codes: two's complement; +1 and −1 at 1 bit."""
    if bits == 1:
        return 1 - 2 * values
    return values - ((values >> (bits - 1)) << bits)


def _spread(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """The lowest bits of each integer, (n,) → (n·bits,)."""
    return ((values[:, None] >> np.arange(bits)) & 1).astype(np.uint8).ravel()
