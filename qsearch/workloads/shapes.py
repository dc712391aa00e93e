"""``shapes-unet``: a small U-Net that finds discs, rectangles and triangles; draws its own data, trains on first use.

Data: :mod:`qsearch.workloads.shape_images`, 32×32 pixels, from fixed seeds: 1,600 pictures to train, of which some
calibrate, 200 to validate, 200 to test.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from qsearch.models.unet import UNet
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.segmentation import cross_entropy_and_dice, dice
from qsearch.workloads.shape_images import CLASSES, draw
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Loss, Recipe

SIZE = 32
TRAIN, VALIDATION, TEST = 1600, 200, 200
"""Pictures of these splits."""


class ShapesUNet(TrainedWorkload):
    """A segmenter: pictures (N, 3, 32, 32) → logits (N, 4, 32, 32). Its score is the mean Dice over the classes present.

    The loss is cross-entropy plus soft Dice loss. Its Dice is 0.79 on its test pictures: small and half hidden shapes
    are hard to tell apart in this noise.
    """

    name = "shapes-unet"
    metric = "dice"
    classes = len(CLASSES)
    input_shape = (3, SIZE, SIZE)
    target_shape = (SIZE, SIZE)
    batch_size = 100
    widths: ClassVar[tuple[int, ...]] = (8, 16, 32)
    recipe: ClassVar[Recipe] = Recipe(
        epochs=15,
        batch_size=32,
        peak_rate=0.1,
        weight_decay=5e-4,
        rotation=0,
        scaling=0,
        shift=0,
        channels_last=True,
    )
    duration = "about 25 seconds"

    class Options(TrainedOptions):
        """Options of the workload, beside those of :class:`TrainedOptions`.

        Attributes:
            calibration: pictures that calibrate, the first that train.
        """

        calibration: int = Field(default=256, ge=1, le=TRAIN)

    def __init__(self, options: Options) -> None:
        self.options: ShapesUNet.Options = options

    def load(self) -> Splits:
        """The pictures, as they are drawn: uint8."""
        train = self.lessons()
        calibration = train.take(torch.arange(self.options.calibration))
        return Splits(calibration, validation=draw(VALIDATION, seed=1, size=SIZE), test=self._test, train=train)

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 (N, 3, 32, 32) → float within [−1, 1]."""
        return inputs.float().div_(127.5).sub_(1)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """See :func:`cross_entropy_and_dice`."""
        return cross_entropy_and_dice(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """See :func:`dice`."""
        return dice(output, target)

    def training_loss(self) -> Loss:
        """The workload's own."""
        return self.loss

    def build(self) -> nn.Module:
        """See :class:`UNet`."""
        return UNet(self.widths, classes=self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Its widths."""
        return {"widths": self.widths}

    def lessons(self) -> Samples:
        """The training pictures."""
        return self._lessons

    def judged(self) -> Samples:
        """The test pictures."""
        return self._test

    @cached_property
    def _lessons(self) -> Samples:
        return draw(TRAIN, seed=0, size=SIZE)

    @cached_property
    def _test(self) -> Samples:
        return draw(TEST, seed=2, size=SIZE)
