"""CIFAR-10 from folders of the ``datasets`` package: what it wrote is read back, and nothing else is taken for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.cifar10 import Cifar10ResNet20
from qsearch.workloads.dataset_folders import dataset_folder

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _nothing_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what a test names can be found."""
    monkeypatch.delenv("QSEARCH_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_data_path", lambda _: tmp_path / "platform")


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    """(N, H, W, C), as image files have it."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def table(count: int, seed: int, image: str = "img", label: str = "label", **change: Any) -> Any:
    columns = {image: list(pictures(count, seed)), label: [row % 10 for row in range(count)], **change}
    kinds = {image: datasets.Image(), label: datasets.Value("int64")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def save_disk(folder: Path, **change: Any) -> None:
    splits = datasets.DatasetDict({"train": table(40, 0, **change), "test": table(20, 1, **change)})
    splits.save_to_disk(folder, num_shards={"train": 2, "test": 1})


def save_parquet(folder: Path, **change: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        rows = table(40, 0, **change).select(range(20 * part, 20 * part + 20))
        rows.to_parquet(folder / f"train-0000{part}-of-00002.parquet")
    table(20, 1, **change).to_parquet(folder / "test-00000-of-00001.parquet")


def save_arrow(folder: Path) -> None:
    """Files alone, as another tool may leave them."""
    save_disk(folder / "scratch")
    for split in ("train", "test"):
        for number, path in enumerate(sorted((folder / "scratch" / split).glob("*.arrow"))):
            path.rename(folder / f"{split}-{number}.arrow")
    (folder / "scratch" / "dataset_dict.json").unlink()


def workload(folder: Path) -> Cifar10ResNet20:
    return Cifar10ResNet20(Cifar10ResNet20.Options(data=folder, calibration=10))


@pytest.mark.parametrize(
    ("save", "place", "root"),
    [
        (save_disk, ".", "."),
        (save_disk, "cifar10", "."),
        (save_parquet, ".", "."),
        (save_parquet, "cifar10/plain_text", "."),
        (lambda folder: save_parquet(folder, image="image"), "data", "."),
        (save_arrow, ".", "."),
    ],
)
def test_folders_give_the_splits_that_went_in(tmp_path: Path, save: Any, place: str, root: str) -> None:
    folder = tmp_path / "data_folder"
    folder.mkdir()
    save(folder / place)
    splits = workload(folder / root).splits
    train, test = (np.moveaxis(pictures(count, seed), -1, 1) for count, seed in ((40, 0), (20, 1)))
    assert splits.train is not None
    np.testing.assert_array_equal(splits.calibration.inputs.numpy(), train[:10])
    np.testing.assert_array_equal(splits.train.inputs.numpy(), train[10:])
    np.testing.assert_array_equal(splits.validation.inputs.numpy(), test[::2])
    assert splits.validation.targets.tolist() == [row % 10 for row in range(20)][::2]


def test_other_formats_come_first(tmp_path: Path) -> None:
    save_parquet(tmp_path)
    (tmp_path / "cifar10").mkdir()
    x, other = (np.moveaxis(pictures(30, seed), -1, 1) for seed in (5, 6))
    for name, values in (("cifar10_train_raw.npz", x), ("cifar10_test_raw_000-499.npz", other)):
        np.savez(tmp_path / "cifar10" / name, x=values, y=np.arange(30) % 10, index=np.arange(30))
    np.testing.assert_array_equal(workload(tmp_path).splits.calibration.inputs.numpy(), x[:10])


def test_a_folder_without_both_splits_is_none(tmp_path: Path) -> None:
    assert dataset_folder(tmp_path) is None
    assert dataset_folder(tmp_path / "missing") is None
    (tmp_path / "train-0.parquet").touch()
    assert dataset_folder(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "picture"}, r"must have a column img or image; got picture, label"),
        ({"label": "fine_label"}, r"must have a column label or labels; got img, fine_label"),
        (
            {"label": "label", "seeds": True},
            r"must hold uint8 images of shape \(N, 3, 32, 32\); got uint8 \(40, 3, 16, 16\)",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    if change.pop("seeds", False):
        small = np.zeros((40, 16, 16, 3), np.uint8)
        datasets.DatasetDict(
            {split: table(count, 0, img=list(small[:count])) for split, count in (("train", 40), ("test", 20))}
        ).save_to_disk(tmp_path)
    else:
        save_disk(tmp_path, **change)
    with pytest.raises(DataError, match=message) as caught:
        workload(tmp_path).validation()
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_are_told(tmp_path: Path) -> None:
    parts = {split: table(count, 0, label="label") for split, count in (("train", 40), ("test", 20))}
    parts["test"] = parts["test"].map(lambda row: {"label": row["label"] + 1})
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"labels in .* must be within 0\.\.9; got 1\.\.10"):
        workload(tmp_path).validation()


def test_images_of_several_sizes_are_told(tmp_path: Path) -> None:
    mixed = [np.zeros((16 + row % 2, 16, 3), np.uint8) for row in range(40)]
    parts = {split: table(count, 0, img=mixed[:count]) for split, count in (("train", 40), ("test", 20))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"must have one shape; got \(16, 16, 3\), \(17, 16, 3\)"):
        workload(tmp_path).validation()


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    save_parquet(tmp_path)
    (tmp_path / "test-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"split 'test' of .* must be readable") as caught:
        workload(tmp_path).validation()
    assert "\n" not in str(caught.value)


def test_without_the_package_its_extra_is_named(tmp_path: Path) -> None:
    save_disk(tmp_path)
    code = f"""
import sys
sys.modules["datasets"] = None
from pathlib import Path
from qsearch.errors import PluginError
from qsearch.workloads.cifar10 import Cifar10ResNet20
try:
    Cifar10ResNet20(Cifar10ResNet20.Options(data=Path({str(tmp_path)!r}))).validation()
except PluginError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'qsearch[huggingface]'" in done.stdout, done.stderr


@pytest.mark.parametrize("save", ["parquet", "disk"])
def test_images_that_are_addresses_are_not_fetched(tmp_path: Path, save: str) -> None:
    address = "http://nowhere.invalid/0.png"
    columns = {"img": [{"bytes": None, "path": address}] * 20, "label": [row % 10 for row in range(20)]}
    image = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    features = datasets.Features({"img": image, "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict(columns, features=features)
    if save == "disk":
        datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path)
    else:
        rows.to_parquet(tmp_path / "train.parquet")
        rows.to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=f"images in column 'img' must be in the data set; got {address}; fetch"):
        workload(tmp_path).validation()


def test_a_part_of_the_files_is_told(tmp_path: Path) -> None:
    save_parquet(tmp_path)
    (tmp_path / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"parts of .* must be there; got no train-00000-of-00002\.parquet; fetch"):
        workload(tmp_path).validation()
