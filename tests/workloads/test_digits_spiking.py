"""``digits-spiking``: its codes against counts and times worked out by hand, the contract, training and accuracy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.spiking.neurons import Integrator, Neuron
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.digits import DigitsResNet
from qsearch.workloads.digits_spiking import CODES, DigitsSpiking, direct, latency, rate
from qsearch.workloads.surrogate_training import constrain
from qsearch.workloads.training import Recipe

GREYS = torch.arange(17) / 16
"""All values that a pixel has."""


class Quick(DigitsSpiking):
    """One epoch: what is tested is not how good it is."""

    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=200, rotation=0, scaling=0, shift=0)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests here."""
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "digits_spiking"))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("coding", list(CODES))
class TestDigitsSpiking(WorkloadContract):
    repeated_samples = 0

    @pytest.fixture(autouse=True)
    def _coded(self, coding: str) -> None:
        self.coding = coding

    def workload(self) -> Workload:
        return Quick(Quick.Options(coding=self.coding, steps=16))


def accumulated(grey: float, steps: int) -> list[int]:
    """Spikes of a neuron that takes in the grey value, from half its threshold on, and resets by subtraction."""
    state, spikes = 0.5, []
    for _ in range(steps):
        state += grey
        spikes.append(int(state >= 1))
        state -= spikes[-1]
    return spikes


@given(st.sampled_from(GREYS.tolist()), st.integers(1, 40))
def test_rate_is_accumulate_and_fire(grey: float, steps: int) -> None:
    """Sixteenths are exact in binary, so both ways of counting agree to the spike."""
    found = rate(torch.full((1, 1, 1, 1), grey), steps)[0, :, 0, 0, 0]
    assert found.tolist() == accumulated(grey, steps)
    assert found.sum() == int(steps * grey + 0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 30))
def test_rate_counts_within_half_a_spike(greys: list[float], steps: int) -> None:
    images = torch.tensor(greys).reshape(-1, 1, 1, 1)
    spikes = rate(images, steps)
    assert spikes.shape == (len(greys), steps, 1, 1, 1)
    assert set(spikes.unique().tolist()) <= {0.0, 1.0}
    assert torch.all((spikes.sum(1) - steps * images).abs() <= 0.5 + 1e-4)


def test_latency_of_all_greys() -> None:
    """At eight steps: white in the first, the darkest grey in the last, black never."""
    spikes = latency(GREYS.reshape(-1, 1, 1, 1), 8)[:, :, 0, 0, 0]
    assert spikes.sum(1).tolist() == [0] + [1] * 16
    assert spikes[1:].argmax(1).tolist() == [7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0]


@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=30), st.integers(1, 30))
def test_what_is_brighter_is_never_later(greys: list[float], steps: int) -> None:
    spikes = latency(torch.tensor(sorted(greys)).reshape(-1, 1, 1, 1), steps)[:, :, 0, 0, 0]
    assert spikes.sum(1).tolist() == [1] * len(greys)
    assert bool((spikes.argmax(1).diff() <= 0).all())


def test_direct_repeats_the_image() -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = direct(images, 5)
    assert found.shape == (3, 5, 1, 8, 8)
    assert all(torch.equal(found[:, step], images) for step in range(5))


@pytest.mark.parametrize("code", [rate, latency, direct])
def test_one_step_is_enough(code: Any) -> None:
    assert code(torch.ones(2, 1, 8, 8), 1).tolist() == torch.ones(2, 1, 1, 8, 8).tolist()


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 10_001}, {"coding": "phase"}, {"calibration": 1000}])
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        create("workloads", "digits-spiking", options)


def test_the_splits_are_those_of_the_residual_network() -> None:
    spiking, residual = DigitsSpiking(DigitsSpiking.Options()).splits, DigitsResNet(DigitsResNet.Options()).splits
    for split in ("calibration", "validation", "test", "train"):
        one, other = getattr(spiking, split), getattr(residual, split)
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
    assert np.isclose(float(load_digits().images.max()) / 16, float(spiking.validation.inputs.max()))


def test_rate_coded_digits_spike_as_their_greys_say() -> None:
    """The number of spikes in a loader is the sum of ⌊T·a + ½⌋ over the pixels."""
    workload = DigitsSpiking(DigitsSpiking.Options(steps=8))
    spikes = torch.cat([inputs for inputs, _ in workload.validation()])
    levels = (workload.splits.validation.inputs * 16).int()
    assert spikes.shape == (400, 8, 1, 8, 8)
    assert torch.equal(spikes.sum(1).int(), (levels + 1) // 2)


class Jumping(DigitsSpiking):
    """Steps so large that leaks and thresholds leave their bounds at once."""

    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=250, peak_rate=20.0, rotation=0, scaling=0, shift=0)


@pytest.mark.usefixtures("cache")
def test_training_keeps_constants_where_they_make_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Jumping(Jumping.Options()).taught()
    assert not network._forward_pre_hooks, "what constrains in training does not stay"
    neurons = [module for module in network.modules() if isinstance(module, Neuron)]
    assert len(neurons) == 2
    for neuron in neurons:
        assert neuron.leak is not None
        assert bool(((neuron.leak.weight >= 0) & (neuron.leak.weight <= 1)).all())
        assert bool((neuron.threshold.weight > 0).all())
    monkeypatch.setattr("qsearch.workloads.spiking_training.constrain", lambda _: None)
    loose = Jumping(Jumping.Options()).taught()
    before = [value.clone() for value in loose.parameters()]
    constrain(loose)
    assert not all(torch.equal(one, other) for one, other in zip(before, loose.parameters(), strict=True))


def test_leaks_and_thresholds_are_one_per_channel_and_learn() -> None:
    model = create("workloads", "digits-spiking").model()
    first, second = (module for module in model.modules() if isinstance(module, Neuron))
    for neuron, channels in ((first, 12), (second, 24)):
        assert neuron.leak is not None
        assert neuron.leak.weight.shape == neuron.threshold.weight.shape == (channels, 1, 1)
        assert len(neuron.leak.weight.unique()) > 1
        assert len(neuron.threshold.weight.unique()) > 1
    assert isinstance(model.get_submodule("output"), Integrator)


@torch.no_grad()
def accuracy(network: nn.Module, loader: Any) -> float:
    right: list[Tensor] = [(network(inputs).argmax(1) == targets).double() for inputs, targets in loader]
    return float(torch.cat(right).mean())


def test_the_default_network_is_accurate() -> None:
    workload = create("workloads", "digits-spiking")
    assert accuracy(workload.model(), workload.test()) >= 0.975


@pytest.mark.slow
@pytest.mark.parametrize(("coding", "least"), [("latency", 0.95), ("direct", 0.975)])
def test_other_codes_are_accurate(coding: str, least: float) -> None:
    workload = create("workloads", "digits-spiking", {"coding": coding})
    assert accuracy(workload.model(), workload.test()) >= least


@pytest.mark.slow
def test_training_and_evaluation_are_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time of the processor, as the machine may be busy."""
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        workload = DigitsSpiking(DigitsSpiking.Options(seed=1))
        start = time.process_time()
        model = workload.model()
        assert time.process_time() - start < 45
        loader = workload.validation()
        start = time.process_time()
        assert accuracy(model, loader) >= 0.96
        assert time.process_time() - start < 0.3
    finally:
        torch.set_num_threads(threads)
