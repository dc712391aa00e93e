"""Linear layers side by side, with lessons: what searchers that learn bits are tested on.

The network of a problem's layers gives all their outputs on one input; the target is the output of the float network. So the
loss is a weighted sum of each layer's own quantisation error, and the weights say which layers matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.problem import Problem
from qsearch.quantize.network import QuantizedNetwork
from qsearch.training.lessons import Batch, Lessons
from qsearch.trial import Quality


class SideBySide(nn.Module):
    """Linear layers that all read the input; their outputs one after the other."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        for layer in layers:
            self.add_module(layer.name, nn.Linear(layer.in_channels, layer.out_channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], dim=1)


def lessons(layers: Sequence[Layer], importance: Sequence[float] | None = None, samples: int = 48) -> Lessons:
    """Lessons in reproducing the float outputs; ``importance`` weighs the mean squared error of each layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SideBySide(layers).eval()
        x = torch.randn(samples, layers[0].in_channels)
    with torch.no_grad():
        targets = network(x)
    scale = torch.cat(
        [
            torch.full((layer.out_channels,), weight / layer.out_channels)
            for layer, weight in _weighed(layers, importance)
        ]
    )

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square() * scale).sum(1).mean()

    calibrated = QuantizedNetwork(network, layers, [x], correction=False)
    return Lessons(
        lambda: _copy(network, layers), tuple(layers), calibrated, Batch(x, targets), loss, lambda inputs, _: inputs
    )


def taught(problem: Problem, evaluator: Any) -> Any:
    """The evaluator, with a network of the problem's layers to learn on; its answers stay in closed form."""
    given = lessons(problem.layers)
    evaluator.lessons = lambda: given
    return evaluator


class Seen:
    """An oracle's evaluator that hands out lessons and scores nothing but the size of bits: for what learning comes to."""

    def __init__(self, given: Lessons) -> None:
        self._lessons = given
        self.calls = 0

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        self.calls += 1
        return Quality(0.5, 0.5, 100, 0.05)

    def lessons(self) -> Lessons:
        return self._lessons


def _weighed(layers: Sequence[Layer], importance: Sequence[float] | None) -> list[tuple[Layer, float]]:
    return list(zip(layers, importance or [1.0] * len(layers), strict=True))


def _copy(network: SideBySide, layers: Sequence[Layer]) -> SideBySide:
    copy = SideBySide(layers).eval()
    copy.load_state_dict(network.state_dict())
    return copy
