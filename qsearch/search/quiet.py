"""Silence for libraries that print from C."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_STDOUT = 1  # file descriptor


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Drop what is written to file descriptor 1 within the block.

    HiGHS prints debugging lines from C on some instances, past ``sys.stdout``. C buffers them, so they are flushed
    into the void before the descriptor is restored. Other threads that print within the block are silenced too: keep
    it around single calls.
    """
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        saved = os.dup(_STDOUT)
    except OSError:  # the process has no standard output, so there is nothing to keep quiet
        yield
        return
    try:
        _flush_c()
        with open(os.devnull, "wb") as void:  # noqa: PTH123  # a device, not a path
            os.dup2(void.fileno(), _STDOUT)
        yield
    finally:
        _flush_c()
        os.dup2(saved, _STDOUT)
        os.close(saved)


def _flush_c() -> None:
    """Flush C's buffers of this process."""
    library = ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("msvcrt")
    library.fflush(None)
