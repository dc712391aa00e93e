"""A matrix product whose forward and backward passes run on few bits, the backward one in the Hadamard domain.

Notation

======  ==============================================================================================
X       inputs, shape (R, K): R rows, each of a sample or of a place in one
W       weights, shape (O, K)
Y       X·Wᵀ, shape (R, O)
G       gradient of the loss by Y, shape (R, O)
q(·)    codes of few bits (:mod:`qsearch.training.stochastic`); their steps multiply the product, left out here
H_O     Hadamard transform along O, H_R along R, of blocks B_O and B_R (:mod:`qsearch.training.hadamard`)
⊛       product in accumulators of limited width (:mod:`qsearch.training.accumulators`)
======  ==============================================================================================

::

    Y     = q(X) ⊛ q(W)ᵀ
    ∂L/∂X = q(G·H_O) ⊛ q(H_O·q(W)) / B_O
    ∂L/∂W = q(Gᵀ·H_R) ⊛ q(H_R·q(X)) / B_R

A quantiser passes its gradient straight through: its step follows the largest magnitude, so nothing is clipped. What the
backward pass needs of X and W is kept as the codes of the forward pass.

Source: Schiemer et al., "Hadamard Domain Training with Integers for Class Incremental Quantized Learning", CoLLAs 2024.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Generator, Tensor

from qsearch.errors import DataError
from qsearch.quantize.grid import unsigned_grid
from qsearch.registry import PluginOptions
from qsearch.training import hadamard
from qsearch.training.accumulators import product
from qsearch.training.stochastic import Codes, nearest, stochastic, symmetric_grid

Operand = Literal[
    "forward-input", "forward-weight", "input-gradient", "backward-weight", "weight-gradient", "backward-input"
]
"""What is quantised, in the order of the equations above: two operands of each of the three products."""

Pass = Literal["forward", "input", "weight"]
"""The three products: that of Y, that of ∂L/∂X, that of ∂L/∂W."""

PUBLISHED: frozenset[Operand] = frozenset({"input-gradient", "weight-gradient", "backward-input"})
"""Operands that the published settings round stochastically; the others go to the nearest code."""


class HdqtOptions(PluginOptions):
    """How products are quantised.

    Attributes:
        bits: of every operand; None for numbers as they are.
        forward_accumulator: bits of the forward product's accumulators; None for wide ones.
        backward_accumulator: likewise of both backward products.
        tile: terms per accumulator.
        hadamard: whether the backward products are made in the Hadamard domain; else on codes of G, q(W) and q(X).
        block: the largest block of the transform, a power of two. The published code has no such bound; a block of many
            thousands, as a convolution's R has, leaves the codes of all but the mean near zero.
        pad: whether O and R are filled up with zeros to the next power of two, or multiple of ``block``, for blocks of that
            size: ten classes have blocks of 2, eleven of 1, which is no transform.
        unsigned: whether inputs without a negative number use the unsigned grid, 0 … 2^b − 1: twice as fine, and
            with larger sums.
        stochastic: operands that are rounded stochastically.
        skip: names of layers that stay in float.
    """

    bits: int | None = Field(default=4, ge=2, le=8)
    forward_accumulator: int | None = Field(default=8, ge=2, le=24)
    backward_accumulator: int | None = Field(default=8, ge=2, le=24)
    tile: int = Field(default=32, ge=1)
    hadamard: bool = True
    block: int = Field(default=32, ge=1)
    pad: bool = True
    unsigned: bool = False
    stochastic: frozenset[Operand] = PUBLISHED
    skip: frozenset[str] = frozenset()

    @field_validator("block")
    @classmethod
    def _a_power_of_two(cls, block: int) -> int:
        if hadamard.block(block) != block:
            raise ValueError("a block must be a power of two")
        return block

    @model_validator(mode="after")
    def _accumulators_hold_codes(self) -> HdqtOptions:
        if self.bits is None and (self.forward_accumulator, self.backward_accumulator) != (None, None):
            raise ValueError("accumulators of limited width need whole numbers: give bits, or no accumulators")
        return self


@dataclass
class Clamps:
    """Sums of tiles, counted per product since the last reset, in passes that record gradients.

    Passes that only evaluate have no backward products, and their forward ones would be compared with nothing.
    """

    clamped: dict[Pass, Tensor] = field(default_factory=dict)
    sums: dict[Pass, int] = field(default_factory=dict)

    def add(self, what: Pass, clamped: Tensor, sums: int) -> None:
        """Count those of one product."""
        self.clamped[what] = self.clamped[what] + clamped if what in self.clamped else clamped
        self.sums[what] = self.sums.get(what, 0) + sums

    def reset(self) -> None:
        """Start from nothing."""
        self.clamped.clear()
        self.sums.clear()

    def rates(self) -> dict[Pass, float]:
        """Share of sums that were clamped, of the products that were made."""
        return {what: int(self.clamped[what]) / sums for what, sums in self.sums.items() if sums}


class Arithmetic:
    """The products of one layer.

    Args:
        options: how they are quantised.
        generator: what stochastic rounding draws from, on the device of the layer.
    """

    def __init__(self, options: HdqtOptions, generator: Generator) -> None:
        self.options, self.generator, self.clamps = options, generator, Clamps()

    def codes(self, x: Tensor, operand: Operand) -> Codes:
        """``x`` as an operand; as it is, at a step of 1, where nothing is quantised."""
        options = self.options
        if options.bits is None:
            return Codes(x, x.new_ones(()))
        one_sided = options.unsigned and operand == "forward-input" and not bool((x < 0).any())
        grid = unsigned_grid(options.bits) if one_sided else symmetric_grid(options.bits)
        return stochastic(x, grid, self.generator) if operand in options.stochastic else nearest(x, grid)

    def forward(self, inputs: Codes, weight: Codes, *, counted: bool = True) -> Tensor:
        """Y, shape (R, O); its sums are counted where ``counted``."""
        return self._multiply("forward", inputs, weight, counted=counted)

    def by_input(self, gradient: Tensor, weight: Codes) -> Tensor:
        """∂L/∂X, shape (R, K)."""
        sides = gradient, weight.values.T
        return self._backward("input", sides, ("input-gradient", "backward-weight")) * weight.step

    def by_weight(self, gradient: Tensor, inputs: Codes) -> Tensor:
        """∂L/∂W, shape (O, K)."""
        sides = gradient.T, inputs.values.T
        return self._backward("weight", sides, ("weight-gradient", "backward-input")) * inputs.step

    def _backward(self, what: Pass, sides: tuple[Tensor, Tensor], operands: tuple[Operand, Operand]) -> Tensor:
        """The product of two sides along their last extents, in the Hadamard domain where that is chosen."""
        (left, right), largest = sides, self.options.block
        if not self.options.hadamard:
            return self._multiply(what, self.codes(left, operands[0]), self.codes(right, operands[1]))
        if self.options.pad:
            left, right = (hadamard.pad(side, largest) for side in sides)
        size = hadamard.block(left.shape[-1], largest)
        left, right = hadamard.transform(left, largest), hadamard.transform(right, largest)
        return self._multiply(what, self.codes(left, operands[0]), self.codes(right, operands[1])) / size

    def _multiply(self, what: Pass, left: Codes, right: Codes, *, counted: bool = True) -> Tensor:
        bits = self.options.forward_accumulator if what == "forward" else self.options.backward_accumulator
        found = product(left.values, right.values, bits, self.options.tile)
        if counted:
            self.clamps.add(what, found.clamped, found.sums)
        return found.values * (left.step * right.step)


class QuantizedProduct(torch.autograd.Function):
    """Y of X and W under an :class:`Arithmetic`, with its gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, arithmetic: Arithmetic, counted: bool) -> Tensor:
        """Y, shape (R, O), of X (R, K) and W (O, K); its sums are counted where ``counted``."""
        x, w = arithmetic.codes(inputs, "forward-input"), arithmetic.codes(weight, "forward-weight")
        ctx.save_for_backward(x.values, x.step, w.values, w.step)
        ctx.arithmetic = arithmetic
        return arithmetic.forward(x, w, counted=counted)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """∂L/∂X and ∂L/∂W, as far as they are asked for."""
        x, x_step, w, w_step = ctx.saved_tensors
        arithmetic: Arithmetic = ctx.arithmetic
        by_input = arithmetic.by_input(gradients[0], Codes(w, w_step)) if ctx.needs_input_grad[0] else None
        by_weight = arithmetic.by_weight(gradients[0], Codes(x, x_step)) if ctx.needs_input_grad[1] else None
        return by_input, by_weight, None, None


def quantized_product(inputs: Tensor, weight: Tensor, arithmetic: Arithmetic) -> Tensor:
    """X·Wᵀ as the options have it: X (R, K), W (O, K) → (R, O), in the type of X.

    Inputs and weights of half precision are worked on in single precision, which holds every sum of codes. Without inputs,
    R = 0, there is nothing to quantise, and gradients are zero.

    Raises:
        DataError: K is not the same in both.
    """
    if inputs.shape[1] != weight.shape[1]:
        raise DataError(f"each product takes {weight.shape[1]} inputs", got=inputs.shape[1])
    if not inputs.numel():
        return inputs @ weight.T
    working = torch.promote_types(inputs.dtype, torch.float32)
    sides = inputs.to(working), weight.to(working)
    counted = torch.is_grad_enabled()  # within the product it never is
    found: Tensor = QuantizedProduct.apply(*sides, arithmetic, counted)  # type: ignore[no-untyped-call]  # as in torch
    return found.to(inputs.dtype)
