"""``cifar10-mobilenetv2``: a depthwise-separable network on CIFAR-10, which trains itself on first use.

A hard case for low bits: a depthwise kernel has nine weights, whose errors do not average out, and the ranges of
neighbouring channels differ widely.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import nn

from qsearch.models.mobilenet_v2 import CifarMobileNetV2
from qsearch.workloads.base import Samples
from qsearch.workloads.cifar import CifarOptions, CifarWorkload
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe


class Cifar10MobileNetV2(CifarWorkload, TrainedWorkload):
    """MobileNetV2 on CIFAR-10, trained on the training images that are there, or with weights of the user's own.

    Trained on 8,068 images, half as wide as the paper's, it is right on 63.2 % of the first 500 test images: low bits can
    be compared on it, its own accuracy is no claim.
    """

    name = "cifar10-mobilenetv2"
    recipe = Recipe(
        epochs=10,
        batch_size=64,
        peak_rate=0.1,
        weight_decay=5e-4,
        label_smoothing=0.05,
        rotation=0,
        scaling=0.05,
        shift=3,
        flip=True,
        channels_last=True,
    )
    duration = "about five minutes for 8,000 images"

    class Options(CifarOptions, TrainedOptions):
        """Options of the workload, beside those of :class:`CifarOptions` and :class:`TrainedOptions`.

        Attributes:
            width: multiplier of all channels.
        """

        width: float = Field(default=0.5, gt=0, le=4)

    def __init__(self, options: Options) -> None:
        self.options: Cifar10MobileNetV2.Options = options

    def build(self) -> nn.Module:
        """See :class:`CifarMobileNetV2`."""
        return CifarMobileNetV2(self.options.width, self.classes)

    def architecture(self) -> Mapping[str, object]:
        """Its width; the version is raised when the network changes."""
        return {"width": self.options.width, "version": 1}

    def lessons(self) -> Samples:
        """All training images, those that calibrate or validate among them."""
        return self.images[0].samples()

    def judged(self) -> Samples:
        """All test images."""
        return self.images[1].samples()
