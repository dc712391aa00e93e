"""Neurons in integer arithmetic, as a chip has them: what a neuron in fixed point must agree with, step by step.

Notation is that of :mod:`qsearch.spiking.neurons`. All is done with NumPy's 64-bit integers and shifts: a shift to the right
rounds half to even, a sum saturates. Real numbers only come in as what they are, a mantissa and an exponent.

:func:`assert_integer_exact` checks any neuron on any currents; :class:`IntegerNeuron` is what it checks it by.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.spiking.fixed_point import ConstantGrid
from qsearch.spiking.neurons import Constant, Integrator, Neuron, Reset

Whole: TypeAlias = NDArray[np.int64]
Feedback: TypeAlias = Callable[[Whole], Whole]
"""Spikes of a step, (B, \\*S) → what they add to the next step's currents, in units of Δ."""

MANTISSA_BITS = 53
"""Of float64."""

LARGEST = 1 << 61
"""Currents saturate here, far from where anything could wrap."""


@dataclass(frozen=True)
class IntegerNeuron:
    """A layer of neurons that knows whole numbers only.

    Attributes:
        bits: b of the state.
        threshold: Θ, 1 … 2^(b−1) − 1; None for an integrator.
        leak, places: L and how far a product with it is shifted to the right, λ = L / 2^places; None for no leak.
        reset, several: as of :class:`~qsearch.spiking.neurons.Neuron`.
    """

    bits: int
    threshold: Whole | None = None
    leak: Whole | None = None
    places: Whole | int = 0
    reset: Reset = "subtract"
    several: bool = False

    def run(self, currents: Whole, feedback: Feedback | None = None) -> tuple[Whole, Whole]:
        """States U and spikes S after each step, of the shape of the currents X, (B, T, \\*S) in units of Δ."""
        state = spikes = np.zeros_like(currents[:, 0])
        states, sent = np.empty_like(currents), np.empty_like(currents)
        for step in range(currents.shape[1]):
            fed = 0 if feedback is None else feedback(spikes)
            state, spikes = self.step(state, currents[:, step] + fed)
            states[:, step], sent[:, step] = state, spikes
        return states, sent

    def step(self, state: Whole, current: Whole) -> tuple[Whole, Whole]:
        """The state, after its reset, and the spikes of one step."""
        kept = state if self.leak is None else shifted(state * self.leak, self.places)
        highest = (1 << (self.bits - 1)) - 1
        state = np.minimum(np.maximum(kept + current, -highest - 1), highest)
        if self.threshold is None:
            return state, np.zeros_like(state)
        reached = np.where(state > 0, state // self.threshold, 0)
        spikes = reached if self.several else np.minimum(reached, 1)
        if self.reset == "subtract":
            return state - self.threshold * spikes, spikes
        return np.where(spikes > 0, 0, state), spikes


def shifted(numbers: Whole, places: Whole | int) -> Whole:
    """numbers / 2^places, rounded half to even; to the left, where places are below 0, it saturates.

    Args:
        numbers: within ±2^61.
    """
    right = np.minimum(np.maximum(places, 0), 62)  # of what is within ±2^61 nothing is left then
    below = numbers >> right
    rest, half = numbers - (below << right), (np.int64(1) << right) >> 1
    up = (right > 0) & ((rest > half) | ((rest == half) & (below % 2 == 1)))
    left = np.minimum(np.maximum(-np.asarray(places), 0), 61)
    room = LARGEST >> left
    fits = np.abs(below) <= room
    moved = np.where(fits, below, 0) << left
    return np.asarray(np.where(fits, moved + up, np.sign(below) * LARGEST), dtype=np.int64)


def whole(values: NDArray[np.floating], exponent: int) -> Whole:
    """⌊values / 2^exponent⌉ from mantissas and exponents, saturated at ±2^61."""
    mantissas, exponents = parts(values)
    return shifted(mantissas, exponent - exponents)


def parts(values: NDArray[np.floating]) -> tuple[Whole, Whole]:
    """Mantissas m and exponents e of finite numbers m · 2^e; m is odd, or 0."""
    fractions, exponents = np.frexp(np.asarray(values, np.float64))
    mantissas = np.ldexp(fractions, MANTISSA_BITS).astype(np.int64)
    lowest = np.maximum(mantissas & -mantissas, 1)
    zeros = np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1
    return mantissas >> zeros, exponents.astype(np.int64) - MANTISSA_BITS + zeros


def integer_neuron(module: Integrator) -> IntegerNeuron:
    """A neuron whose state is in fixed point, from what its registers hold."""
    state = module.grids.state
    assert state is not None, "the state must be in fixed point"
    found = IntegerNeuron(state.bits)
    if module.leak is not None:
        leak, exponents = _stored(module.leak, module.grids.leak)
        found = replace(found, leak=leak, places=-exponents)
    if isinstance(module, Neuron):
        codes, exponents = _stored(module.threshold, module.grids.threshold)
        threshold = np.clip(shifted(codes, state.exponent - exponents), 1, (1 << (state.bits - 1)) - 1)
        found = replace(found, threshold=threshold, reset=module.reset, several=module.several)
    return found


def assert_integer_exact(module: Integrator, currents: Tensor) -> None:
    """Raise AssertionError, with the first step that differs, unless a neuron gives what integer arithmetic gives.

    States and spikes must agree, at every step, as far as the type of the currents can tell them. Of a
    neuron that its own spikes come back to, it is asked what they give; integer arithmetic goes on from there.

    Args:
        module: its state is in fixed point; the leak may be in float up to a state of 30 bits.
        currents: (B, T, \\*S).
    """
    state = module.grids.state
    assert state is not None, "the state must be in fixed point"
    exponent = state.exponent

    def fed(spikes: Whole) -> Whole:
        assert isinstance(module, Neuron)
        sent = currents.new_tensor(spikes)
        return _numbers(module._received(torch.zeros_like(sent), sent, torch.float64)).astype(np.int64)

    feedback = fed if isinstance(module, Neuron) and type(module)._received is not Neuron._received else None
    states, spikes = integer_neuron(module).run(whole(_numbers(currents), exponent), feedback)
    if not isinstance(module, Neuron):
        values = _as(np.ldexp(states, exponent), currents)
        for step, found in enumerate(module(currents).unbind(1)):
            np.testing.assert_array_equal(_numbers(found), values[:, step], f"states of step {step}")
        return
    sent = _as(spikes, currents)
    for step, (state_found, spikes_found) in enumerate(module.steps(currents)):
        np.testing.assert_array_equal(_numbers(state_found), states[:, step], f"states of step {step}")
        np.testing.assert_array_equal(_numbers(spikes_found), sent[:, step], f"spikes of step {step}")
    np.testing.assert_array_equal(_numbers(module(currents)), sent, "spikes put together")


def _stored(constant: Constant, grid: ConstantGrid | None) -> tuple[Whole, Whole]:
    """Codes and exponents of constants, as registers hold them or as float does."""
    values = _numbers(constant.weight)
    if grid is None:
        return parts(values)
    codes = np.clip(whole(values, grid.exponent), grid.fewest, (1 << grid.bits) - 1)
    return codes, np.full_like(codes, grid.exponent)


def _numbers(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy())


def _as(values: NDArray[np.generic], currents: Tensor) -> NDArray[np.float64]:
    """Numbers in the type of the currents."""
    return _numbers(torch.as_tensor(values).to(currents.dtype))
