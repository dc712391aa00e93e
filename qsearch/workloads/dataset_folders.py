"""Recognising a folder of the ``datasets`` package, without the package.

Two layouts: what ``DatasetDict.save_to_disk`` wrote (``dataset_dict.json`` and a folder per split), and files whose names
open with their split, as repositories hold them: ``train-00000-of-00001.parquet``, in the folder or right below it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qsearch.errors import DataError

SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True)
class DatasetFolder:
    """A folder of images.

    Attributes:
        path: the folder.
        files: split → its files, in order; None where ``save_to_disk`` wrote the folder.
    """

    path: Path
    files: Mapping[str, tuple[Path, ...]] | None = None


def dataset_folder(path: Path) -> DatasetFolder | None:
    """What ``path`` holds, if it is such a folder with training and test data.

    Raises:
        DataError: see :func:`check_shards`.
    """
    if (path / "dataset_dict.json").is_file():
        return DatasetFolder(path)
    if not path.is_dir():
        return None
    for folder in (path, *sorted(inner for inner in path.iterdir() if inner.is_dir())):
        for suffix in SUFFIXES:
            files = {split: tuple(sorted(folder.glob(f"{split}*{suffix}"))) for split in ("train", "test")}
            if all(files.values()):
                for paths in files.values():
                    check_shards(paths)
                return DatasetFolder(path, files)
    return None


def check_shards(paths: Iterable[Path]) -> None:
    """Raise DataError unless each file named like ``train-00000-of-00003.parquet`` has all the others beside it."""
    for path in paths:
        found = re.fullmatch(r"(.+-)(\d+)(-of-(\d+))", path.stem)
        if found is None:
            continue
        names = [f"{found[1]}{n:0{len(found[2])}d}{found[3]}{path.suffix}" for n in range(int(found[4]))]
        missing = next((name for name in names if not (path.parent / name).is_file()), None)
        if missing is not None:
            raise DataError(f"all parts of {path} must be there", got=f"no {missing}", fix="fetch the rest")
