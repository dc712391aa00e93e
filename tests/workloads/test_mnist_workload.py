"""``mnist-mlp`` and ``mnist-cnn``: both file formats, splits by rule, one clear line for bad files, and accuracy."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qsearch.errors import ConfigError, DataError
from qsearch.registry import create
from qsearch.workloads.mnist import MnistWorkload
from qsearch.workloads.mnist_files import ARCHIVES, IDX_FILES, read_idx


def workload(folder: Path | None, name: str = "mnist-mlp", **options: Any) -> MnistWorkload:
    return create("workloads", name, {**({"data": str(folder)} if folder else {}), **options})


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what a test names can be found."""
    monkeypatch.delenv("QSEARCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path / "platform")


def images(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    x = np.random.default_rng(seed).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    return x, (np.arange(count) % 10).astype(np.uint8)


def idx(array: NDArray[np.uint8]) -> bytes:
    """The format, written as its page describes it."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, compressed: bool = False, dotted: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, names in enumerate(IDX_FILES.values()):
        for name, array in zip(names, images(40, seed), strict=True):
            content = gzip.compress(idx(array)) if compressed else idx(array)
            file = name.replace("-idx", ".idx") if dotted else name
            (folder / (file + ".gz" * compressed)).write_bytes(content)


def write_archives(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(ARCHIVES.values()):
        x, y = images(40, seed)
        np.savez(folder / name, x=x, y=y)


@pytest.mark.parametrize(
    ("write", "place"),
    [
        (write_archives, "."),
        (write_archives, "mnist"),
        (write_idx, "mnist"),
        (lambda folder: write_idx(folder, compressed=True), "MNIST/raw"),
        (lambda folder: write_idx(folder, dotted=True), "."),
    ],
)
def test_all_formats_and_places_give_the_same_splits(tmp_path: Path, write: Callable[[Path], None], place: str) -> None:
    write(tmp_path / place)
    splits = workload(tmp_path, calibration=10).splits
    train, test = images(40, 0), images(40, 1)
    assert splits.train is not None
    assert splits.test is not None
    np.testing.assert_array_equal(splits.calibration.inputs.numpy()[:, 0], train[0][:10])
    np.testing.assert_array_equal(splits.train.inputs.numpy()[:, 0], train[0][10:])
    np.testing.assert_array_equal(splits.validation.inputs.numpy()[:, 0], test[0][::2])
    np.testing.assert_array_equal(splits.test.targets.numpy(), test[1][1::2])


def test_inputs_are_within_zero_and_one(tmp_path: Path) -> None:
    write_archives(tmp_path)
    inputs, _ = next(iter(workload(tmp_path, calibration=10).validation()))
    np.testing.assert_allclose(inputs.numpy()[:, 0], images(40, 1)[0][::2] / 255, rtol=1e-6)


def test_a_subset_trains_and_calibrates(tmp_path: Path) -> None:
    write_archives(tmp_path)
    found = workload(tmp_path, train=20, calibration=10)
    assert len(found.lessons()) == 20
    assert np.bincount(found.lessons().targets.numpy()).tolist() == [2] * 10
    assert [len(part) for part in (found.splits.calibration, found.splits.train or [])] == [10, 10]
    with pytest.raises(DataError, match=r"50 train images need 5 of class 0; got 4 in .*; lower the option 'train'"):
        workload(tmp_path, train=50).validation()


def test_training_that_leaves_no_image_has_an_empty_train_split(tmp_path: Path) -> None:
    write_archives(tmp_path)
    with pytest.raises(DataError, match="the train split of 'mnist-mlp' must not be empty; got 0 samples"):
        workload(tmp_path, calibration=40).train()


def test_another_data_set_has_another_file_in_the_cache(tmp_path: Path) -> None:
    write_archives(tmp_path)
    before = workload(tmp_path, calibration=10).path
    assert before == workload(tmp_path, calibration=20).path
    assert before != workload(tmp_path, train=20, calibration=10).path
    assert before != workload(tmp_path, seed=1).path
    x, y = images(40, 0)
    x[3, 4, 5] ^= 1
    np.savez(tmp_path / ARCHIVES["train"], x=x, y=y)
    assert before != workload(tmp_path).path


def test_missing_files_are_told_with_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"MNIST must be in a data folder; got none in .*; put train-images-idx3-ubyte, "
    ) as caught:
        workload(tmp_path).validation()
    assert "\n" not in str(caught.value)
    write_idx(tmp_path)
    (tmp_path / IDX_FILES["test"][1]).unlink()
    with pytest.raises(DataError, match="MNIST must be in a data folder"):
        workload(tmp_path).validation()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": np.zeros((40, 27, 28), np.uint8)},
            r"must hold uint8 images of shape \(N, 28, 28\); got uint8 \(40, 27, 28\)",
        ),
        ({"x": np.zeros((40, 28, 28), np.float32)}, r"must hold uint8 images of shape .*; got float32"),
        ({"y": np.zeros(39, np.uint8)}, "one whole label for each of its 40 images"),
        ({"y": np.full(40, 10, np.uint8)}, r"labels in .* must be within 0\.\.9; got 10\.\.10"),
        ({"y": np.full(40, -1)}, r"labels in .* must be within 0\.\.9; got -1\.\.-1"),
        ({"x": np.zeros((0, 28, 28), np.uint8), "y": np.zeros(0, np.uint8)}, "got 0 in the training images"),
    ],
)
def test_malformed_archives_are_told_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_archives(tmp_path)
    x, y = images(40, 0)
    np.savez(tmp_path / ARCHIVES["train"], **{"x": x, "y": y, **change})
    with pytest.raises(DataError, match=message) as caught:
        workload(tmp_path, calibration=10).validation()
    assert "\n" not in str(caught.value)


def test_a_test_set_without_images_is_told(tmp_path: Path) -> None:
    write_archives(tmp_path)
    np.savez(tmp_path / ARCHIVES["test"], x=np.zeros((0, 28, 28), np.uint8), y=np.zeros(0, np.uint8))
    with pytest.raises(DataError, match="the validation split of 'mnist-mlp' must not be empty; got 0 samples"):
        workload(tmp_path, calibration=10).validation()


@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4), (2, 3, 5)])
def test_idx_files_give_back_what_was_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz"), array)


WHOLE = idx(images(40, 0)[0])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "must be an idx file of bytes"),
        ("a", b"\x89PNG....", "must be an idx file of bytes"),
        ("a", b"\0\0\x0d\x01\0\0\0\1....", "must be an idx file of bytes"),
        ("a", WHOLE[:-1], "must hold 31360 numbers, as its header says; got 31359"),
        ("a", WHOLE + b"\0", "must hold 31360 numbers, as its header says; got 31361"),
        ("a", WHOLE[:6], "numbers, as its header says; got 0"),
        ("a.gz", WHOLE, "must be readable; got BadGzipFile"),
        ("a.gz", gzip.compress(WHOLE)[:500], "must be readable; got EOFError"),
    ],
)
def test_damaged_idx_files_are_told_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"train": 9}, {"calibration": 0}, {"seed": -1}, {"weight": "x"}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        workload(None, **options)


@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-cnn"])
def test_a_small_subset_teaches_something(
    name: str, mnist_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    found = workload(mnist_data, name, train=2000, calibration=100)
    model = found.model()
    inputs, targets = next(iter(found.validation()))
    with torch.no_grad():
        assert float(found.score(model(inputs), targets).mean()) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("mnist-mlp", 0.975), ("mnist-cnn", 0.985)])
def test_the_default_networks_are_accurate(name: str, least: float, mnist_data: Path) -> None:
    found = workload(mnist_data, name)
    assert [len(part or []) for part in (found.splits.train, found.splits.validation, found.splits.test)] == [
        59488,
        5000,
        5000,
    ]
    model = found.model()
    with torch.no_grad():
        scores = torch.cat([found.score(model(inputs), targets) for inputs, targets in found.test()])
    assert float(scores.mean()) >= least


def test_test_images_that_are_training_images_are_refused(tmp_path: Path) -> None:
    write_archives(tmp_path)
    (tmp_path / ARCHIVES["test"]).write_bytes((tmp_path / ARCHIVES["train"]).read_bytes())
    with pytest.raises(DataError, match="must be others than the training images; got 40, all of them"):
        workload(tmp_path, calibration=10).validation()


def test_files_of_published_names_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_idx(tmp_path, compressed=True)
    workload(tmp_path, calibration=10).validation()
    names = [f"{name}.gz" for pair in IDX_FILES.values() for name in pair]
    assert [message.split(" is not ")[0] for message in caplog.messages] == [str(tmp_path / name) for name in names]


def test_the_shared_files_are_known(mnist_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    workload(mnist_data).validation()
    assert caplog.messages == []
