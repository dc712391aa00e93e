"""``cifar10-resnet20`` and ``cifar10-resnet32``: the public option-A ResNets on CIFAR-10.

Weights: ``resnet20-12fca82f.th`` and ``resnet32-d509ac18.th`` of github akamaster/pytorch_resnet_cifar10 (BSD-2),
published test accuracy 91.73 and 92.63 %; the eight digits in a name open the file's SHA-256. Inputs: RGB in [0, 1] less
the mean, by the standard deviation, of :mod:`qsearch.workloads.cifar`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from qsearch.errors import DataError
from qsearch.models.resnet_cifar import CifarResNet
from qsearch.workloads.checkpoint import load_checkpoint
from qsearch.workloads.cifar import CifarOptions, CifarWorkload
from qsearch.workloads.cifar_files import places
from qsearch.workloads.files import data_roots, find


class Cifar10ResNet20(CifarWorkload):
    """ResNet-20 on CIFAR-10, with public weights from a data folder or weights of the user's own."""

    name = "cifar10-resnet20"
    blocks: ClassVar[int] = 3
    """n of the ResNet-(6n+2)."""
    weights: ClassVar[str] = "resnet20-12fca82f.th"
    """File name; what stands between its dash and its dot opens the file's SHA-256."""

    class Options(CifarOptions):
        """Options of the workload, beside those of :class:`CifarOptions`.

        Attributes:
            weights: a checkpoint of the same network instead of the public one: safetensors, or by ``torch.save``.
        """

        weights: Path | None = None

    def __init__(self, options: Options) -> None:
        self.options: Cifar10ResNet20.Options = options

    def network(self) -> nn.Module:
        """The network with the option's weights, else the public ones.

        Raises:
            DataError: they are missing, or not those of this network.
        """
        with torch.random.fork_rng(devices=[]):  # weights start at random
            network = CifarResNet(self.blocks)
        if self.options.weights is not None:
            load_checkpoint(network, self.options.weights.expanduser())
        else:
            load_checkpoint(network, self._public(), opening=Path(self.weights).stem.rpartition("-")[2])
        return network

    def _public(self) -> Path:
        """Where the public weights are."""
        folders = places(data_roots(self.options.data))
        found = find(self.weights, folders)
        if found is None:
            raise DataError(
                f"trained weights {self.weights} must be in a data folder",
                got=f"none in {', '.join(map(str, folders))}",
                fix="fetch them from github akamaster/pytorch_resnet_cifar10 (pretrained_models), put them where "
                "the images are (option 'data' or QSEARCH_DATA), or name a checkpoint by the option 'weights'",
            )
        return found


class Cifar10ResNet32(Cifar10ResNet20):
    """ResNet-32 on CIFAR-10, else as ResNet-20."""

    name = "cifar10-resnet32"
    blocks = 5
    weights = "resnet32-d509ac18.th"
