"""Learned step and range: the parametrisation of DQ, whose bits follow from the two.

Notation, per slice that has a range of its own; a weight's slices are its kernels, an input has one:

=====  ==================================================================================================
v      values
r      range of the slice when learning begins
d, q   step and range (q_max) in units of r; both learn, shared by all slices of one decision
σ      1 for signed values, 0 for unsigned
L      q / d, levels beside 0 to each side
b      bits, log2(L + 1) + σ;  ⌈b⌉ in whole numbers
v̂      r·d · round(clip(v, −σ·r·q, r·q) / (r·d))
∂      gradient of the loss by v̂
h, δ   the profile and strength of the gradient's scaling, as in :mod:`qsearch.training.rounding`
=====  ==================================================================================================

::

    ∂L/∂v      = ∂ · (1 + δ·sign(∂)·h(x − round x))            inside the range, else 0;  x = v / (r·d)
    ∂L/∂(r·d)  = Σ ∂ · (v̂ − v) / (r·d)                         inside, else 0
    ∂L/∂(r·q)  = Σ ∂ · sign(v)                                 outside, else 0

Of this pair both gradients are bounded, by ½ and by 1, and no value gives to both; with bits and range, or bits and step,
they grow with 2^b (Uhlich et al., "Mixed Precision DNNs: All you need is a good parametrization", ICLR 2020, §2).

What learns are log2 d and log2 q, so that one rate in bits serves all ranges. Costs see ⌈b⌉, whose gradient is that of b. A
signed tensor has 2 bits at least: fewer can only come from settling. Sites that must agree share d and q; where one is
signed and another is not, d and q are of the signed one, and the other has the step that gives it the same bits. Where
steps are rounded to powers of two, a range ends at as many of them as ⌈b⌉ bits count, so that no more is used than is paid.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from qsearch.learned.schemes import LearnedBits, across, as_parameter
from qsearch.learned.settling import next_choices
from qsearch.quantize.grid import TINY
from qsearch.space import SearchSpace, Variable
from qsearch.training.quantizers import Learner
from qsearch.training.rounding import Profile, rescaled

HIGHEST = 24.0
"""Bits that are learned at most: a float32 tells no more levels apart."""

ROUNDING = 1e-3
"""Bits that are so little above a whole number are that number: logarithms do not come out even."""

NARROWEST = -6.0
"""log2 of the least q."""


def bits_of(step: Tensor, reach: Tensor, signed: bool) -> Tensor:
    """b of d and q, of their shape."""
    return torch.log2(reach / step + 1) + int(signed)


def whole_bits(bits: Tensor) -> Tensor:
    """⌈b⌉, with the gradient of b."""
    return bits + (torch.ceil(bits - ROUNDING) - bits).detach()


class QuantizeRange(torch.autograd.Function):
    """v̂ of values, steps and ranges that all learn; see the module's notation."""

    @staticmethod
    def forward(  # the signature of torch's is looser
        ctx: Any, v: Tensor, step: Tensor, reach: Tensor, signed: bool, delta: float, profile: Profile
    ) -> Tensor:
        """v̂, of the shape of ``v``; ``step``, r·d, and ``reach``, r·q, must broadcast."""
        ctx.save_for_backward(v, step, reach)
        ctx.signed, ctx.delta, ctx.profile = signed, delta, profile
        return torch.clamp(v, -reach if signed else torch.zeros_like(reach), reach).div_(step).round_().mul_(step)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by ``v``, ``step`` and ``reach``."""
        (gradient,), (v, step, reach) = gradients, ctx.saved_tensors
        above, below = v > reach, v < (-reach if ctx.signed else 0)
        inside = ~(above | below)
        x = v / step
        offset = x - x.round()
        by_values = by_step = by_reach = None
        if ctx.needs_input_grad[0]:
            through = rescaled(gradient, offset, ctx.delta, ctx.profile) if ctx.delta else gradient
            by_values = through * inside
        if ctx.needs_input_grad[1]:
            by_step = -(gradient * offset * inside).sum_to_size(step.shape)
        if ctx.needs_input_grad[2]:
            ends = above.to(v.dtype) - below.to(v.dtype) if ctx.signed else above.to(v.dtype)
            by_reach = (gradient * ends).sum_to_size(reach.shape)
        return by_values, by_step, by_reach, None, None, None


def quantize_range(
    v: Tensor, step: Tensor, reach: Tensor, signed: bool, delta: float = 0.0, profile: Profile = "linear"
) -> Tensor:
    """v̂ of the shape of ``v``, with the gradients above.

    Args:
        v: values, any shape.
        step, reach: r·d and r·q, which broadcast to ``v`` and have as many dimensions.
        signed: σ.
        delta, profile: δ and h.
    """
    found: Tensor = QuantizeRange.apply(  # type: ignore[no-untyped-call]  # torch leaves it out
        v, step, reach, signed, delta, profile
    )
    return found


class RangeBits(LearnedBits):
    """d and q of each decision.

    Args:
        signed: σ of the variable: 1 where any of its sites has values of both signs.
        start: bits to begin with, at q = 1.
    """

    def __init__(self, variable: Variable, signed: bool, start: float) -> None:
        super().__init__(variable)
        self.signed = signed
        least = 2.0 if signed else 1.0
        self._low = max(float(variable.choices[0]), least)
        self._high = max(min(float(variable.choices[-1]), HIGHEST), self._low)
        self.log_reach = as_parameter(0.0, variable.length)
        self.log_step = as_parameter(0.0, variable.length)
        self.set_to(torch.full((variable.length,), float(start)))

    def levels(self, signed: bool) -> Tensor:
        """L of a site, shape (length,), differentiable."""
        levels = torch.exp2(self.log_reach - self.log_step)
        return levels if signed == self.signed else (levels + 1) * 2.0 ** (int(self.signed) - int(signed)) - 1

    @torch.no_grad()
    def most_levels(self, signed: bool) -> Tensor:
        """What L of a site may be at ⌈b⌉ bits, shape (length,)."""
        return torch.exp2(self() - int(signed)) - 1

    def reach(self) -> Tensor:
        """q, shape (length,), differentiable."""
        return torch.exp2(self.log_reach)

    def forward(self) -> Tensor:
        """⌈b⌉; see :class:`LearnedBits`."""
        return whole_bits(self._bits())

    def real(self) -> Tensor:
        """b; see :class:`LearnedBits`."""
        return self._bits().detach()

    @torch.no_grad()
    def set_to(self, bits: Tensor) -> None:
        """Change the step; see :class:`LearnedBits`. What is below the least that learns stands at that."""
        within = bits.to(self.log_step).clamp(self._low, self._high)
        self.log_step.copy_(self.log_reach - torch.log2(torch.exp2(within - int(self.signed)) - 1))

    @torch.no_grad()
    def constrain(self) -> None:
        """See :class:`LearnedBits`."""
        self.log_reach.clamp_(min=NARROWEST)
        bits = self.real()
        outside = (bits < self._low) | (bits > self._high)
        if bool(outside.any()):
            kept = self.log_step.clone()
            self.set_to(bits)
            self.log_step.copy_(torch.where(outside, self.log_step, kept))

    def _bits(self) -> Tensor:
        return bits_of(torch.exp2(self.log_step), self.reach(), self.signed)


class RangeQuantizer(Learner):
    """Quantises a weight or an input by learned steps and ranges.

    Args:
        bits: d and q.
        ranges: r, shape (K,) of a weight, (1,) of an input.
        signed: σ.
        delta, profile: δ and h.
        power_of_two: round r·d to a power of two, with the gradient of r·d.
    """

    ranges: Tensor

    def __init__(
        self,
        bits: RangeBits,
        ranges: Tensor,
        signed: bool,
        *,
        delta: float = 0.0,
        profile: Profile = "linear",
        power_of_two: bool = False,
    ) -> None:
        super().__init__()
        self._bits, self._signed = bits, signed
        self._delta, self._profile, self._power_of_two = delta, profile, power_of_two
        self.register_buffer("ranges", ranges.detach().abs().clamp_min(TINY).float(), persistent=False)

    def forward(self, v: Tensor) -> Tensor:
        """v̂, of the shape of ``v``."""
        reach = self.ranges * self._bits.reach()
        step = reach / self._bits.levels(self._signed)
        if self._power_of_two:
            step = step + (torch.exp2(step.log2().round()) - step).detach()
            reach = torch.minimum(reach, step * self._bits.most_levels(self._signed))
        step, reach = (across(part, v.dim()).to(v.dtype) for part in (step, reach))
        return quantize_range(v, step, reach, self._signed, self._delta, self._profile)


def range_choices(space: SearchSpace, bits: NDArray[np.float64]) -> NDArray[np.int64]:
    """The choices that hold ⌈b⌉ bits, shape (D,) both."""
    return next_choices(space, np.ceil(bits - ROUNDING))


def levels_at(bits: int, signed: bool) -> float:
    """L at b bits, at least 1."""
    return max(1.0, math.exp2(bits - signed) - 1)
