"""Fixed point: what a neuron's registers hold under an assignment.

Notation

=======  ====================================================================================
b        bits of a register, 2..31 for a state, 1..31 for a constant
e, Δ     exponent and step, Δ = 2^e
U        code of a state, −2^(b−1) … 2^(b−1) − 1
L        code of a constant, 0 … 2^b − 1
=======  ====================================================================================

The value of a code is code · Δ. Steps are powers of two, so that changing from one grid to another is a shift; rounding is
half to even; what does not fit saturates and never wraps. Codes are whole numbers in floating-point tensors that are wide
enough to hold every product exactly, so that what comes out is what integer arithmetic gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qsearch.errors import DataError, SpaceError

EXACT_BITS, WIDEST_BITS = 24, 53
"""Whole numbers of so many bits are exact in float32, and in float64."""

MOST_BITS, LARGEST_EXPONENT = 31, 126
"""Of a register; of a step, which float32 holds as well as 1/Δ."""


@dataclass(frozen=True)
class StateGrid:
    """A signed register: b and e of the module.

    Raises:
        SpaceError: bits outside 2..31, or an exponent outside −126..126.
    """

    bits: int
    exponent: int

    def __post_init__(self) -> None:
        _check(self.bits, 2, self.exponent, "state")

    @property
    def step(self) -> float:
        """Δ."""
        return math.ldexp(1.0, self.exponent)

    @property
    def lowest(self) -> int:
        """−2^(b−1)."""
        return -(1 << (self.bits - 1))

    @property
    def highest(self) -> int:
        """2^(b−1) − 1."""
        return (1 << (self.bits - 1)) - 1

    @property
    def positive(self) -> ConstantGrid:
        """The codes above 0: what a threshold can be."""
        return ConstantGrid(self.bits - 1, self.exponent, fewest=1)

    def whole(self, values: Tensor) -> Tensor:
        """⌊values/Δ⌉ in whole numbers, before they are saturated."""
        return rounded(values * math.ldexp(1.0, -self.exponent))

    def codes(self, values: Tensor) -> Tensor:
        """Codes of values, rounded and saturated; gradients pass within the range."""
        return self.saturated(self.whole(values))

    def saturated(self, codes: Tensor) -> Tensor:
        """Codes within the register."""
        return codes.clamp(self.lowest, self.highest)


@dataclass(frozen=True)
class ConstantGrid:
    """An unsigned register: b and e of the module.

    Codes and values are of the type of what they are made from, which must hold b bits: float64 beyond 24.

    Attributes:
        fewest: the lowest code that is used: 0 of a leak, 1 of a threshold, which must be above 0.

    Raises:
        SpaceError: bits outside 1..31, or an exponent outside −126..126.
    """

    bits: int
    exponent: int
    fewest: int = 0

    def __post_init__(self) -> None:
        _check(self.bits, 1, self.exponent, "constant")

    @property
    def step(self) -> float:
        """Δ."""
        return math.ldexp(1.0, self.exponent)

    @property
    def highest(self) -> int:
        """2^b − 1."""
        return (1 << self.bits) - 1

    def codes(self, values: Tensor) -> Tensor:
        """Codes of values, rounded and saturated.

        Gradients pass within 0 … 2^b·Δ. It is wider than the codes: a leak of one, or a threshold that is rounded up to
        the lowest code, can be learnt away from.
        """
        scaled = (values * math.ldexp(1.0, -self.exponent)).clamp(0, self.highest + 1)
        return straight_through(scaled, scaled.detach().round().clamp(self.fewest, self.highest))

    def values(self, values: Tensor) -> Tensor:
        """What values become."""
        return self.codes(values) * self.step


def leak_grid(bits: int) -> ConstantGrid:
    """The grid of a leak λ within [0, 1): L / 2^b. A λ of one becomes 1 − 2^−b."""
    return ConstantGrid(bits, -bits)


def threshold_grid(bits: int, greatest: float) -> ConstantGrid:
    """The finest grid of ``bits`` that holds the greatest of the thresholds.

    Raises:
        DataError: a threshold that is not finite and above 0.
    """
    if not (math.isfinite(greatest) and greatest > 0):
        raise DataError("thresholds must be finite and above 0", got=greatest)
    fraction, exponent = math.frexp(greatest / ((1 << bits) - 1))
    return ConstantGrid(bits, exponent - 1 if fraction == 0.5 else exponent, fewest=1)


def wide_enough(bits: int) -> torch.dtype:
    """A type in which whole numbers of ``bits`` are exact.

    Raises:
        SpaceError: there is none.
    """
    if bits > WIDEST_BITS:
        raise SpaceError(f"products of a state and its leak must fit in {WIDEST_BITS} bits", got=bits)
    return torch.float32 if bits <= EXACT_BITS else torch.float64


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, codes: Tensor) -> Tensor:
        return codes.view_as(codes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(values: Tensor, codes: Tensor) -> Tensor:
    """Codes, whose gradients are those of the values."""
    if not (torch.is_grad_enabled() and values.requires_grad):
        return codes
    found: Tensor = _StraightThrough.apply(values, codes)  # type: ignore[no-untyped-call]  # torch leaves it without types
    return found


def rounded(values: Tensor) -> Tensor:
    """Values rounded half to even; gradients pass as if they were not (straight-through)."""
    return straight_through(values, values.detach().round())


def _check(bits: int, fewest: int, exponent: int, what: str) -> None:
    if not fewest <= bits <= MOST_BITS:
        raise SpaceError(f"bits of a {what}'s register must be within {fewest}..{MOST_BITS}", got=bits)
    if abs(exponent) > LARGEST_EXPONENT:
        rule = f"exponents of a {what}'s register must be within −{LARGEST_EXPONENT}..{LARGEST_EXPONENT}"
        raise SpaceError(rule, got=exponent, fix="scale what reaches the neurons")
