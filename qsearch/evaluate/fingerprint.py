"""A digest of what an evaluator's answers depend on: tensors by their bytes, settings by their names, code by its files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from qsearch.files import content_digest


def digest(tensors: Mapping[str, object], settings: object) -> str:
    """SHA-256 over tensors in the order of their names, over settings, and over the code that quantises, that steps
    neurons and that evaluates.

    Args:
        tensors: name → tensor; what is no tensor, such as a module's extra state, enters as its ``repr``.
        settings: anything with a stable ``repr``.
    """
    total = hashlib.sha256(f"torch {torch.__version__} {settings!r}\n".encode())
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, Tensor):
            total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            total.update(plain.numpy().tobytes())
        else:
            total.update(f"{name} {value!r}\n".encode())
    package = Path(__file__).parents[1]
    for room in ("spiking", "quantize", "evaluate"):
        total.update(content_digest((package / room).glob("*.py")).encode())
    return total.hexdigest()


def sources(classes: Iterable[type]) -> dict[str, str] | None:
    """A digest of the module of each class and of what it inherits from, without those of torch and of Python itself.

    Returns:
        module name → SHA-256 of its file; None where one has no source that can be read.
    """
    names = {base.__module__ for plain in classes for base in plain.__mro__}
    found: dict[str, str] = {}
    for name in sorted(names):
        if name != "__main__" and name.partition(".")[0] in {"torch", *sys.stdlib_module_names}:
            continue
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is None or not file.endswith(".py"):
            return None
        try:
            found[name] = content_digest([Path(file)])
        except OSError:
            return None
    return found
