"""``mnist-lenet5``: the network that the literature of pruning means, its training data, and its accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from qsearch.models.mnist import lenet5
from qsearch.protocols import Augmenting, Workload
from qsearch.quantize.trace import trace_layers
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.mnist import MnistLeNet5


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "quick_lenet5"))


@pytest.mark.usefixtures("real_data", "own_cache")
class TestLeNet5(WorkloadContract):
    def workload(self) -> Workload:
        return MnistLeNet5(MnistLeNet5.Options(train=600, calibration=50))


def test_it_has_the_weights_that_pruning_counts() -> None:
    """500 + 25,000 + 400,000 + 5,000, and a bias for each channel: 431,080 numbers."""
    network = lenet5()
    found = {layer.name: layer.params for layer in trace_layers(network, torch.zeros(1, 1, 28, 28))}
    assert found == {"conv1": 500, "conv2": 25_000, "linear1": 400_000, "linear2": 5_000}
    assert sum(parameter.numel() for parameter in network.parameters()) == 431_080


def test_its_one_relu_is_behind_the_hidden_units() -> None:
    """As in Caffe: the layers written out, pooling straight behind each convolution."""
    network = lenet5()
    state = network.state_dict()
    images = x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for name in ("conv1", "conv2"):
        x = functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"])
        x = functional.max_pool2d(x, 2)
    hidden = functional.relu(functional.linear(x.flatten(1), state["linear1.weight"], state["linear1.bias"]))
    expected = functional.linear(hidden, state["linear2.weight"], state["linear2.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network(images), expected)
    assert sum(isinstance(module, nn.ReLU) for module in network) == 1
    assert bool((x < 0).any())


@pytest.mark.usefixtures("real_data", "own_cache")
def test_training_images_are_varied_as_in_its_own_training() -> None:
    workload = MnistLeNet5(MnistLeNet5.Options(train=600, calibration=50))
    assert isinstance(workload, Augmenting)
    loader = workload.train()
    assert loader is not None
    inputs = next(iter(loader))[0][:20]
    one, same, other = (workload.augment(inputs, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == inputs.shape
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float((one - inputs).abs().mean()) > 0.01
    assert 0 <= float(one.min()) <= float(one.max()) <= 1 + 1e-6


@pytest.mark.slow
def test_it_is_as_accurate_as_it_says(mnist_data: Path) -> None:
    found = create("workloads", "mnist-lenet5", {"data": str(mnist_data)})
    model = found.model()
    with torch.no_grad():
        scores = torch.cat([found.score(model(inputs), targets) for inputs, targets in found.test()])
    assert len(scores) == 5000
    assert float(scores.mean()) >= 0.991
