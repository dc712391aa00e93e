"""Images and labels from files: reading NumPy archives, checking what came out, and sharing it out by class.

Notation: x, uint8 (N, \\*S), images; y, int64 (N,), classes 0 … C − 1.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.base import Samples


@dataclass(frozen=True, eq=False)
class Images:
    """x, uint8 (N, \\*S); y, int64 (N,); index, int64 (N,): the image's place in the official training or test set."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    index: NDArray[np.int64]

    def samples(self, mask: NDArray[np.bool_] | None = None) -> Samples:
        """Those that a mask of shape (N,) chooses, else all, as they are stored."""
        if mask is None:
            return Samples(torch.from_numpy(self.x), torch.from_numpy(self.y))
        return Samples(torch.from_numpy(self.x[mask]), torch.from_numpy(self.y[mask]))


def read_archive(path: Path, names: Sequence[str]) -> list[Any]:
    """Arrays of a NumPy archive, by name; without pickles.

    Raises:
        DataError: it cannot be read whole, or lacks one.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except (OSError, EOFError, KeyError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} must be a NumPy archive with {', '.join(names)}",
            got=f"{type(error).__name__}: {error}",
            fix="fetch it again",
        ) from error


def checked(
    path: Path, x: Any, y: Any, shape: tuple[int, ...], classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """x and y as they must be.

    Args:
        path: where they come from, for messages.
        shape: S.
        classes: C.

    Raises:
        DataError: they are not uint8 images of that shape with a label within 0 … C − 1 each.
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.shape[1:] != shape:
        extents = ", ".join(map(str, ("N", *shape)))
        raise DataError(f"{path} must hold uint8 images of shape ({extents})", got=described(x))
    labels = y if isinstance(y, np.ndarray) else _whole(y)
    if labels is None or labels.shape != (len(x),) or labels.dtype.kind not in "iu":
        raise DataError(f"{path} must hold one whole label for each of its {len(x)} images", got=described(y))
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"labels in {path} must be within 0..{classes - 1}", got=f"{labels.min()}..{labels.max()}")
    return x, labels.astype(np.int64)


def check_apart(train: Images, test: Images) -> None:
    """Raise DataError where all test images are training images: a file was copied over another."""
    left = {image.tobytes() for image in test.x}
    for image in train.x if left else ():
        left.discard(image.tobytes())
        if not left:
            raise DataError(
                "test images must be others than the training images",
                got=f"{len(test.x)}, all of them training images too",
                fix="fetch the test file again",
            )


def balanced(labels: NDArray[np.int64], count: int, classes: int, option: str = "calibration") -> NDArray[np.bool_]:
    """Mask of ``count`` labels, the first of each class, equally many or one more for the first classes.

    Args:
        option: the option that asked for them, for messages.

    Raises:
        DataError: a class has too few.
    """
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in range(classes):
        quota = count // classes + (label < count % classes)
        members = np.flatnonzero(labels == label)
        if len(members) < quota:
            raise DataError(
                f"{count} {option} images need {quota} of class {label}",
                got=f"{len(members)} in the training images",
                fix=f"lower the option {option!r}",
            )
        chosen[members[:quota]] = True
    return chosen


def described(value: Any) -> str:
    """What a message says of an array."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _whole(values: Any) -> NDArray[np.int64] | None:
    """A list of whole numbers as an array; None for anything else."""
    whole = isinstance(values, list) and all(isinstance(value, int) and abs(value) < 2**31 for value in values)
    return np.asarray(values, dtype=np.int64) if whole else None
