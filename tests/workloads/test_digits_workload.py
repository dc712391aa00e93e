"""``digits-resnet``: its splits, its accuracy, and a cache that may be missing, damaged, forbidden or full."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.registry import create
from qsearch.workloads import trained
from qsearch.workloads.digits import DigitsResNet
from qsearch.workloads.training import Recipe


class QuickDigits(DigitsResNet):
    """One epoch of a tiny network: what is tested is not its accuracy."""

    widths: ClassVar[tuple[int, ...]] = (4, 4)
    blocks: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=250)


def quick(seed: int = 0) -> QuickDigits:
    return QuickDigits(QuickDigits.Options(seed=seed))


def weights(workload: DigitsResNet) -> dict[str, Tensor]:
    return workload.model().state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds that were trained, in order."""
    seeds: list[int] = []
    fit: Callable[..., nn.Module] = trained.fit

    def counted(*arguments: Any, **named: Any) -> nn.Module:
        seeds.append(arguments[-1])
        return fit(*arguments, **named)

    monkeypatch.setattr(trained, "fit", counted)
    return seeds


@torch.no_grad()
def accuracy(network: nn.Module, samples: Any) -> float:
    return float((network(samples.inputs).argmax(dim=1) == samples.targets).double().mean())


def rows(samples: Any) -> set[bytes]:
    return {image.numpy().tobytes() for image in samples.inputs}


def test_the_splits_share_out_the_digits() -> None:
    splits = DigitsResNet(DigitsResNet.Options()).splits
    assert splits.train is not None
    assert splits.test is not None
    assert [len(part) for part in (splits.train, splits.calibration, splits.validation, splits.test)] == [
        1000,
        256,
        400,
        397,
    ]
    train, validation, test = rows(splits.train), rows(splits.validation), rows(splits.test)
    assert rows(splits.calibration) < train
    assert len(train | validation | test) == 1797
    assert train | validation | test == {image.tobytes() for image in (load_digits().images / 16).astype(np.float32)}


def test_the_splits_keep_the_classes_in_proportion() -> None:
    splits = DigitsResNet(DigitsResNet.Options()).splits
    share = np.bincount(load_digits().target) / 1797
    for samples in (splits.train, splits.calibration, splits.validation, splits.test):
        assert samples is not None
        counts = np.bincount(samples.targets.numpy(), minlength=10)
        assert np.abs(counts - share * len(samples)).max() <= 1


def test_the_splits_do_not_depend_on_the_seed() -> None:
    one, other = (DigitsResNet(DigitsResNet.Options(seed=seed)).splits for seed in (0, 1))
    assert torch.equal(one.validation.inputs, other.validation.inputs)


def test_the_default_network_is_accurate() -> None:
    workload = create("workloads", "digits-resnet")
    assert accuracy(workload.model(), workload.splits.test) >= 0.985


def test_low_bits_can_hurt_it() -> None:
    """Two-bit weights rounded without any care cost several points: assignments differ."""
    workload = create("workloads", "digits-resnet")
    model = workload.model()
    before = accuracy(model, workload.splits.validation)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                scale = module.weight.abs().amax()
                module.weight.copy_((module.weight / scale).round() * scale)
    assert accuracy(model, workload.splits.validation) < before - 0.05


@pytest.mark.slow
def test_training_takes_less_than_a_minute(cache: Path) -> None:
    workload = DigitsResNet(DigitsResNet.Options(seed=1))
    start = time.process_time()
    model = workload.model()
    assert time.process_time() - start < 60
    assert accuracy(model, workload.splits.test) >= 0.985
    assert workload.path.parent == cache


def test_weights_are_trained_once_and_kept(cache: Path, trainings: list[int]) -> None:
    first = weights(quick())
    assert equal(first, weights(quick()))
    assert trainings == [0]
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


def test_training_again_gives_the_same_weights(cache: Path, trainings: list[int]) -> None:
    first = weights(quick())
    quick().path.unlink()
    assert equal(first, weights(quick()))
    assert not equal(first, weights(quick(seed=1)))
    assert trainings == [0, 0, 1]
    assert len(list(cache.iterdir())) == 2


def test_another_recipe_or_network_has_another_file(cache: Path) -> None:
    class Longer(QuickDigits):
        recipe = Recipe(epochs=2, batch_size=250)

    class Wider(QuickDigits):
        widths = (4, 8)

    paths = {kind(kind.Options()).path for kind in (QuickDigits, Longer, Wider)}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {cache}


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def damage_text(path: Path) -> None:
    path.write_text("not weights")


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    """Change tensors and record, with a checksum that fits: only what follows the checksum can find it."""
    from qsearch.workloads import weight_cache

    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(tensors, metadata)
    if "sha256" in metadata:
        metadata["sha256"] = weight_cache._digest(tensors)
    save_file(tensors, path, metadata=metadata)


def damage_missing_tensor(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.__delitem__("linear.bias"))


def damage_shape(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"linear.bias": torch.zeros(11)}))


def damage_type(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"linear.bias": tensors["linear.bias"].double()}))


def damage_nan(path: Path) -> None:
    rewrite(path, lambda tensors, _: tensors.update({"linear.bias": torch.full((10,), torch.nan)}))


def damage_swapped(path: Path) -> None:
    """Whole and finite, but the weights of a network that always answers 3."""
    rewrite(path, lambda tensors, _: tensors.update({"linear.bias": 1e6 * torch.eye(10)[3]}))


def damage_no_record(path: Path) -> None:
    rewrite(path, lambda _, metadata: metadata.clear())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_truncated, "SafetensorError"),
        (damage_flipped, "a checksum that does not match"),
        (damage_text, "SafetensorError"),
        (damage_empty, "SafetensorError"),
        (damage_missing_tensor, "tensors of another network"),
        (damage_shape, "tensors of another network"),
        (damage_type, "tensors of another network"),
        (damage_nan, "not finite"),
        (damage_swapped, "must reach their recorded accuracy"),
        (damage_no_record, "KeyError: 'accuracy'"),
    ],
)
def test_a_damaged_file_is_told_of_and_replaced(
    cache: Path,
    trainings: list[int],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    reason: str,
) -> None:
    first = weights(quick())
    damage(quick().path)
    assert equal(first, weights(quick()))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "\n" not in record.message
    assert reason in record.message
    assert record.message.endswith("discarded, training again")
    assert equal(first, weights(quick()))
    assert trainings == [0, 0]


def test_a_folder_that_cannot_be_made_costs_only_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    assert weights(quick())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot keep trained weights" in record.message
    assert "set QSEARCH_CACHE" in record.message


def test_a_full_disk_costs_only_a_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert weights(quick())
    assert "No space left on device" in caplog.text
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("options", [{"seed": -1}, {"calibration": 9}, {"calibration": 991}, {"sed": 1}])
def test_options_are_checked(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        create("workloads", "digits-resnet", options)


@pytest.mark.parametrize("count", [10, 990])
def test_calibration_takes_as_many_as_asked(count: int) -> None:
    assert len(DigitsResNet(DigitsResNet.Options(calibration=count)).splits.calibration) == count


def test_another_loss_or_preparation_has_another_file() -> None:
    class OtherLoss(QuickDigits):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return super().loss(output, target) * 2

    class OwnTraining(QuickDigits):
        def training_loss(self) -> trained.Loss:
            return nn.functional.cross_entropy

    class Halved(QuickDigits):
        def prepare(self, inputs: Tensor) -> Tensor:
            return inputs / 2

    class Built(QuickDigits):
        def build(self) -> nn.Module:
            return super().build()

    kinds = (QuickDigits, OtherLoss, OwnTraining, Halved, Built)
    assert len({kind(kind.Options()).path for kind in kinds}) == len(kinds)
    assert quick().path == quick().path


def test_the_random_state_is_left_alone(cache: Path, tmp_path: Path) -> None:
    torch.save(weights(quick()), tmp_path / "w.pt")
    before = torch.get_rng_state()
    weights(quick())
    weights(QuickDigits(QuickDigits.Options(weights=tmp_path / "w.pt")))
    assert torch.equal(torch.get_rng_state(), before)
