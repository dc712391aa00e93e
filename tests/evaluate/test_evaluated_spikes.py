"""Spikes are counted while a network is judged: as many as there are, and nothing else changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))

from qat_workload import Stripes, layers
from spiking_plugins import Pulses, pulses
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.qat import QuantizationAware
from qsearch.evaluate.spikes import counted
from qsearch.layers import Layer
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import SPIKES


@pytest.fixture(scope="module")
def network_layers() -> tuple[Layer, ...]:
    return layers_of(Pulses())


@pytest.fixture(scope="module")
def space(network_layers: tuple[Layer, ...]) -> SearchSpace:
    return build_space(
        network_layers,
        weight_bits=(2, 8),
        activation_bits=(8,),
        state_bits=(4, 12),
        leak_bits=(4,),
        threshold_bits=(4,),
    )


def spikes_by_hand(model: nn.Module, inputs: Tensor) -> float:
    """Runs the layers of the network one by one."""
    found, total = inputs, 0.0
    for name, layer in model.named_children():
        stateful = name in ("lif", "fire", "out")
        found = layer(found) if stateful else layer(found.flatten(0, 1)).unflatten(0, found.shape[:2])
        total += float(found.sum()) if name in ("lif", "fire") else 0.0
    return total / len(inputs)


def test_post_training(network_layers: tuple[Layer, ...], space: SearchSpace) -> None:
    """In float, quantised and on test data; a share of the samples has the spikes of those."""
    evaluator = PostTraining(Pulses(), network_layers, PostTraining.Options(threads=1))
    for assignment in (space.reference(FLOAT_BITS), space.uniform(2)):
        for split, quality in (("validation", evaluator.evaluate(assignment)), ("test", evaluator.test(assignment))):
            expected = spikes_by_hand(evaluator.network.model, pulses(split).inputs)
            assert quality.details == {SPIKES: pytest.approx(expected, rel=1e-12)}
    half = evaluator.evaluate(assignment, fidelity=0.5)
    assert half.details[SPIKES] == pytest.approx(
        spikes_by_hand(evaluator.network.model, pulses("validation").inputs[:45]), rel=1e-12
    )


def test_quantisation_aware_training(network_layers: tuple[Layer, ...], space: SearchSpace) -> None:
    """Of the trained network, beside what else is told of it; reports on the way have those of their time."""
    options = QuantizationAware.Options(epochs=2, batch_size=50, threads=1)
    evaluator = QuantizationAware(Pulses(), network_layers, options)
    assignment = space.uniform(8)
    quality = evaluator.evaluate(assignment)
    expected = spikes_by_hand(evaluator.trained(assignment).model, pulses("validation").inputs)
    assert quality.details[SPIKES] == pytest.approx(expected, rel=1e-12)
    assert "training_loss" in quality.details
    reports = [found for _, found in evaluator.progress(assignment)]
    assert [SPIKES in found.details for found in reports] == [True, True]
    assert reports[-1].details == quality.details


def test_networks_without_neurons_are_told_nothing_of() -> None:
    evaluator = PostTraining(Stripes(), layers(), PostTraining.Options(threads=1))
    assert evaluator.evaluate(BitAssignment({})).details == {}


def test_hooks_are_gone_afterwards(network_layers: tuple[Layer, ...]) -> None:
    model = Pulses().model()
    with pytest.raises(ZeroDivisionError), counted(model):
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())
    with counted(model) as count:
        model(torch.zeros(1, 3, 1, 6, 6))
    assert count is not None
    assert count.total == int(count.total)
