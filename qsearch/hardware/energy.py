"""``Energy``: what arithmetic and data movement take in a 45 nm process, whatever the accelerator.

Notation (sums run over the kernels of a layer that are not pruned)

==========  ===========================================================================================
w, a        bits of a kernel's weights, bits of the input
n           multiply-accumulates of a kernel: batch · uses · P output positions · weights of the kernel
A           bits of an accumulator;  S, bits that the SRAM holds
r           reuse: multiply-accumulates that a number serves once it is read from SRAM
W, X        bits of the weights and of the input feature map (:mod:`qsearch.hardware.traffic`)
E_w, E_x    energy of a bit where weights and feature maps are at home: E_dram, or E_sram(S) on chip
==========  ===========================================================================================

    energy = Σ n·(E_mul(w, a) + E_add(A)) + (Σ n·(w + a)/r + outputs·A)·E_sram(S) + W·E_w + 2·X·E_x        J

The E are the polynomials of :mod:`qsearch.hardware.energy45nm`. Each operand is read from SRAM for every r
multiply-accumulates, and each output is written there once, as wide as the accumulator. Weights and feature maps pass
from their homes to the SRAM once a use; a feature map was also written to its home by the layer before. An embedding
reads the rows that it looks up, and computes nothing. Float (32 bits) counts as 32-bit integers. The second operand of a
product of two activations is at home where feature maps are, and was written there too.

Neurons (:mod:`qsearch.hardware.neurons`) add, multiply by their leaks and compare in each step; their states are X, and their
leaks and thresholds are W. Spikes are inputs of 1 bit, and none is passed over: what a chip saves that works only where
there is one, :mod:`qsearch.hardware.neuromorphic` says.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import BitArray
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.constants import Constant
from qsearch.hardware.kernels import count_at_least, sum_over_kernels
from qsearch.hardware.neurons import update_energy
from qsearch.hardware.size import Size
from qsearch.hardware.traffic import IDENTITY, feature_traffic, multiplied, weight_traffic
from qsearch.layers import Layer
from qsearch.registry import PluginOptions

_CHOICE = "modelling choice, an option of the campaign [D]"


class Energy(VectorCostModel):
    """Energy at 45 nm, data movement included; metrics ``energy`` in J, ``size`` in byte."""

    class Options(PluginOptions):
        """Memories, accumulators and reuse of the accelerator."""

        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""
        sram: int = Field(default=2**20, ge=1)
        """S, in bits."""
        accumulator_bits: int = Field(default=32, ge=1, le=64)
        """A."""
        reuse: int = Field(default=16, ge=1)
        """r; 16 is that of an array of 16 × 16 units."""
        weights_on_chip: bool = False
        """Whether all weights of the network fit on chip, and never come from DRAM."""
        features_on_chip: bool = False
        """Whether feature maps stay on chip."""

    units: Mapping[str, str] = {"energy": "J", "size": "byte"}
    definitions: Mapping[str, str] = {
        "energy": "MACs at the assigned bits, SRAM, and DRAM at 45 nm (QKeras, after Horowitz), of no named accelerator"
    }
    kernel_additive = True

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._size = Size()

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return {
            **energy45nm.CONSTANTS,
            "sram": Constant(self.options.sram, "bit", _CHOICE),
            "accumulator_bits": Constant(self.options.accumulator_bits, "bit", _CHOICE),
            "reuse": Constant(self.options.reuse, "MAC per read", _CHOICE),
        }

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        batch, on_chip = self.options.batch, energy45nm.sram_energy(self.options.sram)
        weights_home = on_chip if self.options.weights_on_chip else energy45nm.dram_energy()
        features_home = on_chip if self.options.features_on_chip else energy45nm.dram_energy()
        second_home = features_home if layer.kind == "matmul" else weights_home
        return {
            "energy": self._array_energy(layer, weight_bits, activation_bits, on_chip)
            + weight_traffic(layer, weight_bits, batch) * second_home
            + 2 * feature_traffic(layer, activation_bits, batch) * features_home,
            **self._size.layer_costs(layer, weight_bits, activation_bits),
        }

    def _array_energy(
        self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray, on_chip: float
    ) -> NDArray[np.float64]:
        """Energy of the arithmetic, and of the SRAM that feeds an array of it, in J, shape (A,); 0 for embeddings."""
        if not multiplied(layer):
            return update_energy(layer, weight_bits, activation_bits, self.options.batch)
        outputs = self.options.batch * layer.uses * layer.positions
        macs, accumulator = outputs * layer.kernel_params, self.options.accumulator_bits
        bits = sum_over_kernels(weight_bits, layer.kernels, IDENTITY)
        kernels = count_at_least(weight_bits, layer.kernels, (1,))[0]
        multiply = energy45nm.multiplications_energy(bits, kernels, activation_bits)
        arithmetic = macs * (multiply + kernels * energy45nm.add_energy(accumulator))
        read = (bits + kernels * activation_bits) * (macs / self.options.reuse)
        written = kernels * float(outputs * accumulator)
        energy: NDArray[np.float64] = arithmetic + (read + written) * on_chip
        return energy
