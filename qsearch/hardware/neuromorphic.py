"""``Neuromorphic``: a spiking chip, which works once for each spike that reaches a synapse.

Notation (sums run over the kernels of a layer that are not pruned)

======  ================================================================================================
r, T    firing rate: spikes of an input per time step;  time steps of a forward pass
ρ       density: share of the weights that are not zero
w, a    bits of a kernel's weights, bits of a spike (1 where it says only that it happened)
s       bits of a neuron's state, read and written at every synaptic operation
n, m    inputs and outputs of a layer, whose connectivity is an n × m matrix
σ       density of that matrix: ρ · connections / (n·m);  a convolution connects an output to few inputs
E_chip  energy of a synaptic operation of the chip, from its survey
E(S)    energy of a bit of an SRAM of S bits (:mod:`qsearch.hardware.energy45nm`)
======  ================================================================================================

    synaptic_operations = batch · r·T · ρ · Σ MACs                                               SOp
    memory_traffic      = batch · r·T · (structure + 2·inputs·a) + 2·s·synaptic_operations       bit
    energy              = Σ synaptic_operations · E_chip · f(w) + memory_traffic · E(S)          J
    size                = structure / 8                                                          byte

``structure`` is what holds the weights, by the schemes of arXiv 2003.11639 (ISCAS 2020) and a bit model of this
project [D]. A spike reads its row, so each step reads r times the structure (a linear layer on a sequence: at each
token). The functional scheme computes where weights lie, and reads w bits for each synaptic operation instead:

    crossbar     Σ_outputs n·w
    bitmap       n·m + σ·Σ_outputs n·w + n·⌈log₂(n·m)⌉
    csr          σ·Σ_outputs n·(w + ⌈log₂ m⌉) + (n + 1)·⌈log₂(σ·n·m + 1)⌉
    functional   Σ weights·w

How bits enter the energy is the option ``scaling`` of f:

    linear     f(w) = w/8: a synaptic operation of 8 bits is the chip's [D]
    none       f(w) = 1: only memory feels the bits [D]
    published  f(w) = E(w)/E(8) of a quantised TCJA-SNN (ISCAS 2023), straight lines between its 2 (ternary), 3, 4, 6 and
               8 bits, refused beyond. Its energies hold DRAM and buffers, so memory_traffic is not paid for again.

What a chip's figure holds differs from chip to chip: where memory is part of it, say ``memory_within``.

An embedding holds its rows without a scheme, reads those that it looks up, and has no synaptic operation.

A product of two activations has no synapses. It runs as the functional scheme does where its second operand lies in the
memory, written there at each time step: r·T times its bits to write, as they are read for a spike. So it has no size, and
ρ is 1, since nobody has pruned it: an upper bound where the operand is spikes too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import BitArray
from qsearch.errors import ConfigError
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.constants import Constant
from qsearch.hardware.kernels import count_at_least, sum_over_kernels
from qsearch.hardware.neuromorphic_tables import CHIPS, ENERGY_BY_BITS
from qsearch.hardware.traffic import IDENTITY, weight_traffic
from qsearch.layers import Layer
from qsearch.registry import PluginOptions

Chip = Literal[
    "odin",
    "reckon",
    "ubrain",
    "truenorth",
    "tianjic",
    "neuronflow",
    "loihi",
    "spinnaker",
    "spinnaker2",
    "seneca",
]
Scheme = Literal["crossbar", "bitmap", "csr", "functional"]
Scaling = Literal["linear", "none", "published"]
Floats = NDArray[np.float64]

REFERENCE_BITS = Constant(8, "bit", "modelling choice: weight bits of the chip's synaptic operation [D]")
_CHOICE = "modelling choice, an option of the campaign [D]"


def scheme_bits(
    scheme: Scheme, inputs: int, outputs: int, entries: Floats, entry_bits: Floats, density: float
) -> Floats:
    """Bits of an n × m matrix of weights in memory, shape (A,).

    Args:
        scheme: crossbar, bitmap or csr; see the module.
        inputs, outputs: n, m.
        entries: entries of the matrix in columns that are not pruned, shape (A,).
        entry_bits: their bits, all entries together, zeros included, shape (A,).
        density: σ, share of the entries that are not zero.
    """
    if scheme == "crossbar":
        return entry_bits
    if scheme == "bitmap":
        return density * entry_bits + float(inputs * outputs + inputs * _address(inputs * outputs))
    pointers: Floats = (inputs + 1) * np.ceil(np.log2(density * entries + 1))
    return density * (entry_bits + entries * _address(outputs)) + pointers


def _address(places: int) -> int:
    """⌈log₂ places⌉: bits that tell which one."""
    return (places - 1).bit_length()


def published_energies() -> NDArray[np.int64]:
    """E(w) of the scaling ``published`` at 0..32 bits in 0.1 µJ, shape (33,): 0 for a pruned kernel, −1 if not published.

    Whole numbers, so that sums over kernels are exact.
    """
    known = sorted(ENERGY_BY_BITS)
    energies = [1e4 * ENERGY_BY_BITS[bits].value for bits in known]
    found = np.rint(np.interp(IDENTITY, known, energies, left=-1.0, right=-1.0)).astype(np.int64)
    found[0] = 0
    return found


class Neuromorphic(VectorCostModel):
    """Spiking chip.

    Metrics ``energy`` in J, ``synaptic_operations`` in SOp, ``memory_traffic`` in bit, ``size`` in byte.
    """

    class Options(PluginOptions):
        """The chip, how busy it is, and how it keeps its weights."""

        chip: Chip = "loihi"
        scaling: Scaling = "linear"
        """How weight bits scale the energy of a synaptic operation; see the module."""
        scheme: Scheme = "functional"
        """How weights are stored."""
        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""
        rate: float = Field(default=0.1, gt=0, le=1)
        """r, the same for all layers."""
        steps: int = Field(default=20, ge=1)
        """T."""
        density: float = Field(default=1.0, gt=0, le=1)
        """ρ, the same for all layers."""
        state_bits: int = Field(default=16, ge=0, le=64)
        """s."""
        memory: int = Field(default=2**18, ge=1)
        """S, in bits."""
        memory_within: bool = False
        """Whether the chip's figure holds its memory accesses already; they are not paid for again then."""

    units: Mapping[str, str] = {"energy": "J", "synaptic_operations": "SOp", "memory_traffic": "bit", "size": "byte"}

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.chip = CHIPS[self.options.chip]

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        published = {f"published[{bits}]": constant for bits, constant in ENERGY_BY_BITS.items()}
        chosen = {"linear": {"reference_bits": REFERENCE_BITS}, "none": {}, "published": published}
        busy = {
            "rate": Constant(self.options.rate, "spike per step", _CHOICE),
            "steps": Constant(self.options.steps, "1", _CHOICE),
            "density": Constant(self.options.density, "1", _CHOICE),
        }
        return {"synaptic_operation": self.chip, **chosen[self.options.scaling], **busy, **energy45nm.CONSTANTS}

    @property
    def kernel_additive(self) -> bool:  # type: ignore[override]  # the pointers of csr are as wide as all kernels need
        """See :attr:`qsearch.protocols.CostModel.kernel_additive`."""
        return self.options.scheme != "csr"

    @property
    def definitions(self) -> Mapping[str, str]:  # type: ignore[override]  # chips and scalings count different things
        """See :attr:`qsearch.protocols.CostModel.definitions`."""
        how = {
            "linear": "times w/8",
            "none": "at any bits",
            "published": "times the published energy by bits of a TCJA-SNN",
        }
        operation = f"{self.options.chip}: {self.chip.value:g} {self.chip.unit} ({self.chip.source})"
        memory = "memory accesses within" if self._memory_within else "memory accesses at 45 nm (QKeras)"
        return {
            "energy": f"{operation} {how[self.options.scaling]}, {memory}",
            "size": f"the structure that holds the weights, {self.options.scheme}",
        }

    @property
    def _memory_within(self) -> bool:
        return self.options.memory_within or self.options.scaling == "published"

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`.

        Raises:
            ConfigError: weight bits beyond those of the published table, with ``scaling: published``.
        """
        spikes = self.options.batch * layer.uses * self.options.rate * self.options.steps
        kernels = count_at_least(weight_bits, layer.kernels, (1,))[0].astype(np.float64)
        bits = sum_over_kernels(weight_bits, layer.kernels, IDENTITY).astype(np.float64)
        macs = layer.macs // layer.kernels // layer.uses
        density = self._density(layer)
        operations = spikes * density * macs * kernels
        stored = self._structure(layer, kernels, bits)
        read = self._read(layer, weight_bits, bits, stored, spikes)
        traffic = read + self._events(layer, activation_bits, spikes) + 2.0 * self.options.state_bits * operations
        synaptic = spikes * density * macs * self._scaled(layer, weight_bits, kernels, bits)
        memory = 0.0 if self._memory_within else energy45nm.sram_energy(self.options.memory)
        return {
            "energy": synaptic * (self.chip.value * energy45nm.PICO) + traffic * memory,
            "synaptic_operations": operations,
            "memory_traffic": traffic,
            "size": stored / 8.0,
        }

    def _density(self, layer: Layer) -> float:
        """ρ of a layer's weights."""
        return 1.0 if layer.kind == "matmul" else self.options.density

    def _scaled(self, layer: Layer, weight_bits: BitArray, kernels: Floats, bits: Floats) -> Floats:
        """Σ f(w) over the kernels that are not pruned, shape (A,)."""
        if self.options.scaling == "none":
            return kernels
        if self.options.scaling == "linear":
            return bits / REFERENCE_BITS.value
        energies = published_energies()
        unknown = energies[weight_bits] < 0
        if unknown.any() and layer.kind != "embedding":
            raise ConfigError(
                f"published energies reach from {min(ENERGY_BY_BITS)} to {max(ENERGY_BY_BITS)} weight bits",
                got=f"{int(weight_bits[unknown][0])} bits for layer {layer.name!r}",
                fix=f"narrow the bits of {layer.weight_site!r} in the space, or set scaling: linear",
            )
        return sum_over_kernels(weight_bits, layer.kernels, energies) / float(energies[8])

    def _structure(self, layer: Layer, kernels: Floats, bits: Floats) -> Floats:
        """Bits of the structure that holds a layer's weights, shape (A,)."""
        if layer.kind == "matmul":
            return np.zeros(len(bits))
        if layer.kind == "embedding" or self.options.scheme == "functional":
            return bits * layer.kernel_params
        inputs, positions = _connectivity(layer)
        outputs = layer.kernels * positions
        connections = min(positions * layer.params, inputs * outputs)  # padding connects to nothing
        density = self.options.density * connections / (inputs * outputs)
        column = float(inputs * positions)
        return scheme_bits(self.options.scheme, inputs, outputs, kernels * column, bits * column, density)

    def _read(self, layer: Layer, weight_bits: BitArray, bits: Floats, stored: Floats, spikes: float) -> Floats:
        """Bits of the structure that are read in a forward pass, shape (A,)."""
        if layer.kind == "embedding":
            return weight_traffic(layer, weight_bits, self.options.batch)
        if self.options.scheme == "functional" or layer.kind == "matmul":
            written = 1 if layer.kind == "matmul" else 0
            return bits * (spikes * (self._density(layer) * layer.positions + written) * layer.kernel_params)
        tokens = layer.positions if layer.kind == "linear" else 1
        return spikes * tokens * stored

    def _events(self, layer: Layer, activation_bits: BitArray, spikes: float) -> Floats:
        """Bits of spikes written and read again, shape (A,); 0 for embeddings, whose indices are no spikes."""
        if layer.kind == "embedding":
            return np.zeros(len(activation_bits))
        return activation_bits.astype(np.float64) * (spikes * 2 * (layer.input_elements // layer.uses))


def _connectivity(layer: Layer) -> tuple[int, int]:
    """Inputs n of a layer, and outputs of each of its kernels; a linear layer runs on one token after another."""
    if layer.kind == "linear":
        return layer.in_channels, 1
    return layer.in_channels * math.prod(layer.input_size), layer.positions
