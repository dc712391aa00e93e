"""The contract, on the workloads that come with the product."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.cifar_files import TEST_ARCHIVE, TRAIN_ARCHIVE
from qsearch.workloads.mnist import MnistCnn, MnistMlp
from qsearch.workloads.mobilenet import Cifar10MobileNetV2
from qsearch.workloads.shapes import ShapesUNet
from qsearch.workloads.training import Recipe


class TestDigits(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "digits-resnet")


@pytest.mark.usefixtures("real_data")
class TestCifar10(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "cifar10-resnet20")


@pytest.mark.usefixtures("real_data")
class TestCifar10WithoutTestSplit(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "cifar10-resnet20", {"split": "all", "calibration": 20})


@pytest.mark.usefixtures("real_data")
class TestCifar10ResNet32(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "cifar10-resnet32", {"calibration": 20})


class QuickUNet(ShapesUNet):
    """One epoch: what is tested is not how good it is."""

    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=200, rotation=0, scaling=0, shift=0, channels_last=True)


class QuickMobileNet(Cifar10MobileNetV2):
    """Its first two steps."""

    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=30, channels_last=True)


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests here: the contract makes each workload many times."""
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "quick_workloads"))


@pytest.mark.usefixtures("own_cache")
class TestShapesUNet(WorkloadContract):
    def workload(self) -> Workload:
        return QuickUNet(QuickUNet.Options())


@pytest.mark.usefixtures("real_data", "own_cache")
class TestMnistMlp(WorkloadContract):
    def workload(self) -> Workload:
        return MnistMlp(MnistMlp.Options(train=600, calibration=50))


@pytest.mark.usefixtures("real_data", "own_cache")
class TestMnistCnn(WorkloadContract):
    def workload(self) -> Workload:
        return MnistCnn(MnistCnn.Options(train=600, calibration=50))


@pytest.fixture
def few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 of 60 random images to train and 20 to test."""
    generator = np.random.default_rng(0)
    for name, count in ((TRAIN_ARCHIVE, 60), (TEST_ARCHIVE, 20)):
        x = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        np.savez(tmp_path / name, x=x, y=np.arange(count) % 10, index=np.arange(count))
    monkeypatch.setenv("QSEARCH_DATA", str(tmp_path))


@pytest.mark.usefixtures("few_images", "own_cache")
class TestMobileNet(WorkloadContract):
    def workload(self) -> Workload:
        return QuickMobileNet(QuickMobileNet.Options(width=0.1, calibration=20))
