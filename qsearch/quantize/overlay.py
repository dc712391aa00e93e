"""Overlaid weights: dense ternary and sparse high precision, superposed.

Notation, beside that of :mod:`qsearch.overlay` and :mod:`qsearch.quantize.weights`; K, n kernels and weights in each:

=======  ====================================================================================
w        weights of a kernel
θ        threshold, 0.7·mean|w|
T        ternary codes, sign(w) where |w| > θ and 0 elsewhere
s        ternary scale of a kernel, the mean of |w| > θ among weights that are not kept
M        mask, 1 where a weight is kept
H, h     codes of the kept weights at b bits, 0 elsewhere, and their scale
ŵ        s·T + h·H, with T = 0 where M = 1
g        gain of keeping a weight, (w − s₀·T)² with s₀ the scale before any is kept
=======  ====================================================================================

θ and s are those of ternary weight networks (Li et al., arXiv:1605.04711): s is the best scale for its codes, θ nearly the
best threshold for normal weights. The mask keeps, of each run, the weights of largest gain that its pattern allows; for
given s₀ that is the best mask, and s is then fitted once more to what is left. As masks of more weights contain those
of fewer (but for blocks, which may move), errors of floats kept do not grow with k. H has the scale that
:mod:`qsearch.quantize.weights` finds for the kept weights alone, so that keeping all gives the plain weight, code by code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import SpaceError
from qsearch.overlay import ALL, FEWEST_BITS, PATTERNS, SHARED, Pattern, kept_weights, runs
from qsearch.quantize.grid import squared_error
from qsearch.quantize.weights import WeightTable

THRESHOLD = 0.7
"""θ as a multiple of mean|w|."""


@dataclass(frozen=True)
class OverlaidWeight:
    """One weight under one overlay; all tensors but scales and errors are of the weight's shape.

    Attributes:
        bits: b, 2..32.
        kept: k, or ``ALL``.
        pattern: index into :data:`qsearch.overlay.PATTERNS`.
        ternary: T as integers.
        ternary_scales: s, shape (K,); 1 for kernels without ternary codes other than 0.
        mask: M.
        codes: H as integers; 0 throughout at 32 bits, where the kept weights are floats.
        scales: h, shape (K,).
        values: ŵ, of the weight's type.
        errors: Σ (w − ŵ)² of each kernel, shape (K,), double precision.
    """

    bits: int
    kept: int
    pattern: int
    ternary: Tensor
    ternary_scales: Tensor
    mask: Tensor
    codes: Tensor
    scales: Tensor
    values: Tensor
    errors: Tensor


@dataclass(frozen=True)
class _Split:
    """What does not depend on b: T, s and M of a weight, and the kept weights' table."""

    ternary: Tensor
    scales: Tensor
    mask: Tensor
    kept: WeightTable


class OverlayTable:
    """A weight under every overlay, each worked out when first asked for.

    Args:
        plain: the weight, of shape (K, …) with input channels second, without one.
        period: P.
    """

    def __init__(self, plain: WeightTable, period: int) -> None:
        self._name, self._weight, self._period = plain.name, plain.weight, period
        rows = self._weight.reshape(plain.kernels, -1).float()
        self._threshold = threshold(rows)
        codes = ternary_codes(rows, self._threshold)
        scales = ternary_scales(rows, codes)
        self._gains = (rows.double() - (codes * scales[:, None]).double()).square_()
        self._splits: dict[tuple[int, int], _Split] = {}
        self._found: dict[tuple[int, int, int], OverlaidWeight] = {}

    def overlaid(self, bits: int, kept: int, pattern: int) -> OverlaidWeight:
        """The weight with ``kept`` of every P at ``bits`` in a pattern, both as in :mod:`qsearch.overlay`.

        Raises:
            SpaceError: bits below 2, an unknown pattern, or more kept weights than an overlay has.
        """
        self._check(bits, kept, pattern)
        key = (bits, kept, pattern)
        if key not in self._found:
            self._found[key] = self._superposed(*key)
        return self._found[key]

    def adopt(self, overlaid: OverlaidWeight) -> None:
        """Take this as the weight under its overlay, as training has settled it, in place of what a fit would find."""
        self._found[overlaid.bits, overlaid.kept, overlaid.pattern] = overlaid

    def _check(self, bits: int, kept: int, pattern: int) -> None:
        if not FEWEST_BITS <= bits <= FLOAT_BITS:
            raise SpaceError(f"kept weights of {self._name!r} have {FEWEST_BITS}..{FLOAT_BITS} bits", got=bits)
        if not 0 <= pattern < len(PATTERNS):
            raise SpaceError(f"the pattern of {self._name!r} is one of 0..{len(PATTERNS) - 1}", got=pattern)
        if kept != ALL and not 0 <= kept <= self._period:
            raise SpaceError(f"{self._name!r} keeps 0..{self._period} of {self._period} weights, or all", got=kept)

    def _split(self, kept: int, pattern: int) -> _Split:
        if (kept, pattern) not in self._splits:
            channels = self._weight.shape[1] if self._weight.dim() > 1 else 1
            chosen = best_mask(self._gains, channels, self._period, kept, PATTERNS[pattern])
            self._splits[kept, pattern] = self._masked(chosen)
        return self._splits[kept, pattern]

    def _masked(self, chosen: Tensor) -> _Split:
        rows = self._weight.reshape(len(self._weight), -1)
        ternary = ternary_codes(rows.float(), self._threshold).masked_fill_(chosen, 0)
        scales, shape = ternary_scales(rows.float(), ternary), self._weight.shape
        table = WeightTable(self._name, rows.masked_fill(~chosen, 0).reshape(shape))
        return _Split(ternary.to(torch.int8).reshape(shape), scales, chosen.reshape(shape), table)

    def _superposed(self, bits: int, kept: int, pattern: int) -> OverlaidWeight:
        split = self._split(kept, pattern)
        broadcast = (-1, *[1] * (self._weight.dim() - 1))
        low = split.ternary * split.scales.reshape(broadcast)
        if bits == FLOAT_BITS:
            codes, scales = torch.zeros_like(split.ternary), torch.ones_like(split.scales)
            values = low + split.kept.weight.float()
        else:
            high = split.kept.quantized(bits)
            codes, scales = high.codes * split.mask, high.scales
            values = low + codes * scales.reshape(broadcast)
        values = values.to(self._weight.dtype)
        errors = squared_error(self._weight.reshape(len(values), -1), values.reshape(len(values), -1))
        parts = (split.ternary, split.scales, split.mask, codes, scales, values, errors)
        return OverlaidWeight(bits, kept, pattern, *parts)


def threshold(rows: Tensor) -> Tensor:
    """θ of kernels, (K, n) → (K, 1)."""
    return THRESHOLD * rows.abs().double().mean(-1, keepdim=True).to(rows.dtype)


def ternary_codes(rows: Tensor, threshold: Tensor) -> Tensor:
    """T of kernels with thresholds of shape (K, 1), (K, n), as floats."""
    return rows.sign() * (rows.abs() > threshold)


def ternary_scales(rows: Tensor, codes: Tensor) -> Tensor:
    """s of kernels, the mean of |w| where there is a code other than 0, (K, n) and (K, n) → (K,); 1 where there is none."""
    count = codes.abs().sum(-1)
    mean = (rows.double() * codes).sum(-1) / count.clamp(min=1)
    return torch.where(count > 0, mean, torch.ones_like(mean)).to(rows.dtype)


def best_mask(gains: Tensor, channels: int, period: int, kept: int, pattern: Pattern) -> Tensor:
    """The mask of most gain that a pattern allows.

    Args:
        gains: g, shape (K, n); n = channels · positions, channels first.
        kept: k, or ``ALL``.

    Returns:
        Shape (K, n), bool. Of equal gains the first are kept.
    """
    if kept == ALL:
        return torch.ones_like(gains, dtype=torch.bool)
    if pattern == "unstructured":
        return _largest(gains, kept_weights(gains.shape[1], period, kept))
    order = _order(channels, gains.shape[1] // channels, pattern).to(gains.device)
    mask = torch.zeros_like(gains, dtype=torch.bool)
    start = 0
    for count, length, inside in runs(gains.shape[1], period, kept):
        part = order[start : start + count * length]
        start += count * length
        cut = gains[:, part].reshape(len(gains), count, length)
        mask[:, part] = (_blocks if pattern == "blocks" else _largest)(cut, inside).reshape(len(gains), -1)
    return mask


def _order(channels: int, positions: int, pattern: Pattern) -> Tensor:
    """Weights of a kernel in the order in which runs are cut from them, shape (n,)."""
    places = torch.arange(channels * positions)
    return places if pattern == "positions" else places.reshape(channels, positions).T.reshape(-1)


def _largest(gains: Tensor, inside: int) -> Tensor:
    """The ``inside`` largest along the last axis."""
    order = gains.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(gains, dtype=torch.bool).scatter_(-1, order[..., :inside], True)


def _blocks(gains: Tensor, inside: int) -> Tensor:
    """``inside`` in a row, the same for ``SHARED`` kernels, of shape (K, runs, length)."""
    kernels, count, length = gains.shape
    if inside == 0:
        return torch.zeros_like(gains, dtype=torch.bool)
    missing = -kernels % SHARED
    padded = torch.cat([gains, gains.new_zeros(missing, count, length)])
    together = padded.reshape(-1, SHARED, count, length).sum(1)
    first = together.unfold(-1, inside, 1).sum(-1).argmax(-1, keepdim=True)
    place = torch.arange(length, device=gains.device)
    return ((place >= first) & (place < first + inside)).repeat_interleave(SHARED, 0)[:kernels]
