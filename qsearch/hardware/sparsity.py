"""What it takes to store a sparse weight, and from which sparsity on pruning a layer pays.

Notation, of a layer's weight as a matrix, a row for each kernel:

=======  ==============================================================================================
n, m     rows and columns: kernels, and weights of a kernel
k        weights that are kept
ρ        density, k / nm;  s = 1 − ρ is the sparsity
b        bits of a weight
ω        what a sparse multiply-accumulate costs beyond a dense one, as a share
=======  ==============================================================================================

Bits of data, and of the indices that say where the data belong:

=========  =========  ========================================
format     data       indices
=========  =========  ========================================
crossbar   nm·b       0
bitmap     k·b        nm + n·⌈log2 nm⌉
csr        k·b        k·⌈log2 m⌉ + (n + 1)·⌈log2(k + 1)⌉
=========  =========  ========================================

after the memory organisations of Schaefer and Joshi, ISCAS 2020 (arXiv:2003.11639); a bitmap has a pointer for each row.

The *break-even* sparsity is the least one that pays (Ren et al., "ADMM-NN", ASPLOS 2019, §5): below it a layer is better
left dense. Their rule compares throughput at equal area,

    speedup(s) = (f_sp · A_dense) / (f_dense · A_sp) / ((1 − s)·(1 + ω))

for clocks f and areas A of the two designs; speedup(s) = 1 is solved in closed form. Where a cost model prices the dense
layer at D, the sparse one is priced at

    D · ρ · (1 + ω)  +  (bits of the indices) · (D at b + 1 bits − D at b bits) / nm

for an index bit takes the place, and the way, of one more bit of a weight. For a model of storage that is exact; where bits
cost arithmetic as well as traffic, it is an upper bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.errors import ConfigError
from qsearch.layers import Layer
from qsearch.protocols import CostModel

PUBLISHED_BREAK_EVEN = 0.55
"""Sparsity from which a layer is faster sparse, in the synthesis of Ren et al.: 1 / (1 − 0.55) = 2.22 times fewer weights."""

PRECISION = 1e-9
"""Bisection ends when the density is known to this."""


@dataclass(frozen=True)
class Storage:
    """Bits that a weight takes.

    Attributes:
        data: of its numbers.
        indices: of what says where they belong.
    """

    data: float
    indices: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.data + self.indices


Indices = Callable[[int, int, float], float]
"""n, m, k → bits of the indices."""


def _bitmap(rows: int, columns: int, kept: float) -> float:
    return rows * columns + rows * math.ceil(math.log2(rows * columns))


def _csr(rows: int, columns: int, kept: float) -> float:
    return kept * math.ceil(math.log2(columns)) + (rows + 1) * math.ceil(math.log2(kept + 1))


FORMATS: Mapping[str, Indices] = MappingProxyType({"bitmap": _bitmap, "csr": _csr})
"""Sparse formats. A crossbar stores all weights, and has no indices."""


def index_bits(rows: int, columns: int, kept: float, form: str = "best") -> float:
    """Bits of the indices of a weight of which ``kept`` numbers are stored; ``best`` is the format that takes fewest.

    Raises:
        ConfigError: an unknown format.
    """
    if form != "best" and form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}", fix=f"known: {', '.join(['best', *FORMATS])}")
    chosen = FORMATS.values() if form == "best" else [FORMATS[form]]
    return min(indices(rows, columns, kept) for indices in chosen)


def storage(rows: int, columns: int, kept: float, bits: float, form: str = "best") -> Storage:
    """Storage of a weight whose kept numbers have so many bits on average; dense, without indices, where that is less.

    A dense weight needs a code for zero where it has zeros: its numbers then take one bit more.

    Raises:
        ConfigError: an unknown format.
    """
    total = rows * columns
    sparse = Storage(kept * bits, index_bits(rows, columns, kept, form))
    dense = Storage(total * (bits + (kept < total)), 0.0)
    return min(dense, sparse, key=lambda found: found.total)


def weight_storage(columns: int, kept: NDArray[np.int_], bits: BitArray, form: str = "best") -> float:
    """Bits that a weight takes with its indices; kernels that are empty take one bit each, which says so.

    Args:
        columns: m.
        kept: weights that are kept of each kernel, shape (n,).
        bits: of each kernel, shape (n,).

    Raises:
        ConfigError: an unknown format.
    """
    count, rows = int(kept.sum()), int(np.count_nonzero(kept))
    flags = len(kept) if rows < len(kept) else 0
    return flags + (storage(rows, columns, count, float(kept @ bits) / count, form).total if count else 0.0)


def break_even(dense: float, sparse: Callable[[float], float]) -> float:
    """The least sparsity at which a sparse layer costs no more than a dense one, by bisection; 1 where none does.

    Args:
        dense: cost of the dense layer.
        sparse: cost of the sparse one at a density in [0, 1]; it must not fall as that grows.
    """
    if sparse(1.0) <= dense:
        return 0.0
    if sparse(0.0) > dense:
        return 1.0
    pays, loses = 0.0, 1.0
    while loses - pays > PRECISION:
        middle = (pays + loses) / 2
        pays, loses = (middle, loses) if sparse(middle) <= dense else (pays, middle)
    return 1 - pays


def storage_break_even(rows: int, columns: int, bits: float, form: str = "best") -> float:
    """The sparsity from which a weight takes no more storage sparse than dense at the same bits.

    Raises:
        ConfigError: an unknown format.
    """
    total = rows * columns

    def sparse(density: float) -> float:
        return density * total * bits + index_bits(rows, columns, density * total, form)

    return break_even(total * bits, sparse)


@dataclass(frozen=True)
class Throughput:
    """The rule of equal area: how a sparse design compares with a dense one.

    Attributes:
        frequency: f_sp / f_dense.
        area: A_sp / A_dense, of what makes one multiply-accumulate a cycle.
        overhead: ω.
    """

    frequency: float = 1.0
    area: float = 1.0
    overhead: float = 0.0

    def speedup(self, sparsity: float) -> float:
        """How much faster the sparse design is at s; infinite at 1."""
        density = 1 - sparsity
        return self.frequency / self.area / (density * (1 + self.overhead)) if density > 0 else math.inf

    @property
    def break_even(self) -> float:
        """s of speedup 1, within 0 … 1."""
        return min(1.0, max(0.0, 1 - self.frequency / self.area / (1 + self.overhead)))


def layer_break_even(
    model: CostModel,
    metric: str,
    layer: Layer,
    bits: tuple[int, int],
    *,
    overhead: float = 0.0,
    form: str = "best",
) -> float:
    """The sparsity from which a layer costs no more sparse than dense, by a cost model.

    Args:
        model: prices the dense layer.
        metric: of the model.
        layer: which layer.
        bits: of its weights, 1 … 32, and of its input.
        overhead: ω.
        form: of the indices.

    Raises:
        ConfigError: the model has no such metric; an unknown format.
    """
    if metric not in model.units:
        raise ConfigError(f"the cost model has no metric {metric!r}", fix=f"it has: {', '.join(sorted(model.units))}")
    weight, activation = bits

    def dense(b: int) -> float:
        return float(model.layer_cost(layer, np.full(layer.kernels, b, dtype=np.int64), activation)[metric])

    cost, below = dense(weight), min(weight, FLOAT_BITS - 1)
    per_bit = (dense(below + 1) - dense(below)) / layer.params

    def sparse(density: float) -> float:
        indices = index_bits(layer.kernels, layer.kernel_params, density * layer.params, form)
        return density * cost * (1 + overhead) + indices * per_bit

    return break_even(cost, sparse)
