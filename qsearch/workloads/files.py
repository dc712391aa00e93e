"""Files outside the repository: where data and caches live, and checksums."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from qsearch.errors import DataError


def data_roots(option: Path | None = None) -> tuple[Path, ...]:
    """Folders to look for data in, in order: the option, ``QSEARCH_DATA``, the platform's data folder.

    Raises:
        DataError: the option names no folder; the other two need not exist.
    """
    if option is not None and not option.expanduser().is_dir():
        raise DataError("option 'data' must name a folder", got=str(option), fix="give the folder that holds the files")
    chosen = [folder for folder in (option, os.environ.get("QSEARCH_DATA")) if folder]
    return (*(Path(folder).expanduser() for folder in chosen), platformdirs.user_data_path("qsearch"))


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file or folder of this name in ``folders``."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def is_file(path: Path) -> bool:
    """Whether a file is there; False where its folder may not be read."""
    try:
        return path.is_file()
    except OSError:
        return False


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
