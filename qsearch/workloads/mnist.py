"""``mnist-mlp``, ``mnist-cnn`` and ``mnist-lenet5``: small networks on MNIST, which train themselves on first use.

Inputs: grey values in [0, 1], 0 for paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch import Generator, Tensor, nn

from qsearch.models.mnist import lenet, lenet5, perceptron
from qsearch.workloads.arrays import Images, balanced
from qsearch.workloads.base import Samples, Splits
from qsearch.workloads.files import data_roots
from qsearch.workloads.mnist_files import CLASSES, SHAPE, mnist_places, read_mnist
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe, distorted


class MnistWorkload(TrainedWorkload):
    """A classifier of MNIST; a subclass gives the network. Images come from a data folder, nothing is fetched.

    Calibration: the first images of each class of the training set, equally many (or one more for the first classes).
    Train: the training images that are left. Validation and test: test images of even and of odd place.
    """

    classes = CLASSES
    input_shape = SHAPE

    class Options(TrainedOptions):
        """Options of the workload, beside those of :class:`TrainedOptions`.

        Attributes:
            data: folder with the images; where None, ``QSEARCH_DATA`` or the platform's data folder.
            calibration: calibration images, out of the training images.
            train: training images, the first of each class; all where None.
        """

        data: Path | None = None
        calibration: int = Field(default=512, ge=1)
        train: int | None = Field(default=None, ge=10)

    def __init__(self, options: Options) -> None:
        self.options: MnistWorkload.Options = options

    @cached_property
    def images(self) -> tuple[Images, Images]:
        """Training images, as many as the option says, and test images; read once.

        Raises:
            DataError: there are none, or they are malformed.
        """
        train, test = read_mnist(mnist_places(data_roots(self.options.data)))
        if self.options.train is not None:
            chosen = balanced(train.y, self.options.train, CLASSES, "train")
            train = Images(train.x[chosen], train.y[chosen], train.index[chosen])
        return train, test

    def load(self) -> Splits:
        """The images, as they are stored: uint8."""
        train, test = self.images
        chosen = balanced(train.y, self.options.calibration, CLASSES)
        even = test.index % 2 == 0
        return Splits(train.samples(chosen), test.samples(even), test.samples(~even), train.samples(~chosen))

    def lessons(self) -> Samples:
        """All training images, those that calibrate among them."""
        return self.images[0].samples()

    def judged(self) -> Samples:
        """The test images."""
        return self.images[1].samples()

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 (N, 1, 28, 28) → float within [0, 1]."""
        return inputs.float().div_(255)

    def augment(self, inputs: Tensor, generator: Generator) -> Tensor:
        """Distorted as in the training of the network; see :class:`qsearch.protocols.Augmenting`."""
        return distorted(inputs, self.recipe, generator)


class MnistMlp(MnistWorkload):
    """A perceptron of three linear layers; right on 99.0 % of its 5,000 test images."""

    name = "mnist-mlp"
    recipe = Recipe(epochs=10, batch_size=100, weight_decay=1e-4, label_smoothing=0.05, shift=1.5)
    duration = "about 25 seconds"
    widths: ClassVar[tuple[int, ...]] = (784, 256, 128, CLASSES)

    def build(self) -> nn.Module:
        """See :func:`perceptron`."""
        return perceptron(self.widths)

    def architecture(self) -> Mapping[str, object]:
        """Its widths."""
        return {"widths": self.widths}


class MnistCnn(MnistWorkload):
    """A convolutional network after LeNet-5, with batch-norm; right on 99.4 % of its 5,000 test images."""

    name = "mnist-cnn"
    recipe = Recipe(epochs=4, batch_size=100, weight_decay=5e-4, label_smoothing=0.05, shift=1.5)
    duration = "about 30 seconds"

    def build(self) -> nn.Module:
        """See :func:`lenet`."""
        return lenet(CLASSES)

    def architecture(self) -> Mapping[str, object]:
        """Raised when the network changes."""
        return {"version": 1}


class MnistLeNet5(MnistWorkload):
    """LeNet-5 as the literature of pruning has it, 430,500 weights; right on 99.4 % of its 5,000 test images."""

    name = "mnist-lenet5"
    recipe = Recipe(
        epochs=6, batch_size=64, peak_rate=0.02, weight_decay=5e-4, label_smoothing=0.0, shift=1.5, channels_last=True
    )
    duration = "about 70 seconds"

    def build(self) -> nn.Module:
        """See :func:`lenet5`."""
        return lenet5(CLASSES)

    def architecture(self) -> Mapping[str, object]:
        """Raised when the network changes."""
        return {"version": 1}
