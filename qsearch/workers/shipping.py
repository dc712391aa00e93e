"""An evaluator as bytes, to go to other processes and machines.

Code is pickled by its name, which the receiver imports, where an installation brings it: the standard library, what pip
has installed, qsearch itself. Everything else, such as a plug-in named by its file, is pickled by value: no other machine
could import it.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ray import cloudpickle

from qsearch.errors import PluginError

_INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders that pip and distributions of Linux install into."""


def packed(value: object) -> bytes:
    """A value with all its data, and the code that no installation brings.

    Raises:
        PluginError: something in it cannot be pickled, such as an open file.
    """
    try:
        with _by_value():
            return bytes(cloudpickle.dumps(value))
    except Exception as error:  # whatever a plug-in's object may raise when it is copied
        raise PluginError(
            "an evaluator must be picklable to go to workers",
            got=f"{type(error).__name__}: {error}",
            fix="leave out what cannot be (open files, locks) in __getstate__, or workers: none",
        ) from error


def unpacked(content: bytes) -> Any:
    """The value again."""
    return cloudpickle.loads(content)


@contextmanager
def _by_value() -> Iterator[None]:
    """Inside, code that no installation brings is pickled by value."""
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if _is_our_own(module) and module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield


def _is_our_own(module: ModuleType) -> bool:
    """Whether a module comes from a file that no installation brings."""
    file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
    if not isinstance(file, str) or sys.modules.get(name) is not module or name == "__main__":  # by value anyway
        return False
    standard = {Path(sysconfig.get_path(key)) for key in ("stdlib", "platstdlib")}
    path = Path(file)
    return name.partition(".")[0] != "qsearch" and not _INSTALLED & set(path.parts) and not standard & set(path.parents)
