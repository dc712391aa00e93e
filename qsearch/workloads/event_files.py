"""N-MNIST from a folder: recordings in a NumPy archive, or its own files in folders by class.

Source of the data: G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor, *Converting static image datasets to spiking
neuromorphic datasets using saccades*, Frontiers in Neuroscience 9, 2015. Its files hold an event in 40 bits: x (8), y (8),
p (1), t (23, the highest first). An event of y = 240 is none: it says that the clock ran over, and 2^13 µs are added to all
that follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.arrays import read_archive
from qsearch.workloads.events import Recording, Recordings, RecordingSource, Sensor, checked_recording
from qsearch.workloads.files import warn_unless_published

SENSOR = Sensor(height=34, width=34)
CLASSES = 10
ARCHIVE = "nmnist_train1k.npz"
SPLITS = ("Train", "Test")
DIGESTS = {ARCHIVE: "3dd82031cbfa1fd4cae2844e9f90ab220ba38796780db60f54b7408432b0fb05"}
"""SHA-256 of the archive."""

_EVENT_BYTES, _OVERFLOW_ROW, _OVERFLOW = 5, 240, 2**13


def nmnist_places(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may hold N-MNIST, in order: each root, its ``nmnist`` folder, and the one that tonic makes."""
    return tuple(place for root in roots for place in (root, root / "nmnist", root / "NMNIST"))


def read_nmnist(folders: Sequence[Path]) -> tuple[RecordingSource, RecordingSource | None]:
    """Official training and test recordings of the first folder that has them; of an archive all, and None.

    Raises:
        DataError: no folder has them, or they are malformed.
    """
    for folder in folders:
        if all((folder / split).is_dir() for split in SPLITS):
            train, test = (class_folders(folder / split) for split in SPLITS)
            return train, test
        if (folder / ARCHIVE).is_file():
            return read_events(folder / ARCHIVE, SENSOR, CLASSES), None
    raise DataError(
        "N-MNIST must be in a data folder",
        got=f"none in {', '.join(map(str, folders))}",
        fix=f"put its folders Train and Test, or {ARCHIVE}, into one of them, or name their folder by the option 'data' "
        "or QSEARCH_DATA",
    )


def read_events(path: Path, sensor: Sensor, classes: int) -> Recordings:
    """An archive of flat arrays x, y, p, t_us, with offsets and label.

    Raises:
        DataError: it cannot be read, or its arrays do not fit each other.
    """
    warn_unless_published(path, DIGESTS)
    x, y, p, t, offsets, labels = read_archive(path, ("x", "y", "p", "t_us", "offsets", "label"))
    found = Recordings(str(path), x, y, p, t, offsets, labels, sensor)
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"labels in {path} must be within 0..{classes - 1}", got=f"{labels.min()}..{labels.max()}")
    return found


def class_folders(folder: Path) -> BinaryFiles:
    """The files in folders 0 … 9, in the order of their names.

    Raises:
        DataError: a class has none.
    """
    paths, labels = [], []
    for label in range(CLASSES):
        found = sorted((folder / str(label)).glob("*.bin"))
        if not found:
            raise DataError(f"{folder / str(label)} must hold recordings of class {label}", got="no .bin files")
        paths += found
        labels += [label] * len(found)
    return BinaryFiles(tuple(paths), tuple(labels))


@dataclass(frozen=True)
class BinaryFiles:
    """Recordings in N-MNIST's own files, each read as it is asked for."""

    paths: tuple[Path, ...]
    classes: tuple[int, ...]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Class of each, shape (N,)."""
        return np.asarray(self.classes, dtype=np.int64)

    def recording(self, index: int) -> Recording:
        """One of them; see :class:`qsearch.workloads.events.RecordingSource`."""
        return read_binary(self.paths[index])


def read_binary(path: Path) -> Recording:
    """A recording in N-MNIST's own format.

    Raises:
        DataError: it cannot be read, is cut, or holds events that cannot be.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be readable", got=error.strerror or str(error)) from error
    if len(content) % _EVENT_BYTES:
        raise DataError(
            f"{path} must hold events of {_EVENT_BYTES} bytes", got=f"{len(content)} bytes", fix="fetch it again"
        )
    x, y, *rest = np.frombuffer(content, np.uint8).reshape(-1, _EVENT_BYTES).T.astype(np.int64)
    overflows = y == _OVERFLOW_ROW
    t = ((rest[0] & 127) << 16 | rest[1] << 8 | rest[2]) + _OVERFLOW * np.cumsum(overflows)
    kept = ~overflows
    return checked_recording(Recording(str(path), x[kept], y[kept], rest[0][kept] >> 7, t[kept]), SENSOR)
