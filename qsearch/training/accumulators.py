"""Products of whole numbers whose sums are kept in few bits.

Notation

======  ============================================================================
A, C    whole numbers, shapes (m, n) and (k, n): the product is A·Cᵀ, shape (m, k)
T       tile: terms that are added up in one accumulator
a       bits of an accumulator, which saturates at ±(2^(a−1) − 1)
======  ============================================================================

::

    Y = Σ over tiles of clamp_a(A[:, tile] · C[:, tile]ᵀ)

The n terms of every sum are cut into tiles of T. Each tile's sum is clamped once, when it is complete; the clamped sums are
added up in full precision. (Hardware that saturates after every single addition differs where a sum leaves the range and
comes back.) All products are treated alike, forward and backward: the published code tiles the forward product
only, clamps backward products once over all n terms, and lets the width for the backward pass decide whether the forward
pass clamps at all.

A sum of T products of codes up to p and r is at most T·p·r: 32·7·7 = 1,568 of two signed 4-bit numbers and
32·15·7 = 3,360 where one is unsigned, against 127 in 8 bits and 2,047 in 12.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Tensor

HELD = 1 << 24
"""Numbers, about, that sums of tiles may take at a time."""


@dataclass(frozen=True)
class Product:
    """A product, and what became of its sums.

    Attributes:
        values: Y, shape (m, k).
        clamped: sums of tiles that were clamped, int64, shape ().
        sums: sums of tiles.
    """

    values: Tensor
    clamped: Tensor
    sums: int


def limit(bits: int) -> int:
    """The largest sum that an accumulator of a ≥ 2 bits holds."""
    return (1 << (bits - 1)) - 1


def largest_sum(tile: int, peak: int, other: int) -> int:
    """T·p·r, the largest sum of T products of codes up to p and r."""
    return tile * peak * other


def product(a: Tensor, c: Tensor, bits: int | None, tile: int) -> Product:
    """A·Cᵀ in accumulators of limited width; not touched by autocasting, whose types would round the sums.

    Args:
        a: A, whole numbers in a floating type that holds their sums.
        c: C, likewise.
        bits: a; None for accumulators that hold every sum.
        tile: T.
    """
    sums = -(-a.shape[1] // tile) * len(a) * len(c)
    with torch.autocast(a.device.type, enabled=False):
        if bits is None or tile * _peak(a) * _peak(c) <= limit(bits):
            return Product(a @ c.T, torch.zeros((), dtype=torch.int64, device=a.device), sums)
        values, clamped = _clamped_product(_tiles(a, tile), _tiles(c, tile).transpose(1, 2), limit(bits))
        return Product(values, clamped, sums)


def _clamped_product(a: Tensor, c: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Y and the number of clamped sums, from tiles of shapes (tiles, m, T) and (tiles, T, k)."""
    values = a.new_zeros(a.shape[1], c.shape[2])
    clamped = torch.zeros((), dtype=torch.int64, device=a.device)
    step = max(1, HELD // max(1, values.numel()))
    for start in range(0, len(a), step):
        part = torch.bmm(a[start : start + step], c[start : start + step])
        clamped += (part.abs() > most).sum()
        values += part.clamp_(-most, most).sum(0)
    return values, clamped


def _tiles(a: Tensor, tile: int) -> Tensor:
    """(m, n) → (tiles, m, T), the last tile filled up with zeros."""
    count = -(-a.shape[1] // tile)
    return F.pad(a, (0, count * tile - a.shape[1])).view(len(a), count, tile).transpose(0, 1)


def _peak(a: Tensor) -> float:
    """The largest magnitude."""
    return float(a.abs().max()) if a.numel() else 0.0
