"""Activations: one scale per tensor and bitwidth, by squared error on calibration data.

Notation: x values of one site, b bits, s scale (always positive), x̂ fake-quantised values.

==================  ========================================================
site                grid
==================  ========================================================
all x ≥ 0 seen      unsigned, 0 … 2^b−1; {0, s} at 1 bit
otherwise           signed, −2^(b−1) … 2^(b−1)−1; ±s with s = mean|x| at 1 bit
==================  ========================================================

A site counts as unsigned when no calibration value is negative, which is so after a ReLU, a sigmoid or a softmax,
without having to know the operation. The scale of b bits is carried over to b+1, where the grid holds all its levels,
so the error does not increase with b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qsearch.errors import EvaluationError
from qsearch.quantize.grid import TINY, Grid, fake_quantize, search_scales, signed_grid, unsigned_grid

SAMPLE = 1 << 16
"""Values of a site that a scale is searched on."""


@dataclass(frozen=True)
class ActivationQuantizer:
    """Fake-quantises one site at one bitwidth.

    Attributes:
        bits: b.
        scale: s, a scalar tensor.
        grid: where the codes lie; None for the two levels ±s.
    """

    bits: int
    scale: Tensor
    grid: Grid | None

    def __call__(self, x: Tensor) -> Tensor:
        """x̂, of the shape and type of ``x``, which is left as it is."""
        if self.grid is None:
            return torch.where(x < 0, -self.scale, self.scale).to(x.dtype)
        return fake_quantize(x, self.scale, self.grid)


@dataclass
class ActivationRange:
    """What calibration saw at one site: a bounded sample of its values, and the extremes of all of them."""

    name: str
    low: float = float("inf")
    high: float = float("-inf")
    _parts: list[Tensor] = field(default_factory=list)
    _found: dict[int, ActivationQuantizer] = field(default_factory=dict)

    def observe(self, x: Tensor) -> None:
        """Take in a tensor: every k-th value, k such that the sample stays bounded; several uses are pooled.

        Raises:
            EvaluationError: values that are not finite.
        """
        values = x.detach().reshape(-1)
        low, high = values.aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise EvaluationError(
                f"values at {self.name!r} must be finite on calibration data",
                got="NaN or infinity (the float network itself gives it)",
                fix="check the weights and the calibration data",
            )
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self._parts.append(_thinned(values).float().clone())

    @property
    def unsigned(self) -> bool:
        """No value below zero was seen."""
        return self.low >= 0

    def quantizer(self, bits: int) -> ActivationQuantizer:
        """The quantiser at ``bits``, 1..31; searched when first asked for, the same whatever was asked for before."""
        if bits not in self._found:
            carried = self.quantizer(bits - 1).scale if bits > 1 else None
            self._found[bits] = self._search(bits, carried)
        return self._found[bits]

    def adopt(self, quantizer: ActivationQuantizer) -> None:
        """Take this as the quantiser of its bitwidth, as training has settled it, in place of what a search would find."""
        self._found[quantizer.bits] = quantizer

    def _search(self, bits: int, carried: Tensor | None) -> ActivationQuantizer:
        values = self._sample()
        grid = unsigned_grid(bits) if self.unsigned else signed_grid(bits)
        if bits == 1 and not self.unsigned:
            return ActivationQuantizer(1, values.abs().mean().clamp_min(TINY), None)
        if float(values.abs().max()) < TINY:
            return ActivationQuantizer(bits, torch.ones_like(values[0]), grid)
        scale = search_scales(values[None], grid, None if carried is None else carried[None], mirrored=False)
        return ActivationQuantizer(bits, scale[0], grid)

    def _sample(self) -> Tensor:
        """At most about ``SAMPLE`` values, and both extremes."""
        pooled = _thinned(torch.cat(self._parts))
        return torch.cat([pooled, pooled.new_tensor([self.low, self.high])])


def _thinned(values: Tensor) -> Tensor:
    """At most ``SAMPLE`` values, evenly spaced; the stride shares no small factor with the extents of feature maps,
    which would pick the same column of each."""
    stride = -(-len(values) // SAMPLE)
    while stride > 1 and math.gcd(stride, 2 * 3 * 5 * 7) > 1:
        stride += 1
    return values[:: max(1, stride)]
