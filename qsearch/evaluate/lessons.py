"""The lessons of an evaluator: its network, its calibrated grids, and the workload's training data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from qsearch.errors import DataError
from qsearch.evaluate.data import read
from qsearch.layers import Layer
from qsearch.protocols import Augmenting, Workload
from qsearch.quantize.copies import duplicate
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.training.lessons import Lessons


def lessons_of(workload: Workload, layers: Sequence[Layer], calibrated: QuantizedNetwork) -> Lessons:
    """What a workload's network is trained on.

    Raises:
        DataError: the workload has no training data, or malformed ones.
    """
    loader = training_loader(workload)
    data = read(loader, f"training loader of workload {workload.name!r}")

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return torch.as_tensor(workload.loss(output, target))

    def augment(inputs: Inputs, generator: Generator) -> Inputs:
        if isinstance(workload, Augmenting) and isinstance(inputs, Tensor):
            return workload.augment(inputs, generator)
        return inputs

    def model() -> nn.Module:
        return duplicate(workload.model())  # which may be the workload's own, and is trained here

    return Lessons(model, tuple(layers), calibrated, data, loss, augment)


def training_loader(workload: Workload) -> Iterable[Any]:
    """The loader of a workload's training data.

    Raises:
        DataError: it has none.
    """
    loader = workload.train()
    if loader is None:
        raise DataError(
            f"workload {workload.name!r} must have training data to be trained on",
            got="none",
            fix="give it a train() loader, or evaluate with 'ptq'",
        )
    return loader
