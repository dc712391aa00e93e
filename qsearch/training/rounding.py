"""Rounding onto a grid with a gradient: what every quantiser of training is made of.

Notation, per slice that has a step of its own; a weight's slices are its kernels, an input has one:

=======  ==============================================================================================
v        values
s        step; negative where the grid is mirrored
x        v / s
lo, hi   ends of the grid
q        clip(round(x), lo, hi)
v̂        q·s
∂        gradient of the loss by v̂
g        what the step's gradient is scaled by
δ        strength of the element-wise gradient scaling; 0 for the plain straight-through estimator
e        rounding error in units of the step's size, sign(s)·(x − round x), −½ … ½
h(e)     profile of the scaling: "linear" is e, "inverse-tanh" ½·atanh(1.9·e) / atanh(1.9/2)
=======  ==============================================================================================

::

    ∂L/∂v = ∂ · (1 + δ·sign(∂)·h(e))                   where lo ≤ x ≤ hi, else 0
    ∂L/∂s = g · Σ ∂ · (round(x) − x)  inside,  g · Σ ∂ · lo  and  g · Σ ∂ · hi  where it is clipped

Sources: the step's gradient is that of LSQ (Esser et al., ICLR 2020, eq. 3), the scaling that of EWGS (Lee et al., CVPR
2021, eq. 5), its other profile that of Schaefer et al., "Edge Inference with Fully Differentiable Quantized Mixed
Precision Neural Networks" (WACV 2024); with δ = 0 the values' gradient is the straight-through estimator (Bengio et al.,
2013). EWGS scales the gradient by q, which is ∂·s: on a mirrored grid its sign is not that of ∂, and so e has the sign of s.

The forward arithmetic is that of :func:`qsearch.quantize.grid.codes`, step by step, so that what was trained gives the same
to the last bit when it is looked up. The backward one keeps v and v̂, which the layers around keep anyway, and works in
their units: ∂L/∂s = g/s · Σ ∂ · (v̂ − v′), v′ being v inside and 0 where it is clipped. So an input is passed over four
times forwards and four times backwards, which is what a training step costs beside a float one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qsearch.quantize.grid import TINY

Profile: TypeAlias = Literal["linear", "inverse-tanh"]
"""h, by name."""

ULP = float(torch.finfo(torch.float32).eps)
"""Of float32, relative."""

STEEPNESS = 1.9
"""α of the inverse-tanh profile, below 2: h has its poles at ±1/α."""


@dataclass(frozen=True, slots=True)
class Rule:
    """lo, hi, g, δ and h; tensors broadcast to the values, g to the step."""

    low: Tensor | float
    high: Tensor | float
    scaling: Tensor | float
    delta: float
    profile: Profile


class RoundToGrid(torch.autograd.Function):
    """v̂ of values and a step that both learn; see the module's notation."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, rule: Any) -> Tensor:  # the signature of torch's is looser
        """v̂, of the shape and type of ``v``; ``s`` must broadcast, ``rule`` is a :class:`Rule`."""
        step = beside(s, v)
        found = clipped_(v.div(step).round_(), rule.low, rule.high).mul_(step)
        ctx.save_for_backward(v, found, s)
        ctx.rule = rule
        return found.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by ``v`` and by ``s``."""
        (v, found, s), rule = ctx.saved_tensors, ctx.rule
        gradient, v, step = gradients[0].to(found.dtype), v.to(found.dtype), beside(s, v)
        mask = Inside(v, step, rule.low, rule.high)
        through, by_step = mask(gradient), None
        if ctx.needs_input_grad[1]:
            total = sum_of_products(gradient, mask(v).sub_(found), step.shape)
            by_step = total.mul_(rule.scaling).div_(step).neg_().view(s.shape)
        if rule.delta:
            through = rescaled(through, (v - found) / step.abs(), rule.delta, rule.profile)
        return through, by_step, None


def round_to_grid(
    v: Tensor,
    s: Tensor,
    low: Tensor | float,
    high: Tensor | float,
    scaling: Tensor | float = 1.0,
    delta: float = 0.0,
    profile: Profile = "linear",
) -> Tensor:
    """v̂ of the shape and type of ``v``, with the gradients above.

    Args:
        v: values, any shape.
        s: step; its shape broadcasts to that of ``v``, with as many dimensions, or is (), or (K,) for ``v`` of (K, …).
        low, high: lo and hi, whole numbers, which broadcast to ``v``; both tensors or both numbers.
        scaling: g, which broadcasts to the step beside ``v``, with as many dimensions.
        delta: δ.
        profile: h.
    """
    rule = Rule(low, high, scaling, delta, profile)
    found: Tensor = RoundToGrid.apply(v, s, rule)  # type: ignore[no-untyped-call]  # torch leaves it out
    return found


class SignTimesStep(torch.autograd.Function):
    """±s by the sign of v, that of zero being +: a grid of two levels."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, s: Tensor, scaling: Tensor | float) -> Tensor:
        """v̂, of the shape and type of ``v``."""
        ctx.save_for_backward(v, s)
        ctx.scaling = scaling
        return signs(v).mul(beside(s, v)).to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """∂L/∂v = ∂ where |x| ≤ 1, else 0;  ∂L/∂s = g · Σ ∂ · sign(v)."""
        v, s = ctx.saved_tensors
        working = torch.promote_types(v.dtype, s.dtype)
        gradient, v, step, by_step = gradients[0].to(working), v.to(working), beside(s, v), None
        if ctx.needs_input_grad[1]:
            by_step = sum_of_products(gradient, signs(v), step.shape).mul_(ctx.scaling).view(s.shape)
        return Inside(v, step, -1.0, 1.0)(gradient), by_step, None


def sign_times_step(v: Tensor, s: Tensor, scaling: Tensor | float = 1.0) -> Tensor:
    """±s by the sign of ``v``, straight through within ±s; arguments as :func:`round_to_grid`."""
    found: Tensor = SignTimesStep.apply(v, s, scaling)  # type: ignore[no-untyped-call]  # torch leaves it out
    return found


class StandIn(torch.autograd.Function):
    """Values, with the gradient of something else."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, surrogate: Tensor) -> Tensor:
        """``values``, to the last bit."""
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """∂ by ``surrogate``."""
        return None, gradients[0]


def with_gradient_of(values: Tensor, surrogate: Tensor) -> Tensor:
    """``values``, whose gradient goes where that of ``surrogate``, of the same shape and type, would go."""
    found: Tensor = StandIn.apply(values, surrogate)  # type: ignore[no-untyped-call]  # torch leaves it out
    return found


def signs(v: Tensor) -> Tensor:
    """±1 by the sign of ``v``, + for both zeros."""
    return torch.ones_like(v).copysign_(v + 0.0)


def rescaled(gradient: Tensor, offset: Tensor, delta: float, profile: Profile = "linear") -> Tensor:
    """∂ · (1 + δ·sign(∂)·h(e)) for e = ``offset``, of the shape of ``gradient``."""
    shape = offset if profile == "linear" else inverse_tanh(offset)
    return torch.addcmul(gradient, gradient.abs(), shape, value=delta)


def inverse_tanh(offset: Tensor) -> Tensor:
    """½·atanh(α·e) / atanh(α/2): ±½ at e = ±½ and steepest there, where rounding is about to change; e within ±½."""
    return (STEEPNESS * offset.clamp(-0.5, 0.5)).atanh_().mul_(0.5 / math.atanh(STEEPNESS / 2))


class Inside:
    """Where lo ≤ v/s ≤ hi; what is an ulp beyond an end may count as well.

    A mask is no tensor here: ``torch.where`` and products with masks take twenty times as long on a processor as one
    vectorised pass that compares and chooses, as no branch of theirs can be foretold.
    """

    def __init__(self, v: Tensor, s: Tensor, low: Tensor | float, high: Tensor | float) -> None:
        if isinstance(low, Tensor) or isinstance(high, Tensor):
            x = v / s
            self._compared, self._ends = clipped_(x.clone(), low, high).sub_(x), (-TINY, TINY)
        elif s.numel() == 1 and s.device.type == "cpu":
            self._compared, self._ends = v, around(*sorted((low * float(s), high * float(s))))
        else:
            self._compared, self._ends = v / s, around(low, high)

    def __call__(self, x: Tensor) -> Tensor:
        """x inside, else 0; of the shape of v."""
        found: Tensor = torch.ops.aten.hardtanh_backward(x, self._compared, *self._ends)
        return found


def around(first: float, last: float) -> tuple[float, float]:
    """An interval with its ends inside, in float32 too."""
    return first - abs(first) * ULP - TINY, last + abs(last) * ULP + TINY


def clipped_(x: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """``x`` itself, clipped between two numbers, or two tensors that broadcast to it.

    Two passes for tensors: on a processor torch's own clip takes several times as long with ends that broadcast.
    """
    if isinstance(low, Tensor) and isinstance(high, Tensor):
        return torch.minimum(torch.maximum(x, low, out=x), high, out=x)
    return x.clamp_(low, high)  # type: ignore[arg-type]  # what torch declares leaves numbers out


def beside(s: Tensor, v: Tensor) -> Tensor:
    """A step of shape () or (K,) with as many dimensions as ``v``; others as they are."""
    return s if s.dim() == v.dim() else s.view(-1, *[1] * (v.dim() - 1))


def sum_of_products(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """Σ a·b over all that ``shape``, which broadcasts to theirs, has one of; ``b`` is used up."""
    if shape.numel() == 1:
        return torch.dot(a.reshape(-1), b.reshape(-1)).view(shape)
    return b.mul_(a).sum_to_size(shape)
