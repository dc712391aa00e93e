"""Layers that learn locally: traces of the spikes that come in, a state, a refractory trace of those that go out.

Notation, of one layer at one step; a hat marks what is quantised:

==========  ======================================================================================================
S_in, S     spikes that reach the layer, and that leave it: whole numbers, and 0 or 1
Q, P        synaptic and membrane trace of each input, within [0, 1)
R           refractory trace of each neuron, within [0, 2^ρ), the least power of two above θ/(1 − γ)
U           state of each neuron, within ±8
W           weights within ±2^e, multiples of 2^(e+1−w) for w bits
α, β, γ     leaks of P, Q and R, below 1;  τ_mem = 1 − α and τ_syn = 1 − β, so that traces end at the rate of the spikes
θ           threshold
σ(U)        ½ + (U − θ)/4 within [0, 1]; its slope counts as one inside, and nothing outside
==========  ======================================================================================================

::

    Q ← sat⌊β̂·Q + τ_syn·S_in⌉      P ← sat⌊α̂·P + τ_mem·Q⌉      R ← ⌊γ̂·R⌉
    U = sat⌊conv(P, W) − R⌉         S = [U ≥ θ]                   R ← sat(R + θ·S)

Schaefer and Joshi, ICONS 2020, after DECOLLE (Kaiser, Mostafa and Neftci,
Frontiers in Neuroscience 2020): each register has the bits of the state of its layer's neurons, the constants those of
their sites. Where the paper's traces may reach one, here they end a step below it, so that b bits suffice. U, R, θ and W are
in units of the power of two nearest to the greatest threshold. A float layer does the same, and rounds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.spiking.fixed_point import leak_grid, threshold_grid
from qsearch.training.local_registers import Register, power_above, signed, unsigned
from qsearch.training.local_synapses import Synapses
from qsearch.training.local_weights import Weights

STATE_EXTENT = 8.0
"""U is within ± it."""

ACTIVE_EXTENT = 2.0
"""σ has its slope where U is nearer than this to θ."""


@dataclass(frozen=True)
class Constants:
    """α, β, γ; and θ, one number or of a shape that broadcasts with the neurons', None where nothing spikes."""

    membrane: float
    synapse: float
    refractory: float
    threshold: Tensor | None


@dataclass(frozen=True)
class State:
    """Q, P and R after a step, and U in it; shapes (B, …) of inputs and of neurons."""

    synapse: Tensor
    membrane: Tensor
    refractory: Tensor
    potential: Tensor


class LocalLayer:
    """One layer from step to step, in units of its registers.

    Args:
        synapses: its connections.
        weights: W.
        constants: as they are in float.
        state_bits, leak_bits, threshold_bits: of its registers; ``FLOAT_BITS`` in all of them for a float layer.

    Attributes:
        synapses, weights: as given.
        traces: the register of Q and P.
        refractory: that of R.
        potential: that of U.
        leaks: α̂, β̂ and γ̂.
        drive: τ_syn in units of ``traces``, at least one code.
        threshold: θ̂ in units of ``potential``; None where nothing spikes.
    """

    def __init__(
        self,
        synapses: Synapses,
        weights: Weights,
        constants: Constants,
        state_bits: int,
        leak_bits: int,
        threshold_bits: int,
    ) -> None:
        self.synapses, self.weights = synapses, weights
        self.leaks = tuple(
            _leak(value, leak_bits) for value in (constants.membrane, constants.synapse, constants.refractory)
        )
        threshold = _threshold(constants.threshold, threshold_bits)
        greatest = 1.0 if threshold is None else float(threshold.max())
        self.traces = unsigned(state_bits, 1.0)
        self.refractory = unsigned(state_bits, power_above(greatest / (1 - self.leaks[2])))
        self.potential = signed(state_bits, STATE_EXTENT)
        self.drive = float(_units(torch.tensor(1 - self.leaks[1], dtype=torch.float64), self.traces))
        self.threshold = None if threshold is None else _units(threshold, self.potential)
        self.reset = None if threshold is None else _units(threshold, self.refractory)
        self._refractory_gain = self.refractory.step / self.potential.step
        self._half = ACTIVE_EXTENT / self.potential.step
        if self.potential.whole:
            self._half = max(1.0, self._half)

    @property
    def active(self) -> float:
        """σ = 1 in units of U."""
        return 2 * self._half

    def advance(self, spikes: Tensor, before: State | None) -> tuple[State, Tensor]:
        """The state after a step, and the spikes that leave.

        Args:
            spikes: S_in, (B, …).
            before: the state before it; None at the first step, when all traces are zero.
        """
        alpha, beta, gamma = self.leaks
        spikes = spikes.double()
        if before is None:
            zeros = torch.zeros_like(spikes)
            before = State(zeros, zeros, torch.zeros((), dtype=torch.float64), zeros)
        synapse = self.traces.hold(beta * before.synapse + self.drive * spikes)
        membrane = self.traces.hold(alpha * before.membrane + (1 - alpha) * synapse)
        refractory = self.refractory.hold(gamma * before.refractory)
        currents = self.currents(membrane)
        potential = self.potential.hold(currents - refractory * self._refractory_gain)
        if self.threshold is None or self.reset is None:
            return State(synapse, membrane, refractory, potential), torch.zeros_like(potential)
        fired = (potential >= self.threshold).double()
        refractory = self.refractory.hold(refractory + self.reset * fired)
        return State(synapse, membrane, refractory, potential), fired

    def currents(self, membrane: Tensor) -> Tensor:
        """conv(P, W) in units of U, before it is rounded."""
        gain = self.weights.step * self.traces.step / self.potential.step
        return self.synapses.currents(self.weights.values, membrane) * gain

    def activity(self, potential: Tensor) -> Tensor:
        """σ(U) in units of U: 0 … :attr:`active`; whole numbers where U are such, without a rounding."""
        centre = 0.0 if self.threshold is None else self.threshold
        return (potential - centre + self._half).clamp(0, self.active)


def _leak(value: float, bits: int) -> float:
    """A leak below one, as it is stored."""
    if bits == FLOAT_BITS:
        return value
    return float(leak_grid(bits).values(torch.tensor(value, dtype=torch.float64)))


def _threshold(value: Tensor | None, bits: int) -> Tensor | None:
    """Thresholds as they are stored."""
    if value is None or bits == FLOAT_BITS:
        return None if value is None else value.double()
    return threshold_grid(bits, float(value.max())).values(value.double())


def _units(value: Tensor, register: Register) -> Tensor:
    """Constants above zero in units of a register: at least one code, and no more than it holds."""
    found = register.hold(value / register.step)
    return found.clamp(min=1) if register.whole else found
