"""Reading a pickle that only holds arrays and built-in containers, as CIFAR's python batches are, and nothing else.

A pickle is a program: each GLOBAL instruction names something to import and call. Here five names are answered, each
with no more than the format needs; every other one is refused before it is looked up.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from qsearch.errors import DataError

_DTYPES = frozenset({"u1", "i4", "i8", "f4", "f8"})

_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})

_RECONSTRUCT: Callable[..., Any] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]  # NumPy moves its home


def load_arrays(content: bytes) -> Any:
    """The object in a pickle of arrays, numbers, strings and containers; Python 2's strings are read as Latin-1.

    Raises:
        DataError: it names anything else, or is no pickle.
    """
    try:
        _check_memo(content)
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise DataError("a batch must be a whole pickle", got=f"{type(error).__name__}: {error}") from error


def _check_memo(content: bytes) -> None:
    """Raise unless each memo index is below the pickle's length: the unpickler makes room for as many as it is told."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _PUTS and int(argument or 0) > len(content):
            raise DataError("memo indices in a batch must be below its length", got=argument)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _array,
            ("numpy._core.multiarray", "_reconstruct"): _array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _dtype,
            ("_codecs", "encode"): _latin1,
        }
        if (module, name) not in allowed:
            raise DataError(
                "a batch may hold only arrays and built-in containers",
                got=f"{module}.{name}",
                fix="do not trust this file; fetch the data set again",
            )
        return allowed[module, name]


def _array(kind: type[Any], shape: tuple[int, ...], code: str | bytes) -> Any:
    """An empty array, which the pickle then fills."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise DataError("an array in a batch must start empty", got=f"{kind}, {shape}")
    return _RECONSTRUCT(kind, shape, code)


def _dtype(code: str | bytes, align: int = 0, duplicate: int = 1) -> np.dtype[Any]:
    """A dtype of plain numbers: one of objects would run code of its own. Old pickles give the flags as integers."""
    text = code.decode("latin1") if isinstance(code, bytes) else code
    if text not in _DTYPES:
        raise DataError("arrays in a batch must hold plain numbers", got=text)
    return np.dtype(text, bool(align), bool(duplicate))


def _latin1(text: str, encoding: str = "latin1") -> bytes:
    """How Python 3 writes bytes at pickle protocol 2."""
    if encoding != "latin1":
        raise DataError("bytes in a batch must be Latin-1", got=encoding)
    return text.encode("latin1")
