"""Neurons: a state that leaks and takes in currents, and spikes where it reaches a threshold.

Notation, for one neuron at step t; a hat marks what is quantised:

=======  ====================================================================================
x_t      current that it takes in: what the layer before it gives
u_t      its state
λ        leak: what is left of the state after a step; 1 where nothing leaks (integrate and fire)
θ        threshold, above 0
S_t      spikes: 0 or 1; 0, 1, 2, … where it may spike several times in a step
=======  ====================================================================================

::

    u_t = λ·u_{t−1} + x_t           S_t = [u_t ≥ θ]            u_t ← u_t − θ·S_t     (reset: subtract)
                                                               u_t ← 0 where S_t > 0 (reset: zero)

In fixed point (:mod:`qsearch.spiking.fixed_point`), with Δ the step of the state, all in whole numbers::

    X_t = ⌊x_t/Δ⌉                     Θ = ⌊θ̂/Δ⌉, at least 1, at most the greatest state
    U_t = sat(⌊λ̂·U_{t−1}⌉ + X_t)      S_t = [U_t ≥ Θ]            U_t ← U_t − Θ·S_t     or 0

A leak in float may go with a state in fixed point: its products are then those of float64, exact up to states of 30 bits.

An :class:`Integrator` has no threshold and gives its state: a synapse's current, or an output that is read as a voltage.

Shapes: currents and spikes are (B, T, \\*S), a sample's steps one after another; leaks and thresholds have one number for
all, or are of a shape that broadcasts with S. Currents in half precision go into a state of float32.

Gradients are those of all steps, through the surrogates of :mod:`qsearch.spiking.surrogate`, also through the spikes that
are taken from a state; a reset to zero passes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from qsearch.errors import ConfigError, DataError, nearest
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid, rounded, wide_enough
from qsearch.spiking.surrogate import SurrogateName, spikes_of

Reset = Literal["subtract", "zero"]

LEAST_THRESHOLD = 1e-4
"""Training keeps thresholds above it."""


@dataclass(frozen=True)
class Grids:
    """Registers of a neuron; None for float."""

    state: StateGrid | None = None
    leak: ConstantGrid | None = None
    threshold: ConstantGrid | None = None


class Constant(nn.Module):
    """Numbers that are stored with neurons: leaks or thresholds.

    Attributes:
        weight: one for all neurons, or of a shape that broadcasts with theirs.
    """

    def __init__(self, values: Tensor | float) -> None:
        super().__init__()
        found = torch.as_tensor(values, dtype=torch.float32).detach().clone()
        self.weight = nn.Parameter(found.reshape(1) if found.dim() == 0 else found)


class Integrator(nn.Module):
    """A state that leaks and takes in currents.

    Args:
        leak: λ within [0, 1]; None for 1, which stays.

    Attributes:
        grids: registers in fixed point; all in float at first.

    Raises:
        DataError: a leak outside [0, 1].
    """

    grids: Grids

    def __init__(self, leak: Tensor | float | None = None) -> None:
        super().__init__()
        self.leak = None if leak is None else Constant(leak)
        self.grids = Grids()
        if self.leak is not None and not bool(((self.leak.weight >= 0) & (self.leak.weight <= 1)).all()):
            raise DataError("leaks must be within [0, 1]", got=f"{leak}")

    def __call__(self, currents: Tensor) -> Tensor:
        """:meth:`forward` with its hooks, which see the currents by position however they were given."""
        found: Tensor = super().__call__(currents)
        return found

    def forward(self, currents: Tensor) -> Tensor:
        """States after each step, of the shape of the currents (B, T, \\*S).

        Raises:
            DataError: no step; currents that are not in floating point; leaks that do not broadcast with S.
            SpaceError: registers of state and leak too wide for their product.
        """
        return _together(self.charges(currents), currents)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring constants that have learnt back to where they make sense."""
        if self.leak is not None:
            self.leak.weight.clamp_(0, 1)

    def charges(self, currents: Tensor) -> Iterator[Tensor]:
        """u_t of each step, before any reset, (B, \\*S); in fixed point too as its value, not its code.

        Raises:
            DataError, SpaceError: as :meth:`forward`.
        """
        leak, state = self._start(currents)
        for current in currents.unbind(1):
            state = self._next(state, self._whole(current, state.dtype), leak)
            found = state if self.grids.state is None else state * self.grids.state.step
            yield found.to(currents.dtype)

    def _start(self, currents: Tensor) -> tuple[Tensor | None, Tensor]:
        """λ, or λ̂, None for 1; and a state of 0. Both are of a type that is wide enough for what follows."""
        check_currents(currents)
        for constant in (module for module in self.children() if isinstance(module, Constant)):
            check_constant(constant.weight, currents)
        dtype = torch.promote_types(currents.dtype, self._narrowest())
        state = torch.zeros_like(currents[:, 0], dtype=dtype)
        return None if self.leak is None else _stored(self.leak, self.grids.leak).to(dtype), state

    def _narrowest(self) -> torch.dtype:
        """The narrowest type in which the state's products are exact."""
        if self.grids.state is None:
            return torch.float32
        bits = self.grids.state.bits
        if self.leak is None:
            return wide_enough(bits)
        return torch.float64 if self.grids.leak is None else wide_enough(bits - 1 + self.grids.leak.bits)

    def _whole(self, current: Tensor, dtype: torch.dtype) -> Tensor:
        """x_t; X_t in the units of a state in fixed point."""
        grid = self.grids.state
        return current.to(dtype) if grid is None else grid.whole(current.to(dtype))

    def _next(self, state: Tensor, current: Tensor, leak: Tensor | None) -> Tensor:
        """u_t before a reset."""
        grid = self.grids.state
        if grid is None:
            return state + current if leak is None else torch.addcmul(current, state, leak)
        return grid.saturated((state if leak is None else rounded(state * leak)) + current)


class Neuron(Integrator):
    """A neuron that spikes: integrate and fire, leaky where it has a leak.

    Args:
        threshold: θ.
        leak: see :class:`Integrator`.
        reset: what a spike leaves: the state less its threshold, or nothing.
        several: whether it may spike several times in a step.
        surrogate: see :mod:`qsearch.spiking.surrogate`.

    Raises:
        ConfigError: an unknown reset or surrogate.
        DataError: a threshold that is not finite and above 0, a leak outside [0, 1].
    """

    def __init__(
        self,
        threshold: Tensor | float = 1.0,
        leak: Tensor | float | None = None,
        *,
        reset: Reset = "subtract",
        several: bool = False,
        surrogate: SurrogateName = "triangle",
    ) -> None:
        super().__init__(leak)
        self.threshold = Constant(threshold)
        self.reset, self.several, self.surrogate = reset, several, surrogate
        check_name("reset", reset, get_args(Reset))
        check_name("surrogate", surrogate, get_args(SurrogateName))
        if not bool(((self.threshold.weight > 0) & self.threshold.weight.isfinite()).all()):
            raise DataError("thresholds must be above 0, and finite", got=f"{threshold}")

    def forward(self, currents: Tensor) -> Tensor:
        """Spikes of each step, of the shape of the currents (B, T, \\*S).

        Raises:
            DataError, SpaceError: as :class:`Integrator`, and of thresholds as of leaks.
        """
        return _together((spikes for _, spikes in self.steps(currents)), currents)

    def steps(self, currents: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """State and spikes after each step, (B, \\*S) both; a state in fixed point as its code.

        Raises:
            DataError, SpaceError: as :meth:`forward`.
        """
        return ((state, sent) for _, state, sent in self._steps(currents))

    def charges(self, currents: Tensor) -> Iterator[Tensor]:
        step = 1.0 if self.grids.state is None else self.grids.state.step
        return ((before * step).to(currents.dtype) for before, _, _ in self._steps(currents))

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring constants that have learnt back to where they make sense, and to what their registers hold.

        A threshold above that has no gradient, and would never come back.
        """
        super().constrain()
        grids = (self.grids.threshold, self.grids.state)
        most = min((grid.highest * grid.step for grid in grids if grid is not None), default=math.inf)
        self.threshold.weight.clamp_(LEAST_THRESHOLD, most)

    def _steps(self, currents: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """State before its reset and after it, and spikes, of each step."""
        leak, state = self._start(currents)
        threshold = self._threshold(state.dtype)
        sent = torch.zeros_like(currents[:, 0])
        for current in currents.unbind(1):
            before = self._next(state, self._received(current, sent, state.dtype), leak)
            spikes = spikes_of(before, threshold, self.surrogate, several=self.several)
            if self.reset == "subtract":
                state = torch.addcmul(before, threshold, spikes, value=-1)
            else:
                state = before * torch.eq(spikes.detach(), 0, out=torch.empty_like(spikes))
            sent = spikes.to(currents.dtype)
            yield before, state, sent

    def _threshold(self, dtype: torch.dtype) -> Tensor:
        """θ; Θ in the units of a state in fixed point."""
        value, grid = _stored(self.threshold, self.grids.threshold), self.grids.state
        return (value if grid is None else grid.positive.codes(value.double())).to(dtype)

    def _received(self, current: Tensor, sent: Tensor, dtype: torch.dtype) -> Tensor:
        """What reaches neurons in a step, in the units of the state; ``sent`` are their spikes of the step before."""
        return self._whole(current, dtype)


class RecurrentNeuron(Neuron):
    """A neuron whose spikes come back to it and its neighbours, a step later: u_t = λ·u_{t−1} + x_t + V·S_{t−1}, S_0 = 0.

    V runs once a step, and its bias, if it has one, counts from the first. In fixed point V·S is rounded as x is, by itself.

    Args:
        recurrent: V, a linear layer or a convolution that keeps the shape.

    Raises:
        ConfigError, DataError: as :class:`Neuron`; when it runs, a V that changes the shape.
    """

    def __init__(
        self,
        recurrent: nn.Module,
        threshold: Tensor | float = 1.0,
        leak: Tensor | float | None = None,
        *,
        reset: Reset = "subtract",
        several: bool = False,
        surrogate: SurrogateName = "triangle",
    ) -> None:
        super().__init__(threshold, leak, reset=reset, several=several, surrogate=surrogate)
        self.recurrent = recurrent

    def _received(self, current: Tensor, sent: Tensor, dtype: torch.dtype) -> Tensor:
        fed: Tensor = self.recurrent(sent)
        if fed.shape != current.shape:
            raise DataError(f"a recurrent layer must keep the shape {tuple(current.shape)}", got=tuple(fed.shape))
        return self._whole(current, dtype) + self._whole(fed, dtype)


def check_currents(currents: Tensor) -> None:
    """Raise DataError unless there is a step at least, in floating point."""
    if currents.dim() < 2 or currents.shape[1] < 1:
        raise DataError(
            "neurons take currents of shape (B, T, …) of at least one step", got=f"shape {tuple(currents.shape)}"
        )
    if not currents.is_floating_point():
        raise DataError("neurons take currents in floating point", got=str(currents.dtype))


def check_constant(values: Tensor, currents: Tensor) -> None:
    """Raise DataError unless constants are one for all, or of a shape that broadcasts with that of the neurons."""
    neurons, shape = tuple(currents.shape[2:]) or (1,), tuple(values.shape)
    pairs = zip(reversed(shape), reversed(neurons), strict=False)
    if len(shape) > len(neurons) or any(own not in (1, size) for own, size in pairs):
        raise DataError(f"constants of neurons of shape {neurons} must broadcast with it", got=f"shape {shape}")


def check_name(what: str, name: str, known: tuple[str, ...]) -> None:
    """Raise ConfigError unless a name is one of those that are known."""
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}", fix=nearest(name, known))


def _stored(constant: Constant, grid: ConstantGrid | None) -> Tensor:
    """Constants as they are stored: in float, or as values of a register, which float64 holds."""
    return constant.weight if grid is None else grid.values(constant.weight.double())


def _together(steps: Iterator[Tensor], currents: Tensor) -> Tensor:
    """T times (B, \\*S) → (B, T, \\*S), of the shape and type of the currents."""
    if torch.is_grad_enabled():
        return torch.stack(list(steps), 1)
    found = torch.empty_like(currents)  # taken once: the pages of two copies would take as long as the steps
    for step, part in enumerate(steps):
        found[:, step] = part
    return found
