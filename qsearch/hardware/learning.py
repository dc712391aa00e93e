"""What it takes a spiking chip to learn, beside the forward pass.

Notation

======  ================================================================================================
T       steps, each of which learns
e, b    share of a layer's outputs that have an error, and the bits of one
c       connections of the layer that are not pruned: ρ · MACs of a use
======  ================================================================================================

At each step errors go back through the weights, and then the weights change, as local losses have it that do not wait for
the end of a sample (DECOLLE; Schaefer and Joshi, ICONS 2020). Either takes a multiply-accumulate for each connection of an
output that has an error [D]:

    energy    2·T·e·c · (E_mul(w, b) + E_add(A))   and memory at   T·(backward + update + 2·e·outputs·b)

with ``backward`` and ``update`` of the structure that holds the weights (:mod:`qsearch.hardware.storage_schemes`). Of the
first layer that is an upper bound, as nothing before it needs an error. Leaks and thresholds do not learn; nor do products
of activations, and tables that are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.hardware import energy45nm
from qsearch.hardware.constants import Constant
from qsearch.hardware.storage_schemes import Scheme, Structure

ACCUMULATOR_BITS = Constant(32, "bit", "modelling choice: width of an accumulator [D]")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Learning:
    """How a chip learns.

    Attributes:
        errors: e.
        error_bits: b.
        steps: T, times the samples.
    """

    errors: float
    error_bits: int
    steps: int

    def arithmetic(self, connections: float, bits: Floats, kernels: Floats) -> Floats:
        """Energy of the multiply-accumulates, in J, shape (A,).

        Args:
            connections: c of one kernel.
            bits, kernels: bits of a weight, summed over the kernels that are not pruned, and how many those are, (A,).
        """
        return 2.0 * self.steps * self.errors * connections * mac_energy(bits, kernels, self.error_bits)

    def traffic(self, scheme: Scheme, structure: Structure, bits: Floats, connections: float, outputs: int) -> Floats:
        """Bits read and written, shape (A,).

        Args:
            scheme: that of the structure.
            structure: what holds the weights.
            bits: as of :meth:`arithmetic`.
            connections: c of one kernel, which the functional scheme reads one by one.
            outputs: of one step.
        """
        if scheme == "functional":
            backward = self.errors * connections * bits
        else:
            backward = structure.backward(scheme, self.errors)
        moved = 2.0 * self.errors * outputs * self.error_bits
        found: Floats = self.steps * (backward + structure.update(self.errors) + moved)
        return found


def mac_energy(bits: Floats, kernels: Floats, activation_bits: int | Floats | NDArray[np.int64]) -> Floats:
    """Energy at 45 nm of one multiply-accumulate of each kernel that is not pruned, in J, shape (A,)."""
    multiply = energy45nm.multiplications_energy(bits, kernels, activation_bits)
    found: Floats = multiply + kernels * energy45nm.add_energy(ACCUMULATOR_BITS.value)
    return found
