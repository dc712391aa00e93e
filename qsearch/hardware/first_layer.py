"""Layers of a spiking chip whose input is numbers and no spikes, as the first one's often is.

Notation: M multiply-accumulates and X numbers of the input, in all steps that are computed; w, a bits of a kernel's weights
and of an input; A bits of an accumulator.

===========  ===========================  ==========================  ==============
way          arithmetic, J                traffic, bit                stored, bit
===========  ===========================  ==========================  ==============
digital      Σ M·(E_mul(w, a) + E_add(A)) Σ M·w + 2·X·a               Σ weights·w
in memory    of the crossbars             2·X·a                       of their cells
===========  ===========================  ==========================  ==============

at 45 nm (:mod:`qsearch.hardware.energy45nm`), with weights and inputs from the SRAM at their bits; or in crossbars of resistive
cells (:mod:`qsearch.hardware.reram`), n_rows·E_dac·b_in + n_MAC·E_cell + n_col·E_adc(b_adc) + shift-and-add, which find weights
where they lie. Zeros are not passed over.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qsearch.assignment import BitArray
from qsearch.hardware.learning import mac_energy
from qsearch.hardware.reram import ReRam
from qsearch.hardware.synapses import Floats, Summed
from qsearch.layers import Layer


@dataclass(frozen=True)
class Numbers:
    """What such a layer takes, of each assignment of a batch, shape (A,) each.

    Attributes:
        arithmetic: in J.
        traffic: bits read and written.
        stored: bits of the weights.
    """

    arithmetic: Floats
    traffic: Floats
    stored: Floats


def digital(layer: Layer, counted: Summed, activation_bits: BitArray, times: int) -> Numbers:
    """Multiply-accumulates, one by one; ``times`` steps, times the samples."""
    macs = float(times * layer.positions * layer.kernel_params)
    return Numbers(
        arithmetic=macs * mac_energy(counted.bits, counted.kernels, activation_bits),
        traffic=macs * counted.bits + _moved(layer, activation_bits, times),
        stored=counted.bits * layer.kernel_params,
    )


def in_memory(crossbars: ReRam, layer: Layer, weight_bits: BitArray, activation_bits: BitArray, times: int) -> Numbers:
    """Crossbars, which take one sample; ``times`` as of :func:`digital`."""
    found = crossbars.layer_costs(layer, weight_bits, activation_bits)
    return Numbers(
        arithmetic=found["energy"] * (times / layer.uses),
        traffic=_moved(layer, activation_bits, times),
        stored=found["cells"] * crossbars.platform.cell_bits.value,
    )


def _moved(layer: Layer, activation_bits: BitArray, times: int) -> Floats:
    """Bits of the input, written and read."""
    return activation_bits.astype(np.float64) * (times * 2 * (layer.input_elements // layer.uses))
