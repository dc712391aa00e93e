"""``Neuromorphic``: a spiking chip, which works once for each spike that reaches a synapse.

Notation (sums run over the kernels of a layer that are not pruned)

======  ================================================================================================
ζ       spikes of an input in a forward pass, on average: events / inputs where they were measured
        (:attr:`qsearch.layers.Layer.events`); else r·T at each use, the options ``rate`` and ``steps``. Where ``steps``
        is left out, a layer of weights that is used more than once is taken for one of a network that runs in
        time, each use a step (ζ = r·uses), and any other for one of 20 steps. A convolutional network that runs a
        module more than once in each step is told so by ``steps``
ρ       density: share of the weights that are not zero
w, a    bits of a kernel's weights, bits of a spike (1 where it says only that it happened)
s       bits of a neuron's state
n, m    inputs and outputs of a layer, whose connectivity is an n × m matrix
E_chip  energy of a synaptic operation of the chip, from its survey
E(S)    energy of a bit of an SRAM of S bits (:mod:`qsearch.hardware.energy45nm`)
======  ================================================================================================

    synaptic_operations = batch · ζ · ρ · Σ MACs of a use                                        SOp
    memory_traffic      = structure, spikes and states that are read and written                 bit
    energy              = Σ synaptic_operations · E_chip · f(w) + memory_traffic · E(S)          J
    size                = structure, and the constants of neurons                                byte
    memory              = size and the states of neurons                                         byte

``structure`` is what holds the weights (:mod:`qsearch.hardware.storage_schemes`); σ, the density of the matrix, is
ρ · connections / (n·m), as a convolution connects an output to few inputs. A spike reads its row, so a forward pass reads
ζ structures (a linear layer on a sequence: at each token). The functional scheme computes where weights lie, and reads w
bits for each synaptic operation instead.

So a spike reaches as many outputs as an input does on average, ζ·F_ANN of Datta et al. (arXiv 2107.11979): exact for linear
layers; of convolutions, with products that lie in the padding among them, which spikes in the middle of a map make up for. On
19 recordings of N-MNIST that is 0.3 % below a count event by event, −11 to 3 % layer by layer [C].

Spikes are written and read again, a bits each where they are not measured. Those that are travel as addresses of
⌈log₂ inputs⌉ bits, which the layer reads, and which the neurons that sent them have written.

**Neurons** are layers of their own. ``update`` says when a state is read and written:

    per-step   every neuron's once a step, at the bits of its state: 2·T·N·s
    per-event  at every synaptic operation, 2·s bits, in the layer that the spikes reach. It does not know the bits of
               those states, which are another layer's: s is the option ``state_bits`` there

Layers that were not measured, and have T steps at each use, belong to a network without neurons, and are charged per event.
Beside neurons, whose steps their uses are already, the whole network is refused; a cost of one layer cannot know. What neurons
compute is paid for at 45 nm (:mod:`qsearch.hardware.neurons`); their leaks and thresholds are read at every step.

**Layers whose input is no spikes**, as the first one's often is not, are told by ``first``. A layer cannot know whether its
spikes were not measured or whether there are none, so that is said for the network:

    rate       it is as if spikes came at the rate: a network that is yet to be converted
    digital    multiply-accumulates, at 45 nm
    in-memory  crossbars of resistive cells, in which the weights lie

(:mod:`qsearch.hardware.first_layer`), at each step, or with ``cached`` once a sample, where each step shows the same input;
reading what is kept is left out.

How bits enter the energy of a synaptic operation is the option ``scaling`` of f:

    linear     f(w) = w/8: a synaptic operation of 8 bits is the chip's [D]
    none       f(w) = 1: only memory feels the bits [D]
    published  f(w) = E(w)/E(8) of a quantised TCJA-SNN (ISCAS 2023), straight lines between its 2 (ternary), 3, 4, 6 and
               8 bits, refused beyond. Its energies hold DRAM and buffers, so memory_traffic is not paid for again.

What a chip's figure holds differs from chip to chip: where memory is part of it, say ``memory_within``. That goes for
spiking layers and neurons; what ``first`` and ``learning`` add is beside the figure, with its memory.

``learning`` adds sending errors back and changing the weights (:mod:`qsearch.hardware.learning`); errors are then part of
``memory``.

An embedding holds its rows without a scheme, reads those that it looks up, and has no synaptic operation.

A product of two activations has no synapses. It runs as the functional scheme does where its second operand lies in the
memory, written there at each time step: ζ times its bits to write, as they are read for a spike. So it has no size, and
ρ is 1, since nobody has pruned it: an upper bound where the operand is spikes too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from qsearch.assignment import BitArray, BitAssignment
from qsearch.errors import ConfigError
from qsearch.hardware import energy45nm
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.hardware.constants import Constant
from qsearch.hardware.first_layer import digital, in_memory
from qsearch.hardware.learning import ACCUMULATOR_BITS, Learning
from qsearch.hardware.neuromorphic_tables import CHIPS, ENERGY_BY_BITS
from qsearch.hardware.neurons import state_bits, update_energy
from qsearch.hardware.reram import ReRam
from qsearch.hardware.storage_schemes import Scheme
from qsearch.hardware.synapses import REFERENCE_BITS, STEPS, Floats, Scaling, Summed, Synapses, summed
from qsearch.hardware.traffic import feature_traffic
from qsearch.layers import Layer
from qsearch.registry import PluginOptions
from qsearch.space import SiteBits
from qsearch.trial import Cost

log = logging.getLogger(__name__)

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
_CHOICE = "modelling choice, an option of the campaign [D]"


class Neuromorphic(VectorCostModel):
    """Spiking chip.

    Metrics ``energy`` in J, ``synaptic_operations`` in SOp, ``memory_traffic`` in bit, ``size`` and ``memory`` in byte.
    """

    class Options(PluginOptions):
        """The chip, how busy it is, how it keeps its weights, and what it does beside its spikes."""

        chip: Chip = "loihi"
        scaling: Scaling = "linear"
        """How weight bits scale the energy of a synaptic operation; see the module."""
        scheme: Scheme = "functional"
        """How weights are stored."""
        batch: int = Field(default=1, ge=1)
        """Samples per forward pass."""
        rate: float = Field(default=0.1, gt=0, le=1)
        """r, spikes of an input per time step, of all layers whose spikes were not measured."""
        steps: int | None = Field(default=None, ge=1)
        """T of each use of layers whose spikes were not measured; None: 20, or 1 where uses are steps; see the module."""
        density: float = Field(default=1.0, gt=0, le=1)
        """ρ, the same for all layers."""
        update: Literal["per-step", "per-event"] = "per-step"
        """When a neuron's state is read and written; see the module."""
        state_bits: int = Field(default=16, ge=0, le=64)
        """s, where states are updated per event."""
        first: Literal["rate", "digital", "in-memory"] = "rate"
        """How layers are computed whose input is no spikes, or was not measured; see the module."""
        cached: bool = False
        """Whether such a layer's output is computed once and kept for all steps; else it is computed at each."""
        learning: Literal["none", "backward-update"] = "none"
        """Whether errors are sent back and weights change at each step."""
        errors: float = Field(default=1.0, ge=0, le=1)
        """Share of a layer's outputs that have an error at each step."""
        error_bits: int = Field(default=8, ge=1, le=32)
        """Bits of an error."""
        memory: int = Field(default=2**18, ge=1)
        """S, in bits."""
        memory_within: bool = False
        """Whether the chip's figure holds its memory accesses already; they are not paid for again then."""

    units: Mapping[str, str] = {
        "energy": "J",
        "synaptic_operations": "SOp",
        "memory_traffic": "bit",
        "size": "byte",
        "memory": "byte",
    }

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.chip = CHIPS[self.options.chip]
        own = self.options
        self._synapses = Synapses(own.scheme, own.density, own.scaling, own.batch, own.rate, own.steps)
        self._crossbars = ReRam()
        self._warned = False

    @property
    def constants(self) -> Mapping[str, Constant]:
        """See :attr:`VectorCostModel.constants`."""
        published = {f"published[{bits}]": constant for bits, constant in ENERGY_BY_BITS.items()}
        chosen = {"linear": {"reference_bits": REFERENCE_BITS}, "none": {}, "published": published}
        busy = {
            "rate": Constant(self.options.rate, "spike per step", _CHOICE),
            "steps": Constant(self.options.steps or STEPS, "1", _CHOICE),
            "density": Constant(self.options.density, "1", _CHOICE),
            "state_bits": Constant(self.options.state_bits, "bit", _CHOICE),
            "errors": Constant(self.options.errors, "1", _CHOICE),
            "error_bits": Constant(self.options.error_bits, "bit", _CHOICE),
            "accumulator_bits": ACCUMULATOR_BITS,
        }
        crossbars = self._crossbars.constants if self.options.first == "in-memory" else {}
        beside = {f"first.{name}": constant for name, constant in crossbars.items()}
        return {
            "synaptic_operation": self.chip,
            **chosen[self.options.scaling],
            **busy,
            **beside,
            **energy45nm.CONSTANTS,
        }

    @property
    def kernel_additive(self) -> bool:  # type: ignore[override]  # csr's pointers and crossbars are of all kernels
        """See :attr:`qsearch.protocols.CostModel.kernel_additive`."""
        return self.options.scheme != "csr" and self.options.first != "in-memory"

    @property
    def definitions(self) -> Mapping[str, str]:  # type: ignore[override]  # chips and scalings count different things
        """See :attr:`qsearch.protocols.CostModel.definitions`."""
        how = {
            "linear": "times w/8",
            "none": "at any bits",
            "published": "times the published energy by bits of a TCJA-SNN",
        }
        options = self.options
        operation = f"{options.chip}: {self.chip.value:g} {self.chip.unit} ({self.chip.source})"
        memory = "memory accesses within" if self._memory_within else "memory accesses at 45 nm (QKeras)"
        memory += f", SRAM of {options.memory:,} bits"
        structure = f"the structure that holds the weights, {options.scheme}{self._dense}"
        cells = "" if options.first != "in-memory" else ", other inputs' in ISAAC's cells"
        kept = f"{structure}{cells}, and constants of neurons"
        errors = "" if options.learning == "none" else f", and errors of {options.error_bits} bits"
        traffic = f"{structure}; {self._busy}; {self._beside}"
        return {
            "energy": f"{operation} {how[options.scaling]}, {memory}; {traffic}",
            "synaptic_operations": f"{self._busy}{self._dense}{'' if options.first == 'rate' else '; of spikes alone'}",
            "memory_traffic": traffic,
            "size": kept,
            "memory": f"{kept}, and their states{errors}",
        }

    @property
    def _dense(self) -> str:
        """ρ in words, where it is not 1."""
        return "" if self.options.density == 1 else f", density {self.options.density:g}"

    @property
    def _busy(self) -> str:
        """How spikes are counted, in words."""
        options = self.options
        steps = "" if options.steps is None else f" in {options.steps} steps a use"
        samples = "" if options.batch == 1 else f", of {options.batch} samples"
        return f"spikes as measured, else at a rate of {options.rate:g}{steps}{samples}"

    @property
    def _beside(self) -> str:
        """What is beside the spikes, in words: neurons, layers that read numbers, learning."""
        options = self.options
        per_event = f", of {options.state_bits} bits" if options.update == "per-event" else ""
        cached = ", cached" if options.cached else ""
        first = {
            "rate": "",
            "digital": f"; other inputs by MACs at 45 nm{cached}",
            "in-memory": f"; other inputs in ISAAC's cells{cached}",
        }
        learning = f"; with learning at 45 nm, errors of {options.error_bits} bits at {options.errors:g} of the outputs"
        learns = "" if options.learning == "none" else learning
        return f"neurons at 45 nm, states {options.update}{per_event}{first[options.first]}{learns}"

    @property
    def _memory_within(self) -> bool:
        return self.options.memory_within or self.options.scaling == "published"

    @property
    def _on_chip(self) -> float:
        """E(S), in J a bit."""
        return energy45nm.sram_energy(self.options.memory)

    @property
    def _paid(self) -> float:
        """E(S) beside the chip's figure, in J a bit."""
        return 0.0 if self._memory_within else self._on_chip

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """See :meth:`VectorCostModel.estimate`; warns once of inputs that are no spikes, and are taken for some.

        Raises:
            ConfigError: some of them are in a network of neurons, and their uses would be multiplied by ``steps``.
        """
        others = self._taken_for_spikes(layers)
        if others and not self._warned:
            self._warned = True
            log.warning(
                "neuromorphic takes the input of %s for spikes at a rate of %g, which it is not: "
                "set first: digital, or in-memory",
                ", ".join(others),
                self.options.rate,
            )
        return super().estimate(layers, assignment)

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Mapping[str, Floats]:
        """See :meth:`VectorCostModel.estimate_many`, and :meth:`estimate`."""
        self._taken_for_spikes(layers)
        return super().estimate_many(layers, bits)

    def _taken_for_spikes(self, layers: Sequence[Layer]) -> list[str]:
        """Names of layers of a network of neurons whose inputs are no spikes, and taken for some; one layer cannot tell.

        Raises:
            ConfigError: see :meth:`estimate`.
        """
        in_time = [layer.uses for layer in layers if layer.neurons]
        if self.options.first != "rate" or not in_time:
            return []
        others = [layer for layer in layers if self._unmeasured(layer)]
        for layer in others:
            if layer.uses >= min(in_time) and (steps := self._synapses.steps_a_use(layer)) > 1:
                raise ConfigError(
                    "in a network of neurons each use of a layer is a step, which steps must not multiply",
                    got=f"layer {layer.name!r}, uses: {layer.uses}, steps: {steps}",
                    fix="set first: digital, or in-memory; or steps: 1, if its input is to be taken for spikes",
                )
        return [layer.name for layer in others]

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`.

        Raises:
            ConfigError: weight bits beyond those of the published table, with ``scaling: published``.
        """
        counted = summed(layer, weight_bits)
        if layer.neurons:
            return self._neurons(layer, weight_bits, activation_bits, counted)
        if self.options.first != "rate" and self._unmeasured(layer):
            costs = self._first(layer, weight_bits, activation_bits, counted)
        else:
            costs = self._spiking(layer, weight_bits, activation_bits, counted)
        return self._learning(layer, counted, costs) if layer.kind in ("conv", "linear") else costs

    def _unmeasured(self, layer: Layer) -> bool:
        """Whether a layer of synapses has an input that is no spikes, or was not measured."""
        return layer.events is None and layer.kind in ("conv", "linear")

    def _costs(self, operations: Floats, energy: Floats, traffic: Floats, stored: Floats) -> Costs:
        """Metrics of a layer that keeps nothing but bits that are stored."""
        return {
            "energy": energy,
            "synaptic_operations": operations,
            "memory_traffic": traffic,
            "size": stored / 8.0,
            "memory": stored / 8.0,
        }

    def _spiking(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray, counted: Summed) -> Costs:
        """Costs of a layer that works once for each spike; of an embedding, and of a product of activations."""
        synapses = self._synapses
        operations = synapses.operations(layer, counted.kernels)
        synaptic = synapses.operations(layer, synapses.scaled(layer, weight_bits, counted))
        stored = synapses.structure(layer, counted).total
        traffic = synapses.read(layer, weight_bits, counted, stored) + synapses.addresses(layer, activation_bits)
        traffic = traffic + self._states(layer, operations)
        energy = synaptic * (self.chip.value * energy45nm.PICO) + traffic * self._paid
        return self._costs(operations, energy, traffic, stored)

    def _states(self, layer: Layer, arrivals: Floats) -> Floats:
        """Bits of states read and written where so many currents arrive, shape (A,); none where neurons are charged."""
        stepped = self.options.update == "per-step" and self._in_steps(layer)
        return 0.0 * arrivals if stepped else 2.0 * self.options.state_bits * arrivals

    def _in_steps(self, layer: Layer) -> bool:
        """Whether a layer is known to be one of a network of neurons, which uses it once a step."""
        return layer.events is not None or self.options.first != "rate" or self._synapses.steps_a_use(layer) == 1

    def _neurons(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray, counted: Summed) -> Costs:
        """Costs of neurons, or of their thresholds: constants are read at each step, states as ``update`` says."""
        batch = self.options.batch
        stored = counted.bits * float(layer.kernel_params)
        traffic = batch * layer.uses * stored
        if layer.kind == "neuron":
            traffic = traffic + self._synapses.sent(layer, layer.neurons)
            if self.options.update == "per-step":
                traffic = traffic + 2 * feature_traffic(layer, activation_bits, batch)
        energy = update_energy(layer, weight_bits, activation_bits, batch) + traffic * self._paid
        kept = state_bits(layer, activation_bits) / 8.0
        costs = self._costs(np.zeros(len(kept)), energy, traffic, stored)
        return {**costs, "memory": costs["memory"] + kept}

    def _first(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray, counted: Summed) -> Costs:
        """Costs of a layer whose input is numbers and no spikes."""
        batch = self.options.batch
        times = batch * (1 if self.options.cached else layer.uses)
        if self.options.first == "in-memory":
            found = in_memory(self._crossbars, layer, weight_bits, activation_bits, times)
        else:
            found = digital(layer, counted, activation_bits, times)
        currents = counted.kernels * float(batch * layer.uses * layer.positions)
        traffic = found.traffic + self._states(layer, currents)
        return self._costs(0.0 * currents, found.arithmetic + traffic * self._on_chip, traffic, found.stored)

    def _learning(self, layer: Layer, counted: Summed, forward: Costs) -> Costs:
        """Costs of a layer of synapses with what learning adds to those of its forward pass."""
        options = self.options
        if options.learning == "none":
            return forward
        steps = options.batch * layer.uses * (1 if self._in_steps(layer) else self._synapses.steps_a_use(layer))
        learning = Learning(options.errors, options.error_bits, steps)
        outputs = layer.out_channels * layer.positions
        connected = options.density * layer.positions * layer.kernel_params
        structure = self._synapses.structure(layer, counted)
        traffic = learning.traffic(options.scheme, structure, counted.bits, connected, outputs)
        energy = learning.arithmetic(connected, counted.bits, counted.kernels) + traffic * self._on_chip
        return {
            **forward,
            "energy": forward["energy"] + energy,
            "memory_traffic": forward["memory_traffic"] + traffic,
            "memory": forward["memory"] + outputs * options.error_bits / 8.0,
        }
