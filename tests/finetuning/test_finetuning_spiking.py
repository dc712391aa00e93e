"""Fine-tuning of spiking networks: their registers are kept with the network, and a stop changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from campaigns import settings
from safetensors import safe_open
from safetensors.torch import save
from spiking_plugins import Pulses, pulses, spiking

from qsearch.assignment import BitAssignment
from qsearch.config import parse
from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.finetuned import NETWORK, RESULT, Epoch, FineTuned
from qsearch.finetuning.network_file import read_settled, settled_network, write_settled
from qsearch.finetuning.tuning import Job, fine_tune
from qsearch.quantize.network import Settled
from qsearch.run import Run
from qsearch.setting import prepare
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid
from qsearch.sweep import run_sweep
from qsearch.training.options import TrainingOptions

SPACE = {"weight_bits": [3, 4], "activation_bits": [8], "state_bits": [6, 8], "leak_bits": [4], "threshold_bits": [3]}
OPTIONS = TrainingOptions(epochs=3, batch_size=50, rate=0.02)


class Stopped(Exception):
    """Ends a training between two epochs."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("runs")
    given = settings(workload=spiking(), space=SPACE, constraints=[], budget={"evaluations": 2})
    return run_sweep(parse(given, "test"), root)[0]


def job(run: Run, folder: Path) -> Job:
    assert run.best is not None
    return Job(run, run.best, OPTIONS, None, folder)


@pytest.fixture(scope="module")
def tuned(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FineTuned]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, fine_tune(job(run, folder))


def test_registers_come_back_with_the_network(run: Run, tuned: tuple[Path, FineTuned]) -> None:
    """A register for each site of neurons that is not fixed at float, at the bits of the assignment."""
    assert run.best is not None
    settled, assignment = read_settled(tuned[0]), run.best.assignment
    assert {site: register.bits for site, register in settled.registers.items()} == {
        site: assignment[site] for site in assignment if site.rpartition(".")[2] in ("state", "leak", "threshold")
        and site != "fire.leak"
    }  # fmt: skip
    assert isinstance(settled.registers["lif.state"], StateGrid)
    assert settled.registers["lif.leak"] == ConstantGrid(4, -4)
    assert isinstance(threshold := settled.registers["fire.threshold"], ConstantGrid)
    assert threshold.fewest == 1


def test_leaks_and_thresholds_have_learnt(tuned: tuple[Path, FineTuned]) -> None:
    state, before = read_settled(tuned[0]).state, Pulses().model().state_dict()
    for name in ("lif.leak.weight", "lif.threshold.weight", "fire.threshold.weight"):
        assert not torch.equal(state[name], before[name])


def test_the_network_is_restored_bit_for_bit(run: Run, tuned: tuple[Path, FineTuned], tmp_path: Path) -> None:
    """What is read gives, and writes, what was judged."""
    assert run.best is not None
    settled, setting = read_settled(tuned[0]), prepare(run.config)
    network = settled_network(setting, settled)
    network.apply(run.best.assignment)
    samples = pulses("validation")
    right = (network(samples.inputs).argmax(1) == samples.targets).float()
    quality = tuned[1].judged["fine-tuned"].quality("validation")
    assert quality is not None
    assert quality.outcomes is not None
    assert right.tolist() == quality.outcomes.tolist()
    assert {site: network.register(site, register.bits) for site, register in settled.registers.items()} == dict(
        settled.registers
    )
    write_settled(settled, tmp_path)
    assert (tmp_path / NETWORK).read_bytes() == (tuned[0] / NETWORK).read_bytes()


def test_spikes_are_told_of_all_three_networks(tuned: tuple[Path, FineTuned]) -> None:
    for judged in tuned[1].judged.values():
        for split in ("validation", "test"):
            quality = judged.quality(split)
            assert quality is not None
            assert quality.details["spikes"] > 0


def test_spikes_of_post_training_are_those_of_its_evaluation(run: Run, tuned: tuple[Path, FineTuned]) -> None:
    """Those of the split alone, without the passes that correct on calibration data; of the float network too."""
    assert run.best is not None
    evaluator = prepare(run.config).evaluator
    for stage, assignment in (("post-training", run.best.assignment), ("float", BitAssignment({}))):
        quality = tuned[1].judged[stage].quality("validation")
        assert quality is not None
        assert quality.details == evaluator.evaluate(assignment).details
        assert quality.loss == pytest.approx(evaluator.evaluate(assignment).loss)


def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    run: Run, tuned: tuple[Path, FineTuned], tmp_path: Path
) -> None:
    def stop(history: Sequence[Epoch]) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fine_tune(job(run, tmp_path), stop)
    found = fine_tune(job(run, tmp_path))
    assert found.judged == tuned[1].judged
    assert (tmp_path / NETWORK).read_bytes() == (tuned[0] / NETWORK).read_bytes()


def test_a_network_without_neurons_says_nothing_of_registers(tmp_path: Path) -> None:
    """Its file is as it was before there were any, and one without registers is read."""
    write_settled(Settled(state={"weight": torch.zeros(2)}), tmp_path)
    with safe_open(tmp_path / NETWORK, "pt") as file:
        assert list(file.keys()) == ["state/weight"]
    assert read_settled(tmp_path).registers == {}


@pytest.mark.parametrize("numbers", [[77, 0], [8], [8, 0, 1, 1]])
def test_registers_that_make_no_sense(tmp_path: Path, numbers: list[int]) -> None:
    content = {"register/lif.state": torch.tensor(numbers)}
    write_atomically(tmp_path / NETWORK, save(content, {"inputs": "{}"}))
    with pytest.raises(StorageError, match=f"remove .*{RESULT}"):
        read_settled(tmp_path)
