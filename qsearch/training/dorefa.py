"""Weights squashed into a range and rounded within it: ``dorefa``.

Notation, per kernel of n weights w: b bits, L = 2^b − 1; on inputs s is the calibrated scale.

=====  ==================================================================================
t      tanh w
M      max |t|
c      codes: 2·round(L·(t/2M + ½)) − L, the odd integers −L … L for b ≥ 1; 0 at 0 bits
s      scale Σ w·c / Σ c²
ŵ      c·s
=====  ==================================================================================

c/L is the paper's quantised weight, 2·q_b(t/2M + ½) − 1 (Zhou et al., "DoReFa-Net", 2016, eq. 9). It fills −1 … 1 whatever
the weights were, which a network without a batch-norm behind does not survive. So it is put back to scale, by that with the
least squared error, which at one bit is the paper's mean |w| (eq. 7); and M is of a kernel and not of the tensor, so that one
large weight leaves the other kernels their levels. A trained network starts near itself in this way. The gradient is
straight through, ∂L/∂w = ∂·s·L/M·(1 − t²), with s and M as constants.

There is no level at zero: b bits take codes of b + 1 as they are stored, without their even ones.

Inputs are clipped to their calibrated range, and not to 0 … 1, which the paper trains networks from scratch for; nothing
about them learns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import EXACT, TINY, squared_error
from qsearch.quantize.weights import QuantizedWeight
from qsearch.training.quantizers import InputLearner, WeightLearner
from qsearch.training.rounding import round_to_grid, sign_times_step, with_gradient_of


class DorefaWeight(WeightLearner):
    """A weight on odd levels.

    Args:
        bits: of each kernel, shape (K,).
        like: a weight of its shape, on its device.
    """

    bits: Tensor
    levels: Tensor

    def __init__(self, bits: BitArray, like: Tensor) -> None:
        super().__init__()
        self._shape = (-1, *[1] * (like.dim() - 1))
        self._float = bool((bits == FLOAT_BITS).any())
        # one bit more than the weight has, within what codes are exact in
        fine = bits[bits < FLOAT_BITS].max(initial=0) > EXACT.bit_length() - 2
        levels = torch.exp2(torch.from_numpy(bits).clamp(max=FLOAT_BITS - 1).double()) - 1
        levels = levels.to(like.device, torch.float64 if fine else torch.float32)
        self.register_buffer("levels", levels.view(self._shape), persistent=False)
        self.register_buffer("bits", torch.from_numpy(bits).to(like.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """See :class:`WeightLearner`."""
        squashed = weight.tanh()
        with torch.no_grad():
            largest = _largest(squashed, self._shape)
            codes, scales = self._quantised(weight, squashed, largest)
            values = (codes * scales).to(weight.dtype)
            slope = (scales * self.levels / largest).to(weight.dtype)
        found = with_gradient_of(values, squashed * slope)
        return torch.where((self.bits == FLOAT_BITS).view(self._shape), weight, found) if self._float else found

    @torch.no_grad()
    def settle(self, weight: Tensor) -> list[QuantizedWeight]:
        """See :class:`WeightLearner`."""
        squashed = weight.tanh()
        codes, scales = self._quantised(weight, squashed, _largest(squashed, self._shape))
        values = (codes * scales).to(weight.dtype)
        errors = squared_error(weight.flatten(1), values.flatten(1))
        return [
            QuantizedWeight(b, codes.to(_storage(b)), scales.float().flatten(), values, errors)
            for b in sorted({int(b) for b in self.bits.tolist()} - {FLOAT_BITS})
        ]

    def _quantised(self, weight: Tensor, squashed: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """c, of the shape of ``weight``, and s, shape (K, 1, …); 0 and 1 for kernels that are zero."""
        w, t = weight.to(self.levels.dtype), squashed.to(self.levels.dtype)
        codes = t.div(2 * largest).add_(0.5).mul_(self.levels).round_().mul_(2).sub_(self.levels)
        codes.mul_(largest > TINY)
        extents = tuple(range(1, w.dim()))
        power = codes.square().sum(extents, keepdim=True)
        scales = (w * codes).sum(extents, keepdim=True).div_(power).float()
        return codes, torch.where(power > 0, scales, 1.0)


class FixedInput(InputLearner):
    """An input on its calibrated grid, clipped to its ends.

    Args:
        quantizer: the grid.
    """

    scale: Tensor

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.bits, self.grid = quantizer.bits, quantizer.grid
        self.register_buffer("scale", quantizer.scale.detach().clone().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`InputLearner`."""
        scale = self.scale.view([1] * x.dim())
        if self.grid is None:
            return sign_times_step(x, scale)
        fine = x.double() if max(-self.grid.low, self.grid.high) > EXACT else x
        return round_to_grid(fine, scale, self.grid.low, self.grid.high).to(x.dtype)

    def settle(self) -> ActivationQuantizer:
        """See :class:`InputLearner`."""
        return ActivationQuantizer(self.bits, self.scale.clone(), self.grid)


class Dorefa:
    """The family ``dorefa``."""

    def weight(self, weight: Tensor, bits: BitArray, scales: Tensor) -> DorefaWeight:
        """See :class:`qsearch.training.quantizers.Family`; ``scales`` are not needed."""
        return DorefaWeight(bits, weight)

    def input(self, quantizer: ActivationQuantizer) -> InputLearner:
        """See :class:`qsearch.training.quantizers.Family`."""
        return FixedInput(quantizer)


def _largest(squashed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """M, shape (K, 1, …), at least the smallest number that can be divided by."""
    return squashed.detach().float().flatten(1).abs().amax(1).clamp_min_(TINY).view(shape)


def _storage(bits: int) -> torch.dtype:
    """Narrowest integer type that holds the codes."""
    return torch.int8 if bits < 8 else torch.int16 if bits < 16 else torch.int32
