"""Integer-only training: layers that learn from errors of their own, at each step, in whole numbers.

Layers are those of :mod:`qsearch.training.local_layers`, errors those of :mod:`qsearch.training.local_errors`, updates those
of :mod:`qsearch.training.local_weights`, one for each step after the burn-in; there is no back-propagation, through layers
or through time.

Options are those of :mod:`qsearch.training.local_options`; which bits go where, :mod:`qsearch.training.local_bits` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError
from qsearch.spiking.network import over_time
from qsearch.training.lessons import Batch
from qsearch.training.local_bits import StageBits, stage_bits
from qsearch.training.local_errors import Penalties, Readout, normalised
from qsearch.training.local_layers import Constants, LocalLayer, State
from qsearch.training.local_memory import Counts
from qsearch.training.local_options import LocalOptions
from qsearch.training.local_registers import nearest_exponent
from qsearch.training.local_stages import Stage, stages_of
from qsearch.training.local_synapses import Synapses
from qsearch.training.local_weights import Weights, start, taken_over

MEMBRANE = 0.75
"""α where neither the network nor the options say it."""


@dataclass(frozen=True)
class Member:
    """A stage with all that it learns by."""

    stage: Stage
    layer: LocalLayer
    readout: Readout
    bits: StageBits
    counts: Counts

    def advance(self, spikes: Tensor, before: State | None) -> tuple[State, Tensor]:
        """Its state after a step, and the spikes that leave it."""
        for module in self.stage.between:
            spikes = module(spikes)
        return self.layer.advance(spikes, before)

    def read(self, state: State) -> Tensor:
        """y, shape (B, C)."""
        return self.readout.read(self.layer.activity(state.potential))

    def learn(self, state: State, targets: Tensor, options: LocalOptions, rate: int, generator: Generator) -> None:
        """Move the weights by the errors of one step.

        Args:
            targets: classes, shape (B,).
            rate: its exponent r.
        """
        bits, highest = self.bits.errors, self.layer.active
        activity = self.layer.activity(state.potential)
        errors = self.readout.errors(self.readout.read(activity), targets, options.loss, bits)
        delta = normalised(self.readout.spread(errors, activity), bits)
        if not self.readout.direct:
            penalties = Penalties(options.silence, options.activity)
            delta = penalties.added(delta, state.potential, activity, highest, bits)
        gradient = normalised(self.layer.synapses.gradient(delta, state.membrane), bits)
        self.layer.weights.move(gradient, bits, rate, generator)


class LocalNetwork:
    """A spiking network whose layers learn locally, under an assignment.

    Args:
        network: the float network; it is only read.
        assignment: see :mod:`qsearch.training.local_bits`.
        example: inputs of shape (n, T, …), on which random weights find their range.
        options: see :class:`LocalOptions`.
        generator: of weights and readouts, and of all that is rounded at random later.

    Attributes:
        members: its stages, in order.

    Raises:
        DataError: a network of other layers.
        SpaceError: weights of one bit.
        ConfigError: a burn-in that leaves no step, or spikes to be counted where the last neurons are no classes.
    """

    def __init__(
        self,
        network: nn.Module,
        assignment: BitAssignment,
        example: Tensor,
        options: LocalOptions,
        generator: Generator,
    ) -> None:
        stages = stages_of(network)
        self._options, self._generator = options, generator
        with torch.no_grad():
            self._classes = network(example).shape[-1]
            members, spikes = list[Member](), example
            for stage, bits in zip(stages, stage_bits(stages, assignment, options), strict=True):
                member, spikes = self._member(stage, bits, spikes)
                members.append(member)
        self.members = tuple(members)
        self._check(example.shape[1])

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs (B, C) of spikes (B, T, …): see ``output`` of the options."""
        found = torch.zeros(len(inputs), self._classes, dtype=torch.float64)
        last = self.members[-1]
        for step, states, spikes in self._steps(inputs):
            if step >= self._options.burn_in:
                counted = (
                    spikes.flatten(1) if self._options.output == "spikes" else last.read(states[-1]) / last.readout.unit
                )
                found = found + counted
        return found.float()

    @torch.no_grad()
    def learn(self, inputs: Tensor, targets: Tensor, rate: int) -> None:
        """Learn a batch, (B, T, …) and (B,), at each step after the burn-in; ``rate`` is the exponent of it."""
        for step, states, _ in self._steps(inputs):
            if step < self._options.burn_in:
                continue
            for member, state in zip(self.members, states, strict=True):
                member.learn(state, targets, self._options, rate, self._generator)

    def _steps(self, inputs: Tensor) -> Iterator[tuple[int, list[State], Tensor]]:
        """Step by step: its number, the state of each member, and the spikes of the last."""
        states: list[State | None] = [None] * len(self.members)
        for step in range(inputs.shape[1]):
            spikes, after = inputs[:, step].double(), list[State]()
            for member, before in zip(self.members, states, strict=True):
                state, spikes = member.advance(spikes, before)
                after.append(state)
            states = list(after)
            yield step, after, spikes

    def _member(self, stage: Stage, bits: StageBits, spikes: Tensor) -> tuple[Member, Tensor]:
        """A stage before it has learnt, and the spikes (n, T, …) that then leave it; ``spikes`` reach what is before it."""
        for module in stage.between:
            spikes = over_time(module, spikes.double())
        layer = _layer(stage, bits, self._options, self._generator)
        if self._options.start == "random":
            _find_range(layer, spikes, self._options.gain)
        states, fired = _course(layer, spikes)
        neurons = states.potential[0].numel()
        readout = Readout(neurons, self._classes, bits.readout, layer.active, self._generator)
        counts = Counts(
            kernel=layer.synapses.fan_in,
            weights=bits.stored,
            inputs=spikes[0, 0].numel(),
            neurons=neurons,
            thresholds=0 if stage.threshold is None else stage.threshold.numel(),
            classes=self._classes,
            readout=readout.size,
            state_bits=bits.state,
            leak_bits=bits.leak,
            threshold_bits=bits.threshold,
            error_bits=bits.errors,
            readout_bits=bits.readout,
        )
        return Member(stage, layer, readout, bits, counts), fired

    def _check(self, steps: int) -> None:
        """Raise ConfigError where nothing would be learnt, or counted."""
        last = self.members[-1]
        if self._options.burn_in >= steps:
            raise ConfigError(
                "burn_in must leave a step of each sample", got=f"{self._options.burn_in} of {steps}", fix="lower it"
            )
        if self._options.output == "spikes" and (not last.readout.direct or last.layer.threshold is None):
            raise ConfigError(
                "output: spikes needs a last layer that spikes, with a neuron for each class",
                got=f"{last.counts.neurons} neurons for {self._classes} classes",
                fix="output: readout",
            )


class LocalTraining:
    """Training on its way.

    Args:
        network: see :class:`LocalNetwork`.
        data: training data: spikes (n, T, …) and classes (n,).
        options: see :class:`LocalOptions`.
        generator: of the order of samples.

    Attributes:
        done: epochs.
    """

    def __init__(self, network: LocalNetwork, data: Batch, options: LocalOptions, generator: Generator) -> None:
        self.network, self.done = network, 0
        self._data, self._options, self._generator = data, options, generator

    def epoch(self) -> None:
        """Pass over the data once."""
        options = self._options
        rate = -nearest_exponent(options.rate) + self.done * (options.halvings + 1) // options.epochs
        order = torch.randperm(len(self._data), generator=self._generator)
        for begin in range(0, len(order), options.batch_size):
            batch = self._data.take(order[begin : begin + options.batch_size])
            assert isinstance(batch.inputs, Tensor)
            self.network.learn(batch.inputs, batch.targets, rate)
        self.done += 1


def _layer(stage: Stage, bits: StageBits, options: LocalOptions, generator: Generator) -> LocalLayer:
    """The layer of a stage, before it has learnt."""
    alpha = next(value for value in (options.membrane, stage.leak, MEMBRANE) if value is not None)
    threshold, synapses = stage.threshold, Synapses(stage.module)
    unit = 1.0 if threshold is None else math.ldexp(1.0, nearest_exponent(float(threshold.max())))
    least = options.stored_bits or 0
    if options.start == "network":
        # traces end at the rate of spikes; a membrane that sums them up ends 1/(1 − α) times as high
        weights: Weights = taken_over(bits.weights, synapses.weight / (unit * (1 - alpha)), least)
    else:
        weights = start(bits.weights, synapses.shape, generator, least)
    constants = Constants(alpha, options.synapse, options.refractory, None if threshold is None else threshold / unit)
    return LocalLayer(synapses, weights, constants, bits.state, bits.leak, bits.threshold)


def _course(layer: LocalLayer, spikes: Tensor) -> tuple[State, Tensor]:
    """The state after all steps, and the spikes that leave in each: (n, T, …) → (n, T, …)."""
    state, found = None, list[Tensor]()
    for step in spikes.unbind(1):
        state, fired = layer.advance(step, state)
        found.append(fired)
    assert state is not None
    return state, torch.stack(found, 1)


def _find_range(layer: LocalLayer, spikes: Tensor, gain: float) -> None:
    """Let weights have the exponent with which the currents of the last step are about as large as is asked for."""
    state, _ = _course(layer, spikes)
    size = float(layer.currents(state.membrane).square().mean().sqrt()) * layer.potential.step
    if size > 0:  # where no spike has arrived, any range will do
        layer.weights.rescale(nearest_exponent(gain / size))
