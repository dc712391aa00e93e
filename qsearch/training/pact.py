"""Clips that are learned: ``pact``.

Notation: x inputs, b bits, α clip, n codes between 0 and α: 2^b − 1 where no input is negative, else 2^(b−1) − 1.

::

    y = ½(|x| − |x − α| + α)              x̂ = round(y·n/α)·α/n
    ∂L/∂x = ∂  where 0 ≤ x ≤ α, else 0    ∂L/∂α = Σ ∂ where x > α, else 0      loss + λ·α²

(Choi et al., "PACT: Parameterized Clipping Activation for Quantized Neural Networks", 2018, eqs. 1 to 3.) The paper's inputs
follow a ReLU. Signed ones are clipped to ±α here, with −∂ for what is below −α, and leave the lowest code unused; at one bit
they are ±α. The clip of the network's data stays, as the steps of :mod:`qsearch.training.lsq` do, and adds nothing to the loss.
α starts at the upper end
of the calibrated grid. Weights are those of :mod:`qsearch.training.dorefa`, as in the paper's experiments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import EXACT, Grid
from qsearch.training.dorefa import Dorefa
from qsearch.training.lsq import LearnedStep
from qsearch.training.quantizers import InputLearner
from qsearch.training.rounding import Inside, signs, sum_of_products, with_gradient_of

DECAY = 2e-4
"""λ, of the size of a weight decay, which the paper ties it to."""


class ClipToGrid(torch.autograd.Function):
    """x̂ of inputs and a clip that learns; see the module's notation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: Tensor, grid: Grid) -> Tensor:  # the signature of torch's is looser
        """x̂, of the shape and type of ``x``; ``alpha`` must broadcast."""
        step = alpha / grid.high
        found = (x / step).round_().clamp_(grid.low, grid.high).mul_(step)
        ctx.save_for_backward(x, found, step)
        ctx.grid = grid
        return found.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by ``x`` and by ``alpha``."""
        (x, found, step), grid = ctx.saved_tensors, ctx.grid
        gradient = gradients[0].to(found.dtype)
        through = Inside(x, step, grid.low, grid.high)(gradient)
        by_clip = None
        if ctx.needs_input_grad[1]:
            by_clip = sum_of_products(found, gradient - through, step.shape).div_(grid.high * step)
        return through, by_clip, None


class PactInput(InputLearner):
    """An input with a learned clip.

    Args:
        quantizer: what to start from.
    """

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.bits, grid = quantizer.bits, quantizer.grid
        self.grid = None if grid is None else Grid(max(grid.low, -grid.high), grid.high)
        self.clip = LearnedStep(quantizer.scale * (1 if grid is None else grid.high))
        self._learns = False

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`InputLearner`."""
        self._learns = x.requires_grad
        alpha = (self.clip.value if self._learns else self.clip.value.detach()).view([1] * x.dim())
        if self.grid is None:
            clipped = ((x + alpha).abs() - (x - alpha).abs()) / 2
            return with_gradient_of((signs(x) * alpha).to(x.dtype), clipped.to(x.dtype))
        fine = x.double() if max(-self.grid.low, self.grid.high) > EXACT else x
        found: Tensor = ClipToGrid.apply(fine, alpha, self.grid)  # type: ignore[no-untyped-call]  # torch leaves it out
        return found.to(x.dtype)

    def settle(self) -> ActivationQuantizer:
        """See :class:`InputLearner`."""
        alpha = self.clip.value.detach()
        return ActivationQuantizer(self.bits, alpha.clone() if self.grid is None else alpha / self.grid.high, self.grid)

    def constrain(self) -> None:
        """The clip stays above zero."""
        self.clip.constrain()

    def penalty(self) -> Tensor | None:
        """λ·α²; None where the last input took no gradient."""
        return DECAY * self.clip.value.square() if self._learns else None


class Pact(Dorefa):
    """The family ``pact``."""

    def input(self, quantizer: ActivationQuantizer) -> PactInput:
        """See :class:`qsearch.training.quantizers.Family`."""
        return PactInput(quantizer)
