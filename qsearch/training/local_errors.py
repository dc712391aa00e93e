"""Errors of one step and one layer: from its activity to the gradient of its weights, in whole numbers.

Notation, of one layer at one step:

========  ==================================================================================================
σ         activity of n neurons, codes within 0 … A; see :mod:`qsearch.training.local_layers`
G, H      fixed random weights of the readout, (C, n), forwards and backwards: signs agree, magnitudes do not
y         readout G·σ, in units in which a target is 2^t for the right class and 0 for the others
b         bits of errors and gradients
========  ==================================================================================================

::

    shift(x) = 2^⌊log2 max|x|⌉                  Q(x) = sat⌊x/shift(x) · 2^(b−1)⌉
    ε = Q(y − target)                           of the squared error; cut at ±1 first, of the smooth L1 loss
    δ = Q(Hᵀε ∘ σ′) + penalties                 g = Q(Σ δ·P)

A layer learns from nothing else: no error comes from a layer behind it or a step before it. Sources: Schaefer and Joshi as
in :mod:`qsearch.training.local_layers`; shift and Q are those of WAGE (Wu et al., ICLR 2018).

A layer with as many neurons as there are classes, the last one, is read as it is: G = H = 1, targets are the ends of σ, and σ′
counts as one everywhere. At an end the error is then nothing, or it leads back inside; with a slope of nothing there, a class
that had come to the wrong end for all samples would never be learnt again. It has no penalties: what it is to do, it is told.

The penalties of DECOLLE, of all other layers, keep neurons from going silent, where the mean activity is below a tenth, and U from going up: their
gradients, of either sign everywhere, are so many codes of δ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS
from qsearch.training.local_registers import nearest_exponent, signed

LocalLoss = Literal["sse", "smooth-l1"]

QUIET = 10
"""A layer is silent where its mean activity is less than one in so many."""


def normalised(x: Tensor, bits: int) -> Tensor:
    """Q(x): codes of b bits; x/shift(x), within ±√2, of float ones. Zeros where all of ``x`` is zero."""
    greatest = float(x.abs().max())
    if greatest == 0:
        return torch.zeros_like(x)
    exponent = nearest_exponent(greatest)
    if bits == FLOAT_BITS:
        return x * math.ldexp(1.0, -exponent)
    return signed(bits, 1.0).hold(x * math.ldexp(1.0, bits - 1 - exponent))


@dataclass(frozen=True)
class Penalties:
    """What is added to δ, in shares of the largest: of neurons whose layer is silent, and of those whose U is above zero."""

    silence: float = 0.0
    activity: float = 0.0

    def added(self, delta: Tensor, potential: Tensor, activity: Tensor, highest: float, bits: int) -> Tensor:
        """δ with the penalties.

        Args:
            delta: Q(Hᵀε ∘ σ′), of the shape of ``potential``, U, and ``activity``, σ.
            highest: A.
            bits: b.
        """
        found = delta
        if self.activity:
            found = found + _share(self.activity, bits) * (potential > 0)
        if self.silence and float(activity.sum()) * QUIET < highest * activity.numel():
            found = found - _share(self.silence, bits) * slope(activity, highest)
        return found if bits == FLOAT_BITS else signed(bits, 1.0).hold(found)


class Readout:
    """What a layer's activity says of the classes, and what that says of its neurons.

    Args:
        neurons: n.
        classes: C.
        bits: of G and H; ``FLOAT_BITS`` for float ones.
        active: A.
        generator: of G and H.

    Attributes:
        forward_weights, backward_weights: G and H; None where neurons are read as they are.
        unit: 2^t.
    """

    def __init__(self, neurons: int, classes: int, bits: int, active: float, generator: Generator) -> None:
        self.classes, self._active = classes, active
        self.forward_weights: Tensor | None = None
        self.backward_weights: Tensor | None = None
        self.unit = active
        if neurons == classes:
            return
        signs = torch.randint(0, 2, (classes, neurons), generator=generator).double() * 2 - 1
        self.forward_weights = signs * _magnitudes(signs.shape, bits, generator)
        self.backward_weights = signs * _magnitudes(signs.shape, bits, generator)
        # a readout of so many activities of either sign is about as large as the root of their number
        greatest = 1.0 if bits == FLOAT_BITS else float((1 << (bits - 1)) - 1)
        self.unit = math.ldexp(1.0, nearest_exponent(math.sqrt(neurons) * greatest * active / 2))

    @property
    def direct(self) -> bool:
        """Whether neurons are the classes."""
        return self.forward_weights is None

    @property
    def size(self) -> int:
        """Numbers in G and H."""
        return 0 if self.forward_weights is None else 2 * self.forward_weights.numel()

    def read(self, activity: Tensor) -> Tensor:
        """y: (B, …) → (B, C)."""
        flat = activity.flatten(1)
        return flat if self.forward_weights is None else flat @ self.forward_weights.T

    def errors(self, readout: Tensor, targets: Tensor, loss: LocalLoss, bits: int) -> Tensor:
        """ε, shape (B, C).

        Args:
            readout: y.
            targets: classes, shape (B,).
        """
        wanted = functional.one_hot(targets, self.classes).double() * self.unit
        found = readout - wanted
        return normalised(found.clamp(-self.unit, self.unit) if loss == "smooth-l1" else found, bits)

    def spread(self, errors: Tensor, activity: Tensor) -> Tensor:
        """Hᵀε ∘ σ′, of the shape of the activity, (B, …); ε where neurons are read as they are."""
        if self.backward_weights is None:
            return errors.view_as(activity)
        return (errors @ self.backward_weights).view_as(activity) * slope(activity, self._active)


def slope(activity: Tensor, highest: float) -> Tensor:
    """σ′ as it counts: one inside, nothing where σ has come to an end."""
    return ((activity > 0) & (activity < highest)).double()


def _share(share: float, bits: int) -> float:
    """A share of the largest error in codes of b bits, at least one."""
    return share if bits == FLOAT_BITS else max(1.0, round(share * (1 << (bits - 1))))


def _magnitudes(shape: torch.Size, bits: int, generator: Generator) -> Tensor:
    """Whole numbers 1 … 2^(b−1) − 1; float ones within 0 … 1."""
    if bits == FLOAT_BITS:
        return torch.rand(shape, generator=generator, dtype=torch.float64)
    return torch.randint(1, 1 << (bits - 1), shape, generator=generator).double()
