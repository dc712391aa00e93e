"""CIFAR-10 images from a folder: the standard python batches, or NumPy archives of a part of them.

Notation: x, uint8 (N, 3, 32, 32), RGB; y, int64 (N,), classes 0 … 9; index, int64 (N,), the image's place in the
official training or test set.

Sources: the python batches hold rows of 3,072 bytes, the planes R, G, B of 32 rows each (A. Krizhevsky, *Learning
Multiple Layers of Features from Tiny Images*, 2009, and the data set's page). The archives hold ``x``, ``y``, ``index``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.unpickle import load_arrays

BATCH_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
TRAIN_ARCHIVE = "cifar10_train_raw.npz"
TEST_ARCHIVE = "cifar10_test_raw_000-499.npz"


@dataclass(frozen=True, eq=False)
class CifarImages:
    """x, uint8 (N, 3, 32, 32); y, int64 (N,); index, int64 (N,)."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    index: NDArray[np.int64]


def places(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may hold CIFAR-10, in order: each root and its ``cifar10`` folder."""
    return tuple(place for root in roots for place in (root, root / "cifar10"))


def read_cifar10(folders: Sequence[Path]) -> tuple[CifarImages, CifarImages]:
    """Training and test images from the first folder that has both; the batches before the archives.

    Raises:
        DataError: no folder has them, or a file is malformed.
    """
    for folder in folders:
        for batches in (folder / BATCH_FOLDER, folder):
            if all((batches / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH)):
                return _read_batches(batches, TRAIN_BATCHES), _read_batches(batches, (TEST_BATCH,))
        if all((folder / name).is_file() for name in (TRAIN_ARCHIVE, TEST_ARCHIVE)):
            return _read_archive(folder / TRAIN_ARCHIVE), _read_archive(folder / TEST_ARCHIVE)
    raise DataError(
        "CIFAR-10 images must be in a data folder",
        got=f"none in {', '.join(map(str, folders))}",
        fix=f"put {BATCH_FOLDER}/ (data_batch_1 to 5, test_batch), or {TRAIN_ARCHIVE} and {TEST_ARCHIVE}, into one of "
        "them, or name its folder by the option 'data' or QSEARCH_DATA",
    )


def _read_batches(folder: Path, names: Sequence[str]) -> CifarImages:
    """Batches joined in order."""
    parts = [_read_batch(folder / name) for name in names]
    x = np.concatenate([data for data, _ in parts])
    y = np.concatenate([labels for _, labels in parts])
    return CifarImages(x, y, np.arange(len(y)))


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch file: x and y."""
    try:
        batch = load_arrays(path.read_bytes())
    except DataError as error:
        raise DataError(f"{path}: {error.rule}", got=error.got, fix=error.fix) from error
    except OSError as error:
        raise DataError(f"{path} must be readable", got=str(error)) from error
    if not isinstance(batch, dict):
        raise DataError(f"{path} must hold a dictionary", got=type(batch).__name__)
    named = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    data = named.get("data")
    if not isinstance(data, np.ndarray) or data.shape[1:] != (3072,):
        raise DataError(f"{path} must hold 'data' of shape (N, 3072)", got=_shape(data))
    return _checked(path, data.reshape(-1, 3, 32, 32), named.get("labels"))


def _read_archive(path: Path) -> CifarImages:
    """One archive: arrays x, y and index; without pickles."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            x, y, index = archive["x"], archive["y"], archive["index"]
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} must be a NumPy archive with x, y and index",
            got=f"{type(error).__name__}: {error}",
            fix="fetch it again",
        ) from error
    x, y = _checked(path, x, y)
    if index.shape != y.shape or index.dtype.kind not in "iu":
        raise DataError(f"{path} must hold one whole 'index' per image", got=_shape(index))
    return CifarImages(x, y, index.astype(np.int64))


def _checked(path: Path, x: Any, y: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """x and y as they must be, else DataError."""
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape[1:] != (3, 32, 32):
        raise DataError(f"{path} must hold uint8 images of shape (N, 3, 32, 32)", got=_shape(x))
    labels = y if isinstance(y, np.ndarray) else _whole(y)
    if labels is None or labels.shape != (len(x),) or labels.dtype.kind not in "iu":
        raise DataError(f"{path} must hold one whole label for each of its {len(x)} images", got=_shape(y))
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
        raise DataError(f"labels in {path} must be within 0..9", got=f"{labels.min()}..{labels.max()}")
    return x, labels.astype(np.int64)


def _whole(values: Any) -> NDArray[np.int64] | None:
    """A list of whole numbers as an array; None for anything else."""
    whole = isinstance(values, list) and all(isinstance(value, int) and abs(value) < 2**31 for value in values)
    return np.asarray(values, dtype=np.int64) if whole else None


def _shape(value: Any) -> str:
    """What a message says of an array."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
