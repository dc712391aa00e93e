"""Trained weights on disk, with a record of where they come from; read back only if whole.

A file is a safetensors archive. Its metadata hold the record and a SHA-256 over the tensors' names, types, shapes and bytes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from qsearch.errors import StorageError
from qsearch.files import write_atomically

State = Mapping[str, Tensor]
"""A network's parameters and statistics, by name."""


def store(path: Path, state: State, accuracy: float) -> None:
    """Write weights and the accuracy they were measured at.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    write_atomically(path, save(tensors, metadata={"sha256": _digest(tensors), "accuracy": repr(accuracy)}))


def restore(path: Path, like: State) -> tuple[dict[str, Tensor], float]:
    """Weights and recorded accuracy of a file that :func:`store` wrote.

    Args:
        like: the state that the names, types and shapes must agree with.

    Raises:
        StorageError: the file is damaged, or made for another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        accuracy = float(metadata["accuracy"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error
    if metadata.get("sha256") != _digest(tensors):
        raise _corrupt(path, "a checksum that does not match")
    expected = {name: (value.shape, value.dtype) for name, value in like.items()}
    if {name: (value.shape, value.dtype) for name, value in tensors.items()} != expected:
        raise _corrupt(path, "tensors of another network")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()) or not math.isfinite(accuracy):
        raise _corrupt(path, "numbers that are not finite")
    return tensors, accuracy


def _corrupt(path: Path, got: str) -> StorageError:
    return StorageError(f"cached weights {path} must be whole", got=got)


def _digest(tensors: State) -> str:
    """SHA-256 over the tensors in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.contiguous().numpy().tobytes())
    return total.hexdigest()
