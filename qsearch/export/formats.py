"""``Format``: what a module that writes networks offers, and what its errors have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.export.deployment import Deployment
from qsearch.quantize.modules import Inputs, forward

Runtime: TypeAlias = Callable[[Inputs], Tensor]
"""A network that was loaded from a file: inputs of any number of samples → its output, a row per sample."""

WITHOUT_GRAPH = "safetensors, json, csv"
"""Formats that need no graph of the network, and so can be written of any."""


class Format(Protocol):
    """One way to write a deployment. A module's ``FORMATS`` are tried in their order until one agrees.

    Attributes:
        suffix: of its files, with the dot.
        told: what is peculiar to it, in a few words ("scales of 16 bits").
        runtime: what loads them again, by name.
    """

    suffix: str
    told: str
    runtime: str

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        """Write the file; what its reader should know, a line each.

        Raises:
            ConfigError: an operator that the format has not.
        """
        ...

    def load(self, path: Path, deployment: Deployment) -> Runtime:
        """The file in the runtime that users have."""
        ...


def in_torch(network: nn.Module) -> Runtime:
    """A network of torch as a runtime."""

    def run(inputs: Inputs) -> Tensor:
        with torch.inference_mode():
            output: Tensor = forward(network, inputs)
        return output

    return run


def unsupported(name: str, error: Exception, works: str) -> ConfigError:
    """The error of a network that a format cannot hold: names the operator, and the line that calls it if known.

    Args:
        name: the format.
        error: what the exporter raised.
        works: the formats that would work.
    """
    text = _whole(error)
    operator = re.search(r"target=(?:torch\.ops\.)?([\w.:]+)", text) or re.search(r"\b(aten[.:][\w.:]+)", text)
    node = re.search(r"%(\w+)\s*:", text)
    named = f"{operator.group(1)}{f' (node {node.group(1)!r})' if node else ''}" if operator else _first_line(error)
    return ConfigError(f"the format {name!r} must have every operator of the network", got=named, fix=f"try {works}")


def _whole(error: BaseException | None) -> str:
    """An exception's text and those of its causes, the innermost first."""
    return "" if error is None else _whole(error.__cause__) + "\n" + str(error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
