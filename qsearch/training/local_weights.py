"""Weights of integer-only training: where they start, and how they move by less than a code.

Notation, of one layer with K kernels:

=======  ==================================================================================================
w_k      bits of kernel k, with which it acts; w, the most of them
s_k      bits with which it is stored, at least w_k
c        codes as they are stored: −(2^(s_k − 1) − 1) … 2^(s_k − 1) − 1
v        codes as they act: −(2^(w_k − 1) − 1) … 2^(w_k − 1) − 1
e        exponent of the layer: W = 2^e · v · 2^(1 − w_k), within ±2^e
g        codes of a gradient of b bits, whose largest is near 2^(b − 1)
r        exponent of the rate, a power of two as well: the largest gradient moves a weight by 2^−r of its range
n        random number of d bits, drawn for each weight
=======  ==================================================================================================

::

    v = sat⌊c · 2^(w_k − s_k)⌉                   c itself where s_k = w_k
    Δ = g · 2^−d,   d = b + r − s_k              what c should move by
    c ← sat(c − ⌊Δ⌋ − [n < frac(Δ)·2^d])         E[⌊Δ⌋ + [n < frac(Δ)·2^d]] = Δ

Steps that are rounded at random become rarer with r, not smaller: weights stored with 2 bits learnt little at any rate that
was tried (``benchmarks/integer_local.py``). As in WAGE (Wu et al., "Training and Inference with Integers in Deep Neural
Networks", ICLR 2018), weights are drawn as wide as few bits need them, and the layer's exponent makes up for it. Float
weights end at ±2^e too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from qsearch.assignment import FLOAT_BITS
from qsearch.training.local_registers import nearest_exponent, power_above

LEAST_CODE = 1.5
"""Weights start uniform within ± at least so many codes, so that not all of them are zero."""

RANDOM_BITS = 31
"""Of a random number; its upper d are used."""


class Weights:
    """The weights of a layer, in units of the finest step among its kernels.

    Args:
        bits: w_k of each kernel, shape (K,): 0, which prunes, or at least 2; ``FLOAT_BITS`` in all for float ones.
        shape: of the weight, (K, …).
        exponent: e.
        stored: the least s_k of kernels that are not pruned.

    Attributes:
        codes: c, of the shape of the weight; whole numbers, or float within ±1.
        step: what v = 1 of the kernel with most bits is worth.
    """

    codes: Tensor

    def __init__(self, bits: Sequence[int], shape: tuple[int, ...], exponent: int, stored: int = 0) -> None:
        widest = max(max(bits), 2)
        self.whole = widest != FLOAT_BITS
        self._bits = torch.tensor(bits, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        self._stored = self._bits.clamp_min(stored) * (self._bits > 0) if self.whole else self._bits
        self._acting, self._highest = self._ends(self._bits), self._ends(self._stored)
        self._coarseness = torch.exp2(widest - self._bits) if self.whole else torch.ones_like(self._bits)
        self.step = math.ldexp(1.0, exponent + 1 - widest) if self.whole else math.ldexp(1.0, exponent)
        self.codes = torch.zeros(shape, dtype=torch.float64)

    @property
    def values(self) -> Tensor:
        """W in units of :attr:`step`."""
        if not self.whole:
            return self.codes
        return _within(torch.round(self.codes * torch.exp2(self._bits - self._stored)), self._acting) * self._coarseness

    def rescale(self, exponent: int) -> None:
        """Make all weights 2^exponent times as large, their range with them."""
        self.step = math.ldexp(self.step, exponent)

    def put(self, values: Tensor) -> None:
        """Take on weights as they are in float."""
        codes = values.double() / (self.step * self._coarseness) * torch.exp2(self._stored - self._bits)
        self.codes = _within(codes.round() if self.whole else codes, self._highest)

    def move(self, gradient: Tensor, gradient_bits: int, rate: int, generator: Generator) -> None:
        """Move against a gradient.

        Args:
            gradient: g, of the shape of the weight; float ones are within about ±1.
            gradient_bits: b.
            rate: r.
            generator: of the random numbers; float weights take none.
        """
        if not self.whole:
            self.codes = _within(self.codes - gradient * math.ldexp(1.0, -rate), self._highest)
            return
        drawn = torch.randint(0, 1 << RANDOM_BITS, gradient.shape, generator=generator).double()
        moved = rounded_at_random(gradient, gradient_bits + rate - self._stored, drawn)
        self.codes = _within(self.codes - moved, self._highest)

    def _ends(self, bits: Tensor) -> Tensor:
        """The greatest code of so many bits; 1 of float weights."""
        return torch.exp2((bits - 1).clamp_min(0)) - 1 if self.whole else torch.ones_like(bits)


def _within(codes: Tensor, highest: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(codes, -highest), highest)


def rounded_at_random(gradient: Tensor, places: Tensor, drawn: Tensor) -> Tensor:
    """⌊Δ⌋ + [n < frac(Δ)·2^d], whole numbers.

    Args:
        gradient: g, whole numbers.
        places: d, of a shape that broadcasts; at most :data:`RANDOM_BITS`. Below one, Δ is whole.
        drawn: whole numbers of :data:`RANDOM_BITS` bits, of the shape of ``gradient``; n is their upper d bits.
    """
    moved = gradient * torch.exp2(-places)
    whole = moved.floor()
    number = (drawn * torch.exp2(places - RANDOM_BITS)).floor()
    return whole + (number < (moved - whole) * torch.exp2(places)).double()


def start(bits: Sequence[int], shape: tuple[int, ...], generator: Generator, stored: int = 0) -> Weights:
    """Weights at random, uniform within half of their range, or as few codes as tell them from zero; of exponent 0."""
    fewest = min((count for count in bits if count), default=2)
    limit = 0.5 if fewest == FLOAT_BITS else max(0.5, LEAST_CODE * math.ldexp(1.0, 1 - fewest))
    found = Weights(bits, shape, 0, stored)
    found.put((2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * limit)
    return found


def taken_over(bits: Sequence[int], values: Tensor, stored: int = 0) -> Weights:
    """The weights of a network, with the least exponent that holds them."""
    greatest = float(values.abs().max())
    exponent = nearest_exponent(power_above(greatest)) if greatest else 0
    found = Weights(bits, tuple(values.shape), exponent, stored)
    found.put(values)
    return found
