"""Post-training quality on a real network: ResNet-20 on CIFAR-10, weights only, paired with the float network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from qsearch.assignment import BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.quantize.trace import trace_layers
from qsearch.workloads.cifar10 import Cifar10ResNet20

DATA = Path(os.environ.get("QSEARCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not list(DATA.rglob("resnet20-12fca82f.th")), reason=f"no ResNet-20 weights in {DATA} (set QSEARCH_DATA)"
)


@pytest.fixture(scope="module")
def workload() -> Cifar10ResNet20:
    return Cifar10ResNet20(Cifar10ResNet20.Options(data=str(DATA), split="all"))


@pytest.fixture(scope="module")
def evaluator(workload: Cifar10ResNet20) -> PostTraining:
    layers = trace_layers(workload.model(), torch.zeros(1, 3, 32, 32))
    assert sum(layer.params for layer in layers) == 268_336
    assert sum(layer.macs for layer in layers) == 40_551_040
    return PostTraining(workload, layers, PostTraining.Options(samples=500))


def weights_only(evaluator: PostTraining, bits: int) -> BitAssignment:
    return BitAssignment({site: bits for site in evaluator.network.sites if site.endswith(".weight")})


@needs_data
@pytest.mark.parametrize(("bits", "points"), [(4, 0.7), (3, 2.2)])
def test_uniform_bits_stay_near_float(evaluator: PostTraining, bits: int, points: float) -> None:
    floating = evaluator.evaluate(BitAssignment({}))
    found = evaluator.evaluate(weights_only(evaluator, bits))
    assert floating.metric == pytest.approx(0.91)
    assert 100 * (floating.metric - found.metric) <= points


@needs_data
def test_the_correction_is_what_keeps_two_bits_alive(evaluator: PostTraining, workload: Cifar10ResNet20) -> None:
    layers = trace_layers(workload.model(), torch.zeros(1, 3, 32, 32))
    plain = PostTraining(workload, layers, PostTraining.Options(samples=500, correction=False))
    assert evaluator.evaluate(weights_only(evaluator, 2)).metric > 0.65
    assert plain.evaluate(weights_only(plain, 2)).metric < 0.3
