"""Registers of integer-only training: what their bits can hold.

Notation

=====  =========================================================================================
b      bits
Δ      step: what a code of one is worth, a power of two
x      numbers in units of Δ
=====  =========================================================================================

::

    signed      codes −2^(b−1) … 2^(b−1) − 1      Δ = extent / 2^(b−1)
    unsigned    codes 0 … 2^b − 1                 Δ = extent / 2^b

Codes are whole numbers in float64, which holds every product and sum of them exactly where registers have at most
:data:`MOST_BITS`; rounding is half to even, and what does not fit saturates and never wraps. A float register has Δ = 1,
rounds nothing and ends where the others end, so that one code runs both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from qsearch.assignment import FLOAT_BITS

MOST_BITS = 16
"""Of a register: two of them and the logarithm of a fan-in stay below the 53 bits of float64."""


@dataclass(frozen=True)
class Register:
    """What it holds: numbers within ``lowest`` … ``highest``, in units of ``step``; ``whole`` ones, or float."""

    lowest: float
    highest: float
    step: float
    whole: bool

    def hold(self, x: Tensor) -> Tensor:
        """Numbers in its units, rounded where it is whole, and saturated."""
        return (x.round() if self.whole else x).clamp(self.lowest, self.highest)


def signed(bits: int, extent: float) -> Register:
    """Numbers within −extent … extent, a power of two; ``FLOAT_BITS`` for a float one."""
    if bits == FLOAT_BITS:
        return Register(-extent, extent, 1.0, False)
    end = 1 << (bits - 1)
    return Register(-end, end - 1, extent / end, True)


def unsigned(bits: int, extent: float) -> Register:
    """Numbers within 0 … extent, a power of two; ``FLOAT_BITS`` for a float one."""
    if bits == FLOAT_BITS:
        return Register(0.0, extent, 1.0, False)
    end = 1 << bits
    return Register(0, end - 1, extent / end, True)


def power_above(value: float) -> float:
    """The least power of two that is at least ``value`` > 0."""
    return math.ldexp(1.0, math.ceil(math.log2(value)))


def nearest_exponent(value: float) -> int:
    """⌊log2 value⌉ of value > 0, exactly: the integers n, d of value = n/d decide, not a logarithm that is rounded.

    ⌊log2 n + ½⌋ = ⌊½·log2 2n²⌋, and d is a power of two.
    """
    numerator, denominator = float(value).as_integer_ratio()
    return ((2 * numerator * numerator).bit_length() - 1) // 2 - (denominator.bit_length() - 1)
