"""Spiking networks that workloads train: leaky neurons with a leak and a threshold per channel, read out as a voltage.

Notation: B samples of T steps; C channels. All are (B, T, \\*S) → logits (B, C), without batch-norm, whose mean over all
steps a device that sees one step after another does not know.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron

LEAK, THRESHOLD = 0.9, 0.5
"""λ and θ before training. Half a unit, as currents of fresh weights are small and a silent layer learns nothing."""


def convolutional(channels: Sequence[int], extents: tuple[int, int], classes: int, stride: int = 1) -> SpikingNetwork:
    """Blocks of a 3×3 convolution, neurons and pooling of 2×2 spikes, then one linear layer.

    Args:
        channels: of the input, and of each block.
        extents: height and width of the input; what is left after the blocks must be whole.
        stride: of the first convolution.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv{block}"] = nn.Conv2d(before, after, 3, stride=stride if block == 1 else 1, padding=1)
        layers[f"neuron{block}"] = Neuron(*_constants(after, 1, 1))
        layers[f"pool{block}"] = sum_pool(2)
    shrunk = stride * 2 ** (len(channels) - 1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels[-1] * (extents[0] // shrunk) * (extents[1] // shrunk), classes)
    layers["output"] = Integrator()
    return SpikingNetwork(layers, readout="last")


def recurrent(features: int, neurons: int, classes: int) -> SpikingNetwork:
    """A linear layer, neurons whose spikes come back to all of them, and a linear layer. States are averaged over time."""
    threshold, leak = _constants(neurons)
    back = nn.Linear(neurons, neurons, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        hidden=nn.Linear(features, neurons),
        neuron=RecurrentNeuron(back, threshold, leak),
        fc=nn.Linear(neurons, classes),
        output=Integrator(LEAK),
    )
    return SpikingNetwork(layers, readout="mean")


def _constants(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds and leaks."""
    return torch.full(shape, THRESHOLD), torch.full(shape, LEAK)
