"""Quantisers of training: whole numbers and one step, set anew by the largest magnitude each time.

Notation

=====  ======================================================
x      numbers, any shape
b      bits
lo, hi ends of the grid; numbers below zero are within it only where lo = −hi
s      step: the smallest that clips nothing
q      codes within lo … hi; x ≈ q·s
u      uniform within [0, 1), drawn for each number
=====  ======================================================

::

    nearest       q = round(x / s)
    stochastic    q = sign(x) · (⌊|x / s|⌋ + [u < frac |x / s|])        E q = x / s

Stochastic rounding keeps what is smaller than a step alive on average, which gradients need (Gupta et al., "Deep Learning
with Limited Numerical Precision", ICML 2015, §3). Grids are the same to both sides, ±(2^(b−1) − 1), so that signs do not
bias it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from qsearch.quantize.grid import TINY, Grid, codes


@dataclass(frozen=True)
class Codes:
    """q, whole numbers in a floating type, any shape; s, shape ()."""

    values: Tensor
    step: Tensor


def symmetric_grid(bits: int) -> Grid:
    """−(2^(b−1) − 1) … 2^(b−1) − 1, for b ≥ 2."""
    return Grid(1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1)


def nearest(x: Tensor, grid: Grid) -> Codes:
    """Each number to the nearest code, halves to the even one."""
    step = _step(x, grid)
    return Codes(codes(x, step, grid), step)


def stochastic(x: Tensor, grid: Grid, generator: Generator) -> Codes:
    """Each number to one of the two codes around it, the nearer the likelier.

    Args:
        generator: on the device of ``x``.
    """
    step = _step(x, grid)
    magnitude = (x / step).abs_()
    whole = magnitude.floor()
    u = torch.rand(x.shape, generator=generator, device=x.device, dtype=magnitude.dtype)
    whole += u < magnitude - whole
    # the largest magnitude may come out of the division a hair above the grid's end
    return Codes(whole.copysign_(x).clamp_(grid.low, grid.high), step)


def _step(x: Tensor, grid: Grid) -> Tensor:
    """s of all of ``x``, kept away from zero, by which nothing can be divided."""
    return x.abs().amax().div_(grid.high).clamp_min_(TINY)
