"""Files outside the repository: where data and caches live, and checksums."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import platformdirs

from qsearch.errors import DataError

log = logging.getLogger(__name__)


def data_roots(option: Path | None = None) -> tuple[Path, ...]:
    """Folders to look for data in: the option's alone; without it ``QSEARCH_DATA``, then the platform's data folder.

    Raises:
        DataError: the option names no folder; the others need not exist.
    """
    if option is not None:
        if not option.expanduser().is_dir():
            raise DataError(
                "option 'data' must name a folder", got=str(option), fix="give the folder that holds the files"
            )
        return (option.expanduser(),)
    named = os.environ.get("QSEARCH_DATA")
    return (*([Path(named).expanduser()] if named else []), platformdirs.user_data_path("qsearch"))


def find(name: str, folders: Sequence[Path]) -> Path | None:
    """The first file or folder of this name in ``folders``."""
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def is_file(path: Path) -> bool:
    """Whether a file is there; False where its folder may not be read."""
    try:
        return path.is_file()
    except OSError:
        return False


def warn_unless_published(path: Path, digests: Mapping[str, str]) -> None:
    """Log one line where a file of a published name holds something else than what was published.

    Args:
        digests: name → MD5 (32 hexadecimal digits) or SHA-256 (64).

    Raises:
        DataError: it cannot be read.
    """
    published = digests.get(path.name)
    if published is None:
        return
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5" if len(published) == 32 else "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} must be readable", got=error.strerror or str(error)) from error
    if found != published:
        log.warning(
            "%s is not the published file of this name: its digest is %s…, not %s…", path, found[:8], published[:8]
        )


def sha256(content: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
