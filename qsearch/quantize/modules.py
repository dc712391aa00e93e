"""Modules that become layers, and how any network is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.quantize.products import MatrixProduct

Inputs: TypeAlias = Tensor | tuple[Tensor, ...]
"""What a network is called with: one tensor, or several positional ones; the first extent is the batch."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of modules whose channels stand along the second extent."""

QUANTISABLE = (*CONVOLUTIONS, nn.Linear, nn.Embedding)
"""Kinds of modules with a weight that become layers; :class:`MatrixProduct` is one without."""

LAYERS = (*QUANTISABLE, MatrixProduct)
"""Kinds of modules that become layers."""


def forward(model: nn.Module, inputs: Inputs) -> Any:
    """Call ``model`` with one tensor, or with a tuple of positional ones: with copies, as a network may write into them."""
    return model(*(part.clone() for part in inputs)) if isinstance(inputs, tuple) else model(inputs.clone())


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs on a device."""
    return tuple(part.to(device) for part in inputs) if isinstance(inputs, tuple) else inputs.to(device)


def given(args: tuple[Any, ...], kwargs: Mapping[str, Any], operand: int = 0) -> Tensor:
    """The input that a hook sees a layer called with; of a matrix product, one of the two."""
    found: Tensor = args[operand] if args else kwargs["input"]
    return found


def head(inputs: Inputs, count: int) -> Inputs:
    """The first samples of a batch; a number by itself is no batch."""
    parts = [part[:count] if part.dim() else part for part in (inputs if isinstance(inputs, tuple) else (inputs,))]
    return tuple(parts) if isinstance(inputs, tuple) else parts[0]


def samples(inputs: Inputs) -> int:
    """Samples in a batch."""
    return len(inputs[0] if isinstance(inputs, tuple) else inputs)


def first(batches: Sequence[Inputs], count: int | None) -> tuple[Inputs, ...]:
    """The batches that hold the first ``count`` samples, the last of them cut; all, as they are, where there are no more."""
    if count is None or count >= sum(map(samples, batches)):
        return tuple(batches)
    found: list[Inputs] = []
    for batch in batches:
        if count <= 0:
            break
        found.append(head(batch, count))
        count -= samples(batch)
    return tuple(found)
