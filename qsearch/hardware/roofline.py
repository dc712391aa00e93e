"""``Roofline``: a systolic array or tensor core with a few native precisions, under a memory roof.

Notation (a layer is a product of an M × K by a K × N matrix, once per use)

=======  =============================================================================================
M        batch · P output positions;  N, c_out kernels;  K, c_in/g · kernel extents
R, C     rows and columns of the array: positions and kernels that it computes side by side
p        precision a tile runs at: the lowest native one that holds both its weights and the input; beyond the
         highest native p_max, numbers are cut into ⌈b/p_max⌉ parts and p is that multiple of p_max
peak(p)  multiply-accumulates a second at p; peak(p_max)/parts² beyond p_max
W, X     bits of weights and of the input feature map;  S, bits of the on-chip memory
=======  =============================================================================================

    compute = ⌈M/R⌉ · Σ_tiles (K + R + C)·R·C / peak(p)               s      (R + C cycles fill and drain the array)
    traffic = min(W·⌈X/(n·S)⌉ + X, X·⌈W/(n·S)⌉ + W) + X               bit    (n products: what stays on chip is of one)
    latency = max(compute, traffic / bandwidth)                       s
    energy  = Σ MACs·E_mac(p) + SRAM bits·E_sram + traffic·E_dram     J

One operand stays on chip, piece by piece if it does not fit, and the other is read again for each piece; the better of
the two orders is taken. The last X is the feature map written by the layer before (see :mod:`qsearch.hardware.traffic`).
From SRAM, weights are read once per row tile and inputs once per column tile. E_mac is a multiplication at p and
an addition at 2p + log₂ K bits. Energies are those of a 45 nm process on every platform: compare assignments by them, not
platforms. Tiles of unequal kernels are filled as :mod:`qsearch.hardware.kernels` says. Numbers are stored at exactly
their bits; :mod:`qsearch.hardware.tensorcore` stores them as they are computed.

A product of two activations is one of M = P rows for each use and each sample. Its second operand takes the weights'
place, with W to be written before on top, as X is.

Neurons run beside the array, at 45 nm and at their bits (:mod:`qsearch.hardware.neurons`): states pass through DRAM in each
step, traffic = W + 2·X, and take no time of the array. No spike is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.errors import ConfigError
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, PlatformOptions, VectorCostModel
from qsearch.hardware.constants import Constant, constants_of
from qsearch.hardware.kernels import Counts, count_at_least, sum_over_kernels, within_classes
from qsearch.hardware.neurons import update_energy
from qsearch.hardware.size import Size
from qsearch.hardware.traffic import IDENTITY, feature_traffic, multiplied, products, reduction, weight_traffic
from qsearch.layers import Layer

_TILE = "modelling choice: kernels and positions that a tensor core's tile computes side by side [D]"
_EDGE = "as hsharma35/bitfusion, edge configuration [V]"
_PACK = "modelling choice: 16 × 32 multiply-accumulates at 500 MHz at 8 bits, inversely with the bits below [D]"
_A100 = "A100 specification, dense [V]"
_T4 = "T4 specification, dense [V]"


@dataclass(frozen=True)
class Platform:
    """An array and its memories.

    Attributes:
        rows, columns: R, C.
        peaks: native precision → peak(p), ascending in precision.
        bandwidth: to and from DRAM.
        sram: S.
    """

    rows: Constant
    columns: Constant
    peaks: Mapping[int, Constant]
    bandwidth: Constant
    sram: Constant


PLATFORMS: Mapping[str, Platform] = {
    "edge": Platform(
        rows=Constant(16, "1", _EDGE),
        columns=Constant(32, "1", _EDGE),
        peaks={bits: Constant(16 * 32 * 500e6 * 8 / bits, "MAC/s", _PACK) for bits in (2, 4, 8)},
        bandwidth=Constant(192 * 500e6, "bit/s", f"192 bits a cycle at 500 MHz, {_EDGE}"),
        sram=Constant(112 * 8192, "bit", f"64 + 32 + 16 KB as one memory, {_EDGE}"),
    ),
    "t4": Platform(
        rows=Constant(16, "1", _TILE),
        columns=Constant(16, "1", _TILE),
        peaks={b: Constant(tops * 1e12 / 2, "MAC/s", _T4) for b, tops in ((4, 260), (8, 130), (16, 65))},
        bandwidth=Constant(320e9 * 8, "bit/s", _T4),
        sram=Constant(4 * 2**23, "bit", "4 MB second-level cache [M]"),
    ),
    "a100": Platform(
        rows=Constant(16, "1", _TILE),
        columns=Constant(16, "1", _TILE),
        peaks={b: Constant(tops * 1e12 / 2, "MAC/s", _A100) for b, tops in ((4, 1248), (8, 624), (16, 312))},
        bandwidth=Constant(1555e9 * 8, "bit/s", _A100),
        sram=Constant(40 * 2**23, "bit", "40 MB second-level cache [M]"),
    ),
}


class Roofline(VectorCostModel):
    """Systolic array under a memory roof; metrics ``latency`` in s, ``energy`` in J, ``size`` in byte."""

    class Options(PlatformOptions):
        """The platform, and numbers that take the place of its own."""

        platform: Literal["edge", "t4", "a100"] = "edge"
        rows: int | None = Field(default=None, ge=1)
        """R."""
        columns: int | None = Field(default=None, ge=1)
        """C."""
        peaks: dict[int, float] | None = None
        """Native precision in bits → multiply-accumulates a second there; fewer bits may not be slower."""
        bandwidth: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Bits a second to and from DRAM."""
        sram: int | None = Field(default=None, ge=1)
        """Bits of on-chip memory."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "size": "byte"}
    definitions: Mapping[str, str] = {
        "energy": "45 nm (QKeras, after Horowitz): MACs at the precision they run at, on-chip memory, DRAM; a roofline"
    }
    platforms: ClassVar[Mapping[str, Platform]] = PLATFORMS

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        peaks = self.options.peaks
        self.platform = self.options.model_copy(update={"peaks": None}).chosen(self.platforms)
        if peaks is not None:
            self.platform = replace(self.platform, peaks=_peaks_option(peaks))
        self._precision, self._peak = _ladder(self.platform.peaks)
        self._size = Size()

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return {**constants_of(self.platform), **energy45nm.CONSTANTS}

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        at_least = self._at_least(layer, weight_bits)
        summed = sum_over_kernels(weight_bits, layer.kernels, IDENTITY)
        array = multiplied(layer)
        weights = self._weights(layer, summed) if array else weight_traffic(layer, weight_bits, self.options.batch)
        traffic = self._traffic(layer, weights, activation_bits)
        beside = self._sram_energy(layer, summed, at_least[0], activation_bits)
        beside += update_energy(layer, weight_bits, activation_bits, self.options.batch)
        return {
            **self._time_and_energy(self._compute(layer, at_least, activation_bits), beside, traffic),
            **self._size.layer_costs(layer, weight_bits, activation_bits),
        }

    def _at_least(self, layer: Layer, weight_bits: BitArray) -> Counts:
        """Kernels that need each precision or more, shape (precisions, A); the first counts all that are not pruned."""
        return count_at_least(weight_bits, layer.kernels, (1, *(bits + 1 for bits in self._precision[:-1])))

    def _time_and_energy(
        self,
        compute: tuple[NDArray[np.float64], NDArray[np.float64]],
        beside: NDArray[np.float64],
        traffic: NDArray[np.float64],
    ) -> Costs:
        seconds, arithmetic = compute
        return {
            "latency": np.maximum(seconds, traffic / self.platform.bandwidth.value),
            "energy": arithmetic + beside + traffic * energy45nm.dram_energy(),
        }

    def _compute(
        self, layer: Layer, at_least: Counts, activation_bits: BitArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Seconds and energy of the array's arithmetic, shape (A,) each; 0 for embeddings and neurons."""
        seconds, energy = np.zeros(len(activation_bits)), np.zeros(len(activation_bits))
        if not multiplied(layer):
            return seconds, energy
        rows, columns, length = int(self.platform.rows.value), int(self.platform.columns.value), reduction(layer)
        count, positions = products(layer, self.options.batch)
        slots = count * -(-positions // rows) * (length + rows + columns) * rows * columns
        macs = count * positions * layer.kernel_params
        tiles = self._by_class(-(-at_least // columns), activation_bits)
        kernels = self._by_class(at_least, activation_bits)
        for index, bits in enumerate(self._precision):
            mac = energy45nm.multiply_energy(bits, bits) + energy45nm.add_energy(2 * bits + np.log2(length))
            seconds += tiles[index] * (slots / self._peak[index])
            energy += kernels[index] * (macs * mac)
        return seconds, energy

    def _by_class(self, at_least: NDArray[np.int64], activation_bits: BitArray) -> NDArray[np.int64]:
        """Numbers that run at each precision, from numbers by weight bits: the input lifts all to its own precision."""
        lifted = np.searchsorted(self._precision, activation_bits)
        steps = np.arange(len(self._precision))[:, None]
        return within_classes(np.where(steps <= lifted, at_least[0], at_least))

    def _weights(self, layer: Layer, summed: Counts) -> NDArray[np.float64]:
        """Bits of weights read once a product, shape (A,), from those of one weight of each kernel; not of embeddings."""
        return (summed * (products(layer, self.options.batch)[0] * layer.kernel_params)).astype(np.float64)

    def _traffic(self, layer: Layer, weights: NDArray[np.float64], activation_bits: BitArray) -> NDArray[np.float64]:
        """Bits to and from DRAM, shape (A,), from those of the weights read once."""
        inputs = feature_traffic(layer, activation_bits, self.options.batch)
        if not multiplied(layer):
            return weights + 2 * inputs
        sram = self.platform.sram.value * products(layer, self.options.batch)[0]
        weights_again = weights * np.maximum(np.ceil(inputs / sram), 1) + inputs
        inputs_again = inputs * np.maximum(np.ceil(weights / sram), 1) + weights
        written = inputs + weights if layer.kind == "matmul" else inputs
        traffic: NDArray[np.float64] = np.minimum(weights_again, inputs_again) + written
        return traffic

    def _sram_energy(
        self, layer: Layer, summed: NDArray[np.int64], kernels: NDArray[np.int64], activation_bits: BitArray
    ) -> NDArray[np.float64]:
        """Energy of reading the on-chip memory, in J, shape (A,); 0 for embeddings and neurons.

        Args:
            summed: bits of a weight, summed over the kernels, shape (A,).
            kernels: those that are not pruned, shape (A,).
        """
        if not multiplied(layer):
            return np.zeros(len(activation_bits))
        count, positions = products(layer, self.options.batch)
        row_tiles = float(count * -(-positions // int(self.platform.rows.value)))
        weights = row_tiles * layer.kernel_params * summed
        tiles = -(-kernels // int(self.platform.columns.value))
        inputs = float(count * positions * reduction(layer)) * (tiles * activation_bits)
        energy: NDArray[np.float64] = (weights + inputs) * energy45nm.sram_energy(self.platform.sram.value)
        return energy


def _peaks_option(peaks: Mapping[int, float]) -> dict[int, Constant]:
    """Peaks that a user names, as constants.

    Raises:
        ConfigError: none, a precision outside 1..32, or a narrower one that is not faster than a wider one.
    """
    ordered = sorted(peaks)
    if not ordered or ordered[0] < 1 or ordered[-1] > FLOAT_BITS:
        raise ConfigError(f"peaks must name at least one precision, each within 1..{FLOAT_BITS}", got=ordered)
    speeds = [peaks[bits] for bits in ordered]
    if not np.all(np.isfinite(speeds)) or speeds[-1] <= 0 or np.any(np.diff(speeds) >= 0):
        raise ConfigError(
            "peaks must be positive, and greater the fewer the bits",
            got=dict(peaks),
            fix="leave out a precision that is no faster than the next wider one",
        )
    return {bits: Constant(peaks[bits], "MAC/s", "set by an option of the campaign") for bits in ordered}


def _ladder(peaks: Mapping[int, Constant]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Every precision up to 32 bits and its peak: the native ones, then multiples of the widest."""
    precision, peak = sorted(peaks), [peaks[bits].value for bits in sorted(peaks)]
    widest, fastest = precision[-1], peak[-1]
    for parts in range(2, -(-FLOAT_BITS // widest) + 1):
        precision.append(widest * parts)
        peak.append(fastest / parts**2)
    return tuple(precision), tuple(peak)
