"""Networks of the tests of exports, built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from export_networks import Case, convolutional, functional, perceptron

from qsearch import registry
from qsearch.setting import layers_of

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small() -> Case:
    return convolutional()


@pytest.fixture(scope="session")
def attention() -> Case:
    return functional()


@pytest.fixture(scope="session")
def linear() -> Case:
    return perceptron()


@pytest.fixture(scope="session")
def digits() -> Case:
    """The built-in network on its validation samples, as the evaluator makes it."""
    workload = registry.create("workloads", "digits-resnet", {})
    layers = layers_of(workload)
    evaluator = registry.create("evaluators", "ptq", {"threads": 1}, workload, layers)
    return Case(workload.model(), evaluator.network, layers, evaluator.validation.inputs)
