"""Energy of arithmetic and memory in a 45 nm process at 0.9 V, as polynomials in the bits.

Notation

=====  ==========================================================
b      operand bits; w and a where the two operands differ
x      log₂ of the capacity of an SRAM in bits, clamped to [16, 23]
=====  ==========================================================

The polynomials are those of QKeras' energy tables, fitted to Horowitz, "Computing's energy problem", ISSCC 2014:

    E_add(b) = 0.003125 b                                   pJ
    E_mul(b) = 0.00299479 b² + 0.00104167 b                 pJ
    E_sram   = 9.0243e-4 x³ − 2.6885e-2 x² + 0.2089 x       pJ per bit
    E_dram   = 20.3125                                      pJ per bit

They give 10, 20 and 100 pJ for a 64-bit read from 8 KB, 32 KB and 1 MB, and 0.2 and 3.1 pJ for an 8- and a 32-bit
multiplication. Operands of unequal width take w·a for b² and (w + a)/2 for b, a choice of this project.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qsearch.hardware.constants import Constant

_QKERAS = "QKeras qtools config_public, after Horowitz 2014 [V]"

ADD = Constant(0.003125, "pJ/bit", _QKERAS)
MULTIPLY_SQUARE = Constant(0.00299479, "pJ/bit^2", _QKERAS)
MULTIPLY_LINEAR = Constant(0.00104167, "pJ/bit", _QKERAS)
SRAM_CUBE = Constant(9.0243e-4, "pJ/bit", _QKERAS)
SRAM_SQUARE = Constant(-2.6885e-2, "pJ/bit", _QKERAS)
SRAM_LINEAR = Constant(0.2089, "pJ/bit", _QKERAS)
SRAM_LOG2_LOW = Constant(16.0, "log2(bit)", "8 KB, the smallest SRAM of the fit [D]")
SRAM_LOG2_HIGH = Constant(23.0, "log2(bit)", "1 MB, the largest SRAM of the fit [D]")
DRAM = Constant(20.3125, "pJ/bit", _QKERAS)

CONSTANTS: Mapping[str, Constant] = {
    "add": ADD,
    "multiply_square": MULTIPLY_SQUARE,
    "multiply_linear": MULTIPLY_LINEAR,
    "sram_cube": SRAM_CUBE,
    "sram_square": SRAM_SQUARE,
    "sram_linear": SRAM_LINEAR,
    "sram_log2_low": SRAM_LOG2_LOW,
    "sram_log2_high": SRAM_LOG2_HIGH,
    "dram": DRAM,
}
"""All of them, by name."""

PICO = 1e-12


def add_energy(bits: ArrayLike) -> NDArray[np.float64]:
    """Energy of one integer addition of ``bits`` bits, in J; any shape."""
    return ADD.value * PICO * np.asarray(bits, dtype=np.float64)


def multiply_energy(weight_bits: ArrayLike, activation_bits: ArrayLike) -> NDArray[np.float64]:
    """Energy of one integer multiplication, in J; shapes broadcast."""
    return multiplications_energy(weight_bits, 1, activation_bits)


def multiplications_energy(weight_bits: ArrayLike, count: ArrayLike, activation_bits: ArrayLike) -> NDArray[np.float64]:
    """Energy of ``count`` multiplications of weights of ``weight_bits`` bits together, in J; shapes broadcast.

    E_mul is linear in each operand's bits, so weights of unequal bits need only their sum.
    """
    w, a = np.asarray(weight_bits, dtype=np.float64), np.asarray(activation_bits, dtype=np.float64)
    return PICO * (MULTIPLY_SQUARE.value * (w * a) + MULTIPLY_LINEAR.value * (w + np.asarray(count) * a) / 2)


def sram_energy(capacity_bits: float) -> float:
    """Energy of reading or writing one bit of an SRAM that holds ``capacity_bits`` bits, in J."""
    x = float(np.clip(np.log2(capacity_bits), SRAM_LOG2_LOW.value, SRAM_LOG2_HIGH.value))
    return PICO * (SRAM_CUBE.value * x**3 + SRAM_SQUARE.value * x**2 + SRAM_LINEAR.value * x)


def dram_energy() -> float:
    """Energy of reading or writing one bit of DRAM, in J."""
    return PICO * DRAM.value
