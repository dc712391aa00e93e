"""What integer-only training keeps in memory, for one sample.

==========  ==========================================================================================================
weights     of each kernel at the bits it is stored with; leaks and threshold of each layer at theirs
readouts    G and H of each layer (:mod:`qsearch.training.local_errors`): fixed, but stored
states      of each layer Q and P, one number per input, and R and U, one per neuron; R of none that spikes not
errors      ε, one number per class, δ, one per neuron, and g, one per weight: of the layer that has most, as one layer
            learns after the other and no step waits for another
==========  ==========================================================================================================

Accumulators of sums and the shift that a maximum is searched for are in registers of the arithmetic, and are not counted; a
batch keeps states and δ of each of its samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from qsearch.assignment import FLOAT_BITS

LEAKS = 3
"""α, β and γ."""


@dataclass(frozen=True)
class Counts:
    """Numbers that a layer keeps, and their bits.

    Attributes:
        kernel: weights of one kernel.
        weights: bits with which each kernel is stored, shape (K,).
        inputs, neurons, thresholds, classes: how many there are; no thresholds where nothing spikes.
        readout: numbers in G and H.
        state_bits, leak_bits, threshold_bits, error_bits, readout_bits: of each.
    """

    kernel: int
    weights: tuple[int, ...]
    inputs: int
    neurons: int
    thresholds: int
    classes: int
    readout: int
    state_bits: int
    leak_bits: int
    threshold_bits: int
    error_bits: int
    readout_bits: int

    @property
    def state_numbers(self) -> int:
        """Of Q, P, R and U."""
        return 2 * self.inputs + (2 if self.thresholds else 1) * self.neurons

    @property
    def error_numbers(self) -> int:
        """Of ε, δ and g; pruned kernels learn nothing."""
        return self.classes + self.neurons + self.kernel * sum(bits > 0 for bits in self.weights)


@dataclass(frozen=True)
class Memory:
    """Bytes, by what they are for; see the module."""

    weights: float
    readouts: float
    states: float
    errors: float

    @property
    def total(self) -> float:
        """Bytes of all."""
        return self.weights + self.readouts + self.states + self.errors


def memory(layers: Iterable[Counts]) -> Memory:
    """What training keeps."""
    found = tuple(layers)
    return Memory(
        weights=sum(_weight_bits(layer) for layer in found) / 8,
        readouts=sum(layer.readout * layer.readout_bits for layer in found) / 8,
        states=sum(layer.state_numbers * layer.state_bits for layer in found) / 8,
        errors=max(layer.error_numbers * layer.error_bits for layer in found) / 8,
    )


def in_float(layers: Iterable[Counts]) -> Memory:
    """What it would keep with 32 bits everywhere, and nothing pruned."""
    wide = dict.fromkeys(("state_bits", "leak_bits", "threshold_bits", "error_bits", "readout_bits"), FLOAT_BITS)
    return memory(replace(layer, weights=(FLOAT_BITS,) * len(layer.weights), **wide) for layer in layers)


def _weight_bits(layer: Counts) -> int:
    """Bits of weights and constants."""
    constants = LEAKS * layer.leak_bits + layer.thresholds * layer.threshold_bits
    return layer.kernel * sum(layer.weights) + constants
