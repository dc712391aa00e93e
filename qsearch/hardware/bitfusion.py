"""``BitFusion``: a spatial accelerator whose 8-bit units split into 4- and 2-bit ones.

Notation (a layer as in Sharma et al., Bit Fusion, ISCA 2018, and its simulator)

=====  =============================================================================================
B      batch
P, K   output positions; product of the kernel extents
IC     input channels that a kernel sees, c_in/g;  OC, output channels
R, C   rows (input channels) and columns (output channels) of the array
w, a   bits of a column tile's weights (the highest among its C kernels), bits of the input
q(b)   2-bit units of computation and storage: b rounded up to 2, 4 or 8, then to multiples of 8
s(b)   parts that an 8-bit unit splits into, ⌊8/max(b, 2)⌋; 1 from 5 bits on
r(b)   8-bit passes that wider operands take, ⌈b/8⌉
=====  =============================================================================================

    f(w, a) = s(w)·s(a)
    cycles  = B·P·K·r(a) · Σ_tiles r(w)·⌈IC / (R·f(w, a))⌉  = B·⌈OC/C⌉·P·K·⌈IC/(R·f)⌉ for a uniform layer up to 8 bits
    latency = max(cycles / frequency, DRAM bits / bandwidth)
    energy  = cycles·R·C·E_mac + SRAM bits·E_sram + DRAM bits·E_dram

So 3 bits cost what 4 cost, and 5 to 7 what 8 cost; layers with few input channels (the first, depthwise) compute no faster
at fewer bits. Numbers are stored at the width they are computed at, q(b). SRAM is read at every position for weights, once
per column tile for inputs, and written once per output at accumulator width. DRAM bits are those of
:mod:`qsearch.hardware.traffic`, tiles are filled as :mod:`qsearch.hardware.kernels` says. The second operand of a product
of two activations takes the weights' place: IC is the length of its dot products, OC its columns. Neurons run beside the
array, at 45 nm and at their bits (:mod:`qsearch.hardware.neurons`); their states pass through DRAM in each step. No spike is
passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, PlatformOptions, VectorCostModel
from qsearch.hardware.constants import Constant, constants_of
from qsearch.hardware.kernels import Counts, count_at_least, within_classes
from qsearch.hardware.neurons import update_energy
from qsearch.hardware.size import Size
from qsearch.hardware.traffic import feature_traffic, multiplied, reduction, weight_traffic
from qsearch.layers import Layer

_EDGE = "hsharma35/bitfusion, edge configuration [V]"
_SERVER = "hsharma35/bitfusion, bf_s_conf [V]"
_ACCUMULATOR = Constant(32, "bit", "modelling choice: width of an accumulator [D]")

_BITS: NDArray[np.int64] = np.arange(FLOAT_BITS + 1, dtype=np.int64)
SPLIT: NDArray[np.int64] = np.maximum(8 // np.maximum(_BITS, 2), 1)
"""s(b) for b in 0..32, shape (33,)."""
PASSES: NDArray[np.int64] = -(-_BITS // 8)
"""r(b) for b in 0..32, shape (33,)."""
STORED: NDArray[np.int64] = np.where(_BITS <= 8, 8 // SPLIT, 8 * PASSES) * (_BITS > 0)
"""q(b) for b in 0..32, shape (33,)."""
STEPS = (1, 3, 5, 9, 17, 25)
"""Bits at which s, r or q changes."""


def fusion_factor(weight_bits: int, activation_bits: int) -> int:
    """f(w, a): products that an 8-bit unit computes at once."""
    return int(SPLIT[weight_bits] * SPLIT[activation_bits])


@dataclass(frozen=True)
class Platform:
    """A spatial array and its memories."""

    rows: Constant
    columns: Constant
    frequency: Constant
    bandwidth: Constant
    weight_sram: Constant
    input_sram: Constant
    output_sram: Constant
    accumulator_bits: Constant


PLATFORMS: Mapping[str, Platform] = {
    "edge": Platform(
        rows=Constant(16, "1", _EDGE),
        columns=Constant(32, "1", _EDGE),
        frequency=Constant(500e6, "Hz", _EDGE),
        bandwidth=Constant(192 * 500e6, "bit/s", f"192 bits a cycle, {_EDGE}"),
        weight_sram=Constant(64 * 8192, "bit", _EDGE),
        input_sram=Constant(32 * 8192, "bit", _EDGE),
        output_sram=Constant(16 * 8192, "bit", _EDGE),
        accumulator_bits=_ACCUMULATOR,
    ),
    "server": Platform(
        rows=Constant(16, "1", "modelling choice: the edge configuration's array [D]"),
        columns=Constant(32, "1", "modelling choice: the edge configuration's array [D]"),
        frequency=Constant(980e6, "Hz", _SERVER),
        bandwidth=Constant(4096 * 980e6, "bit/s", f"4096 bits a cycle, {_SERVER}"),
        weight_sram=Constant(128 * 8192, "bit", _SERVER),
        input_sram=Constant(128 * 8192, "bit", _SERVER),
        output_sram=Constant(128 * 8192, "bit", _SERVER),
        accumulator_bits=_ACCUMULATOR,
    ),
}


class BitFusion(VectorCostModel):
    """Spatial bit-flexible array; metrics ``latency`` in s, ``energy`` in J, ``size`` in byte."""

    class Options(PlatformOptions):
        """The platform, and numbers that take the place of its own."""

        platform: Literal["edge", "server"] = "edge"
        rows: int | None = Field(default=None, ge=1)
        """R."""
        columns: int | None = Field(default=None, ge=1)
        """C."""
        frequency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Hz."""
        bandwidth: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Bits a second to and from DRAM."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "size": "byte"}
    definitions: Mapping[str, str] = {
        "energy": "BitFusion: every cycle of the whole array as 8-bit MACs, SRAM, DRAM at 45 nm (QKeras, after Horowitz)"
    }

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.platform = self.options.chosen(PLATFORMS)
        self._size = Size()

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return {**constants_of(self.platform), **energy45nm.CONSTANTS}

    def cycles(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Counts:
        """Cycles of one layer, shapes as in :meth:`layer_costs`; 0 for embeddings and neurons."""
        return self._cycles(layer, count_at_least(weight_bits, layer.kernels, STEPS), activation_bits)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        batch, platform = self.options.batch, self.platform
        at_least = count_at_least(weight_bits, layer.kernels, STEPS)
        cycles = self._cycles(layer, at_least, activation_bits).astype(float)
        dram = weight_traffic(layer, weight_bits, batch, STORED)
        dram += 2 * feature_traffic(layer, STORED[activation_bits], batch)
        mac = float(energy45nm.multiply_energy(8, 8) + energy45nm.add_energy(platform.accumulator_bits.value))
        return {
            "latency": (cycles / platform.frequency.value).clip(min=dram / platform.bandwidth.value),
            "energy": cycles * (platform.rows.value * platform.columns.value * mac)
            + self._sram_energy(layer, at_least, activation_bits)
            + update_energy(layer, weight_bits, activation_bits, batch)
            + dram * energy45nm.dram_energy(),
            **self._size.layer_costs(layer, weight_bits, activation_bits),
        }

    def _cycles(self, layer: Layer, at_least: Counts, activation_bits: BitArray) -> Counts:
        """Cycles, shape (A,), from the kernels with at least the bits of each step, shape (6, A)."""
        if not multiplied(layer):
            return 0 * activation_bits
        rows, columns = int(self.platform.rows.value), int(self.platform.columns.value)
        channels = layer.in_channels // layer.groups
        extents = reduction(layer) // channels
        steps = 0 * activation_bits
        for bits, count in zip(STEPS, within_classes(-(-at_least // columns)), strict=True):
            products = rows * SPLIT[bits] * SPLIT[activation_bits]
            steps += count * PASSES[bits] * -(-channels // products)
        positions = self.options.batch * layer.uses * layer.positions
        return steps * PASSES[activation_bits] * (positions * extents)

    def _sram_energy(self, layer: Layer, at_least: Counts, activation_bits: BitArray) -> NDArray[np.float64]:
        """Energy of the on-chip memories, in J, shape (A,); 0 for what passes nothing through the array."""
        if not multiplied(layer):
            return np.zeros(len(activation_bits))
        platform = self.platform
        positions = float(self.options.batch * layer.uses * layer.positions)
        stored = STORED[list(STEPS)] @ within_classes(at_least)
        weights = positions * layer.kernel_params * stored
        tiles = -(-at_least[0] // int(platform.columns.value))
        inputs = positions * reduction(layer) * (tiles * STORED[activation_bits])
        outputs = positions * platform.accumulator_bits.value * at_least[0]
        energy: NDArray[np.float64] = (
            weights * energy45nm.sram_energy(platform.weight_sram.value)
            + inputs * energy45nm.sram_energy(platform.input_sram.value)
            + outputs * energy45nm.sram_energy(platform.output_sram.value)
        )
        return energy
