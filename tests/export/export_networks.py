"""Networks, assignments and checks that the tests of exports share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.evaluate.data import Split
from qsearch.export.deployment import Deployment, deploy
from qsearch.export.formats import Format
from qsearch.export.writing import Exported, outputs, write_agreeing
from qsearch.layers import Layer
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import examine

EVERY_KIND = (0, 1, 2, 3, 5, 8, 12, 32)
"""Bits of weights: pruned, two levels, searched scales, the ends of integer types, wider than any, float."""


class Convolutional(nn.Module):
    """A convolution that is used twice, a depthwise one, batch norms, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.again(torch.relu(self.again(x))))
        x = torch.relu(self.norm2(self.deep(x)) + x)
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """Attention by hand: two products of activations, and a linear layer that is a functional call."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.queries, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(8, 5)
        self.mix = nn.Parameter(torch.randn(8, 16) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.queries(x) @ self.keys(x).transpose(1, 2) / 4
        found = nn.functional.linear(torch.softmax(scores, -1) @ x, self.mix)
        return self.out(found).mean(1)


@dataclass(frozen=True)
class Case:
    """A network under quantisation with samples to compare on."""

    model: nn.Module
    network: QuantizedNetwork
    layers: tuple[Layer, ...]
    samples: Tensor

    @property
    def data(self) -> Split:
        return Split(self.samples, torch.zeros(len(self.samples)))

    @cached_property
    def kernels(self) -> dict[str, int]:
        """Weight site → kernels."""
        return {layer.weight_site: layer.kernels for layer in self.layers if layer.kind != "matmul"}

    def assignment(
        self, weights: Sequence[int], activations: Sequence[int], *, by_kernel: bool = False, seed: int = 0
    ) -> BitAssignment:
        """Bits drawn from the choices, those of weights for each kernel if asked."""
        rng = np.random.default_rng(seed)
        bits: dict[str, int | tuple[int, ...]] = {}
        for site in self.network.sites:
            if self.network.is_weight(site):
                drawn = rng.choice(weights, self.kernels[site] if by_kernel else 1).tolist()
                bits[site] = tuple(drawn) if by_kernel else drawn[0]
            else:
                bits[site] = int(rng.choice(activations))
        return BitAssignment(bits)

    def deploy(self, assignment: BitAssignment) -> Deployment:
        return deploy(self.network, self.layers, assignment, self.samples)

    def export(self, formats: tuple[Format, ...], assignment: BitAssignment, path: Path) -> Exported:
        """Write and compare, as ``qsearch export`` does."""
        deployment = self.deploy(assignment)
        return write_agreeing(formats, deployment, self.data, outputs(self.network, self.data), path)


def case(model: nn.Module, samples: Tensor) -> Case:
    """A network that is calibrated on the samples it is compared on."""
    model.eval()
    layers = examine(model, samples[:2]).layers
    return Case(model, QuantizedNetwork(model, layers, [samples]), layers, samples)


@torch.no_grad()
def balanced(model: nn.Module, head: nn.Linear, samples: Tensor) -> nn.Module:
    """The network with no class ahead on average: predictions that are all the same would agree with anything."""
    head.bias -= model.eval()(samples).mean(0)
    assert model(samples).argmax(1).bincount().max() < 0.8 * len(samples)
    return model


def convolutional() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Convolutional()
        for norm in (model.norm, model.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            assert norm.running_mean is not None
            nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.normal_(model.head.weight, std=2.0)
        samples = torch.randn(200, 3, 8, 8) + torch.randn(200, 3, 1, 1)  # images of different colours
        return case(balanced(model, model.head, samples), samples)


def functional() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model, samples = Functional(), torch.randn(100, 6, 16) + torch.randn(100, 1, 16)
        return case(balanced(model, model.out, samples), samples)


def perceptron() -> Case:
    """Linear layers whose outputs pass a ReLU and are quantised: what onnxruntime rounds biases in."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        for layer in (model[0], model[2]):
            nn.init.normal_(layer.bias)
        samples = torch.randn(200, 8)
        return case(balanced(model, model[4], samples), samples)


def agrees(exported: Exported) -> None:
    """The runtime gives the same predictions, the outputs within a thousandth of those evaluated."""
    assert exported.path.stat().st_size == exported.size
    agreement = exported.agreement
    assert agreement.same == agreement.compared > 0, str(agreement)
    assert agreement.mean < 1e-3, str(agreement)
