"""``cifar10-resnet20``: the public option-A ResNet-20 on CIFAR-10.

Weights: ``resnet20-12fca82f.th`` of github akamaster/pytorch_resnet_cifar10 (BSD-2), published test accuracy 91.73 %;
the eight digits in its name open its SHA-256. Inputs: RGB in [0, 1] less the mean, by the standard deviation, below.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.models.resnet_cifar import CifarResNet
from qsearch.registry import PluginOptions
from qsearch.workloads.base import ArrayWorkload, Samples, Splits
from qsearch.workloads.cifar_files import CifarImages, places, read_cifar10
from qsearch.workloads.files import data_roots, find, sha256

MEAN = (0.485, 0.456, 0.406)
STANDARD_DEVIATION = (0.229, 0.224, 0.225)
"""Of each channel, R, G, B, as the public weights were trained with."""


class Cifar10ResNet20(ArrayWorkload):
    """ResNet-20 on CIFAR-10; weights and images come from a data folder, nothing is fetched.

    Calibration: the first images of each class of the training set, equally many (or one more for the first classes).
    Train: the training images that are left. Validation and test: official test images of even and of odd index.
    """

    name = "cifar10-resnet20"
    classes = 10
    input_shape = (3, 32, 32)
    blocks: ClassVar[int] = 3
    """n of the ResNet-(6n+2)."""
    weights: ClassVar[str] = "resnet20-12fca82f.th"
    """File name; what stands between its dash and its dot opens the file's SHA-256."""

    class Options(PluginOptions):
        """Options of the workload.

        Attributes:
            data: folder with weights and images; else ``QSEARCH_DATA``, else the platform's data folder.
            calibration: calibration images.
            split: "parity" halves the test images into validation and test; "training" validates on as many training
                images as it calibrates on, which the network has learnt by heart: their loss tells how far it is from
                float, their accuracy nothing; all test images are left for the test. "all" makes all test images
                validation and leaves no test split, for judging post-training quality where nothing is searched.
        """

        data: Path | None = None
        calibration: PositiveInt = 512
        split: Literal["parity", "training", "all"] = "parity"

    def __init__(self, options: Options) -> None:
        self.options = options

    def network(self) -> nn.Module:
        """The network with its public weights."""
        network = CifarResNet(self.blocks)
        _load_weights(network, self._weights_file())
        return network

    def load(self) -> Splits:
        """The images, as they are stored: uint8."""
        train, test = read_cifar10(places(data_roots(self.options.data)))
        chosen = balanced(train.y, self.options.calibration, self.classes)
        even = test.index % 2 == 0
        everything = np.ones_like(even)
        rest = ~chosen
        if self.options.split == "training":
            learnt = rest.copy()
            learnt[rest] = balanced(train.y[rest], self.options.calibration, self.classes)
            rest &= ~learnt
            validation, judged = _samples(train, learnt), _samples(test, everything)
        elif self.options.split == "all":
            validation, judged = _samples(test, everything), None
        else:
            validation, judged = _samples(test, even), _samples(test, ~even)
        return Splits(_samples(train, chosen), validation, judged, _samples(train, rest))

    def prepare(self, inputs: Tensor) -> Tensor:
        """uint8 (N, 3, 32, 32) → normalised float (N, 3, 32, 32)."""
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STANDARD_DEVIATION))
        return inputs.float().div_(255).sub_(mean).div_(deviation)

    def _weights_file(self) -> Path:
        folders = places(data_roots(self.options.data))
        found = find(self.weights, folders)
        if found is None:
            raise DataError(
                f"trained weights {self.weights} must be in a data folder",
                got=f"none in {', '.join(map(str, folders))}",
                fix="fetch them from github akamaster/pytorch_resnet_cifar10 (pretrained_models), put them into one of "
                "these folders, or name their folder by the option 'data' or QSEARCH_DATA",
            )
        return found


def balanced(labels: NDArray[np.int64], count: int, classes: int) -> NDArray[np.bool_]:
    """Mask of ``count`` labels, the first of each class, equally many or one more for the first classes.

    Raises:
        DataError: a class has too few.
    """
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in range(classes):
        quota = count // classes + (label < count % classes)
        members = np.flatnonzero(labels == label)
        if len(members) < quota:
            raise DataError(
                f"{count} calibration images need {quota} of class {label}",
                got=f"{len(members)} in the training images",
                fix="lower the option 'calibration'",
            )
        chosen[members[:quota]] = True
    return chosen


def _samples(images: CifarImages, mask: NDArray[np.bool_]) -> Samples:
    return Samples(torch.from_numpy(images.x[mask]), torch.from_numpy(images.y[mask]))


def _load_weights(network: nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into the network; ``num_batches_tracked``, younger than the file, may be missing."""
    content = path.read_bytes()
    opening = path.stem.rpartition("-")[2]
    if not sha256(content).startswith(opening):
        raise DataError(
            f"the SHA-256 of {path} must open with {opening}", got=sha256(content)[: len(opening)], fix="fetch it again"
        )
    checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # data-parallel training left the prefix
    state = {key.removeprefix("module."): value for key, value in checkpoint["state_dict"].items()}
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict(counters | state)
