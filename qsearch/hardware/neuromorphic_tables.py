"""Published energies of spiking networks and of the chips that run them.

Chips define a synaptic operation each in their own way: with or without the memory access, the neuron's update, the
routing of the spike. So no two of them share an axis (:mod:`qsearch.hardware.axes`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qsearch.hardware.constants import Constant
from qsearch.hardware.traffic import IDENTITY

_SURVEY = "PMC10326429, table 3 [V]"
_TCJA = "quantised and pruned TCJA-SNN on DVS gesture, run-length encoded weights, ISCAS 2023 [V]"


def _picojoules(value: float) -> Constant:
    return Constant(value, "pJ/SOp", _SURVEY)


CHIPS: Mapping[str, Constant] = {
    "odin": _picojoules(12.7),
    "reckon": _picojoules(5.3),
    "ubrain": _picojoules(26.0),
    "truenorth": _picojoules(2.5),
    "tianjic": _picojoules(1.54),
    "neuronflow": _picojoules(20.0),
    "loihi": _picojoules(23.6),
    "spinnaker": _picojoules(45.0),
    "spinnaker2": _picojoules(10.0),
    "seneca": _picojoules(2.8),
}
"""Chip → energy of a synaptic operation."""

TERNARY = 2
"""Bits that a ternary weight stands at in these tables, which have no 2-bit entry of their own."""

ENERGY_BY_BITS: Mapping[int, Constant] = {
    TERNARY: Constant(9.593, "mJ", f"ternary weights, {_TCJA}"),
    3: Constant(16.521, "mJ", _TCJA),
    4: Constant(18.858, "mJ", _TCJA),
    6: Constant(22.166, "mJ", _TCJA),
    8: Constant(23.281, "mJ", _TCJA),
}
"""Weight bits → energy of an inference of 20 frames: DRAM, buffers, arithmetic, and the sparsity that few bits bring."""

ENERGY_PRUNED: Mapping[int, Constant] = {
    80: Constant(13.977, "mJ", f"80 % pruned, 8 bits, {_TCJA}"),
    95: Constant(12.282, "mJ", f"95 % pruned, 8 bits, {_TCJA}"),
}
"""Per cent of the weights pruned → energy of an inference at 8 bits."""

CYCLES_BY_BITS: Mapping[int, Constant] = {
    TERNARY: Constant(8.88e6, "cycle", f"ternary weights, {_TCJA}"),
    3: Constant(13.01e6, "cycle", _TCJA),
    8: Constant(15.45e6, "cycle", _TCJA),
}
"""Weight bits → cycles of an inference."""

BREAKDOWN: Mapping[str, tuple[Constant, Constant, Constant]] = {
    part: (Constant(ternary, "pJ", _TCJA), Constant(dense, "pJ", _TCJA), Constant(sparse, "pJ", _TCJA))
    for part, (ternary, dense, sparse) in {
        "DRAM": (457.6, 538.5, 537.2),
        "DRAM to global buffer": (63.0, 30.5, 31.8),
        "outputs": (25.3, 12.2, 14.2),
        "weights": (8.8, 16.1, 16.0),
        "MAC": (12.5, 2.6, 2.6),
        "all": (654.0, 659.0, 670.0),
    }.items()
}
"""Part of the hardware → energy of a computation with ternary weights, with dense ones of 8 bits, with sparse ones of 8 bits.

The parts that are given do not add up to all of it: 9 to 13 % are of parts that are not.
"""


def published_energies() -> NDArray[np.int64]:
    """E(w) of the scaling ``published`` at 0..32 bits in 0.1 µJ, shape (33,): 0 for a pruned kernel, −1 if not published.

    Whole numbers, so that sums over kernels are exact.
    """
    known = sorted(ENERGY_BY_BITS)
    energies = [1e4 * ENERGY_BY_BITS[bits].value for bits in known]
    found = np.rint(np.interp(IDENTITY, known, energies, left=-1.0, right=-1.0)).astype(np.int64)
    found[0] = 0
    return found
