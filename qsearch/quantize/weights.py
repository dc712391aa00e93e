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
from qsearch.quantize.grid import TINY, codes, fake_quantize, search_scales, signed_grid, squared_error, widest_scales

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

    @property
    def kernels(self) -> int:
        """K."""
        return len(self.weight)

    def quantized(self, bits: int) -> QuantizedWeight:
        """The weight at ``bits``, 0..31. What is found does not depend on what was asked for before."""
        if bits not in self._found:
            carried = self.quantized(bits - 1).scales if bits > 1 else None
            self._found[bits] = quantize_weight(self.weight, bits, carried)
        return self._found[bits]

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
    kernels = weight.detach().reshape(len(weight), -1).float()
    peak = kernels.abs().amax(-1)
    alive = peak >= TINY
    scales, q = torch.ones_like(peak), torch.zeros_like(kernels)
    if bits > 0 and bool(alive.any()):
        rows = kernels[alive]
        scales[alive], q[alive] = _quantize_rows(rows, bits, carried[alive] if carried is not None else None)
    values = q * scales[:, None]
    return QuantizedWeight(
        bits,
        q.to(_storage(bits)).reshape(weight.shape),
        scales,
        values.to(weight.dtype).reshape(weight.shape),
        squared_error(kernels, values),
    )


def _quantize_rows(rows: Tensor, bits: int, carried: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales (K,) and codes (K, n) of kernels that are not zero."""
    if bits == 1:
        return rows.abs().double().mean(-1).float().clamp_min_(TINY), torch.where(rows < 0, -1.0, 1.0)
    grid = signed_grid(bits)
    if bits <= SEARCHED_BITS:
        scales = search_scales(rows, grid, carried, mirrored=True)
    else:
        scales = widest_scales(rows, grid, mirrored=True)
        if carried is not None:
            scales = _least(rows, bits, scales, carried)
    return scales, codes(rows, scales[:, None], grid)


def _least(rows: Tensor, bits: int, *scales: Tensor) -> Tensor:
    """Of several scales per kernel the one with the least squared error."""
    grid = signed_grid(bits)
    tried = torch.stack(scales)
    errors = torch.stack([squared_error(rows, fake_quantize(rows, scale[:, None], grid)) for scale in scales])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


def _storage(bits: int) -> torch.dtype:
    """Narrowest integer type that holds the codes."""
    return torch.int8 if bits <= 8 else torch.int16 if bits <= 16 else torch.int32
