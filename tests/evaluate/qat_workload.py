"""A workload that trains in milliseconds: which of three stripes is in a noisy 6×6 picture."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.qat import QuantizationAware
from qsearch.layers import Layer
from qsearch.quantize.trace import trace_layers
from qsearch.sites import build_space
from qsearch.space import SearchSpace

COUNTS = {"calibration": 64, "validation": 90, "test": 45, "train": 160}


class Stripes:
    """A trained convolution with batch-norm and dropout, and two linear layers; one per process is enough."""

    name = "stripes"
    metric = "accuracy"

    def model(self) -> nn.Module:
        return trained()

    def train(self) -> Iterator[tuple[Tensor, Tensor]] | None:
        return self.loader("train")

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("calibration")

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("validation")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("test")

    def loader(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = stripes(split)
        return zip(x.split(16), y.split(16), strict=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


@cache
def stripes(split: str) -> tuple[Tensor, Tensor]:
    count = COUNTS[split]
    generator = torch.Generator().manual_seed(count)
    y = torch.randint(0, 3, (count,), generator=generator)
    x = torch.randn(count, 1, 6, 6, generator=generator)
    x[torch.arange(count), 0, 2 * y] += 1.0
    return x, y


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 12),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(12, 3),
    )


@cache
def trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        x, y = stripes("train")
        for _ in range(30):
            optimiser.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            optimiser.step()
        optimiser.zero_grad()
    return model.eval()


@cache
def layers() -> tuple[Layer, ...]:
    return trace_layers(trained(), torch.zeros(1, 1, 6, 6))


def space(**changes: Any) -> SearchSpace:
    return build_space(layers(), **{"weight_bits": [1, 2, 4, 8], "activation_bits": [2, 4, 8], **changes})


def bits(weights: int, activations: int = 8) -> BitAssignment:
    return BitAssignment(
        {site: weights if site.endswith("weight") else activations for site in space().reference(FLOAT_BITS)}
    )


def evaluator(workload: Any = None, **options: Any) -> QuantizationAware:
    """Two epochs of a few steps."""
    chosen = {"epochs": 2, "batch_size": 40, "threads": 1, **options}
    return QuantizationAware(workload or Stripes(), layers(), QuantizationAware.Options(**chosen))


def untrained() -> PostTraining:
    return PostTraining(Stripes(), layers(), PostTraining.Options(threads=1))
