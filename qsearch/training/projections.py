"""Projections onto sets of sparse and of quantised weights: the nearest point of each, by squared distance.

Notation

=======  ==============================================================================================
w        a weight of shape (K, …), K kernels
z        Π(w), of its shape: argmin ‖w − z‖² over the set
α        weights, or kernels, that may differ from zero
b        bits of a weight that is kept, at least 1; its magnitude has m = 2^(b−1) levels
q        distance of levels, positive
c        level of a magnitude, 1 … m
=======  ==============================================================================================

The sets are those of Ren et al., "ADMM-NN", ASPLOS 2019, §4: α numbers of any magnitude; and {±q, ±2q, …, ±m·q}, which has
no zero, for zero is reserved for weights that are pruned. So b bits tell a kept weight, and a pruned one costs its index.

For levels c the best distance is q = Σ|w|c / Σc², with error Σw² − (Σ|w|c)² / Σc²; for a distance q the best levels are
clip(round(|w|/q), 1, m). As q falls, one weight after the other goes up a level, |w| from c to c + 1 at q = |w| / (c + ½):
running sums over these places, in order, meet every combination of levels that is best for some q, so the best of them is
the best of all. Of very many weights a part is looked at, and the two rules are then used in turn on all of them, neither
of which raises the error. A distance is no smaller than the smallest normal number of float32: kept weights that are all
zero, which have no best one, lie on levels that are as good as zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qsearch.quantize.grid import TINY

SEARCHED_BITS = 8
"""Distances are searched up to here; above, the largest magnitude lies at the last level, which is close to the best."""

PLACES = 1 << 20
"""Places, at most, that are looked at: one for each magnitude and each level but the last."""

ROUNDS = 10
"""Of the two rules in turn."""


def largest(w: Tensor, keep: int) -> Tensor:
    """z with the ``keep`` weights of largest magnitude, exactly, and zero elsewhere; of equal ones the first."""
    return w * largest_mask(w, keep)


def largest_mask(w: Tensor, keep: int) -> Tensor:
    """Where those weights are, of the shape of ``w``, boolean."""
    return _first(w.abs().flatten(), keep).view(w.shape)


def largest_kernels(w: Tensor, keep: int) -> Tensor:
    """z with the ``keep`` kernels of largest Euclidean norm, exactly, and zero elsewhere; of equal ones the first."""
    return w * kernel_mask(w, keep)


def kernel_mask(w: Tensor, keep: int) -> Tensor:
    """Where those kernels are, shape (K, 1, …), boolean."""
    return _first(w.flatten(1).double().square().sum(1), keep).view(-1, *[1] * (w.dim() - 1))


def level_codes(w: Tensor, q: Tensor | float, bits: int) -> Tensor:
    """z / q on the levels, ±1 … ±m; 1 for zeros. ``q`` must broadcast to ``w``."""
    return _levels(w, q, bits).copysign(w)


def quantised(w: Tensor, kept: Tensor, bits: int) -> Tensor:
    """z on levels where ``kept``, a mask of the shape of ``w``, and zero elsewhere."""
    q = level_distance(w[kept], bits)
    return torch.where(kept, level_codes(w, q, bits) * q, 0.0)


def level_distance(values: Tensor, bits: int) -> float:
    """q of the values that are kept, shape (n,), at least ``TINY``; that where there are none, or none above it."""
    magnitudes = values.detach().abs().double()
    peak = float(magnitudes.max()) if len(magnitudes) else 0.0
    if peak < TINY:
        return TINY
    if bits > SEARCHED_BITS:
        return max(TINY, peak / (1 << (bits - 1)))
    q = _search(magnitudes, 1 << (bits - 1))
    for _ in range(ROUNDS):
        q = _best_distance(magnitudes, q, bits)
    return max(TINY, q)


def _search(magnitudes: Tensor, last: int) -> float:
    """The best q, of all magnitudes, or of some where they are too many for the levels 1 … ``last``."""
    values, counts = torch.unique(magnitudes, return_counts=True)
    stride = -(-len(values) * last // PLACES)
    values, counts = values.flip(0)[::stride], counts.flip(0)[::stride]
    c = torch.arange(1, last, dtype=values.dtype, device=values.device)
    order = (values[:, None] / (c + 0.5)).flatten().argsort(descending=True)
    rises = ((counts * values)[:, None].expand(-1, last - 1), counts[:, None] * (2 * c + 1))
    match, power = (
        torch.cat([start[None], start + rise.flatten()[order].cumsum(0)])
        for start, rise in zip(((counts * values).sum(), counts.sum()), rises, strict=True)
    )
    best = int((match.square() / power).argmax())
    return float(match[best] / power[best])


def _best_distance(magnitudes: Tensor, q: float, bits: int) -> float:
    """One turn: the levels for q, then the distance for them."""
    c = _levels(magnitudes, q, bits)
    return float((magnitudes * c).sum() / c.square().sum())


def _levels(w: Tensor, q: Tensor | float, bits: int) -> Tensor:
    """c of each weight."""
    return (w.abs() / q).round().clamp(1, 1 << (bits - 1))


def _first(sizes: Tensor, keep: int) -> Tensor:
    """The ``keep`` largest of shape (n,), boolean; a stable order makes ties the same everywhere."""
    order = torch.argsort(sizes, descending=True, stable=True)
    mask = torch.zeros_like(sizes, dtype=torch.bool)
    mask[order[:keep]] = True
    return mask
