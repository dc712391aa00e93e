"""``digits-resnet``: a narrow residual network on scikit-learn's digits; works offline, trains itself on first use.

Data: 1,797 grey images of 8×8, values 0 … 16 (E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*,
UCI, 1998), divided by 16. Split by class with a fixed seed: 1,000 to train, of which some calibrate, 400 to validate,
397 to test.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe

TRAIN, VALIDATION = 1000, 400
"""Images of these splits; the rest are for test."""


class DigitsResNet(TrainedWorkload):
    """Residual network on 8×8 digits."""

    name = "digits-resnet"
    classes = 10
    input_shape = (1, 8, 8)
    batch_size = 200
    widths: ClassVar[tuple[int, ...]] = (6, 12, 24)
    blocks: ClassVar[int] = 2
    recipe: ClassVar[Recipe] = Recipe(epochs=120)
    duration = "about 15 seconds"

    class Options(TrainedOptions):
        """Options of the workload, beside those of :class:`TrainedOptions`.

        Attributes:
            calibration: calibration images, out of the training images.
        """

        calibration: int = Field(default=256, ge=10, le=TRAIN - 10)

    def __init__(self, options: Options) -> None:
        self.options: DigitsResNet.Options = options

    def load(self) -> Splits:
        """The digits, split."""
        return Splits(**self._parts)

    @cached_property
    def _parts(self) -> dict[str, Samples]:
        """Samples of each split."""
        digits = load_digits()
        images = torch.from_numpy(digits.images / 16).float().unsqueeze(1)
        data = Samples(images, torch.from_numpy(digits.target).long())
        labels = digits.target
        train, rest = _divide(np.arange(len(labels)), labels, TRAIN)
        validation, test = _divide(rest, labels, VALIDATION)
        calibration, _ = _divide(train, labels, self.options.calibration)
        parts = {"train": train, "calibration": calibration, "validation": validation, "test": test}
        return {name: data.take(torch.from_numpy(part)) for name, part in parts.items()}

    def build(self) -> nn.Module:
        """See :class:`DigitsNetwork`."""
        return DigitsNetwork(self.widths, self.blocks, self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Widths and blocks of its stages."""
        return {"widths": self.widths, "blocks": self.blocks}

    def lessons(self) -> Samples:
        """The training images."""
        return self._parts["train"]

    def judged(self) -> Samples:
        """The test images."""
        return self._parts["test"]


def _divide(
    indices: NDArray[np.int64], labels: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``count`` of the indices and the rest, each with the classes in proportion and in rising order."""
    first, second = train_test_split(indices, train_size=count, stratify=labels[indices], random_state=0)
    return np.sort(first), np.sort(second)
