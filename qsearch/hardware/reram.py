"""``ReRam``: analogue crossbars of resistive memory, which multiply where the weights are stored.

Notation

=====  ================================================================================================
K      c_in/g · kernel extents, the rows that a kernel takes
R, C   rows and columns of a crossbar
c, v   bits of a cell, bits of a digital-to-analogue converter
w, a   bits of a kernel's weights, bits of the input
n      input vectors: batch · uses · P output positions
t      reading steps: n · ⌈a/v⌉
s      columns that the kernels of a group take side by side: Σ_kernels ⌈w/c⌉
=====  ================================================================================================

After ISAAC (Shafiee et al., ISCA 2016): a weight is cut into ⌈w/c⌉ cells of a row, an input into ⌈a/v⌉ steps.

    cells       = Σ_kernels ⌈w/c⌉ · K
    crossbars   = ⌈K/R⌉ · Σ_groups ⌈s/C⌉           each group of a convolution has rows, so crossbars, of its own
    ADC bits b  = ⌈log₂ R⌉ + v + c − [v = 1 or c = 1] − bits saved by the encoding
    latency     = t · max(t_read, C / (ADCs · conversions a second))
    energy      = t · ( ⌈K/R⌉ · Σ s · (E_adc·2^(b − 8) + E_shift)          conversions
                      + K · Σ_groups ⌈s/C⌉ · E_dac·2^(v − 1)               rows driven
                      + cells · E_cell )

So bits act in steps of c and v: weights on cells and energy, inputs on time and energy. All crossbars of a layer work
side by side, so weight bits take no time. Kernels of unequal bits are columns side by side; a pruned one is none, and a
layer of none takes nothing. That converters take twice the energy for a bit more is a rule of thumb [D]. Buffers and the
network on chip are not counted; nor are embeddings, which are looked up in a memory beside the crossbars. Float (32 bits)
counts as 32-bit integers.

A product of two activations finds no weights in place: its second operand is written into crossbars before each of the
m = batch · uses products, row after row, all crossbars at once. That adds, with ISAAC's cells written as PipeLayer's are [D],

    latency    m · min(K, R) · t_write
    energy     m · cells · E_write

and its ``cells`` are those of one product, which the next one writes anew. Writing takes thousands of times the energy of
reading: such chips are for weights, and this says by how much.

Neurons are no weights either: a circuit behind the crossbars keeps their states, and is not counted. A spike drives its row
as any input of 1 bit does, and no step is passed over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware.base import Costs, PlatformOptions, VectorCostModel
from qsearch.hardware.constants import Constant, constants_of
from qsearch.hardware.kernels import Counts, sum_over_kernels
from qsearch.hardware.traffic import multiplied
from qsearch.layers import Layer

_ISAAC = "ISAAC (Shafiee et al., ISCA 2016) [M]"
_PIPELAYER = "PipeLayer (Song et al., HPCA 2017) [M]"
_POWER = "from its table of powers at 100 ns a step, ISAAC (Shafiee et al., ISCA 2016) [M]"


@dataclass(frozen=True)
class Platform:
    """Crossbars and their converters.

    Attributes:
        rows, columns, cell_bits, dac_bits: R, C, c, v.
        saved_bits: bits of the ADC that the encoding of the weights makes needless.
        adcs: analogue-to-digital converters of a crossbar.
        conversions: conversions a second of each.
        read_time: t_read, to read a crossbar once.
        adc_energy: of an 8-bit conversion;  shift_energy: of shifting and adding its result.
        dac_energy: to drive a row for a step with 1 bit;  cell_energy: of a cell for a step.
        write_time: t_write, of a row;  write_energy: E_write, of a cell.
    """

    rows: Constant
    columns: Constant
    cell_bits: Constant
    dac_bits: Constant
    saved_bits: Constant
    adcs: Constant
    conversions: Constant
    read_time: Constant
    adc_energy: Constant
    shift_energy: Constant
    dac_energy: Constant
    cell_energy: Constant
    write_time: Constant
    write_energy: Constant


PLATFORMS: Mapping[str, Platform] = {
    "isaac": Platform(
        rows=Constant(128, "1", _ISAAC),
        columns=Constant(128, "1", _ISAAC),
        cell_bits=Constant(2, "bit", _ISAAC),
        dac_bits=Constant(1, "bit", _ISAAC),
        saved_bits=Constant(1, "bit", f"columns of many ones are stored flipped, {_ISAAC}"),
        adcs=Constant(1, "1", _ISAAC),
        conversions=Constant(1.28e9, "1/s", _ISAAC),
        read_time=Constant(100e-9, "s", _ISAAC),
        adc_energy=Constant(16e-3 / 8 / 1.28e9, "J", f"16 mW for 8 converters of 8 bits, {_POWER}"),
        shift_energy=Constant(0.2e-3 / (8 * 1.28e9), "J", f"0.2 mW behind 8 converters, {_POWER}"),
        dac_energy=Constant(4e-3 * 100e-9 / (8 * 128), "J", f"4 mW for 8 × 128 rows, {_POWER}"),
        cell_energy=Constant(2.4e-3 * 100e-9 / (8 * 128 * 128), "J", f"2.4 mW for 8 crossbars of 128 × 128, {_POWER}"),
        write_time=Constant(50.88e-9, "s", _PIPELAYER),
        write_energy=Constant(3.91e-9, "J", _PIPELAYER),
    )
}


class ReRam(VectorCostModel):
    """Analogue crossbars; metrics ``latency`` in s, ``energy`` in J, ``cells`` in cell."""

    class Options(PlatformOptions):
        """The platform, and numbers that take the place of its own."""

        platform: Literal["isaac"] = "isaac"
        rows: int | None = Field(default=None, ge=1)
        """R."""
        columns: int | None = Field(default=None, ge=1)
        """C."""
        cell_bits: int | None = Field(default=None, ge=1, le=8)
        """c."""
        dac_bits: int | None = Field(default=None, ge=1, le=16)
        """v."""
        saved_bits: int | None = Field(default=None, ge=0, le=1)
        """Bits that flipped columns save the converters; 0 where none are flipped."""
        adcs: int | None = Field(default=None, ge=1)
        """Analogue-to-digital converters of a crossbar."""
        read_time: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """s to read a crossbar once."""
        adc_energy: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """J of an 8-bit conversion."""
        write_time: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """s to write a row of a crossbar."""
        write_energy: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """J to write a cell."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "cells": "cell"}

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.platform = self.options.chosen(PLATFORMS)

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return constants_of(self.platform)

    @property
    def definitions(self) -> Mapping[str, str]:  # type: ignore[override]  # follows from an option
        """See :attr:`qsearch.protocols.CostModel.definitions`."""
        own = self.options.adc_energy
        adc = "" if own is None else f", {own:g} J a conversion as an option says"
        return {
            "energy": f"converters, cells and shift-and-add of ISAAC's crossbars{adc}; no buffers, no network on chip"
        }

    @property
    def adc_bits(self) -> int:
        """b: bits that hold the sum of a column."""
        rows, v, c = (int(n.value) for n in (self.platform.rows, self.platform.dac_bits, self.platform.cell_bits))
        full = math.ceil(math.log2(rows)) + v + c - (v == 1 or c == 1)
        return max(full - int(self.platform.saved_bits.value), 1)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        if not multiplied(layer):
            return {metric: np.zeros(len(activation_bits)) for metric in self.units}
        platform, length = self.platform, layer.kernel_params
        columns, arrays = self._columns(layer, weight_bits)
        cells = (columns * length).astype(np.float64)
        conversions = columns * -(-length // int(platform.rows.value))
        step = (
            conversions * (platform.adc_energy.value * 2.0 ** (self.adc_bits - 8) + platform.shift_energy.value)
            + arrays * length * (platform.dac_energy.value * 2.0 ** (platform.dac_bits.value - 1))
            + cells * platform.cell_energy.value
        )
        vectors = self.options.batch * layer.uses * layer.positions
        steps = vectors * -(-activation_bits // int(platform.dac_bits.value))
        conversion_time = platform.columns.value / (platform.adcs.value * platform.conversions.value)
        writings = self.options.batch * layer.uses if layer.kind == "matmul" else 0
        writing = writings * min(length, int(platform.rows.value)) * platform.write_time.value
        return {
            "latency": (columns > 0) * (steps * max(platform.read_time.value, conversion_time) + writing),
            "energy": steps * step + writings * platform.write_energy.value * cells,
            "cells": cells,
        }

    def _columns(self, layer: Layer, weight_bits: BitArray) -> tuple[Counts, Counts]:
        """Σ s and Σ ⌈s/C⌉ over the groups of a layer, shape (A,) each."""
        columns = int(self.platform.columns.value)
        slices = -(-np.arange(FLOAT_BITS + 1, dtype=np.int64) // int(self.platform.cell_bits.value))
        if weight_bits.shape[1] == 1:
            taken = slices[weight_bits[:, 0]] * (layer.kernels // layer.groups)
            return layer.groups * taken, layer.groups * -(-taken // columns)
        groups = weight_bits.reshape(-1, layer.kernels // layer.groups)
        taken = sum_over_kernels(groups, groups.shape[1], slices).reshape(len(weight_bits), layer.groups)
        return taken.sum(axis=1), (-(-taken // columns)).sum(axis=1)
