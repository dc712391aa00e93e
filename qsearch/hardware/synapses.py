"""``Synapses``: what spikes do in a layer of weights: how often, on which connections, and what is read for it.

The notation is that of :mod:`qsearch.hardware.neuromorphic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray
from qsearch.errors import ConfigError
from qsearch.hardware.constants import Constant
from qsearch.hardware.kernels import count_at_least, sum_over_kernels
from qsearch.hardware.neuromorphic_tables import ENERGY_BY_BITS, published_energies
from qsearch.hardware.storage_schemes import Scheme, Structure, address_bits, matrix
from qsearch.hardware.traffic import IDENTITY, weight_traffic
from qsearch.layers import Layer

Scaling = Literal["linear", "none", "published"]
Floats = NDArray[np.float64]

STEPS = 20
"""T where nothing else is asked for."""

REFERENCE_BITS = Constant(8, "bit", "modelling choice: weight bits of the chip's synaptic operation [D]")


class Summed(NamedTuple):
    """Kernels of a layer that are not pruned, and bits of a weight of each, summed over them; shape (A,) each."""

    kernels: Floats
    bits: Floats


@dataclass(frozen=True)
class Synapses:
    """How a chip holds weights, and how busy they are.

    Attributes:
        scheme: how they are held.
        density: ρ.
        scaling: f.
        batch: samples per forward pass.
        rate, steps: r, T of layers whose spikes were not measured; of ``steps``, see :meth:`steps_a_use`.
    """

    scheme: Scheme
    density: float
    scaling: Scaling
    batch: int
    rate: float
    steps: int | None

    def spikes(self, layer: Layer) -> float:
        """ζ, times the samples."""
        if layer.events is None:
            return self.batch * layer.uses * self.rate * self.steps_a_use(layer)
        return self.batch * layer.events * layer.uses / layer.input_elements

    def steps_a_use(self, layer: Layer) -> int:
        """T of each use of a layer whose spikes were not measured.

        Where ``steps`` is None: 1 of a layer of weights that is used more than once, whose uses are taken for the steps of
        a network of neurons; else :data:`STEPS`.
        """
        if self.steps is not None:
            return self.steps
        return 1 if layer.uses > 1 and layer.kind in ("conv", "linear") else STEPS

    def share(self, layer: Layer) -> float:
        """ζ·ρ, times the samples: synaptic operations for each product of a use."""
        return self.spikes(layer) * (1.0 if layer.kind == "matmul" else self.density)

    def operations(self, layer: Layer, weighted: Floats) -> Floats:
        """Synaptic operations, shape (A,), each kernel counting as ``weighted`` has it: Σ 1 or Σ f(w), shape (A,)."""
        return self.share(layer) * (layer.macs // layer.kernels // layer.uses) * weighted

    def scaled(self, layer: Layer, weight_bits: BitArray, counted: Summed) -> Floats:
        """Σ f(w) over the kernels that are not pruned, shape (A,).

        Raises:
            ConfigError: weight bits beyond those of the published table, where that is the scaling.
        """
        if self.scaling == "none":
            return counted.kernels
        if self.scaling == "linear":
            return counted.bits / REFERENCE_BITS.value
        energies = published_energies()
        unknown = energies[weight_bits] < 0
        if unknown.any() and layer.kind != "embedding":
            raise ConfigError(
                f"published energies reach from {min(ENERGY_BY_BITS)} to {max(ENERGY_BY_BITS)} weight bits",
                got=f"{int(weight_bits[unknown][0])} bits for layer {layer.name!r}",
                fix=f"narrow the bits of {layer.weight_site!r} in the space, or set scaling: linear",
            )
        return sum_over_kernels(weight_bits, layer.kernels, energies) / float(energies[8])

    def structure(self, layer: Layer, counted: Summed) -> Structure:
        """What holds a layer's weights."""
        kernels, bits = counted
        nothing = np.zeros(len(bits))
        if layer.kind == "matmul":
            return Structure(nothing, nothing)
        if layer.kind == "embedding" or self.scheme == "functional":
            return Structure(bits * layer.kernel_params, nothing)
        inputs, positions = _connectivity(layer)
        outputs = layer.kernels * positions
        connected = min(positions * layer.params, inputs * outputs)  # padding connects to nothing
        density = self.density * connected / (inputs * outputs)
        column = float(inputs * positions)
        return matrix(self.scheme, inputs, outputs, kernels * column, bits * column, density)

    def read(self, layer: Layer, weight_bits: BitArray, counted: Summed, stored: Floats) -> Floats:
        """Bits of the structure, of which so many are stored, that are read in a forward pass, shape (A,)."""
        if layer.kind == "embedding":
            return weight_traffic(layer, weight_bits, self.batch)
        if self.scheme == "functional" or layer.kind == "matmul":
            written = self.spikes(layer) if layer.kind == "matmul" else 0
            return counted.bits * ((self.share(layer) * layer.positions + written) * layer.kernel_params)
        tokens = layer.positions if layer.kind == "linear" else 1
        return self.spikes(layer) * tokens * stored

    def addresses(self, layer: Layer, activation_bits: BitArray) -> Floats:
        """Bits of spikes that are read, and written where no neuron has; shape (A,); an embedding's indices are no spikes."""
        if layer.kind == "embedding":
            return np.zeros(len(activation_bits))
        inputs = layer.input_elements // layer.uses
        if layer.events is None:
            return activation_bits.astype(np.float64) * (self.spikes(layer) * 2 * inputs)
        return np.full(len(activation_bits), self.sent(layer, inputs))

    def sent(self, layer: Layer, places: int) -> float:
        """Bits of the addresses of a layer's spikes, among so many places; at least one bit each."""
        return self.batch * (layer.events or 0.0) * max(address_bits(places), 1)


def _connectivity(layer: Layer) -> tuple[int, int]:
    """Inputs n of a layer, and outputs of each of its kernels; a linear layer runs on one token after another."""
    if layer.kind == "linear":
        return layer.in_channels, 1
    return layer.in_channels * math.prod(layer.input_size), layer.positions


def summed(layer: Layer, weight_bits: BitArray) -> Summed:
    """What a layer's kernels come to, of each assignment of a batch."""
    kernels = count_at_least(weight_bits, layer.kernels, (1,))[0].astype(np.float64)
    return Summed(kernels, sum_over_kernels(weight_bits, layer.kernels, IDENTITY).astype(np.float64))
