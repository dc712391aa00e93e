"""MNIST from a folder: NumPy archives, or the standard idx files, plain or compressed.

Notation: x, uint8 (N, 1, 28, 28); y, int64 (N,), classes 0 … 9.

Source of the idx format: Y. LeCun, C. Cortes, C. J. C. Burges, *The MNIST database of handwritten digits*: two zero bytes, a
type (8 for uint8), the number of extents, each extent as a big-endian 32-bit integer, then the numbers.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.arrays import Images, check_apart, checked, read_archive
from qsearch.workloads.files import find, warn_unless_published

ARCHIVES = {"train": "mnist_train_60000.npz", "test": "mnist_test_10000.npz"}
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
SHAPE, CLASSES = (1, 28, 28), 10

DIGESTS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    ARCHIVES["train"]: "11bf48d67d8e90b9d940549ce9565b4921ad2ec150e4491e0c670aeb165169a9",
    ARCHIVES["test"]: "3ba302235efdc3e7e4e84db9ce6a6d6cbc9dd1162d4e79dd0b6a606afc745423",
}
"""MD5 of the published idx files as they are distributed, compressed; SHA-256 of the archives."""

_UINT8 = 8
"""The idx format's code."""


def mnist_places(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may hold MNIST, in order: each root, its ``mnist`` folder, and where torchvision puts it."""
    return tuple(place for root in roots for place in (root, root / "mnist", root / "MNIST" / "raw"))


def read_mnist(folders: Sequence[Path]) -> tuple[Images, Images]:
    """Training and test images from the first folder that has both; the idx files before the archives.

    Raises:
        DataError: no folder has them, a file is malformed, or the test images are training images.
    """
    train, test = _read(folders)
    check_apart(train, test)
    return train, test


def _read(folders: Sequence[Path]) -> tuple[Images, Images]:
    """See :func:`read_mnist`."""
    for folder in folders:
        pairs = {split: [_idx_file(folder, name) for name in names] for split, names in IDX_FILES.items()}
        if all(path is not None for pair in pairs.values() for path in pair):
            return _read_pair(pairs["train"]), _read_pair(pairs["test"])
        if all((folder / name).is_file() for name in ARCHIVES.values()):
            return _read_npz(folder / ARCHIVES["train"]), _read_npz(folder / ARCHIVES["test"])
    names = ", ".join(name for pair in IDX_FILES.values() for name in pair)
    raise DataError(
        "MNIST must be in a data folder",
        got=f"none in {', '.join(map(str, folders))}",
        fix=f"put {names} (.gz or not), or {' and '.join(ARCHIVES.values())}, into one of them, or name its folder by "
        "the option 'data' or QSEARCH_DATA",
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in an idx file of bytes.

    Raises:
        DataError: it is damaged, cut, or holds another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} must be readable", got=f"{type(error).__name__}: {error}", fix="fetch it again"
        ) from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UINT8:
        raise DataError(
            f"{path} must be an idx file of bytes", got=f"it opens with {content[:4]!r}", fix="fetch it again"
        )
    header = 4 + 4 * content[3]
    extents = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4))
    if len(content) != header + math.prod(extents):
        raise DataError(
            f"{path} must hold {math.prod(extents)} numbers, as its header says",
            got=f"{max(0, len(content) - header)}",
            fix="fetch it again",
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(extents).copy()


def _idx_file(folder: Path, name: str) -> Path | None:
    """The file under one of its usual names: with a dash or a dot in front of "idx", compressed or not."""
    dotted = name.replace("-idx", ".idx")
    return next(
        (found for base in (name, dotted) for end in ("", ".gz") if (found := find(base + end, [folder]))), None
    )


def _read_pair(paths: Sequence[Path | None]) -> Images:
    """A file of images and one of labels."""
    images, labels = (path for path in paths if path is not None)
    warn_unless_published(images, DIGESTS)
    warn_unless_published(labels, DIGESTS)
    return _checked(images, read_idx(images), read_idx(labels))


def _read_npz(path: Path) -> Images:
    """An archive with x and y."""
    warn_unless_published(path, DIGESTS)
    return _checked(path, *read_archive(path, ("x", "y")))


def _checked(path: Path, x: NDArray[np.uint8], y: NDArray[np.uint8]) -> Images:
    x, labels = checked(path, x, y, SHAPE[1:], CLASSES)
    return Images(x[:, None], labels, np.arange(len(labels)))
