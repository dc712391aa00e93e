"""Weights that come from outside: read without running anything, checked against the network, and only then put in.

A checkpoint is a safetensors archive, or what ``torch.save`` wrote: a state dictionary, or a dictionary that holds one
under a usual name. torch's own reader with ``weights_only=True`` builds tensors and plain containers and refuses every
other name in a pickle before it is looked up.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.workloads.files import sha256

HOLDERS = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts keep the state dictionary, in the order in which they are tried."""

_PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel training and ``torch.compile`` put in front of every name."""

_SHOWN = 200
"""Characters of somebody else's message in ours."""


def load_checkpoint(network: nn.Module, path: Path, opening: str = "") -> None:
    """Put a checkpoint's weights into a network, and leave it untouched where they do not fit.

    ``num_batches_tracked``, which older files lack and nothing here uses, may be missing.

    Args:
        opening: the first digits of the file's SHA-256, where it is known.

    Raises:
        DataError: the file cannot be read, is another one, holds more than tensors, or tensors of another network.
    """
    state = read_checkpoint(path, opening)
    wanted = network.state_dict()
    _check_fit(path, state, wanted)
    _check_numbers(path, state, wanted)
    network.load_state_dict(state, strict=False)  # the one kind of name that may be missing is checked above


def read_checkpoint(path: Path, opening: str = "") -> dict[str, Tensor]:
    """Names and tensors of a checkpoint, on the processor, less the prefixes that training left.

    Raises:
        DataError: see :func:`load_checkpoint`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"weights {path} must be a file that can be read", got=error.strerror or str(error)) from error
    if not sha256(content).startswith(opening):
        raise DataError(
            f"the SHA-256 of {path} must open with {opening}", got=sha256(content)[: len(opening)], fix="fetch it again"
        )
    state = _state(path, _parsed(path, content))
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _parsed(path: Path, content: bytes) -> Any:
    """What the file holds."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(content)
        except Exception as error:  # a damaged archive may fail in any way
            raise _refused(path, "a whole safetensors archive", error) from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # so may a damaged pickle
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise DataError(
                f"weights {path} may hold only tensors and plain containers",
                got=named[1],
                fix="nothing of it was run; if you trust its origin, save network.state_dict() from there",
            ) from error
        raise _refused(path, "a whole file written by torch.save(network.state_dict(), …)", error) from error


def _refused(path: Path, rule: str, error: Exception) -> DataError:
    return DataError(
        f"weights {path} must be {rule}",
        got=f"{type(error).__name__}: {error}"[:_SHOWN],
        fix="fetch or save it again; its suffix must be .safetensors if it is one",
    )


def _state(path: Path, value: Any) -> dict[str, Tensor]:
    """The state dictionary in what a file held."""
    for _ in HOLDERS:  # not for as long as there is one: a dictionary may hold itself
        holders = HOLDERS if isinstance(value, Mapping) else ()
        value = next((value[key] for key in holders if isinstance(value.get(key), Mapping)), value)
    if not isinstance(value, Mapping) or not value:
        got = "an empty one" if isinstance(value, Mapping) else type(value).__name__
        raise DataError(f"weights {path} must hold a state dictionary", got=got, fix="save network.state_dict()")
    for name, entry in value.items():
        if not isinstance(name, str) or not isinstance(entry, Tensor) or entry.layout != torch.strided:
            raise DataError(
                f"the state dictionary in {path} must map names to dense tensors",
                got=f"{type(entry).__name__} under {name!r}",
                fix=f"save network.state_dict(), alone or under one of {', '.join(HOLDERS)}",
            )
    return dict(value)


def _check_fit(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise DataError unless the tensors are those of the network, by name and shape."""
    for name, value in wanted.items():
        if name not in state and not name.endswith("num_batches_tracked"):
            raise _other_network(path, f"{name} is missing, of shape {_extents(value)} in the network", state, wanted)
        if name in state and state[name].shape != value.shape:
            shapes = f"{name} has shape {_extents(state[name])} there and {_extents(value)} in the network"
            raise _other_network(path, shapes, state, wanted)
    surplus = next((name for name in state if name not in wanted), None)
    if surplus is not None:
        raise _other_network(path, f"{surplus}, of shape {_extents(state[surplus])}, is not in it", state, wanted)


def _check_numbers(path: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise DataError unless the tensors hold the network's kind of number, and are finite once they are in it."""
    for name, value in state.items():
        if value.is_meta or value.is_quantized or _kind(value) != _kind(wanted[name]):
            held = "no numbers (meta)" if value.is_meta else value.dtype
            raise DataError(
                f"weights {path} must hold the network's kind of number",
                got=f"{held} in {name}, {wanted[name].dtype} in the network",
                fix="save the state_dict() of the float network",
            )
        if not bool(torch.isfinite(value.to(wanted[name].dtype)).all()):
            raise DataError(f"weights {path} must be finite", got=f"NaN or infinity in {name}")


def _kind(value: Tensor) -> tuple[bool, bool]:
    return value.is_floating_point(), value.is_complex()


def _other_network(path: Path, first: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> DataError:
    """What differs first, and how much else does."""
    common = [name for name in wanted if name in state and state[name].shape == wanted[name].shape]
    return DataError(
        f"weights {path} must have the names and shapes of the network",
        got=f"first difference: {first}; {len(common)} of {len(wanted)} tensors agree",
        fix="give weights of the same architecture, width and number of classes",
    )


def _extents(value: Tensor) -> str:
    return str(tuple(value.shape))
