"""``cifar10-resnet20``: float accuracy on real images, splits by rule, both file formats, one clear line for bad files."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qsearch.errors import ConfigError, DataError
from qsearch.registry import create
from qsearch.setting import layers_of
from qsearch.testing.networks import resnet20
from qsearch.workloads.arrays import balanced
from qsearch.workloads.cifar10 import Cifar10ResNet20
from qsearch.workloads.cifar_files import BATCH_FOLDER, TEST_ARCHIVE, TEST_BATCH, TRAIN_ARCHIVE, TRAIN_BATCHES

WEIGHTS = "resnet20-12fca82f.th"


def workload(folder: Path | None = None, **options: Any) -> Cifar10ResNet20:
    return create("workloads", "cifar10-resnet20", {**({"data": str(folder)} if folder else {}), **options})


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what a test names can be found."""
    monkeypatch.delenv("QSEARCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path / "platform")


@pytest.fixture
def found_data(_nothing_elsewhere: None, real_data: Path) -> Path:
    return real_data


def images(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return x, (np.arange(count) % 10).astype(np.uint8)


def write_batches(folder: Path, per_batch: int = 20) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate((*TRAIN_BATCHES, TEST_BATCH)):
        x, y = images(per_batch, number)
        batch = {b"data": x.reshape(per_batch, 3072), b"labels": y.tolist(), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_archives(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    x, y = images(60, 10)
    np.savez(folder / TRAIN_ARCHIVE, x=x, y=y, index=np.arange(60) * 3)
    x, y = images(7, 11)
    np.savez(folder / TEST_ARCHIVE, x=x, y=y, index=np.array([0, 1, 2, 4, 6, 7, 9]))


def right_answers(found: Cifar10ResNet20, loader: Any) -> list[float]:
    model = found.model()
    with torch.no_grad():
        return [float(score) for inputs, targets in loader for score in found.score(model(inputs), targets)]


@pytest.mark.usefixtures("found_data")
def test_float_accuracy_is_the_published_one() -> None:
    everything = workload(split="all")
    scores = right_answers(everything, everything.validation())
    assert len(scores) == 500
    assert np.mean(scores) == pytest.approx(0.910, abs=1e-9)  # 91.73 ± 1.2 % published on all 10,000
    with pytest.raises(DataError, match="has no test split"):
        everything.test()
    halves = workload()
    assert right_answers(halves, halves.validation()) == scores[::2]
    assert right_answers(halves, halves.test()) == scores[1::2]


@pytest.mark.usefixtures("found_data")
def test_the_deeper_network_reaches_its_published_accuracy_too() -> None:
    deeper = create("workloads", "cifar10-resnet32", {"split": "all"})
    scores = right_answers(deeper, deeper.validation())
    assert np.mean(scores) == pytest.approx(0.932, abs=1e-9)  # 92.63 ± 1.1 % published on all 10,000


@pytest.mark.usefixtures("found_data")
def test_calibration_is_balanced_and_apart_from_train() -> None:
    splits = workload().splits
    assert splits.train is not None
    assert np.bincount(splits.calibration.targets.numpy()).tolist() == [52, 52, 51, 51, 51, 51, 51, 51, 51, 51]
    assert len(splits.calibration) + len(splits.train) == 8068


@pytest.mark.usefixtures("found_data")
def test_validation_on_training_images_leaves_all_test_images_and_is_apart_from_the_rest() -> None:
    splits = workload(split="training").splits
    assert splits.train is not None
    assert splits.test is not None
    assert [len(part) for part in (splits.calibration, splits.validation, splits.train, splits.test)] == [
        512,
        512,
        7044,
        500,
    ]
    assert np.bincount(splits.validation.targets.numpy()).tolist() == [52, 52, 51, 51, 51, 51, 51, 51, 51, 51]
    seen = [part.inputs.flatten(1).numpy() for part in (splits.calibration, splits.validation, splits.train)]
    assert (
        len(np.unique(np.concatenate(seen), axis=0)) == len(np.unique(np.concatenate([*seen, seen[1]]), axis=0)) >= 8000
    )


def test_inputs_are_normalised_by_hand(tmp_path: Path) -> None:
    write_archives(tmp_path)
    raw = images(7, 11)[0]
    inputs, _ = next(iter(workload(tmp_path, split="all", calibration=20).validation()))
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (raw[:, channel].astype(np.float64) / 255 - mean) / deviation
        np.testing.assert_allclose(inputs[:, channel].numpy(), expected, atol=1e-6)


def test_archives_split_by_official_index(tmp_path: Path) -> None:
    write_archives(tmp_path / "cifar10")
    splits = workload(tmp_path, calibration=20).splits
    raw = images(7, 11)[0]
    np.testing.assert_array_equal(splits.validation.inputs.numpy(), raw[[0, 2, 3, 4]])
    assert splits.test is not None
    np.testing.assert_array_equal(splits.test.inputs.numpy(), raw[[1, 5, 6]])


@pytest.mark.parametrize("place", [BATCH_FOLDER, f"cifar10/{BATCH_FOLDER}", "any name"])
def test_standard_batches_are_read_from_any_folder(tmp_path: Path, place: str) -> None:
    write_batches(tmp_path / place)
    root = tmp_path / place if place == "any name" else tmp_path
    splits = workload(root, calibration=30).splits
    assert splits.test is not None
    assert splits.train is not None
    assert (len(splits.calibration), len(splits.train), len(splits.validation), len(splits.test)) == (30, 70, 10, 10)
    x = np.concatenate([images(20, number)[0] for number in range(5)])
    np.testing.assert_array_equal(splits.calibration.inputs.numpy(), x[:30])
    np.testing.assert_array_equal(splits.train.inputs.numpy(), x[30:])
    np.testing.assert_array_equal(splits.validation.inputs.numpy(), images(20, 5)[0][::2])


def test_the_option_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_batches(tmp_path / "option")
    write_archives(tmp_path / "environment")
    monkeypatch.setenv("QSEARCH_DATA", str(tmp_path / "environment"))
    assert len(workload(tmp_path / "option", split="all", calibration=10).splits.validation) == 20
    assert len(workload(split="all", calibration=10).splits.validation) == 7


def test_missing_files_are_told_with_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"CIFAR-10 images must be in a data folder; got none in .*; put cifar-10-batch"
    ):
        workload(tmp_path).validation()
    with pytest.raises(DataError, match=rf"{WEIGHTS} must be in a data folder; got none in .*; fetch them from github"):
        workload(tmp_path).model()
    with pytest.raises(DataError, match="option 'data' must name a folder"):
        workload(tmp_path / "missing").validation()


def test_damaged_weights_are_refused(tmp_path: Path, found_data: Path) -> None:
    content = bytearray((found_data / "cifar10" / WEIGHTS).read_bytes())
    content[1000] ^= 1
    (tmp_path / WEIGHTS).write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"must open with 12fca82f; got [0-9a-f]{8}; fetch it again"):
        workload(tmp_path).model()


def test_weights_and_images_may_lie_apart(tmp_path: Path, found_data: Path) -> None:
    write_batches(tmp_path / BATCH_FOLDER)
    shutil.copy(found_data / "cifar10" / WEIGHTS, tmp_path / WEIGHTS)
    found = workload(tmp_path, calibration=20)
    assert found.model()(next(iter(found.validation()))[0]).shape == (10, 10)


def test_too_few_images_of_a_class(tmp_path: Path) -> None:
    write_archives(tmp_path)
    with pytest.raises(DataError, match="61 calibration images need 7 of class 0; got 6 in the training images; lower"):
        workload(tmp_path, calibration=61).calibration()


def test_balanced_takes_the_first_of_each_class() -> None:
    labels = np.array([2, 0, 0, 1, 1, 2, 0, 2])
    assert np.flatnonzero(balanced(labels, 4, 3)).tolist() == [0, 1, 2, 3]
    assert np.flatnonzero(balanced(labels, 6, 3)).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": np.zeros((20, 3071), np.uint8)}, r"must hold 'data' of shape \(N, 3072\); got uint8 \(20, 3071\)"),
        ({"data": None}, r"must hold 'data' of shape \(N, 3072\); got NoneType"),
        ({"data": np.zeros((20, 3072), np.int64)}, "must hold uint8 images"),
        ({"labels": None}, "one whole label for each of its 20 images"),
        ({"labels": [1] * 19}, "one whole label for each of its 20 images"),
        ({"labels": [0.5] * 20}, "one whole label for each of its 20 images"),
        ({"labels": [2**70] * 20}, "one whole label for each of its 20 images"),
        ({"labels": [10] * 20}, r"must be within 0\.\.9; got 10\.\.10"),
        ({"labels": [[1], [1, 2]]}, "one whole label for each of its 20 images"),
    ],
)
def test_malformed_batches_are_told_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_batches(tmp_path / BATCH_FOLDER)
    x, y = images(20, 0)
    batch = {"data": x.reshape(20, 3072), "labels": y.tolist(), **change}
    (tmp_path / BATCH_FOLDER / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=rf"data_batch_2.* {message}") as caught:
        workload(tmp_path).validation()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02N.", b"cos\nsystem\n(Vfalse\ntR."], ids=["empty", "None", "command"]
)
def test_files_that_are_no_batches_are_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    write_batches(tmp_path / BATCH_FOLDER)
    (tmp_path / BATCH_FOLDER / TEST_BATCH).write_bytes(content)
    with pytest.raises(DataError, match=TEST_BATCH):
        workload(tmp_path).validation()


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.zeros((7, 32, 32, 3), np.uint8)},
        {"y": np.zeros(6, np.uint8)},
        {"y": np.full(7, 10, np.uint8)},
        {"index": np.zeros(6, np.int64)},
        {"index": np.zeros(7)},
        {"x": np.array([{}], dtype=object)},
    ],
)
def test_malformed_archives_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    write_archives(tmp_path)
    x, y = images(7, 11)
    np.savez(tmp_path / TEST_ARCHIVE, **{"x": x, "y": y, "index": np.arange(7), **change})
    with pytest.raises(DataError, match=TEST_ARCHIVE):
        workload(tmp_path).validation()


@pytest.mark.parametrize("keep", [0, 100, 3000])
def test_cut_archives_are_refused(tmp_path: Path, keep: int) -> None:
    write_archives(tmp_path)
    path = tmp_path / TRAIN_ARCHIVE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=f"{TRAIN_ARCHIVE} must be a NumPy archive.*; fetch it again"):
        workload(tmp_path).validation()


def test_an_array_is_no_archive(tmp_path: Path) -> None:
    write_archives(tmp_path)
    with (tmp_path / TRAIN_ARCHIVE).open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=f"{TRAIN_ARCHIVE} must be a NumPy archive"):
        workload(tmp_path).validation()


@pytest.mark.parametrize("place", [60, 5_000, 50_000, 100_000])
def test_archives_with_a_damaged_stretch_are_refused(tmp_path: Path, place: int) -> None:
    write_archives(tmp_path)
    x, y = images(60, 10)
    path = tmp_path / TRAIN_ARCHIVE
    np.savez_compressed(path, x=x, y=y, index=np.arange(60))
    content = bytearray(path.read_bytes())
    content[place : place + 64] = bytes(64)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=f"{TRAIN_ARCHIVE} must be a NumPy archive"):
        workload(tmp_path).validation()


@pytest.mark.parametrize("options", [{"calibration": 0}, {"split": "half"}, {"dat": "x"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        workload(**options)


@pytest.mark.usefixtures("found_data")
def test_its_layers_are_those_that_benchmarks_write_out() -> None:
    assert layers_of(workload()) == resnet20()


def test_the_option_alone_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "option").mkdir()
    write_archives(tmp_path / "environment")
    monkeypatch.setenv("QSEARCH_DATA", str(tmp_path / "environment"))
    with pytest.raises(DataError, match=r"must be in a data folder; got none in [^,]*option, [^,]*option/cifar10; put"):
        workload(tmp_path / "option").validation()
    with pytest.raises(DataError, match=r"got none in [^,]*option, [^,]*option/cifar10; fetch .* option 'weights'"):
        workload(tmp_path / "option").model()


@pytest.mark.parametrize(
    ("index", "got"), [([-1, 1, 2, 3, 4, 5, 6], "7 .* of 7, from -1"), ([0, 0, 2, 3, 4, 5, 6], "6 .* of 7, from 0")]
)
def test_places_in_the_official_set_are_different_ones(tmp_path: Path, index: list[int], got: str) -> None:
    write_archives(tmp_path)
    x, y = images(7, 11)
    np.savez(tmp_path / TEST_ARCHIVE, x=x, y=y, index=np.array(index))
    with pytest.raises(DataError, match=f"'index' in .* must be different places, from 0; got {got}"):
        workload(tmp_path, calibration=20).validation()


@pytest.mark.parametrize(("start", "split"), [(0, "test"), (1, "validation")])
def test_a_half_without_images_is_told_as_the_data_are_read(tmp_path: Path, start: int, split: str) -> None:
    write_archives(tmp_path)
    x, y = images(7, 11)
    np.savez(tmp_path / TEST_ARCHIVE, x=x, y=y, index=start + 2 * np.arange(7))
    with pytest.raises(DataError, match=f"the {split} split of 'cifar10-resnet20' must not be empty; got 0 samples"):
        workload(tmp_path, calibration=20).calibration()
    assert len(workload(tmp_path, calibration=20, split="all").splits.validation) == 7


def test_test_images_that_are_training_images_are_refused(tmp_path: Path) -> None:
    write_archives(tmp_path)
    shutil.copy(tmp_path / TRAIN_ARCHIVE, tmp_path / TEST_ARCHIVE)
    with pytest.raises(DataError, match="must be others than the training images; got 60, all of them"):
        workload(tmp_path, calibration=20).validation()
    write_batches(tmp_path / BATCH_FOLDER)
    shutil.copy(tmp_path / BATCH_FOLDER / "data_batch_3", tmp_path / BATCH_FOLDER / TEST_BATCH)
    with pytest.raises(DataError, match="must be others than the training images; got 20, all of them"):
        workload(tmp_path, calibration=20).validation()


def test_files_of_published_names_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_batches(tmp_path / BATCH_FOLDER)
    workload(tmp_path, calibration=20).validation()
    assert [message.split(" is not ")[0] for message in caplog.messages] == [
        str(tmp_path / BATCH_FOLDER / name) for name in (*TRAIN_BATCHES, TEST_BATCH)
    ]


@pytest.mark.usefixtures("found_data")
def test_the_shared_files_are_known(caplog: pytest.LogCaptureFixture) -> None:
    workload().validation()
    assert caplog.messages == []


def test_making_the_network_leaves_the_random_state(found_data: Path) -> None:
    before = torch.get_rng_state()
    workload(found_data).model()
    assert torch.equal(torch.get_rng_state(), before)
