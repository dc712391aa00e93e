"""What neurons compute and where their states go, for every cost model.

Notation: N neurons, T steps; s, λ, θ bits of a state, of a leak, of a threshold.

A neuron's state is what it reads and what it writes, once a step: as a feature map that it reads and has written before
(:mod:`qsearch.hardware.traffic`). Beside that it adds a current, multiplies by its leak, if it has one, and compares:

    neuron       T·N·(E_mul(λ, s) + E_add(s))
    threshold    T·N·E_add(θ)                        the comparison, whose difference is what a reset by subtraction leaves

at 45 nm (:mod:`qsearch.hardware.energy45nm`). An array of multipliers has no part in it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray
from qsearch.hardware import energy45nm
from qsearch.hardware.kernels import sum_over_kernels
from qsearch.hardware.traffic import IDENTITY
from qsearch.layers import Layer


def update_energy(
    layer: Layer, weight_bits: BitArray, activation_bits: BitArray, batch: int = 1
) -> NDArray[np.float64]:
    """Energy of the arithmetic of a neuron or a threshold in all steps, in J, shape (A,); 0 of other layers."""
    if not layer.neurons:
        return np.zeros(len(activation_bits))
    times = float(batch * layer.uses * layer.neurons)
    bits = sum_over_kernels(weight_bits, layer.kernels, IDENTITY)
    if layer.kind == "threshold":
        return times * energy45nm.add_energy(bits / layer.kernels)
    added = times * energy45nm.add_energy(activation_bits)
    if not layer.constants:
        return added
    leaking = energy45nm.multiplications_energy(bits, layer.kernels, activation_bits)
    found: NDArray[np.float64] = added + leaking * (batch * layer.macs / layer.kernels)
    return found


def state_bits(layer: Layer, activation_bits: BitArray) -> NDArray[np.float64]:
    """Bits of state that the neurons keep from step to step, shape (A,); 0 of all other layers."""
    kept = layer.neurons if layer.kind == "neuron" else 0
    return activation_bits.astype(np.float64) * kept
