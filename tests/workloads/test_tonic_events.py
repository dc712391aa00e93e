"""``dvs-gesture`` and ``shd``: on a stand-in for tonic, and on tonic itself where it is installed; without it, and without data."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from qsearch.errors import DataError, PluginError
from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.training import Recipe

QUICK = Recipe(epochs=1, batch_size=20, rotation=0, scaling=0, shift=0)
GESTURES, DIGITS = 11, 20


def gesture(index: int, train: bool) -> Any:
    """Events over 400 ms: the first at a place that is its recording's own, the others anywhere."""
    random = np.random.default_rng([index, train])
    found = np.zeros(50, [("x", np.int16), ("y", np.int16), ("p", bool), ("t", np.int64)])
    found["x"], found["y"] = random.integers(0, 128, (2, 50))
    found["p"] = random.integers(0, 2, 50)
    found["t"] = np.sort(random.integers(0, 400_000, 50))
    found["t"][0], found["x"][0], found["y"][0] = 0, 127, index
    return found


def word(index: int, train: bool) -> Any:
    """Spikes of channels over 400 ms, not in the order of time."""
    random = np.random.default_rng([index, train])
    found = np.zeros(30, [("t", int), ("x", int), ("p", int)])
    found["t"], found["x"], found["p"] = random.integers(0, 400_000, 30), random.integers(0, 700, 30), 1
    found["x"][0] = index
    return found


class StandIn:
    """What the workloads use of a data set of tonic's: it fetches what its folder does not hold."""

    def __init__(self, save_to: str, train: bool = True) -> None:
        self.train = train
        self.folder = Path(save_to) / type(self).__name__
        if not self.folder.is_dir():
            self.download()
        self.order = list(type(self).listed or range(4 * self.classes))
        self.targets = [index % self.classes for index in self.order]
        self.data = [str(self.folder / f"{index:03d}.npy") for index in self.order]

    classes: int
    listed: list[int] | None = None
    """Recordings in the order that a file system lists their files in."""

    def download(self) -> None:
        raise AssertionError("nothing is to be fetched")

    def __len__(self) -> int:
        return len(self.targets)


class DVSGesture(StandIn):
    classes = GESTURES

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return gesture(self.order[index], self.train), self.targets[index]


class SHD(StandIn):
    classes = DIGITS

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return word(index, self.train), self.targets[index]


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What imports tonic is imported anew, and forgotten after the test."""
    import qsearch.workloads as package

    monkeypatch.delitem(sys.modules, "qsearch.workloads.tonic_datasets", raising=False)
    monkeypatch.delattr(package, "tonic_datasets", raising=False)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _fresh: None, request: pytest.FixtureRequest) -> Path:
    """A folder with both data sets, read by the stand-in; with a cache of its own."""
    tonic, datasets = ModuleType("tonic"), ModuleType("tonic.datasets")
    vars(datasets).update(DVSGesture=DVSGesture, SHD=SHD)
    vars(tonic).update(datasets=datasets)
    monkeypatch.setitem(sys.modules, "tonic", tonic)
    monkeypatch.setitem(sys.modules, "tonic.datasets", datasets)
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    for name in ("DVSGesture", "SHD"):
        (tmp_path / name).mkdir()
    return tmp_path


def quick(name: str, folder: Path, **options: Any) -> Any:
    found = create("workloads", name, {"data": str(folder), "calibration": 20, **options})
    found.recipe = QUICK
    return found


class TestGestures(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _folder(self, data: Path) -> None:
        self.folder = data

    def workload(self) -> Workload:
        return quick("dvs-gesture", self.folder, calibration=11, bin_ms=100, duration_ms=300, shrinking=8)


class TestSpokenDigits(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _folder(self, data: Path) -> None:
        self.folder = data

    def workload(self) -> Workload:
        return quick("shd", self.folder, bin_ms=50, duration_ms=400)


def test_gestures_are_seen_in_coarser_pixels(data: Path) -> None:
    """All four splits against the events themselves, one by one."""
    found = quick("dvs-gesture", data, duration_ms=200)
    splits = found.splits
    assert found.input_shape == (8, 2, 32, 32)
    expected = np.zeros((44, 8, 2, 32, 32), np.uint8)
    for index in range(44):
        for event in gesture(index, True):
            if event["t"] < 200_000:
                expected[index, event["t"] // 25_000, int(event["p"]), event["y"] // 4, event["x"] // 4] += 1
    assert np.array_equal(splits.train.inputs.numpy(), expected)
    assert splits.train.targets.tolist() == [index % 11 for index in range(44)]
    assert [len(part) for part in (splits.calibration, splits.validation, splits.test)] == [20, 22, 22]
    assert splits.validation.targets.bincount().tolist() == [2] * 11


def test_spikes_of_channels_are_sorted_and_flat(data: Path) -> None:
    found = quick("shd", data, duration_ms=400, bin_ms=50)
    inputs = torch.cat([inputs for inputs, _ in found.train()])
    assert inputs.shape == (80, 8, 700)
    expected = torch.zeros(80, 8, 700)
    for index in range(80):
        for event in word(index, True):
            expected[index, event["t"] // 50_000, event["x"]] += 1
    assert torch.equal(inputs, expected)


def test_the_order_of_the_file_system_is_of_no_account(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = quick("dvs-gesture", data, duration_ms=200).splits
    monkeypatch.setattr(DVSGesture, "listed", np.random.default_rng(0).permutation(44).tolist())
    second = quick("dvs-gesture", data, duration_ms=200).splits
    for split in ("calibration", "train", "validation", "test"):
        one, other = getattr(first, split), getattr(second, split)
        assert torch.equal(one.inputs, other.inputs), split
        assert torch.equal(one.targets, other.targets), split


@pytest.mark.parametrize("name", ["dvs-gesture", "shd"])
def test_the_model_takes_the_frames(data: Path, name: str) -> None:
    found = quick(name, data, duration_ms=300, bin_ms=100)
    inputs, targets = next(iter(found.validation()))
    assert found.model()(inputs).shape == (len(targets), found.classes)
    assert list((data / "cache").glob(f"{name}-*.safetensors"))


@pytest.mark.parametrize(("name", "folder"), [("dvs-gesture", "DVSGesture"), ("shd", "SHD")])
def test_data_that_are_not_there_are_not_fetched(data: Path, name: str, folder: str) -> None:
    (data / folder).rmdir()
    with pytest.raises(
        DataError, match=rf"{folder} must lie in a data folder .* got no whole .*{folder}; tonic\.datasets"
    ):
        _ = quick(name, data).splits


def test_events_outside_the_sensor(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(dataset: Any, index: int) -> tuple[Any, int]:
        events = gesture(index, True)
        events["x"][3] = 128
        return events, index % 11

    monkeypatch.setattr(DVSGesture, "__getitem__", outside)
    with pytest.raises(DataError, match=r"recording 0 of .* must lie within the sensor: x within 0\.\.31; got x = 32"):
        _ = quick("dvs-gesture", data).splits


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("name", ["dvs-gesture", "shd"])
def test_without_tonic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    found = quick(name, tmp_path)
    with pytest.raises(PluginError, match=r"need the package tonic; .* pip install 'qsearch\[events\]'"):
        _ = found.splits


@pytest.mark.usefixtures("_fresh")
def test_tonic_reads_gestures(tmp_path: Path) -> None:
    """Files as tonic leaves them: an archive, and recordings by person and light, times in ms."""
    pytest.importorskip("tonic.datasets")
    for split in ("Train", "Test"):
        person = tmp_path / "DVSGesture" / f"ibmGesture{split}" / "user01_fluorescent"
        for series in range(10):
            (person.parent / f"user{series + 1:02d}_led").mkdir(parents=True)
            for label in range(11):
                events = np.array([[4 * label, 4 * series, 1, 20 * step] for step in range(5)], dtype=np.float64)
                np.save(person.parent / f"user{series + 1:02d}_led" / f"{label}.npy", events)
        (tmp_path / "DVSGesture" / f"ibmGesture{split}.tar.gz").touch()
    splits = quick("dvs-gesture", tmp_path, duration_ms=100, bin_ms=20).splits
    assert splits.train.inputs.shape == (110, 5, 2, 32, 32)
    places = splits.train.inputs.nonzero()
    assert torch.equal(places[:, 4], splits.train.targets.repeat_interleave(5)), "the column is the class"
    assert set(places[:, 2].tolist()) == {1}
    assert len(splits.validation) == len(splits.test) == 55


@pytest.mark.usefixtures("_fresh")
def test_tonic_reads_spoken_digits(tmp_path: Path) -> None:
    """An archive and the file it held: times in s, and channels, per recording."""
    pytest.importorskip("tonic.datasets")
    h5py = pytest.importorskip("h5py")
    (tmp_path / "SHD").mkdir()
    for split in ("train", "test"):
        (tmp_path / "SHD" / f"shd_{split}.h5.zip").touch()
        with h5py.File(tmp_path / "SHD" / f"shd_{split}.h5", "w") as file:
            times = file.create_dataset("spikes/times", 80, dtype=h5py.vlen_dtype(np.float16))
            channels = file.create_dataset("spikes/units", 80, dtype=h5py.vlen_dtype(np.uint16))
            for index in range(80):
                times[index], channels[index] = np.array([0.25, 0.0], np.float16), np.array([index, 699], np.uint16)
            file["labels"] = np.arange(80) % 20
            file["extra/keys"], file["extra/speaker"] = np.array([b"zero"]), np.zeros(80)
    found = quick("shd", tmp_path, duration_ms=300, bin_ms=100)
    inputs = torch.cat([inputs for inputs, _ in found.train()])
    assert inputs.nonzero().tolist() == [place for index in range(80) for place in ([index, 0, 699], [index, 2, index])]
