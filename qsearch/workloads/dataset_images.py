"""Images and labels from a folder of the ``datasets`` package; nothing is fetched, nothing is left in its cache."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError, PluginError
from qsearch.workloads.dataset_addresses import decoded
from qsearch.workloads.dataset_folders import DatasetFolder

try:
    import datasets
except ImportError as error:
    raise PluginError(
        "a folder of the datasets package needs it to be read", fix="pip install 'qsearch[huggingface]'"
    ) from error

IMAGE_COLUMNS, LABEL_COLUMNS = ("img", "image"), ("label", "labels")


def read_images(folder: DatasetFolder, split: str) -> tuple[NDArray[np.uint8], list[int]]:
    """Images of one size, uint8 (N, C, H, W), RGB where they have colour, and their labels.

    Raises:
        DataError: a split or a column that is missing, an image that cannot be read, or images of several sizes.
    """
    where = f"split {split!r} of {folder.path}"
    try:
        data = _dataset(folder, split)
        image, label = _column(data, IMAGE_COLUMNS, where), _column(data, LABEL_COLUMNS, where)
        columns = decoded(data.select_columns([image, label]), image)
        rows = [(np.asarray(row[image]), row[label]) for row in columns]
    except DataError:
        raise
    except Exception as error:  # the package fails in many ways on damaged files
        raise DataError(f"{where} must be readable", got=f"{type(error).__name__}: {error}"[:300]) from error
    shapes = sorted({picture.shape for picture, _ in rows})
    if len(shapes) != 1:
        raise DataError(f"images in {where} must have one shape", got=", ".join(map(str, shapes)) or "no image")
    stacked = np.stack([picture for picture, _ in rows])
    return (stacked[:, None] if stacked.ndim == 3 else np.moveaxis(stacked, -1, 1)), [number for _, number in rows]


def _dataset(folder: DatasetFolder, split: str) -> Any:
    """The rows of a split."""
    if folder.files is None:
        found = datasets.load_from_disk(str(folder.path))
        if split not in found:
            raise DataError(f"{folder.path} must have a split {split!r}", got=", ".join(found))
        return found[split]
    files = [str(path) for path in folder.files[split]]
    if Path(files[0]).suffix == ".arrow":
        return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
    with tempfile.TemporaryDirectory() as scratch:
        return datasets.Dataset.from_parquet(files, cache_dir=scratch, keep_in_memory=True)


def _column(data: Any, names: tuple[str, ...], where: str) -> str:
    """The first of the names that is a column."""
    found = next((name for name in names if name in data.column_names), None)
    if found is None:
        raise DataError(f"{where} must have a column {' or '.join(names)}", got=", ".join(data.column_names))
    return found
