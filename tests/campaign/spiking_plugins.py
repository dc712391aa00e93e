"""A spiking workload that trains in a second: which of three stripes flickers."""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron
from qsearch.workloads.base import ArrayWorkload, Samples, Splits

PULSES = Path(__file__)
STEPS = 5
COUNTS = {"calibration": 48, "validation": 90, "test": 45, "train": 150}


def spiking(name: str = "Pulses") -> str:
    return f"{PULSES}:{name}"


def pulses(split: str) -> Samples:
    """Spikes of shape (n, T, 1, 6, 6): the rows of one stripe spike thrice as often as the others."""
    count = COUNTS[split]
    generator = torch.Generator().manual_seed(count)
    targets = torch.randint(0, 3, (count,), generator=generator)
    rates = torch.full((count, STEPS, 1, 6, 6), 0.2)
    for row in (0, 1):
        rates[torch.arange(count), :, 0, 2 * targets + row] = 0.5
    return Samples(torch.bernoulli(rates, generator=generator), targets)


def fresh() -> SpikingNetwork:
    """Neurons that leak, neurons that do not, and an output that is read as a voltage."""
    return SpikingNetwork(
        OrderedDict(
            conv=nn.Conv2d(1, 4, 3),
            lif=Neuron(1.0, 0.8),
            flat=nn.Flatten(),
            hidden=nn.Linear(64, 12),
            fire=Neuron(torch.ones(12)),
            head=nn.Linear(12, 3),
            out=Integrator(0.9),
        ),
        readout="last",
    )


@cache
def trained() -> SpikingNetwork:
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(0)
        model, samples = fresh(), pulses("train")
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(25):
            optimiser.zero_grad()
            functional.cross_entropy(model(samples.inputs), samples.targets).backward()
            optimiser.step()
            for module in model:
                if isinstance(module, Integrator):
                    module.constrain()
        optimiser.zero_grad()
    return model.eval()


class Pulses(ArrayWorkload):
    """The trained network, and data for everything."""

    name = "pulses"
    classes = 3
    input_shape = (STEPS, 1, 6, 6)

    def network(self) -> nn.Module:
        return trained()

    def load(self) -> Splits:
        return Splits(**{split: pulses(split) for split in COUNTS})
