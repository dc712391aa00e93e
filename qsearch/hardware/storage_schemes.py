"""How a spiking chip holds what connects a layer's inputs with its outputs, and what it reads of it.

Notation (sums run over the outputs of a layer, each with w bits a weight)

======  ================================================================================================
n, m    inputs and outputs of a layer, whose connectivity is an n × m matrix
σ       density of that matrix
D, I    bits of the weights that are held, bits of the indices that say where they belong
e       share of the outputs that have an error to send back
======  ================================================================================================

After arXiv 2003.11639 (ISCAS 2020), with a bit model of this project [D]; the structure is D + I:

==========  ==============  ===================================================
scheme      D               I
==========  ==============  ===================================================
crossbar    Σ n·w           0
bitmap      σ·Σ n·w         n·m + n·⌈log₂(n·m)⌉                  (PB-BMP there)
csr         σ·Σ n·w         σ·Σ n·⌈log₂ m⌉ + (n + 1)·⌈log₂(σ·n·m + 1)⌉ (PB-CSR)
functional  Σ weights·w     0
==========  ==============  ===================================================

The paper has three functional schemes, Func-RowCol, Func-BMP and Func-Pure. What is known of them here is that they compute
where weights lie: one scheme stands for the three.

A spike reads the row of its input. An error goes back against the order in which rows are held, and needs a column: that is
as easy in a crossbar, takes a bitmap all of its indices, and CSR a full scan. An update reads and writes the weights of the
outputs with an error, in the order in which they are held:

==========  ===========  =============
scheme      backward     update
==========  ===========  =============
crossbar    e·D          2·e·D
bitmap      I + e·D      I + 2·e·D
csr         I + D        I + 2·e·D
functional  as many weights as there are connections, at w bits each, for e of the outputs;  2·e·D
==========  ===========  =============
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scheme = Literal["crossbar", "bitmap", "csr", "functional"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Structure:
    """What holds the weights of a layer.

    Attributes:
        data, indices: D, I of each assignment of a batch, shape (A,).
    """

    data: Floats
    indices: Floats

    @property
    def total(self) -> Floats:
        """D + I, shape (A,)."""
        found: Floats = self.data + self.indices
        return found

    def backward(self, scheme: Scheme, errors: float) -> Floats:
        """Bits read to send the errors of one step back, shape (A,); not of the functional scheme."""
        found: Floats = self.indices + (1.0 if scheme == "csr" else errors) * self.data
        return found

    def update(self, errors: float) -> Floats:
        """Bits read and written to change the weights once, shape (A,)."""
        found: Floats = self.indices + 2.0 * errors * self.data
        return found


def matrix(scheme: Scheme, inputs: int, outputs: int, entries: Floats, entry_bits: Floats, density: float) -> Structure:
    """The structure of an n × m matrix of weights.

    Args:
        scheme: crossbar, bitmap or csr; see the module.
        inputs, outputs: n, m.
        entries: entries of the matrix in columns that are not pruned, shape (A,).
        entry_bits: their bits, all entries together, zeros included, shape (A,).
        density: σ, share of the entries that are not zero.
    """
    if scheme == "crossbar":
        return Structure(entry_bits, np.zeros(len(entry_bits)))
    if scheme == "bitmap":
        indices = np.full(len(entry_bits), float(inputs * outputs + inputs * address_bits(inputs * outputs)))
        return Structure(density * entry_bits, indices)
    pointers = (inputs + 1) * np.ceil(np.log2(density * entries + 1))
    return Structure(density * entry_bits, density * entries * address_bits(outputs) + pointers)


def address_bits(places: int) -> int:
    """⌈log₂ places⌉: bits that tell which one."""
    return (places - 1).bit_length()
