"""``Bismo``: a temporal, bit-serial accelerator, where every bit counts.

Notation (a layer is a product of an M × K by a K × N matrix, once per use)

=========  =============================================================================================
M          batch · P output positions
N          c_out kernels; those of a grouped convolution lie side by side in the array too
K          c_in/g · kernel extents
D_m, D_n   rows and columns of dot-product units;  D_k, binary products that a unit adds up in a cycle
w, a       bits of a tile's weights (the highest among its D_n kernels), bits of the input
=========  =============================================================================================

A product of w- by a-bit numbers is w·a binary products (Umuroglu et al., BISMO, FPL 2018):

    cycles  = ⌈M/D_m⌉ · ⌈K/D_k⌉ · a · Σ_tiles w            = w·a·⌈M/D_m⌉⌈N/D_n⌉⌈K/D_k⌉ for a uniform layer
    latency = max(cycles / frequency, DRAM bits / bandwidth)
    energy  = cycles · D_m·D_k·D_n · E_binary + DRAM bits · E_dram

Tiles of unequal kernels are filled as :mod:`qsearch.hardware.kernels` says. DRAM bits are those of
:mod:`qsearch.hardware.traffic`. Float (32 bits) runs as 32-bit integers. A product of two activations is one of M = P
rows for each use and each sample; its second operand takes the weights' place. Neurons run beside the array, at 45 nm
(:mod:`qsearch.hardware.neurons`), and their states pass through DRAM in each step. No spike is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from qsearch.assignment import BitArray
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, PlatformOptions, VectorCostModel
from qsearch.hardware.constants import Constant, constants_of
from qsearch.hardware.kernels import Counts, tiles_at_least
from qsearch.hardware.neurons import update_energy
from qsearch.hardware.size import Size
from qsearch.hardware.traffic import feature_traffic, multiplied, products, reduction, weight_traffic
from qsearch.layers import Layer

_README = "EECS-NTNU/bismo README, PYNQ-Z1 instance [V]"


@dataclass(frozen=True)
class Platform:
    """A bit-serial array and its memory."""

    rows: Constant
    depth: Constant
    columns: Constant
    frequency: Constant
    bandwidth: Constant
    binary_energy: Constant


PYNQ_Z1 = Platform(
    rows=Constant(8, "1", _README),
    depth=Constant(256, "bit", _README),
    columns=Constant(8, "1", _README),
    frequency=Constant(200e6, "Hz", _README),
    bandwidth=Constant(16.8e9, "bit/s", "16-bit DDR3 at 1050 MT/s, board data sheet [M]"),
    binary_energy=Constant(
        5.0 / (8 * 256 * 8 * 200e6),
        "J per binary multiply-accumulate",
        "the README's bound of 5 W over 16,384 binary multiply-accumulates a cycle at 200 MHz; board power, so an upper bound [C]",
    ),
)

PLATFORMS: Mapping[str, Platform] = {
    "pynq-z1": PYNQ_Z1,
    "zynq-7020": Platform(
        rows=Constant(8, "1", "the PYNQ-Z1 carries this chip: its array [D]"),
        depth=Constant(256, "bit", "the PYNQ-Z1 carries this chip: its array [D]"),
        columns=Constant(8, "1", "the PYNQ-Z1 carries this chip: its array [D]"),
        frequency=Constant(200e6, "Hz", "the PYNQ-Z1 carries this chip: its clock [D]"),
        bandwidth=Constant(33.6e9, "bit/s", "modelling choice: the chip's full 32-bit DDR3 port at 1050 MT/s [D]"),
        binary_energy=PYNQ_Z1.binary_energy,
    ),
    "vu9p": Platform(
        rows=Constant(32, "1", "modelling choice: 16 times the Zynq-7020's array [D]"),
        depth=Constant(256, "bit", "modelling choice: as on the Zynq-7020 [D]"),
        columns=Constant(32, "1", "modelling choice: 16 times the Zynq-7020's array [D]"),
        frequency=Constant(200e6, "Hz", "modelling choice: as on the Zynq-7020 [D]"),
        bandwidth=Constant(537.6e9, "bit/s", "modelling choice: 16 times the Zynq-7020's bandwidth [D]"),
        binary_energy=Constant(
            PYNQ_Z1.binary_energy.value, PYNQ_Z1.binary_energy.unit, "modelling choice: as on the PYNQ-Z1 [D]"
        ),
    ),
}


class Bismo(VectorCostModel):
    """Bit-serial matrix multiplication; metrics ``latency`` in s, ``energy`` in J, ``size`` in byte."""

    class Options(PlatformOptions):
        """The platform, and numbers that take the place of its own."""

        platform: Literal["pynq-z1", "zynq-7020", "vu9p"] = "pynq-z1"
        rows: int | None = Field(default=None, ge=1)
        """D_m."""
        depth: int | None = Field(default=None, ge=1)
        """D_k."""
        columns: int | None = Field(default=None, ge=1)
        """D_n."""
        frequency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Hz."""
        bandwidth: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Bits a second to and from DRAM."""
        binary_energy: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """J per binary multiply-accumulate."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "size": "byte"}

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.platform = self.options.chosen(PLATFORMS)
        self._size = Size()

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return {**constants_of(self.platform), **energy45nm.CONSTANTS}

    @property
    def definitions(self) -> Mapping[str, str]:  # type: ignore[override]  # follows from an option
        """See :attr:`qsearch.protocols.CostModel.definitions`."""
        own = self.options.binary_energy
        binary = (
            "the board power of a PYNQ-Z1 per binary MAC" if own is None else f"{own:g} J per binary MAC, an option"
        )
        return {"energy": f"BISMO: {binary}, of the whole array; DRAM at 45 nm (QKeras, after Horowitz)"}

    @property
    def array(self) -> tuple[int, int, int]:
        """(D_m, D_k, D_n)."""
        return int(self.platform.rows.value), int(self.platform.depth.value), int(self.platform.columns.value)

    def peak(self, weight_bits: int = 1, activation_bits: int = 1) -> float:
        """Peak operations a second at these bits; a multiply-accumulate is two."""
        rows, depth, columns = self.array
        return 2 * rows * depth * columns * self.platform.frequency.value / (weight_bits * activation_bits)

    def cycles(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Counts:
        """Cycles of one layer, shapes as in :meth:`layer_costs`; 0 for embeddings and neurons."""
        if not multiplied(layer):
            return 0 * activation_bits
        rows, depth, columns = self.array
        thresholds = range(1, int(weight_bits.max(initial=0)) + 1)
        tile_bits = tiles_at_least(weight_bits, layer.kernels, columns, thresholds).sum(axis=0)
        count, positions = products(layer, self.options.batch)
        passes = count * -(-positions // rows) * -(-reduction(layer) // depth)
        cycles: Counts = activation_bits * tile_bits * passes
        return cycles

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        batch, platform = self.options.batch, self.platform
        rows, depth, columns = self.array
        cycles = self.cycles(layer, weight_bits, activation_bits).astype(float)
        dram = weight_traffic(layer, weight_bits, batch) + 2 * feature_traffic(layer, activation_bits, batch)
        binary = cycles * (rows * depth * columns)
        return {
            "latency": (cycles / platform.frequency.value).clip(min=dram / platform.bandwidth.value),
            "energy": binary * platform.binary_energy.value
            + update_energy(layer, weight_bits, activation_bits, batch)
            + dram * energy45nm.dram_energy(),
            **self._size.layer_costs(layer, weight_bits, activation_bits),
        }
