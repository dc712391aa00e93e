"""Integer grids, fake-quantisation, and the search for the scale with the least squared error.

Notation

=======  =====================================================================================
b        bits
lo, hi   ends of the grid: −2^(b−1) … 2^(b−1)−1 signed, 0 … 2^b−1 unsigned
s        scale; negative where the grid is mirrored
q        codes, clip(round(x / s), lo, hi), rounded half to even
x̂        q·s, the fake-quantised values
K, n     slices that get a scale each, and numbers in a slice
C        candidate scales per slice
=======  =====================================================================================

Division, not multiplication with 1/s: only division agrees with ONNX QuantizeLinear in every bit.

Codes are worked out in float32, whose integers are exact up to 2^24; wider grids, from 25 bits, are worked out in double
precision. Tensors of half precision are so quantised too, and x̂ is rounded to their type at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CANDIDATES = 32
"""C: clips tried per slice."""

FINE_CANDIDATES = 13
"""Clips tried around the best of them."""

SMALLEST_CLIP = 0.1
"""Share of the largest magnitude at which the search starts; clips are spaced geometrically from there."""

REFINEMENTS = 3
"""Rounds of least squares after the search."""

EXACT = 1 << 24
"""Integers up to here are exact in float32."""

CHUNK = 1 << 18
"""Numbers worked on at a time in trying clips (C·n per slice), so that it stays in the processor's cache."""

BLOCK = 1 << 18
"""Numbers of a tensor that are refined at a time, likewise."""

TINY = float(torch.finfo(torch.float32).tiny)
"""The smallest number that can be divided by without loss; what is below it counts as zero."""


@dataclass(frozen=True)
class Grid:
    """Integers from ``low`` to ``high``."""

    low: int
    high: int


def signed_grid(bits: int) -> Grid:
    """All 2^b levels, −2^(b−1) … 2^(b−1)−1."""
    return Grid(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def unsigned_grid(bits: int) -> Grid:
    """All 2^b levels, 0 … 2^b−1."""
    return Grid(0, (1 << bits) - 1)


def codes(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """q of ``x``, of its shape, in float32 or, where that cannot hold them, in double; ``scale`` must broadcast."""
    wide = max(-grid.low, grid.high) > EXACT
    working = torch.promote_types(x.dtype, torch.float64 if wide else torch.float32)
    return x.to(working).div(scale).round_().clamp_(grid.low, grid.high)


def fake_quantize(x: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """x̂ of ``x``, of its shape and type; ``scale`` must broadcast. ``x`` is left as it is."""
    return codes(x, scale, grid).mul_(scale).to(x.dtype)


def squared_error(x: Tensor, quantized: Tensor) -> Tensor:
    """Σ (x − x̂)² of each slice, (K, n) → (K,), in double precision."""
    return (x.double() - quantized.double()).square_().sum(-1)


def search_scales(x: Tensor, grid: Grid, carried: Tensor | None, *, mirrored: bool) -> Tensor:
    """Scale of each slice by squared error.

    Each of C clips gives codes q; the best scale for those codes is s* = Σxq / Σq², with error
    Σx² − (Σxq)² / Σq², so the clip with the largest (Σxq)² / Σq² is the best one. Its scale is then refined by
    assigning codes and solving for s* in turn, and kept unless the widest or a carried scale is better.

    Args:
        x: shape (K, n), finite, no slice all zero.
        grid: where the codes lie.
        carried: shape (K,), scales to do at least as well as.
        mirrored: try the mirrored grid too (a negative scale).

    Returns:
        Shape (K,), |s| at least the smallest normal number.
    """
    found = [
        _search_block(x[part], grid, None if carried is None else carried[part], mirrored) for part in parts(x, BLOCK)
    ]
    return torch.cat(found)


def _search_block(x: Tensor, grid: Grid, carried: Tensor | None, mirrored: bool) -> Tensor:
    """:func:`search_scales` of as many slices as memory is spent on at a time."""
    peak = x.abs().amax(-1)
    unit = x / peak[:, None]
    found = [_search_unit(unit[part], grid, mirrored) for part in parts(x, CHUNK // CANDIDATES)]
    best = _normal(torch.cat(found) * peak)
    error = squared_error(x, fake_quantize(x, best[:, None], grid))
    for _ in range(REFINEMENTS):
        q = codes(x, best[:, None], grid)
        refined = _normal((unit * q).sum(-1) / q.square().sum(-1).clamp_min_(1) * peak).to(best.dtype)
        best, error = _better(x, grid, best, error, refined)
    best, error = _better(x, grid, best, error, widest_scales(x, grid, mirrored=mirrored))
    if carried is not None:
        best, error = _better(x, grid, best, error, carried)
    return best


def widest_scales(x: Tensor, grid: Grid, *, mirrored: bool) -> Tensor:
    """The smallest scale that clips nothing, (K, n) → (K,); values already on such a grid keep their places.

    Args:
        mirrored: negative where the longer tail is the positive one and the grid's longer side the negative one.
    """
    below, above = (-x.amin(-1)).clamp_min_(0), x.amax(-1).clamp_min_(0)
    turned = (above > below) & mirrored
    left, right = torch.where(turned, above, below), torch.where(turned, below, above)
    scale = _normal(torch.maximum(left / max(1, -grid.low), right / max(1, grid.high)))
    return torch.where(turned, -scale, scale)


def parts(x: Tensor, numbers: int) -> Iterator[slice]:
    """Runs of slices of ``x``, shape (K, n), with about so many numbers together; at least one slice each."""
    step = max(1, numbers // x.shape[1])
    for start in range(0, len(x), step):
        yield slice(start, start + step)


def _search_unit(unit: Tensor, grid: Grid, mirrored: bool) -> Tensor:
    """Best scale of slices whose largest magnitude is 1, (K, n) → (K,): among all clips, then around the best."""
    first, last = SMALLEST_CLIP / max(-grid.low, grid.high), 1 / max(1, grid.high)
    ratio = last / first
    coarse = first * ratio ** torch.linspace(0, 1, CANDIDATES, dtype=unit.dtype, device=unit.device)
    step = ratio ** (1 / (CANDIDATES - 1))
    fine = step ** torch.linspace(-1, 1, FINE_CANDIDATES, dtype=unit.dtype, device=unit.device)
    clip, _ = _best_clip(unit, coarse[:, None], grid, mirrored)
    _, scale = _best_clip(unit, clip * fine[:, None], grid, mirrored)
    return scale


def _best_clip(unit: Tensor, clips: Tensor, grid: Grid, mirrored: bool) -> tuple[Tensor, Tensor]:
    """The best of the clips, as scales of shape (C, K) or (C, 1), and s* for its codes; each of shape (K,)."""
    rounded = unit.div(clips[:, :, None]).round_()
    mirrors = [(grid.low, grid.high), (-grid.high, -grid.low)] if mirrored else [(grid.low, grid.high)]
    gains, scales = [], []
    for sign, (low, high) in zip((1, -1), mirrors, strict=False):
        q = rounded.clamp(low, high)
        power = q.square().sum(-1).clamp_min_(1)
        match = q.mul_(unit).sum(-1)
        gains.append(match.square() / power)
        scales.append(sign * match / power)
    chosen = torch.cat(gains).argmax(0, keepdim=True)
    clips = clips.expand(-1, len(unit)).repeat(len(mirrors), 1)
    return clips.gather(0, chosen)[0], torch.cat(scales).gather(0, chosen)[0]


def _better(x: Tensor, grid: Grid, best: Tensor, error: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Of two scales per slice the one with the smaller error; the first where they are equal."""
    found = squared_error(x, fake_quantize(x, other[:, None], grid))
    wins = found < error
    return torch.where(wins, other, best), torch.where(wins, found, error)


def _normal(scale: Tensor) -> Tensor:
    """Scales kept away from zero and denormal numbers, which cannot be divided by."""
    return torch.where(scale.abs() < TINY, torch.full_like(scale, TINY).copysign(scale), scale)
