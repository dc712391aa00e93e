"""``CifarWorkload``: what workloads on CIFAR-10 have in common: images from a folder, their splits, their normalisation."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Generator, Tensor
from torch.nn import functional

from qsearch.registry import PluginOptions
from qsearch.workloads.arrays import Images, balanced
from qsearch.workloads.base import ArrayWorkload, Splits
from qsearch.workloads.cifar_files import CLASSES, SHAPE, places, read_cifar10
from qsearch.workloads.files import data_roots

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
"""Of each channel, R, G, B, as the public weights were trained with."""


SHIFT = 4
"""Pixels by which an augmented image may be shifted."""


class CifarOptions(PluginOptions):
    """Options of every workload on CIFAR-10.

    Attributes:
        data: folder with the images, and with weights where a workload has public ones; where None, ``QSEARCH_DATA``
            or the platform's data folder.
        calibration: calibration images.
        split: "parity" halves the test images into validation and test; "training" validates on as many training
            images as it calibrates on, which the network has learnt by heart: their loss tells how far it is from
            float, their accuracy nothing; all test images are left for the test. "all" makes all test images
            validation and leaves no test split, for judging post-training quality where nothing is searched.
    """

    data: Path | None = None
    calibration: PositiveInt = 512
    split: Literal["parity", "training", "all"] = "parity"


class CifarWorkload(ArrayWorkload):
    """A classifier of CIFAR-10; a subclass gives the network. Images come from a data folder, nothing is fetched.

    Calibration: the first images of each class of the training set, equally many (or one more for the first classes).
    Train: the training images that are left. Validation and test: official test images of even and of odd index.
    """

    classes = CLASSES
    input_shape = SHAPE
    options: CifarOptions

    @cached_property
    def images(self) -> tuple[Images, Images]:
        """Training and test images, read once.

        Raises:
            DataError: there are none, or they are malformed.
        """
        return read_cifar10(places(data_roots(self.options.data)))

    def load(self) -> Splits:
        """The images, as they are stored: uint8."""
        train, test = self.images
        chosen = balanced(train.y, self.options.calibration, self.classes)
        even = test.index % 2 == 0
        everything = np.ones_like(even)
        rest = ~chosen
        if self.options.split == "training":
            learnt = rest.copy()
            learnt[rest] = balanced(train.y[rest], self.options.calibration, self.classes)
            rest &= ~learnt
            validation, judged = train.samples(learnt), test.samples(everything)
        elif self.options.split == "all":
            validation, judged = test.samples(everything), None
        else:
            validation, judged = test.samples(even), test.samples(~even)
        return Splits(train.samples(chosen), validation, judged, train.samples(rest))

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 (N, 3, 32, 32) → normalised float (N, 3, 32, 32)."""
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STANDARD_DEVIATION))
        return inputs.float().div_(255).sub_(mean).div_(deviation)

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Half of the images mirrored, all shifted by up to ``SHIFT`` pixels either way, the mean colour outside.

        As the public weights were trained (He et al., CVPR 2016, §4.2).
        """
        count, _, height, width = inputs.shape
        down, right = torch.randint(2 * SHIFT + 1, (2, count, 1), generator=generator)
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        padded = functional.pad(inputs, (SHIFT, SHIFT, SHIFT, SHIFT))
        samples = torch.arange(count)[:, None, None]
        # indices apart from each other come to the front: (N, H, W, C)
        return padded[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
