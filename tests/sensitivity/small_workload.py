"""A workload of one convolution and one linear layer, and its evaluator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.evaluate.ptq import PostTraining
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace


class Small:
    """Drawn weights and data; ``change`` is what a test does to the network before it is used."""

    name, metric = "small", "accuracy"

    def __init__(self, seed: int = 0, factor: float = 1.0) -> None:
        self.seed, self.factor = seed, factor

    def model(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
            ).eval()
        with torch.no_grad():
            network[0].weight[1] = 0.0
            network[4].weight.mul_(self.factor)
        return network

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(32, 1, 6, 6, generator=generator)
        yield x, torch.randint(0, 3, (32,), generator=generator)

    validation = test = calibration

    def train(self) -> None:
        return None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


def evaluator(workload: Small | None = None, **options: Any) -> PostTraining:
    workload = workload or Small()
    return PostTraining(workload, layers_of(workload), PostTraining.Options(**options))


def space(**options: Any) -> SearchSpace:
    given = {"weight_bits": [2, 4], "activation_bits": [3, 8], **options}
    return build_space(layers_of(Small()), **given)
