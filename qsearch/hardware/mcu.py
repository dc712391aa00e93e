"""``Microcontroller``: cores that run a layer in one of a few formats, from measured or derived MACs per cycle.

Notation, per layer

==========  ==========================================================================================
w, a        bits assigned: the highest among the layer's kernels, of its input
W, X        widths that weights and inputs are stored at: 2, 4, 8, 16, 24 or 32 bits
V, Y        widths that the core multiplies at, one of its native pairs (8 by 8 on a Cortex-M)
τ(V, Y)     multiply-accumulates a cycle there
u_w, u_x    share of the time that unpacking weights (W < V) and inputs (X < Y) adds
c           input channels, c' = c rounded up to a whole byte of the narrower of W and X
M           multiply-accumulates of the kernels that are not pruned
==========  ==========================================================================================

    c/MAC(W, X) = c'/c · min over native (V, Y) ≥ (W, X) of (1 + u_w[W < V] + u_x[X < Y]) / τ(V, Y)
    latency     = M · c/MAC(W, X) / frequency,      energy = power · latency
    flash, peak_memory: as :mod:`qsearch.hardware.memory`, at W and X

Widths beyond 8 bits take W/8 · X/8 passes of 8 bits. Grouped convolutions run along the map and not along the channels:
c' = c. The bits that fill up a byte take time, but are left out of the memory. A library has one routine for each pair of
formats (27 in CMix-NN and in PULP-NN-mixed: two, four or eight bits of weights, inputs and outputs), so a layer runs and is
stored at the highest bits among its kernels. The second operand of a product of two activations is to it what weights
are, but in RAM. Only multiply-accumulates take time: no loops, no requantisation, no memory. Of neurons that are those of
their leaks, with states as inputs and c' = c; neurons that forget nothing take none.

Where a core has no arithmetic below 8 bits, as Cortex-M and GAP-8 have none, narrow numbers save memory and *cost* time:
they are unpacked first. But a 4-bit code is a valid 8-bit code, so a layer may be stored wider than its bits, without loss
of accuracy. ``storage`` says what the deployment is after:

* ``fastest``: W and X are those of least time among all that hold w and a, the narrowest of equals. No bit can be raised at
  a saving, of time or of memory; on a Cortex-M every layer up to 8 bits is stored in bytes and costs the same.
* ``smallest``: W and X are the narrowest. Memory falls with every width, while time and energy *rise* where fewer bits must
  be unpacked: there costs are not monotone in the bits, which a warning says. Limits on flash and memory are safe in any
  case, and so are searchers that cost what they try; projections that lower bits to save time may find none.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.constants import Constant, constants_of, overridden
from qsearch.hardware.kernels import count_at_least
from qsearch.hardware.memory import Memory
from qsearch.layers import Layer

log = logging.getLogger(__name__)

WIDTHS = (2, 4, 8, 16, 24, 32)
"""Widths that numbers are stored at, in bits."""
_WHOLE = 8
"""Channels that fill whole bytes at any width."""

_UNPACKING = Constant(0.4, "1", "modelling choice: middle of 0.2 to 0.6 [D]")
_NONE = Constant(0.0, "1", "every pair of formats is native: nothing is unpacked [D]")
_MIXED = "PULP-NN-mixed (Bruschi et al., arXiv:2007.07759), abstract"
_PULP = "PULP-NN (Garofalo et al., arXiv:1908.11263), abstract"
_MPIC = "MPIC (Ottavi et al., arXiv:2010.04073), as in eml-eda/plinio mpic_latency.py, mpic_energy.py"
_XPULPNN = "XpulpNN (Garofalo et al., arXiv:2011.14325)"
_BIG, _SMALL = "STM32H743 at 480 MHz [M]", "STM32L476 at 80 MHz [M]"


@dataclass(frozen=True)
class Platform:
    """A core, or a cluster of them.

    Attributes:
        rates: native pair of weight and input widths (V, Y) → τ.
        unpack_weights, unpack_inputs: u_w, u_x.
        frequency: of the clock.
        power: while it computes.
    """

    rates: Mapping[tuple[int, int], Constant]
    unpack_weights: Constant
    unpack_inputs: Constant
    frequency: Constant
    power: Constant


def _bytes(rate: float, source: str, frequency: Constant, power: Constant) -> Platform:
    """A core whose arithmetic has 8 bits."""
    return Platform({(8, 8): Constant(rate, "MAC/cycle", source)}, _UNPACKING, _UNPACKING, frequency, power)


CORTEX_M7 = _bytes(
    0.7,
    f"16 MAC/cycle of GAP-8, 21 to 25 times as fast: 0.64 to 0.76; {_MIXED} [C]",
    Constant(480e6, "Hz", _BIG),
    Constant(0.234, "W", _BIG),
)
GAP8 = _bytes(
    16.0,
    f"peak of 8 cores, {_MIXED} [V]",
    Constant(90e6, "Hz", "most efficient point, 1 V [M]"),
    Constant(
        0.234 / 480e6 * 19.6 / 39.5 * 90e6,
        "W",
        f"of the Cortex-M7's energy a cycle: 39.5 times as efficient in 19.6 times fewer cycles; {_PULP} [C]",
    ),
)

PLATFORMS: Mapping[str, Platform] = {
    "mpic": Platform(
        rates={
            (weight, inputs): Constant(rate, "MAC/cycle", f"measured, {_MPIC} [V]")
            for (weight, inputs), rate in {
                (2, 2): 6.5,
                (4, 2): 4.0,
                (8, 2): 2.2,
                (2, 4): 3.9,
                (4, 4): 3.5,
                (8, 4): 2.1,
                (2, 8): 2.5,
                (4, 8): 2.3,
                (8, 8): 2.1,
            }.items()
        },
        unpack_weights=_NONE,
        unpack_inputs=_NONE,
        frequency=Constant(250e6, "Hz", f"{_MPIC} [V]"),
        power=Constant((5.30 + 5.39 + 5.46 + 5.38) / 4 * 1e-3, "W", f"mean of four, {_MPIC} [C]"),
    ),
    "cortex-m7": CORTEX_M7,
    "cortex-m4": _bytes(
        0.7 * 19.6 / 30,
        f"the Cortex-M7's, by the cycles of a CIFAR-10 network on both, 1/19.6 and 1/30 of GAP-8's; {_PULP} [C]",
        Constant(80e6, "Hz", _SMALL),
        Constant(0.010, "W", _SMALL),
    ),
    "gap8": GAP8,
    "xpulpnn": replace(
        GAP8,
        rates={
            (bits, bits): Constant(
                16.0 * 8 / bits, "MAC/cycle", f"GAP-8's at 8 bits, inversely with them; {_XPULPNN} [M]"
            )
            for bits in (2, 4, 8)
        },
        frequency=Constant(GAP8.frequency.value, "Hz", "modelling choice: as of GAP-8 [D]"),
        power=Constant(GAP8.power.value, "W", "modelling choice: as of GAP-8 [D]"),
    ),
}


@dataclass(frozen=True)
class Formats:
    """How a layer is stored and how fast it runs, by the bits of its weights and its input; shapes (33, 33).

    Attributes:
        weight, inputs: W and X.
        cycles: c/MAC(W, X).
    """

    weight: NDArray[np.int64]
    inputs: NDArray[np.int64]
    cycles: NDArray[np.float64]


class Microcontroller(VectorCostModel):
    """Cores with few formats; metrics ``latency`` in s, ``energy`` in J, ``flash`` and ``peak_memory`` in byte."""

    class Options(Memory.Options):
        """The platform, how weights and outputs are stored, and numbers that take the place of the platform's."""

        platform: Literal["mpic", "cortex-m7", "cortex-m4", "gap8", "xpulpnn"] = "mpic"
        storage: Literal["fastest", "smallest"] = "fastest"
        """Widths of least time among those that hold a layer's bits, or the narrowest, whatever unpacking costs."""
        unpack_weights: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """u_w."""
        unpack_inputs: float | None = Field(default=None, ge=0, allow_inf_nan=False)
        """u_x."""
        frequency: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """Hz."""
        power: float | None = Field(default=None, gt=0, allow_inf_nan=False)
        """W while it computes."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J", "flash": "byte", "peak_memory": "byte"}
    maxima: Collection[str] = frozenset({"peak_memory"})

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        own = self.options.model_dump(include={"unpack_weights", "unpack_inputs", "frequency", "power"})
        self.platform = overridden(PLATFORMS[self.options.platform], own)
        self.definitions = {
            "energy": f"power of {self.options.platform} while it computes, times latency ({self.platform.power.source})"
        }
        self._memory = Memory(self.options)
        if self.options.storage == "smallest":
            log.warning(
                "mcu on %s stores layers at the narrowest width: latency and energy may rise where bits fall",
                self.options.platform,
            )

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        return constants_of(self.platform)

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        bits = (weight_bits.max(axis=1), activation_bits)
        formats = self.formats(layer)
        kept = count_at_least(weight_bits, layer.kernels, (1,))[0]
        cycles = kept * (layer.macs / layer.kernels) * formats.cycles[bits]
        seconds = cycles / self.platform.frequency.value
        stored = np.where(weight_bits > 0, formats.weight[bits][:, None], 0)
        memory = self._memory.layer_costs(layer, stored, formats.inputs[bits])
        return {"latency": seconds, "energy": seconds * self.platform.power.value, **memory}

    def formats(self, layer: Layer) -> Formats:
        """How a layer is stored and runs at each pair of bits."""
        channels = _WHOLE if layer.groups > 1 or layer.neurons else layer.in_channels
        narrowest = self.options.storage == "smallest" or not layer.macs  # which has nothing to compute
        if (channels, narrowest) not in self._formats:
            self._formats[channels, narrowest] = _formats(self.platform, channels, narrowest)
        return self._formats[channels, narrowest]

    @cached_property
    def _formats(self) -> dict[tuple[int, bool], Formats]:
        return {}


def _formats(platform: Platform, channels: int, narrowest: bool) -> Formats:
    """The widths chosen at each pair of bits of a layer with so many input channels."""
    count = range(len(WIDTHS))
    cycles = np.asarray([[_cycles(platform, channels, weight, inputs) for inputs in WIDTHS] for weight in WIDTHS])
    chosen = np.empty((len(WIDTHS), len(WIDTHS), 2), dtype=np.int64)
    for low in product(count, count):
        holding = [low] if narrowest else product(count[low[0] :], count[low[1] :])
        chosen[low] = min(holding, key=lambda pair: (cycles[pair], sum(pair), pair))
    needed = np.searchsorted(WIDTHS, np.arange(FLOAT_BITS + 1))
    weight, inputs = np.moveaxis(chosen[needed[:, None], needed], -1, 0)
    widths = np.asarray(WIDTHS)
    return Formats(widths[weight], widths[inputs], cycles[weight, inputs])


def _cycles(platform: Platform, channels: int, weight: int, inputs: int) -> float:
    """c/MAC(W, X)."""
    together = 8 // min(weight, inputs, 8)  # numbers in a byte of the narrower
    padded = -(-channels // together) * together / channels
    passes = max(weight // 8, 1) * max(inputs // 8, 1)
    fastest = min(
        (1 + platform.unpack_weights.value * (weight < v) + platform.unpack_inputs.value * (inputs < y)) / rate.value
        for (v, y), rate in platform.rates.items()
        if v >= min(weight, 8) and y >= min(inputs, 8)
    )
    return padded * passes * fastest
