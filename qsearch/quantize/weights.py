"""Weights: symmetric quantisation with one scale per kernel.

A kernel is a slice along the weight's first extent: an output channel, or a row of an embedding's table.

Notation

=======  ====================================================================================
K, n     kernels, and weights in a kernel
b        bits: 0 prunes, 1 is ±mean|w|, 2..31 use the signed grid of all 2^b levels, 32 is float
s        scale of a kernel; negative where the longer side of the grid serves positive weights
q        codes, −2^(b−1) … 2^(b−1)−1; ±1 at 1 bit; 0 at 0 bits
ŵ        q·s
=======  ====================================================================================

±mean|w| is the binary weight with the least squared error (Rastegari et al., XNOR-Net, ECCV 2016). The grid of
b bits holds every level of the grid of b−1 bits at the same scale, so carrying the best scale over from b−1
makes the error non-increasing in b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.assignment import FLOAT_BITS, BitArray
from qsearch.errors import DataError
from qsearch.quantize.grid import (
    BLOCK,
    TINY,
    codes,
    fake_quantize,
    parts,
    search_scales,
    signed_grid,
    squared_error,
    widest_scales,
)

SEARCHED_BITS = 8
"""Clips are searched up to here; above, no weight is clipped, which is within a few per cent of the best."""


@dataclass(frozen=True)
class QuantizedWeight:
    """One weight at one bitwidth.

    Attributes:
        bits: b, 0..31.
        codes: q as integers, of the weight's shape.
        scales: s, shape (K,); 1 for kernels that are zero.
        values: ŵ, of the weight's shape and type.
        errors: Σ (w − ŵ)² of each kernel, shape (K,), double precision.
    """

    bits: int
    codes: Tensor
    scales: Tensor
    values: Tensor
    errors: Tensor


class WeightTable:
    """A weight at every bitwidth, each quantised when first asked for.

    Of the bitwidths below one that is asked for, only the scales are worked out and kept.

    Args:
        name: the site, for messages.
        weight: shape (K, …).

    Raises:
        DataError: weights that are not finite.
    """

    def __init__(self, name: str, weight: Tensor) -> None:
        if not bool(torch.isfinite(weight).all()):
            raise DataError(f"weights of {name!r} must be finite", got="NaN or infinity")
        self.name = name
        self.weight = weight.detach()
        self._found: dict[int, QuantizedWeight] = {}
        self._scales: list[Tensor] = []

    @property
    def kernels(self) -> int:
        """K."""
        return len(self.weight)

    def quantized(self, bits: int) -> QuantizedWeight:
        """The weight at ``bits``, 0..31. What is found does not depend on what was asked for before."""
        if bits not in self._found:
            for lower in range(len(self._scales), bits):
                self._scales.append(find_scales(self.weight, lower + 1, self._scales[-1] if lower else None))
            self._found[bits] = encode(self.weight, bits, self._scales[bits - 1] if bits else None)
        return self._found[bits]

    def adopt(self, quantized: QuantizedWeight) -> None:
        """Take this as the weight at its bitwidth, as training has settled it, in place of what a search would find."""
        self._found[quantized.bits] = quantized

    def values(self, bits: int | BitArray) -> Tensor:
        """ŵ for one bitwidth, or for bitwidths of shape (K,): rows gathered from the tables.

        The tensor is shared where one bitwidth serves all kernels: do not write to it.
        """
        if isinstance(bits, int):
            return self.weight if bits == FLOAT_BITS else self.quantized(bits).values
        levels, level = np.unique(bits, return_inverse=True)
        if len(levels) == 1:
            return self.values(int(levels[0]))
        found = torch.empty_like(self.weight)
        for position, value in enumerate(levels.tolist()):
            rows = torch.from_numpy(np.flatnonzero(level == position)).to(self.weight.device)
            found[rows] = self.values(value)[rows]
        return found

    def errors(self, bits: int) -> NDArray[np.float64]:
        """Σ (w − ŵ)² of each kernel, shape (K,)."""
        if bits == FLOAT_BITS:
            return np.zeros(len(self.weight))
        found: NDArray[np.float64] = self.quantized(bits).errors.cpu().numpy()
        return found


def quantize_weight(weight: Tensor, bits: int, carried: Tensor | None = None) -> QuantizedWeight:
    """Quantise a weight of shape (K, …) to ``bits`` in 0..31.

    Args:
        carried: scales of the same weight at one bit less, shape (K,); :class:`WeightTable` hands them on.
    """
    return encode(weight, bits, find_scales(weight, bits, carried) if bits else None)


def find_scales(weight: Tensor, bits: int, carried: Tensor | None = None) -> Tensor:
    """Scales of a weight of shape (K, …) at ``bits`` in 1..31, shape (K,); arguments as :func:`quantize_weight`."""
    kernels = _kernels(weight)
    found = [
        _find(kernels[part].float(), bits, None if carried is None else carried[part]) for part in parts(kernels, BLOCK)
    ]
    return torch.cat(found)


def encode(weight: Tensor, bits: int, scales: Tensor | None) -> QuantizedWeight:
    """A weight of shape (K, …) on the grids of the given scales, shape (K,); None prunes it."""
    kernels = _kernels(weight)
    scales = kernels.new_ones(len(kernels), dtype=torch.float32) if scales is None else scales
    q, values = kernels.new_empty(kernels.shape, dtype=_storage(bits)), torch.empty_like(kernels)
    errors = kernels.new_empty(len(kernels), dtype=torch.float64)
    for part in parts(kernels, BLOCK):
        rows, scale = kernels[part].float(), scales[part, None]
        code = _codes(rows, bits, scale)
        value = code * scale
        q[part], values[part], errors[part] = code.to(q.dtype), value.to(values.dtype), squared_error(rows, value)
    return QuantizedWeight(bits, q.reshape(weight.shape), scales, values.reshape(weight.shape), errors)


def _find(rows: Tensor, bits: int, carried: Tensor | None) -> Tensor:
    """Scales of kernels, (K, n) → (K,); 1 for those that are zero."""
    scales = torch.ones_like(rows[:, 0])
    alive = _alive(rows)
    if bool(alive.any()):
        scales[alive] = _search(rows[alive], bits, carried[alive] if carried is not None else None)
    return scales


def _search(rows: Tensor, bits: int, carried: Tensor | None) -> Tensor:
    """Scales of kernels that are not zero."""
    if bits == 1:
        return rows.abs().double().mean(-1).float().clamp_min_(TINY)
    grid = signed_grid(bits)
    if bits <= SEARCHED_BITS:
        return search_scales(rows, grid, carried, mirrored=True)
    widest = widest_scales(rows, grid, mirrored=True)
    return widest if carried is None else _least(rows, bits, widest, carried)


def _codes(rows: Tensor, bits: int, scale: Tensor) -> Tensor:
    """q of kernels, (K, n); zero for kernels that are."""
    if bits == 0:
        return torch.zeros_like(rows)
    found = torch.where(rows < 0, -1.0, 1.0) if bits == 1 else codes(rows, scale, signed_grid(bits))
    return found * _alive(rows)[:, None]


def _alive(rows: Tensor) -> Tensor:
    """Which kernels are not zero, (K, n) → (K,)."""
    return rows.abs().amax(-1) >= TINY


def _kernels(weight: Tensor) -> Tensor:
    """(K, …) → (K, n)."""
    return weight.detach().reshape(len(weight), -1)


def _least(rows: Tensor, bits: int, *scales: Tensor) -> Tensor:
    """Of several scales per kernel the one with the least squared error."""
    grid = signed_grid(bits)
    tried = torch.stack(scales)
    errors = torch.stack([squared_error(rows, fake_quantize(rows, scale[:, None], grid)) for scale in scales])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def _storage(bits: int) -> torch.dtype:
    """Narrowest integer type that holds the codes."""
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
