"""A spiking network on scikit-learn's digits that trains in seconds, and its workload."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from qsearch.costs import NetworkCost
from qsearch.evaluate.ptq import PostTraining
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.layers import Layer
from qsearch.problem import Bound, Objective, Problem
from qsearch.quantize.trace import trace_layers
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron

STEPS = 4
COUNTS = {"train": 800, "calibration": 96, "validation": 200, "test": 200}
"""Samples of each split; calibration is the beginning of training."""


class SpikingDigits:
    """Leaky neurons, neurons that forget nothing, and an output read as a voltage."""

    name, metric = "spiking-digits", "accuracy"

    def model(self) -> nn.Module:
        return trained()

    def train(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("train")

    def calibration(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("calibration")

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("validation")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader("test")

    def loader(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = digits(split)
        return zip(x.split(32), y.split(32), strict=True)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(output, target)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        return (output.argmax(-1) == target).float()


@cache
def digits(split: str) -> tuple[Tensor, Tensor]:
    """Pictures shown in every step, (n, STEPS, 1, 8, 8), and their digits."""
    found = load_digits()
    x = torch.tensor(found.images / 16, dtype=torch.float32)[:, None, None].expand(-1, STEPS, 1, 8, 8)
    y = torch.tensor(found.target)
    start = {
        "train": 0,
        "calibration": 0,
        "validation": COUNTS["train"],
        "test": COUNTS["train"] + COUNTS["validation"],
    }
    part = slice(start[split], start[split] + COUNTS[split])
    return x[part].contiguous(), y[part]


def network() -> SpikingNetwork:
    return SpikingNetwork(
        OrderedDict(
            conv=nn.Conv2d(1, 6, 3, stride=2, bias=False),
            lif=Neuron(1.0, leak=0.8),
            flat=nn.Flatten(),
            fc=nn.Linear(54, 24),
            fire=Neuron(1.0),
            out=nn.Linear(24, 10),
            voltage=Integrator(0.9),
        ),
        readout="mean",
    )


@cache
def trained() -> SpikingNetwork:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        model = network()
        optimiser = torch.optim.Adam([p for name, p in model.named_parameters() if "weight" in name], 0.01)
        x, y = digits("train")
        for _ in range(12):
            for inputs, targets in zip(x.split(40), y.split(40), strict=True):
                optimiser.zero_grad()
                functional.cross_entropy(model(inputs), targets).backward()
                optimiser.step()
                for module in model:
                    if isinstance(module, Integrator):
                        module.constrain()
        optimiser.zero_grad()
    return model.eval()


@cache
def layers() -> tuple[Layer, ...]:
    return trace_layers(trained(), digits("calibration")[0][:31])


def space(**changes: Any) -> SearchSpace:
    given: dict[str, Any] = {
        "weight_bits": [2, 3, 4, 8],
        "activation_bits": [4, 8],
        "state_bits": [4, 6, 8, 12],
        "leak_bits": [2, 4, 8],
        "threshold_bits": [2, 4, 8],
    }
    return build_space(layers(), **{**given, **changes})


def evaluator(**options: Any) -> PostTraining:
    return PostTraining(SpikingDigits(), layers(), PostTraining.Options(threads=1, **options))


class StoredBits(VectorCostModel):
    """Bits of weights and of what neurons keep: additive over layers, and over kernels."""

    units: Mapping[str, str] = {"memory": "bit"}
    kernel_additive = True

    def layer_costs(self, layer: Layer, weight_bits: Any, activation_bits: Any) -> Costs:
        """See :meth:`VectorCostModel.layer_costs`."""
        stored = weight_bits.mean(axis=1) * layer.stored_params
        states = activation_bits * layer.neurons * (layer.kind == "neuron")
        return {"memory": stored.astype(float) + states}


def problem(
    bits: SearchSpace,
    *,
    objectives: Sequence[tuple[str, str]] = (("accuracy", "maximize"),),
    budget: float | None = 0.5,
    accuracy: float | None = None,
) -> Problem:
    """A share of the memory at the most bits as the bound, or an accuracy to keep."""
    cost = NetworkCost(StoredBits(), layers(), bits)
    most = cost.estimate(bits.decode(bits.highest)).totals["memory"]
    bounds = [] if budget is None else [Bound("memory", budget * most, False, f"memory <= {budget:g}")]
    bounds += [] if accuracy is None else [Bound("accuracy", accuracy, True, f"accuracy >= {accuracy:g}")]
    return Problem(bits, cost, tuple(Objective(*item) for item in objectives), tuple(bounds))
