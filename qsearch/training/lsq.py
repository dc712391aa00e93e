"""Learned step sizes: ``lsq``.

Notation: K kernels of n weights, b bits of a kernel; s, q, lo, hi, g as in :mod:`qsearch.training.rounding`.

    g = 1 / √(N·hi)        N = n for the step of a kernel, and the numbers of one sample for that of an input

so that steps and values change by like shares of themselves (Esser et al., "Learned Step Size Quantization", ICLR 2020,
§2.2). N counts what shares the step: with a step per kernel the weights of one kernel, not of the tensor. The steps start
from the calibrated scales, which have the least squared error, and not from the paper's 2·mean|v|/√hi.

Inputs that take no gradient are the network's data; their steps stay as calibrated. To learn them would take ∂L/∂x̂ of the
first layer, which nothing else needs: up to half of a step's cost again in small networks.

At 1 bit weights are ±s and inputs {0, s} or ±s; kernels at 0 bits are zero, those at 32 stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import EXACT, TINY
from qsearch.quantize.weights import QuantizedWeight, encode
from qsearch.training.quantizers import InputLearner, WeightLearner
from qsearch.training.rounding import round_to_grid, sign_times_step

WIDEST = 25
"""Bits up to which codes of a signed grid are exact in float32."""

SMALLEST_SHARE = 1e-3
"""A step stays above this share of what it started at: where it crosses zero, every value is clipped at once."""


class LearnedStep(nn.Module):
    """Steps that keep their signs, and some size.

    Args:
        start: shape (K,), or () for one.
    """

    lowest: Tensor
    highest: Tensor

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(start.detach().clone().float())
        for name in ("lowest", "highest"):
            self.register_buffer(name, torch.empty_like(self.value, requires_grad=False), persistent=False)
        self.rescale(torch.ones_like(self.value))

    @torch.no_grad()
    def constrain(self) -> None:
        """Raise what has become too small, or has changed its sign."""
        self.value.clamp_(self.lowest, self.highest)

    @torch.no_grad()
    def rescale(self, ratio: Tensor) -> None:
        """Start anew from steps ``ratio`` times as large, of their shape; from 1 where that is 0."""
        self.value.copy_(torch.where(ratio == 0, 1.0, self.value * ratio))
        least = (self.value.abs() * SMALLEST_SHARE).clamp_min(TINY)
        self.lowest.copy_(torch.where(self.value > 0, least, -torch.inf))
        self.highest.copy_(torch.where(self.value > 0, torch.inf, -least))


class LsqWeight(WeightLearner):
    """A weight with a learned step per kernel.

    Args:
        bits: of each kernel, shape (K,).
        scales: the steps to start from, shape (K,).
        dimensions: of the weight.
        numbers: n.
        delta: δ of the rounding.
    """

    low: Tensor
    high: Tensor
    scaling: Tensor
    bits: Tensor

    def __init__(self, bits: BitArray, scales: Tensor, dimensions: int, numbers: int, delta: float = 0.0) -> None:
        super().__init__()
        self.step, self.delta = LearnedStep(scales), delta
        self._shape = (-1, *[1] * (dimensions - 1))
        low, high = ends(torch.from_numpy(bits).to(scales.device))
        scaling = (numbers * high.clamp_min(1)).rsqrt()
        for name, value in (("low", low), ("high", high), ("scaling", scaling)):
            self.register_buffer(name, value.float().view(self._shape), persistent=False)
        self.register_buffer("bits", torch.from_numpy(bits).to(scales.device), persistent=False)
        self._binary, self._float = bool((bits == 1).any()), bool((bits == FLOAT_BITS).any())
        self._wide = bool(((bits > WIDEST) & (bits < FLOAT_BITS)).any())
        # one grid for all kernels is given as two numbers, which torch clips at several times faster
        self._one = (float(low[0]), float(high[0])) if len(set(bits.tolist())) == 1 else None

    def forward(self, weight: Tensor) -> Tensor:
        """See :class:`WeightLearner`."""
        step = self.step.value
        low, high = self._one or (self.low, self.high)
        found = round_to_grid(weight, step, low, high, self.scaling, self.delta)
        if self._binary:
            found = torch.where(self._are(self.bits == 1), self._signed(weight, step), found)
        if self._wide:
            found = torch.where(self._are(self.bits > WIDEST), self._finely(weight, step), found)
        return torch.where(self._are(self.bits == FLOAT_BITS), weight, found) if self._float else found

    def settle(self, weight: Tensor) -> list[QuantizedWeight]:
        """See :class:`WeightLearner`."""
        chosen = sorted({int(b) for b in self.bits.tolist()} - {FLOAT_BITS})
        steps = self.step.value.detach()
        return [encode(weight.detach(), b, steps if b else None) for b in chosen]

    def constrain(self) -> None:
        """Steps keep their signs and some size."""
        self.step.constrain()

    def rescale(self, ratio: Tensor) -> None:
        """See :class:`WeightLearner`; at 1 bit the sign of a weight carries that of the ratio already."""
        self.step.rescale(torch.where(self.bits == 1, ratio.abs(), ratio))

    def _are(self, kernels: Tensor) -> Tensor:
        return kernels.view(self._shape)

    def _signed(self, weight: Tensor, step: Tensor) -> Tensor:
        """At 1 bit; kernels that are zero stay so, as those that nothing was calibrated for."""
        alive = weight.detach().flatten(1).abs().amax(1) >= TINY
        return sign_times_step(weight, step, self.scaling) * self._are(alive)

    def _finely(self, weight: Tensor, step: Tensor) -> Tensor:
        """On grids that need double precision."""
        low, high = (end.view(self._shape) for end in ends(self.bits))
        return round_to_grid(weight.double(), step, low, high, self.scaling, self.delta).to(weight.dtype)


class LsqInput(InputLearner):
    """An input with one learned step.

    Args:
        quantizer: what to start from.
        delta: δ of the rounding.
    """

    def __init__(self, quantizer: ActivationQuantizer, delta: float = 0.0) -> None:
        super().__init__()
        self.step, self.delta = LearnedStep(quantizer.scale), delta
        self.bits, self.grid = quantizer.bits, quantizer.grid

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`InputLearner`."""
        step = self.step.value if x.requires_grad else self.step.value.detach()
        numbers = max(1, x.numel() // max(1, len(x)))
        if self.grid is None:
            return sign_times_step(x, step, numbers**-0.5)
        scaling = (numbers * max(1, self.grid.high)) ** -0.5
        fine = x.double() if max(-self.grid.low, self.grid.high) > EXACT else x
        return round_to_grid(fine, step, self.grid.low, self.grid.high, scaling, self.delta).to(x.dtype)

    def settle(self) -> ActivationQuantizer:
        """See :class:`InputLearner`."""
        return ActivationQuantizer(self.bits, self.step.value.detach().clone(), self.grid)

    def constrain(self) -> None:
        """The step keeps its sign and some size."""
        self.step.constrain()


class Lsq:
    """The family ``lsq``.

    Args:
        delta: δ of the rounding of weights, and of inputs.
    """

    def __init__(self, delta: float = 0.0) -> None:
        self._delta = delta

    def weight(self, weight: Tensor, bits: BitArray, scales: Tensor) -> LsqWeight:
        """See :class:`qsearch.training.quantizers.Family`."""
        return LsqWeight(bits, scales, weight.dim(), weight[0].numel(), self._delta)

    def input(self, quantizer: ActivationQuantizer) -> LsqInput:
        """See :class:`qsearch.training.quantizers.Family`."""
        return LsqInput(quantizer, self._delta)


def ends(bits: Tensor) -> tuple[Tensor, Tensor]:
    """lo and hi of the signed grids of kernels, in double precision, shape (K,); those of two levels are ±1.

    Of kernels at 0 bits both are 0; those at 32 have none, and get numbers that nobody looks at.
    """
    half = torch.exp2(bits.clamp(max=FLOAT_BITS - 1).double() - 1)
    low, high = -half, half - 1
    low[bits < 2], high[bits == 1] = -1.0, 1.0
    low[bits == 0], high[bits == 0] = 0.0, 0.0
    return low, high
