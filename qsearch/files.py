"""Writes that never leave half a file; where what can be computed again is kept."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Where what can be computed again is kept: ``QSEARCH_CACHE``, else the platform's cache folder. It need not exist."""
    chosen = os.environ.get("QSEARCH_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("qsearch")


def content_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names.

    Raises:
        OSError: one of them cannot be read.
    """
    total = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        total.update(f"{path.name} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made where missing.

    Raises:
        OSError: the folder cannot be written or the disk is full; a file that was there is left as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        with temporary.open("xb") as file:  # unlike tempfile, with the rights that the user's umask gives
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink()
        raise
