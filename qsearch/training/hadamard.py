"""The Hadamard transform along the last extent, block by block.

Notation

=====  ==================================================================================
n      the extent that is transformed
B      block: the largest power of two that divides n, or a power of two that bounds it
H_B    Sylvester's matrix: H_1 = (1), H_2B = ((H_B, H_B), (H_B, −H_B)); symmetric, of ±1
H      n/B copies of H_B along the diagonal, n × n
=====  ==================================================================================

::

    H·H = B·I,    so    (A·H)·(H·C) / B = A·C    for every A of shape (m, n) and C of shape (n, k)

Nothing is normalised: whole numbers stay whole, and the product is divided by B once, at its end. What the transform is for:
a single large number among n small ones becomes B numbers of like size, whose largest magnitude, which sets the step of a
quantiser, is no longer far from their root mean square.

An odd extent has blocks of one, and H is the identity: :func:`pad` makes it one of larger blocks, and the zeros that it
appends do not change a product.

The larger the block, the more a mean among the n numbers weighs: it is B times itself at the first place of the block, while
what varies grows with √B. Inputs behind a ReLU have such a mean, which is why a block may be bounded.

Source: Schiemer et al., "Hadamard Domain Training with Integers for Class Incremental Quantized Learning", CoLLAs 2024, whose
blocks are not bounded.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Tensor


def block(extent: int, largest: int | None = None) -> int:
    """B of n ≥ 1: 64 → 64, 96 → 32, 10 → 2, 11 → 1.

    Args:
        largest: a power of two that bounds it, or None.
    """
    found = extent & -extent
    return found if largest is None else min(found, largest)


def transform(x: Tensor, largest: int | None = None) -> Tensor:
    """x·H, shape (…, n) → (…, n): the fast Walsh–Hadamard transform, log₂ B additions a number; ``x`` stays.

    Args:
        largest: as of :func:`block`.
    """
    lead, extent = x.shape[:-1], x.shape[-1]
    size, half = block(extent, largest), 1
    # with n in front the innermost runs are long, which is fastest; an operand of a product often lies so already
    rows = x.movedim(-1, 0).reshape(extent, -1)
    while half < size:
        pairs = rows.view(-1, 2, half, rows.shape[1])
        found = torch.empty_like(pairs)
        torch.add(pairs[:, 0], pairs[:, 1], out=found[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=found[:, 1])
        rows, half = found.view(rows.shape), 2 * half
    return rows.view(extent, *lead).movedim(0, -1)


def padded(extent: int, largest: int) -> int:
    """What :func:`pad` makes of n: the next power of two, or multiple of ``largest`` where that is less."""
    return -(-extent // largest) * largest if extent > largest else 1 << (extent - 1).bit_length()


def pad(x: Tensor, largest: int) -> Tensor:
    """``x`` with zeros behind its last extent, so that its blocks have the size of ``largest``, or hold it whole.

    Args:
        x: shape (…, n).
        largest: a power of two.

    Returns:
        Shape (…, n′), n′ ≥ n as :func:`padded` has it.
    """
    return F.pad(x, (0, padded(x.shape[-1], largest) - x.shape[-1]))
