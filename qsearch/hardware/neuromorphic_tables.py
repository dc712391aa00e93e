"""Published energies of spiking networks and of the chips that run them.

Chips define a synaptic operation each in their own way: with or without the memory access, the neuron's update, the
routing of the spike. So no two of them share an axis (:mod:`qsearch.hardware.axes`).
"""

from __future__ import annotations

from collections.abc import Mapping

from qsearch.hardware.constants import Constant

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
