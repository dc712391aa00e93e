"""``Lessons``: a network with what it takes to train it under quantisers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from qsearch.layers import Layer
from qsearch.quantize.modules import Inputs, moved
from qsearch.quantize.network import QuantizedNetwork


@dataclass(frozen=True)
class Batch:
    """Samples, of a step or of a whole split.

    Attributes:
        inputs: shape (n, …), or a tuple of such tensors for networks with several inputs.
        targets: shape (n, …).
    """

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        """n."""
        return len(self.targets)

    def take(self, indices: Tensor) -> Batch:
        """The samples at ``indices``, in that order."""
        inputs = self.inputs
        chosen = tuple(part[indices] for part in inputs) if isinstance(inputs, tuple) else inputs[indices]
        return Batch(chosen, self.targets[indices])

    def to(self, device: torch.device) -> Batch:
        """The samples on a device."""
        return Batch(moved(self.inputs, device), self.targets.to(device))


@dataclass(frozen=True)
class Lessons:
    """A network, its layers, the grids that calibration found, and training data.

    Attributes:
        model: gives a copy of the float network, trained, in evaluation mode.
        layers: its layers, as traced.
        calibrated: the network under post-training quantisation; it is only asked for its grids.
        data: the training data, in order.
        loss: mean loss over a batch, from outputs and targets.
        augment: varies a batch of inputs at random, or gives it back as it is.
    """

    model: Callable[[], nn.Module]
    layers: Sequence[Layer]
    calibrated: QuantizedNetwork
    data: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    augment: Callable[[Inputs, Generator], Inputs]
