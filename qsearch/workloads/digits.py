"""``digits-resnet``: a narrow residual network on scikit-learn's digits; works offline, trains itself on first use.

Data: see :mod:`qsearch.workloads.digit_images`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

from pydantic import Field
from torch import nn

from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.digit_images import CLASSES, SHAPE, TRAIN, DigitSplits, digit_splits
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe


class DigitsResNet(TrainedWorkload):
    """Residual network on 8×8 digits."""

    name = "digits-resnet"
    classes = CLASSES
    input_shape = SHAPE
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
        return self._digits

    @cached_property
    def _digits(self) -> DigitSplits:
        return digit_splits(self.options.calibration)

    def build(self) -> nn.Module:
        """See :class:`DigitsNetwork`."""
        return DigitsNetwork(self.widths, self.blocks, self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Widths and blocks of its stages."""
        return {"widths": self.widths, "blocks": self.blocks}

    def lessons(self) -> Samples:
        """The training images."""
        return self._digits.train

    def judged(self) -> Samples:
        """The test images."""
        return self._digits.test
