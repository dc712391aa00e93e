"""Overlaid weights that learn: ternary codes fitted anew in every step, kept weights with steps of their own.

Notation as in :mod:`qsearch.quantize.overlay`; v, the weight in training.

::

    ŵ = s·T(v) where M = 0,     ŵ = ĥ(v) where M = 1
    ∂L/∂v = ∂L/∂ŵ where M = 0 (straight through),     that of ĥ where M = 1

θ, T and s follow v, as in ternary weight networks (Li et al., arXiv:1605.04711); ĥ is any quantiser of
:mod:`qsearch.training`, which learns the steps of the kept weights. The mask is that of the weight before training and stays:
indices do not change, and neither does what the cost model was told.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.quantize.grid import squared_error
from qsearch.quantize.overlay import OverlaidWeight, ternary_codes, ternary_scales, threshold
from qsearch.quantize.weights import QuantizedWeight
from qsearch.training.quantizers import Family, WeightLearner
from qsearch.training.rounding import with_gradient_of


class OverlaidLearner(WeightLearner):
    """A weight of which a part learns as another quantiser says, and the rest is ternary.

    Args:
        start: the overlaid weight to begin with; its mask stays.
        high: what quantises the kept weights.
    """

    mask: Tensor

    def __init__(self, start: OverlaidWeight, high: WeightLearner) -> None:
        super().__init__()
        self.bits, self.kept, self.pattern, self.high = start.bits, start.kept, start.pattern, high
        self.register_buffer("mask", start.mask.clone(), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """See :class:`WeightLearner`."""
        codes, scales = self._ternary(weight.detach())
        low = with_gradient_of((codes * scales).to(weight.dtype), weight)
        return torch.where(self.mask, self.high(weight), low)

    def settle(self, weight: Tensor) -> Sequence[QuantizedWeight]:
        """The superposition as one weight at b bits; codes and scales are of its kept part. :meth:`overlaid` has both."""
        found = self.overlaid(weight)
        return [QuantizedWeight(found.bits, found.codes, found.scales, found.values, found.errors)]

    def overlaid(self, weight: Tensor) -> OverlaidWeight:
        """The weight as it is now: codes, scales, mask and values."""
        weight = weight.detach()
        ternary, scales = self._ternary(weight)
        low = ternary * scales
        (found,) = self.high.settle(weight)
        codes = found.codes * self.mask
        values = torch.where(self.mask, found.values, low.to(weight.dtype))
        errors = squared_error(weight.flatten(1), values.flatten(1))
        parts = (ternary.to(torch.int8), scales.flatten(), self.mask.clone(), codes, found.scales, values, errors)
        return OverlaidWeight(self.bits, self.kept, self.pattern, *parts)

    def constrain(self) -> None:
        """As the quantiser of the kept weights does."""
        self.high.constrain()

    def penalty(self) -> Tensor | None:
        """That of the quantiser of the kept weights."""
        return self.high.penalty()

    def rescale(self, ratio: Tensor) -> None:
        """See :class:`WeightLearner`; the ternary scales follow the weight by themselves."""
        self.high.rescale(ratio)

    def _ternary(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """T of the weight's shape, as floats, and s, shape (K, 1, …)."""
        rows, kept = weight.flatten(1).float(), self.mask.flatten(1)
        codes = ternary_codes(rows, threshold(rows)).masked_fill_(kept, 0)
        scales = ternary_scales(rows, codes).reshape(-1, *[1] * (weight.dim() - 1))
        return codes.reshape(weight.shape), scales


def overlaid_learner(start: OverlaidWeight, weight: Tensor, family: Family) -> OverlaidLearner:
    """A learner for a weight of shape (K, …) that begins as an overlay found by calibration.

    Args:
        start: from :meth:`qsearch.quantize.network.QuantizedNetwork.overlaid_weight`.
        family: what quantises the kept weights, unless they are floats.
    """
    if start.bits == FLOAT_BITS:
        return OverlaidLearner(start, _Floats())
    return OverlaidLearner(start, family.weight(weight, np.full(len(weight), start.bits), start.scales))


class _Floats(WeightLearner):
    """Kept weights at 32 bits."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight

    def settle(self, weight: Tensor) -> Sequence[QuantizedWeight]:
        codes, scales = torch.zeros_like(weight, dtype=torch.int8), torch.ones_like(weight.flatten(1)[:, 0])
        return [QuantizedWeight(FLOAT_BITS, codes, scales, weight, torch.zeros_like(scales, dtype=torch.float64))]
