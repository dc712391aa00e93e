"""The seam of a scheme: what stands for the bits of a variable while they are learned, and what quantises under it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.space import SearchSpace, Variable
from qsearch.training.quantizers import Learner


class LearnedBits(nn.Module, ABC):
    """Real-valued bits of one variable, one for each of its decisions.

    Attributes:
        variable: whose.
    """

    def __init__(self, variable: Variable) -> None:
        super().__init__()
        self.variable = variable

    @abstractmethod
    def forward(self) -> Tensor:
        """Bits that costs are counted with, shape (length,), differentiable."""

    @abstractmethod
    def real(self) -> Tensor:
        """Real-valued bits, before any rounding, shape (length,)."""

    @abstractmethod
    def set_to(self, bits: Tensor) -> None:
        """Stand at these bits, shape (length,): choices of the variable."""

    @abstractmethod
    def constrain(self) -> None:
        """Bring parameters back to where bits lie within the choices; called after every step."""


class Scheme(ABC):
    """A way to learn bits, for one network."""

    @abstractmethod
    def bits(self, variable: Variable, start: float) -> LearnedBits:
        """For a variable of two choices or more, starting at ``start`` bits."""

    @abstractmethod
    def weight(self, bits: LearnedBits, site: str, weight: Tensor) -> Learner:
        """What quantises a weight of shape (K, …) at bits of length 1 or K."""

    @abstractmethod
    def input(self, bits: LearnedBits, site: str) -> Learner:
        """What quantises an input of a layer at bits of length 1."""

    @abstractmethod
    def choices(self, space: SearchSpace, bits: NDArray[np.float64]) -> NDArray[np.int64]:
        """The choices that real-valued bits round to, shape (D,) both."""


def across(values: Tensor, dimensions: int) -> Tensor:
    """(n,) → (n, 1, …): so that it goes with the first extent of a tensor."""
    return values.view(-1, *[1] * (dimensions - 1))


def parameters_of(bits: Sequence[LearnedBits]) -> list[nn.Parameter]:
    """Parameters of several variables' bits."""
    return [parameter for module in bits for parameter in module.parameters()]


def as_parameter(value: float, length: int) -> nn.Parameter:
    """``length`` parameters of one value."""
    return nn.Parameter(torch.full((length,), float(value)))
