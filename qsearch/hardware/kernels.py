"""Counting kernels and tiles of kernels by their bits, for a batch of assignments.

Notation

=======  ===============================================================================
w        weight bits, shape (A, K), or (A, 1) where all K kernels agree
n_b      kernels with at least b bits, shape (A,)
D        kernels that a tile of the array computes side by side
T_b      tiles that run at b bits or more, ⌈n_b / D⌉
=======  ===============================================================================

Kernels of one layer may differ in bits, while a tile runs all its kernels at the same. The kernels are therefore
sorted by bits, the tiles are filled in that order, and each runs at the highest bits within. The tiles at b bits or more
are then exactly the ⌈n_b / D⌉ that the n_b highest kernels reach into, and a layer of any tile cost h costs

    Σ_tiles h(highest bits) = Σ_b (h(b) − h(b − 1)) · ⌈n_b / D⌉,      h(0) = 0.

Raising any kernel raises some n_b and lowers none, so the sum is monotone whenever h is; at uniform bits w it is
h(w)·⌈K / D⌉. (One group of tiles per bitwidth, Σ_b h(b)·⌈(kernels with b bits) / D⌉, is not monotone: two half-filled
tiles that come to agree merge into one.) Pruned kernels are in no tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray

Counts = NDArray[np.int64]


def count_at_least(weight_bits: BitArray, kernels: int, thresholds: Sequence[int]) -> Counts:
    """n_b for each threshold b, shape (len(thresholds), A)."""
    # kernels by assignments, in bytes: additions down the columns run over whole rows of memory, which is 10 times faster
    by_kernel = np.ascontiguousarray(weight_bits.astype(np.int8).T)
    share = kernels if len(by_kernel) == 1 else 1
    counter = np.int16 if kernels <= np.iinfo(np.int16).max else np.int64
    counts = np.zeros((len(thresholds), len(weight_bits)), dtype=np.int64)
    highest = by_kernel.max(initial=0)
    for index, bits in enumerate(thresholds):
        if bits <= highest:
            counts[index] = np.add.reduce(by_kernel >= bits, axis=0, dtype=counter)
    return share * counts


def tiles_at_least(weight_bits: BitArray, kernels: int, width: int, thresholds: Sequence[int]) -> Counts:
    """T_b for each threshold b, with D = ``width``, shape (len(thresholds), A)."""
    return -(-count_at_least(weight_bits, kernels, thresholds) // width)


def within_classes(at_least: Counts) -> Counts:
    """Numbers in each class [b_i, b_{i+1}) from numbers at least b_i, for ascending thresholds; same shape."""
    exactly = at_least.copy()
    exactly[:-1] -= at_least[1:]
    return exactly


def sum_over_kernels(weight_bits: BitArray, kernels: int, value_of_bits: NDArray[np.int64]) -> Counts:
    """Σ over the kernels of a value that depends on their bits, shape (A,).

    Args:
        value_of_bits: value at 0..32 bits, shape (33,), integers: the sum is exact in either shape of w.
    """
    values = np.take(value_of_bits, weight_bits)
    if weight_bits.shape[1] == 1:
        return values[:, 0] * kernels
    total: Counts = np.einsum("ak->a", values)  # sum(axis=1) takes up to 3 times as long for rows as short as these
    return total
