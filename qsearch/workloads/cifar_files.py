"""CIFAR-10 images from a folder: the standard python batches, NumPy archives of a part of them, or a ``datasets`` folder.

Notation: x, uint8 (N, 3, 32, 32), RGB; y, int64 (N,), classes 0 … 9; index, int64 (N,), the image's place in the
official training or test set.

Sources: the python batches hold rows of 3,072 bytes, the planes R, G, B of 32 rows each (A. Krizhevsky, *Learning
Multiple Layers of Features from Tiny Images*, 2009, and the data set's page). The archives hold ``x``, ``y``, ``index``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.arrays import Images, check_apart, checked, described, read_archive
from qsearch.workloads.dataset_folders import DatasetFolder, dataset_folder
from qsearch.workloads.files import warn_unless_published
from qsearch.workloads.unpickle import load_arrays

BATCH_FOLDER = "cifar-10-batches-py"
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_BATCH = "test_batch"
TRAIN_ARCHIVE = "cifar10_train_raw.npz"
TEST_ARCHIVE = "cifar10_test_raw_000-499.npz"
SHAPE, CLASSES = (3, 32, 32), 10

DIGESTS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    TRAIN_ARCHIVE: "0a5dae154b25a27b5782c0e612249ab94aa8aca2736486491acec7a3d49ecb5f",
    TEST_ARCHIVE: "3eee808420b05da3ab0e24fbdaa094bdbd955f95a843bf8b6c53ec9c6c36c721",
}
"""MD5 of the published batches, SHA-256 of the archives."""


def places(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may hold CIFAR-10, in order: each root and its ``cifar10`` folder."""
    return tuple(place for root in roots for place in (root, root / "cifar10"))


def read_cifar10(folders: Sequence[Path]) -> tuple[Images, Images]:
    """Training and test images from the first folder that has both.

    Of one folder, the batches come before the archives. Folders of the ``datasets`` package come after all others: a
    data folder may hold those of other data sets.

    Raises:
        DataError: no folder has them, a file is malformed, or the test images are training images.
        PluginError: a ``datasets`` folder, and no package to read it with.
    """
    train, test = _read(folders)
    check_apart(train, test)
    return train, test


def _read(folders: Sequence[Path]) -> tuple[Images, Images]:
    """See :func:`read_cifar10`."""
    for folder in folders:
        for batches in (folder / BATCH_FOLDER, folder):
            if all((batches / name).is_file() for name in (*TRAIN_BATCHES, TEST_BATCH)):
                return _read_batches(batches, TRAIN_BATCHES), _read_batches(batches, (TEST_BATCH,))
        if all((folder / name).is_file() for name in (TRAIN_ARCHIVE, TEST_ARCHIVE)):
            return _read_archive(folder / TRAIN_ARCHIVE), _read_archive(folder / TEST_ARCHIVE)
    for folder in folders:
        found = dataset_folder(folder)
        if found is not None:
            return _read_dataset(found, "train"), _read_dataset(found, "test")
    raise DataError(
        "CIFAR-10 images must be in a data folder",
        got=f"none in {', '.join(map(str, folders))}",
        fix=f"put {BATCH_FOLDER}/ (data_batch_1 to 5, test_batch), or {TRAIN_ARCHIVE} and {TEST_ARCHIVE}, or a folder "
        "of the datasets package (save_to_disk; parquet or arrow files of train and test) into one of them, or name its "
        "folder by the option 'data' or QSEARCH_DATA",
    )


def _read_batches(folder: Path, names: Sequence[str]) -> Images:
    """Batches joined in order."""
    parts = [_read_batch(folder / name) for name in names]
    x = np.concatenate([data for data, _ in parts])
    y = np.concatenate([labels for _, labels in parts])
    return Images(x, y, np.arange(len(y)))


def _read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch file: x and y."""
    warn_unless_published(path, DIGESTS)
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
        raise DataError(f"{path} must hold 'data' of shape (N, 3072)", got=described(data))
    return checked(path, data.reshape(-1, *SHAPE), named.get("labels"), SHAPE, CLASSES)


def _read_archive(path: Path) -> Images:
    """One archive: arrays x, y and index."""
    warn_unless_published(path, DIGESTS)
    x, y, index = read_archive(path, ("x", "y", "index"))
    x, y = checked(path, x, y, SHAPE, CLASSES)
    if index.shape != y.shape or index.dtype.kind not in "iu":
        raise DataError(f"{path} must hold one whole 'index' per image", got=described(index))
    if len(index) and (index.min() < 0 or len(np.unique(index)) < len(index)):
        raise DataError(
            f"'index' in {path} must be different places, from 0",
            got=f"{len(np.unique(index))} different ones of {len(index)}, from {index.min()}",
        )
    return Images(x, y, index.astype(np.int64))


def _read_dataset(folder: DatasetFolder, split: str) -> Images:
    """One split of a ``datasets`` folder."""
    from qsearch.workloads.dataset_images import read_images  # its package is optional

    x, y = checked(folder.path, *read_images(folder, split), SHAPE, CLASSES)
    return Images(x, y, np.arange(len(y)))
