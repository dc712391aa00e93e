"""Conversion of the network of ReLUs that the shared N-MNIST network was made of, on real events."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qsearch.spiking.conversion import OUTPUT, Conversion, convert
from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Neuron

DATA = Path(os.environ.get("QSEARCH_DATA") or Path(__file__).parents[2].parent / "shared" / "data") / "nmnist"
RECORDINGS = slice(0, 1000, 8)
OTHERS = slice(1, 1000, 10)
"""Recordings that balance."""

pytestmark = pytest.mark.skipif(
    not (DATA / "pretrained_ann_weights.pth").is_file(), reason=f"no pretrained_ann_weights.pth in {DATA}: set QSEARCH_DATA"
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    """The network of ReLUs; bias-free, so that its classes do not depend on the scale of its input."""
    found = nn.Sequential(
        nn.Conv2d(2, 16, 5, 2, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, 1, 1, bias=False),
        nn.ReLU(),
        sum_pool(2),
        nn.Conv2d(16, 8, 3, 1, 1, bias=False),
        nn.ReLU(),
        sum_pool(2),
        nn.Flatten(),
        nn.Linear(128, 256, bias=False),
        nn.ReLU(),
        nn.Linear(256, 10, bias=False),
        nn.ReLU(),
    )
    found.load_state_dict(torch.load(DATA / "pretrained_ann_weights.pth", weights_only=True))
    return found.eval()


@pytest.fixture(scope="module")
def events() -> dict[str, Any]:
    with np.load(DATA / "nmnist_train1k.npz") as archive:
        found = {key: archive[key] for key in archive.files}
    return {**found, "recording": np.repeat(np.arange(1000), np.diff(found["offsets"]))}


def frames(events: dict[str, Any], begin: int, end: int, chosen: slice) -> Tensor:
    """Counts of events of a stretch of time in µs, (N, 2, 34, 34)."""
    found = np.zeros((1000, 2, 34, 34), np.float32)
    within = (events["t_us"] >= begin) & (events["t_us"] < end)
    np.add.at(found, tuple(events[key][within] for key in ("recording", "p", "y", "x")), 1)
    return torch.from_numpy(found[chosen].copy())


def accuracy(network: nn.Module, inputs: Tensor, events: dict[str, Any]) -> float:
    labels = torch.from_numpy(events["label"][RECORDINGS].astype(np.int64))
    with torch.no_grad():
        return float((network(inputs).argmax(1) == labels).double().mean())


@pytest.mark.parametrize("last", ["integrate", "spike"])
def test_conversion_keeps_the_accuracy_on_frames(network: nn.Sequential, events: dict[str, Any], last: Any) -> None:
    inputs, others = (frames(events, 200_000, 300_000, part) for part in (RECORDINGS, OTHERS))
    converted = convert(network, others, Conversion(steps=20, per="layer", last=last))
    before = accuracy(network, inputs, events)
    assert before > 0.97
    assert accuracy(converted, inputs, events) > before - 0.02


def test_weights_are_those_of_the_network_but_for_the_scale_of_spikes(
    network: nn.Sequential, events: dict[str, Any]
) -> None:
    converted = convert(network, frames(events, 0, 300_000, OTHERS), Conversion(per="layer", last="spike", shift=False))
    worth = 1.0
    for (name, ours), theirs in zip(converted.named_children(), network, strict=True):
        if isinstance(theirs, nn.Conv2d | nn.Linear):
            torch.testing.assert_close(ours.weight, theirs.weight * worth, msg=name)
        elif isinstance(theirs, nn.ReLU):
            assert isinstance(ours, Neuron)
            worth = float(ours.threshold.weight.detach())
    assert name == OUTPUT


def test_balanced_thresholds_make_good_for_one_spike_a_step(network: nn.Sequential, events: dict[str, Any]) -> None:
    """Bins of 10 ms, of which all thresholds at 1 lose five points unless neurons may spike several times in one."""
    steps = 30
    bins = torch.stack([frames(events, 10_000 * k, 10_000 * (k + 1), RECORDINGS) for k in range(steps)], 1)
    mean = frames(events, 0, 10_000 * steps, OTHERS) / steps
    converted = convert(network, mean, Conversion(steps=steps, per="layer", last="spike", shift=False))
    balanced = SpikingNetwork(OrderedDict(converted.named_children()), "sum")
    plain, several = (
        SpikingNetwork(
            OrderedDict(
                (name, Neuron(1.0, several=several) if isinstance(part, nn.ReLU) else part)
                for name, part in network.named_children()
            ),
            "sum",
        )
        for several in (False, True)
    )
    accuracies = [accuracy(each, bins, events) for each in (plain, several, balanced)]
    assert accuracies[0] < 0.95
    assert accuracies[1] > 0.97
    assert accuracies[2] > 0.97
