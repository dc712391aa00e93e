"""``converted``: another workload's network in spikes, fine-tuned, cached, and evaluated like any network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, PluginError
from qsearch.protocols import Augmenting, Workload
from qsearch.registry import create
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.spiking.direct import DirectSpikingNetwork
from qsearch.spiking.neurons import LEAST_THRESHOLD, Neuron
from qsearch.testing.workload import WorkloadContract
from qsearch.workloads.base import Samples
from qsearch.workloads.converted import Converted
from qsearch.workloads.surrogate_training import Course, trained

REPOSITORY = Path(__file__).parents[2]
SOURCE = f"{REPOSITORY / 'examples' / 'my_workload.py'}:MyWorkload"


def workload(**options: Any) -> Converted:
    found: Converted = create(
        "workloads", "qsearch.workloads.converted:Converted", {"workload": SOURCE, "steps": 4, **options}
    )
    return found


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    return tmp_path


@torch.no_grad()
def accuracy(found: Workload, network: nn.Module) -> float:
    scores = [found.score(network(inputs), targets) for inputs, targets in found.validation()]
    return float(torch.cat(scores).mean())


def state(found: Workload) -> dict[str, Tensor]:
    return dict(found.model().state_dict())


class TestConverted(WorkloadContract):
    def workload(self) -> Workload:
        return workload()


class TestTuned(WorkloadContract):
    def workload(self) -> Workload:
        return workload(epochs=1, leak=0.9)


def test_it_is_the_other_workload_but_for_its_network() -> None:
    found = workload()
    assert found.name == "breast-cancer-mlp-spiking"
    assert found.metric == "accuracy"
    network = found.model()
    assert isinstance(network, DirectSpikingNetwork)
    assert network.steps == 4
    (ours, _), (theirs, _) = next(iter(found.validation())), next(iter(found.source.validation()))
    torch.testing.assert_close(ours, theirs)
    assert accuracy(found, network) > accuracy(found, found.source.model()) - 0.05


def test_a_copy_that_is_changed_leaves_the_network_alone() -> None:
    found = workload()
    before = state(found)
    nn.init.zeros_(next(iter(found.model().parameters())))
    torch.testing.assert_close(state(found), before)


def test_fine_tuning_lowers_the_loss_by_weights_leaks_and_thresholds() -> None:
    raw, tuned = workload(leak=0.9, steps=3), workload(leak=0.9, steps=3, epochs=20)
    before, after = state(raw), state(tuned)
    for kind in ("0.weight", "leak.weight", "threshold.weight"):
        assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith(kind)), kind
    inputs, targets = next(iter(tuned.train() or []))
    losses = [float(raw.loss(each.model()(inputs), targets).detach()) for each in (raw, tuned)]
    assert losses[1] < 0.8 * losses[0]


def test_fine_tuning_is_kept_and_depends_on_its_seed(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="qsearch")
    first = state(workload(epochs=1))
    (file,) = cache.glob("breast-cancer-mlp-spiking-*.safetensors")
    assert "fine-tuning" in caplog.text
    caplog.clear()
    torch.testing.assert_close(state(workload(epochs=1)), first, rtol=0, atol=0)
    assert "fine-tuning" not in caplog.text
    other = state(workload(epochs=1, seed=1))
    assert any(not torch.equal(first[name], other[name]) for name in first)
    file.write_bytes(file.read_bytes()[:-7])
    torch.testing.assert_close(state(workload(epochs=1)), first, rtol=0, atol=0)
    assert "discarded, training again" in caplog.text


def test_a_folder_that_cannot_be_written_costs_the_cache_only(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (cache / "file").write_bytes(b"")
    monkeypatch.setenv("QSEARCH_CACHE", str(cache / "file"))
    assert isinstance(workload(epochs=1).model(), DirectSpikingNetwork)
    assert "cannot keep trained weights" in caplog.text


def test_constants_stay_where_they_make_sense() -> None:
    neuron = Neuron(0.01, 0.99)
    samples = Samples(torch.ones(40, 3, 1), torch.zeros(40, dtype=torch.int64))
    network = nn.Sequential(neuron)
    trained(network, samples, lambda y, _: -y.mean() + neuron.threshold.weight.sum(), Course(3, 10, rate=0.1), 0)
    assert float(neuron.threshold.weight) == pytest.approx(LEAST_THRESHOLD)
    assert neuron.leak is not None
    assert 0.99 <= float(neuron.leak.weight) <= 1
    assert not neuron.threshold.weight.requires_grad
    assert not network.training


def test_inputs_vary_as_the_other_workload_has_it() -> None:
    found = workload()
    assert isinstance(found, Augmenting)
    inputs = torch.rand(3, 30)
    assert found.augment(inputs, torch.Generator()) is inputs  # which cannot vary them


def test_evaluators_take_it_as_it_is() -> None:
    found = workload(leak=0.95)
    layers = layers_of(found)
    space = build_space(
        layers, weight_bits=[6], activation_bits=[8], state_bits=[12], threshold_bits=[8], leak_bits=[8]
    )
    roles = {site.role for site in space.sites}
    assert roles == {"weight", "activation", "spikes", "state", "leak", "threshold"}
    assignment = BitAssignment({site.name: site.choices[0] for site in space.sites})
    everything = BitAssignment(dict.fromkeys(assignment, FLOAT_BITS))
    ptq = create("evaluators", "ptq", {}, found, layers)
    qat = create("evaluators", "qat", {"epochs": 2, "batch_size": 50}, found, layers)
    expected = accuracy(found, found.model())
    assert ptq.evaluate(everything).metric == pytest.approx(expected)
    assert ptq.evaluate(assignment).metric > expected - 0.1
    assert qat.evaluate(assignment).metric > expected - 0.05


def test_what_cannot_be_converted_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = workload()
    monkeypatch.setattr(found.source, "model", lambda: nn.Linear(30, 2))
    with pytest.raises(DataError, match=r"must be one nn.Sequential, .*; got Linear"):
        found.model()
    monkeypatch.setattr(found.source, "calibration", lambda: [(torch.rand(3, 30), torch.rand(3, 30), torch.ones(3))])
    with pytest.raises(DataError, match=r"data of 'breast-cancer-mlp-spiking' must be batches.*got a batch of 3 parts"):
        found.model()


def test_training_data_must_be_there_to_be_fine_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    found = workload(epochs=1)
    monkeypatch.setattr(found.source, "train", lambda: None)
    with pytest.raises(DataError, match="must have training data to be fine-tuned; set epochs: 0"):
        found.model()


def test_options_that_are_wrong_are_told() -> None:
    with pytest.raises(PluginError, match="unknown workload 'mnist-cn'"):
        workload(workload="mnist-cn")
    with pytest.raises(ConfigError, match="'stepp'"):
        workload(stepp=3)
    for steps in (0, 10_001):
        with pytest.raises(ConfigError, match="steps"):
            workload(steps=steps)


@pytest.mark.slow
def test_a_convolutional_network_of_five_steps(mnist_data: Path) -> None:
    options = {"data": str(mnist_data), "train": 2000}
    raw = workload(workload="mnist-cnn", options=options, steps=5)
    tuned = workload(workload="mnist-cnn", options=options, steps=5, epochs=2)
    network = raw.source.model()
    before, converted, after = (accuracy(raw, each) for each in (network, raw.model(), tuned.model()))
    assert before > 0.94
    assert converted > before - 0.08
    assert after > before - 0.03


OTHER = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from qsearch.registry import PluginOptions

class Other:
    name, metric = "other", "accuracy"
    class Options(PluginOptions):
        shift: float = 0.0
        smoothing: float = 0.0
    def __init__(self, options): self.options = options
    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    def calibration(self):
        x = torch.rand(60, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, x.argmax(1) % 3), batch_size=20)
    validation = test = train = calibration
    def loss(self, output, target): return nn.functional.cross_entropy(output, target, label_smoothing=self.options.smoothing)
    def score(self, output, target): return (output.argmax(1) == target).float()
    def augment(self, inputs, generator): return inputs + self.options.shift * torch.rand(inputs.shape, generator=generator)
"""


@pytest.mark.parametrize("options", [{"smoothing": 0.9}, {"shift": 3.0}])
def test_weights_of_other_options_of_the_other_workload_are_not_taken(
    options: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which change its loss or how it varies inputs, and nothing of its data and its network."""
    (tmp_path / "other.py").write_text(OTHER)
    told: dict[str, Any] = {"workload": f"{tmp_path / 'other.py'}:Other", "epochs": 2, "rate": 0.02}
    plain = state(workload(**told))
    found = state(workload(**told, options=options))
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "anew"))
    afresh = state(workload(**told, options=options))
    assert any(not torch.equal(plain[name], afresh[name]) for name in plain)
    torch.testing.assert_close(found, afresh, rtol=0, atol=0)
