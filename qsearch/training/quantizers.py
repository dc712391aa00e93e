"""What quantises a weight and an input while they learn: the seam between training and its quantisers.

A family of quantisers makes a module for each weight and each input of an assignment, started from the grids that
calibration found. When training is over the modules tell what they have settled on, in the terms of
:mod:`qsearch.quantize`, so that what was trained is evaluated and exported like anything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from qsearch.assignment import BitArray
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.weights import QuantizedWeight


class Learner(nn.Module):
    """What the two kinds of quantisers share."""

    def constrain(self) -> None:
        """Bring parameters back to where they make sense; called after every step. Here nothing."""

    def penalty(self) -> Tensor | None:
        """What is added to the loss; None for nothing, as here."""
        return None


class WeightLearner(Learner, ABC):
    """Quantises one weight of shape (K, …) as it learns."""

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """ŵ, of the shape of ``weight``, differentiable."""

    @abstractmethod
    def settle(self, weight: Tensor) -> Sequence[QuantizedWeight]:
        """The weight at each bitwidth below 32 that a kernel of it has; rows of other kernels are of no meaning."""

    def rescale(self, ratio: Tensor) -> None:
        """The kernels of the weight were multiplied by ``ratio``, shape (K,), before training. Here nothing follows."""


class InputLearner(Learner, ABC):
    """Quantises one input of a layer as it learns."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x̂, of the shape of ``x``, differentiable."""

    @abstractmethod
    def settle(self) -> ActivationQuantizer:
        """The quantiser as it is now."""


class Family(Protocol):
    """A way to quantise in training."""

    def weight(self, weight: Tensor, bits: BitArray, scales: Tensor) -> WeightLearner:
        """For a weight of shape (K, …).

        Args:
            bits: of each kernel, 0..32, shape (K,); not all are 32.
            scales: of each kernel, shape (K,), as calibrated; 1 for kernels at 0 and at 32 bits. Negative ones are mirrored.
        """
        ...

    def input(self, quantizer: ActivationQuantizer) -> InputLearner:
        """For an input, from the quantiser that calibration found at its bits."""
        ...
