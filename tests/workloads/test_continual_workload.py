"""``continual-digits`` and ``continual-mnist``: the contract, the tasks, and what is kept and forgotten."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from qsearch.errors import ConfigError
from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.continual import ContinualDigits, ContinualMnist, ContinualWorkload
from qsearch.workloads.digits import DigitsResNet
from qsearch.workloads.training import Recipe

DIGITS, MNIST = (f"qsearch.workloads.continual:{kind}" for kind in ("ContinualDigits", "ContinualMnist"))


class QuickDigits(ContinualDigits):
    """Two epochs a task of a tiny network."""

    widths: ClassVar[tuple[int, ...]] = (4, 8)
    blocks: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(epochs=2, batch_size=64, rotation=0, scaling=0, shift=0)


class QuickMnist(ContinualMnist):
    """One epoch a task."""

    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=64, rotation=0, scaling=0, shift=0)


def quick(**options: Any) -> QuickDigits:
    return QuickDigits(QuickDigits.Options(**options))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests here: the contract makes each workload many times."""
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "continual_workloads"))


class TestContinualDigits(WorkloadContract):
    def workload(self) -> Workload:
        return quick()


@pytest.mark.usefixtures("real_data")
class TestContinualMnist(WorkloadContract):
    def workload(self) -> Workload:
        return QuickMnist(QuickMnist.Options(train=600, calibration=50))


def test_the_tasks_are_pairs_of_digits_with_all_images() -> None:
    workload = quick()
    found = workload.tasks()
    assert [task.classes for task in found] == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert workload.splits.train is not None
    assert workload.splits.test is not None
    counts = Counter(label for task in found for label in task.targets.tolist())
    assert counts == Counter(workload.splits.train.targets.tolist())
    assert sum(len(task.test_targets) for task in found) == len(workload.splits.test)


def test_the_splits_are_those_of_the_digits() -> None:
    ours, theirs = quick().splits, DigitsResNet(DigitsResNet.Options()).splits
    for split in ("calibration", "validation", "test", "train"):
        assert torch.equal(getattr(ours, split).inputs, getattr(theirs, split).inputs)


def test_mnist_is_prepared_for_its_network(mnist_data: Path) -> None:
    workload: ContinualWorkload = create("workloads", MNIST, {"data": str(mnist_data), "train": 50})
    tasks = workload.tasks()
    assert len(tasks) == 5
    assert all(task.inputs.shape == (10, 1, 28, 28) and 0.9 < float(task.inputs.max()) <= 1 for task in tasks)


@pytest.mark.parametrize(
    "options", [{"memory": 30}, {"memory": 0}, {"selection": "random"}, {"seed": 1}], ids=lambda options: str(options)
)
def test_each_way_to_learn_has_a_file_of_its_own(options: dict[str, Any]) -> None:
    assert quick().path != quick(**options).path
    assert quick().path == quick(calibration=100).path


def test_weights_come_back_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick(seed=3).model().state_dict()

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("qsearch.workloads.continual.learn_continually", never)
    second = quick(seed=3).model().state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_cache_that_cannot_be_written_costs_a_warning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "file"))
    assert not quick().model().training
    assert "cannot keep trained weights in" in caplog.text


@pytest.mark.parametrize("options", [{"memory": -1}, {"selection": "best"}, {"calibration": 1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        create("workloads", DIGITS, options)


def accuracy(workload: ContinualWorkload) -> float:
    model = workload.model()
    with torch.no_grad():
        scores = torch.cat([workload.score(model(inputs), targets) for inputs, targets in workload.test()])
    return float(scores.mean())


@pytest.mark.slow
def test_the_digits_are_remembered_by_a_memory_and_forgotten_without() -> None:
    assert accuracy(create("workloads", DIGITS)) > 0.88
    assert accuracy(create("workloads", DIGITS, {"memory": 0})) < 0.3


@pytest.mark.slow
def test_mnist_is_remembered(mnist_data: Path) -> None:
    assert accuracy(create("workloads", MNIST, {"data": str(mnist_data)})) > 0.92
