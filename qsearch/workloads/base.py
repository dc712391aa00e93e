"""``ArrayWorkload``: a workload of classes whose data fits in memory.

Notation: N samples of shape S; C classes; targets are class indices 0 … C − 1, one per sample, or T of them where each
pixel has one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from qsearch.errors import DataError
from qsearch.quantize.copies import duplicate


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs, shape (N, \\*S), and their targets, int64 of shape (N,)."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> Samples:
        """The samples at ``indices``, in that order."""
        return Samples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, eq=False)
class Splits:
    """Who may see what. None stands for a split that a workload does not have.

    Attributes:
        calibration: sets ranges and corrections; training data.
        validation: all that a search may see.
        test: read once, by the report.
        train: for fine-tuning.
    """

    calibration: Samples
    validation: Samples
    test: Samples | None
    train: Samples | None


class ArrayWorkload(ABC):
    """A classifier with its data in memory; a subclass gives the network and the splits.

    Both are made on first use, once per instance. The loss is the cross-entropy; the score is 1 for a right answer
    and 0 for a wrong one. A subclass whose targets are maps of classes gives a score of its own.

    Attributes:
        name: of the workload.
        classes: C.
        input_shape: S, of one prepared input.
        target_shape: T, of one target: () for a class.
        batch_size: samples per batch of every loader.
    """

    name: str
    metric: str = "accuracy"
    classes: int
    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...] = ()
    batch_size: int = 250

    @abstractmethod
    def network(self) -> nn.Module:
        """The trained float network: (N, \\*S) → logits (N, C)."""

    @abstractmethod
    def load(self) -> Splits:
        """The data, in a fixed order."""

    def prepare(self, inputs: Tensor) -> Tensor:
        """Stored inputs (N, …) → network inputs (N, \\*S), float; applied as a loader is made. Here the identity."""
        return inputs

    def model(self) -> nn.Module:
        """A copy of the trained network, in evaluation mode: whatever is done to it, the next call is unharmed."""
        return duplicate(self._trained).eval()

    def calibration(self) -> DataLoader[Any]:
        """Sets ranges and corrections; part of the training data."""
        return self._loader("calibration", self.splits.calibration)

    def validation(self) -> DataLoader[Any]:
        """All that a search may see."""
        return self._loader("validation", self.splits.validation)

    def test(self) -> DataLoader[Any]:
        """Read once, by the report.

        Raises:
            DataError: the workload has no test split.
        """
        if self.splits.test is None:
            raise DataError(f"workload {self.name!r} has no test split", fix="report its validation split instead")
        return self._loader("test", self.splits.test)

    def train(self) -> DataLoader[Any] | None:
        """Training data in a fixed order, without augmentation, or None."""
        return None if self.splits.train is None else self._loader("train", self.splits.train)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a scalar: logits (N, C), targets (N,)."""
        return F.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """1.0 where the largest logit is the target's, else 0.0; shape (N,)."""
        return (output.argmax(dim=1) == target).to(output.dtype)

    @cached_property
    def splits(self) -> Splits:
        """The data, loaded once.

        Raises:
            DataError: a split that a search or its report reads is empty.
        """
        splits = self.load()
        for split in ("validation", "calibration", "test"):
            samples: Samples | None = getattr(splits, split)
            if samples is not None:
                self._check_some(split, samples.targets)
        return splits

    @cached_property
    def _trained(self) -> nn.Module:
        return on_processor(self.network, f"the network of {self.name!r}")

    def _loader(self, split: str, samples: Samples) -> DataLoader[Any]:
        """A loader in fixed order; with a generator of its own, as a loader's iterator draws from it."""
        inputs = self.prepare(samples.inputs)
        self._check(split, inputs, samples.targets)
        dataset = TensorDataset(inputs, samples.targets)
        return DataLoader(dataset, batch_size=self.batch_size, generator=torch.Generator())

    def _check_some(self, split: str, targets: Tensor) -> None:
        if not len(targets):
            raise DataError(
                f"the {split} split of {self.name!r} must not be empty", got="0 samples", fix="give it at least one"
            )

    def _check(self, split: str, inputs: Tensor, targets: Tensor) -> None:
        """Raise DataError unless the samples are what the network takes."""
        where = f"the {split} split of {self.name!r}"
        self._check_some(split, targets)
        if len(inputs) != len(targets):
            raise DataError(
                f"{where} must have one target per input", got=f"{len(inputs)} inputs and {len(targets)} targets"
            )
        if tuple(inputs.shape[1:]) != self.input_shape:
            raise DataError(f"inputs of {where} must have shape {self.input_shape}", got=tuple(inputs.shape[1:]))
        if any(part.device.type != "cpu" for part in (inputs, targets)):
            raise DataError(f"samples of {where} must be on the processor", got=str(inputs.device), fix="call .cpu()")
        if not bool(torch.isfinite(inputs).all()):
            raise DataError(f"inputs of {where} must be finite", got="NaN or infinity")
        if targets.dtype != torch.int64 or tuple(targets.shape[1:]) != self.target_shape:
            extents = ", ".join(map(str, ("N", *self.target_shape))) + "," * (not self.target_shape)
            raise DataError(
                f"targets of {where} must be int64 of shape ({extents})",
                got=f"{targets.dtype} of shape {tuple(targets.shape)}",
            )
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= self.classes:
            raise DataError(f"targets of {where} must be within 0..{self.classes - 1}", got=f"{low}..{high}")


def on_processor(make: Callable[[], nn.Module], what: str) -> nn.Module:
    """What ``make`` gives, once it is known to be where the data are.

    Args:
        what: what it is, for messages.

    Raises:
        DataError: it asks for a device that is not there, or has tensors on other devices than the processor.
    """
    try:
        network = make()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        if not re.search(r"\b(CUDA|MPS|XPU|HIP|NVIDIA)\b", str(error), re.IGNORECASE):
            raise
        raise DataError(
            f"{what} must be made on a device that is there",
            got=f"{type(error).__name__}: {error}"[:200],
            fix="make it on the processor, and read weights with map_location='cpu'",
        ) from error
    for name, value in chain(network.named_parameters(), network.named_buffers()):
        if value.device.type != "cpu":
            raise DataError(
                f"{what} must be on the processor, as its data are", got=f"{name} on {value.device}", fix="call .cpu()"
            )
    return network
