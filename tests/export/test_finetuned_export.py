"""Exports of networks that were trained: by ``qsearch finetune``, and by an evaluator that trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from campaigns import Answer, call, settings
from export_networks import EVERY_KIND, Case

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.config import parse
from qsearch.errors import ConfigError
from qsearch.evaluate.data import read
from qsearch.evaluate.scoring import Scoring
from qsearch.export import INTEGERS, NETWORKS, TEXTS
from qsearch.export.deployment import deploy
from qsearch.export.sources import evaluated, fine_tuned
from qsearch.export.writing import export_network, outputs, write_agreeing
from qsearch.finetuned import folder_of
from qsearch.finetuned import read as read_finetuned
from qsearch.finetuning.tuning import Job, fine_tune
from qsearch.overlay import ALL
from qsearch.quantize.grid import Grid
from qsearch.quantize.network import QuantizedNetwork, Settled
from qsearch.run import Run
from qsearch.setting import prepare
from qsearch.sweep import run_sweep
from qsearch.training.options import TrainingOptions
from qsearch.training.pact import PactInput

Qsearch = Callable[..., Answer]
TAUGHT = Path(__file__).parents[1] / "finetuning" / "taught_plugins.py"
QAT = "qsearch.evaluate.qat:QuantizationAware"


def a_run(root: Path, **changes: object) -> Run:
    given = {
        "workload": f"{TAUGHT}:Taught",
        "space": {"weight_bits": [2, 3], "activation_bits": [3]},
        "constraints": [],
        "budget": {"evaluations": 2},
        **changes,
    }
    return run_sweep(parse(settings(**given), "test"), root / "runs")[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str]) -> Qsearch:
    return lambda *arguments: call(capfd, *arguments)


@pytest.fixture(scope="module")
def tuned(run: Run) -> Run:
    fine_tune(Job(run, run.trials[1], TrainingOptions(epochs=3, batch_size=50), None, folder_of(run, run.trials[1])))
    return run


@pytest.mark.parametrize(
    ("name", "suffix", "runtime"),
    [
        ("safetensors", ".safetensors", "codes unpacked, in torch"),
        ("torch", ".pt2", "torch"),
        pytest.param("onnx", ".onnx", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("qonnx", ".qonnx.onnx", "qonnx", marks=pytest.mark.slow),
    ],
)
def test_every_format_holds_the_fine_tuned_network(
    tuned: Run, qsearch: Qsearch, tmp_path: Path, name: str, suffix: str, runtime: str
) -> None:
    answer = qsearch("export", tuned.folder, "--trial", "1", "--finetuned", "--format", name)
    assert (answer.code, answer.err) == (0, "")
    file = tuned.folder / "finetune" / "trial-1" / f"trial-1{suffix}"
    assert answer.out.startswith(f"wrote      {file} ")
    assert f"checked    {runtime}: 128 of 128 predictions the same (100.00%)" in answer.out
    chosen = tmp_path / "chosen.bin"
    more = ("--format", name, "--output", chosen)
    assert qsearch("export", tuned.folder, "--trial", "1", "--finetuned", *more).code == 0
    assert chosen.stat().st_size == file.stat().st_size


def test_the_file_gives_the_outcomes_that_were_kept(tuned: Run, qsearch: Qsearch) -> None:
    """The program of torch, loaded by torch alone, on the test data of the workload."""
    assert qsearch("export", tuned.folder, "--trial", "1", "--finetuned", "--format", "torch").code == 0
    folder = tuned.folder / "finetune" / "trial-1"
    program = torch.export.load(folder / "trial-1.pt2").module()
    workload = workload_of(tuned)
    data = read(workload.test(), "test")
    with torch.inference_mode():
        outcomes = (program(data.inputs).argmax(1) == data.targets).float().numpy()
    found = read_finetuned(folder)
    assert found is not None
    np.testing.assert_array_equal(outcomes, found.judged["fine-tuned"].quality("test").outcomes)
    assert not np.array_equal(outcomes, found.judged["post-training"].quality("test").outcomes)


def workload_of(run: Run) -> object:
    return registry.create("workloads", run.config.workload.name, run.config.workload.options)


def test_a_trial_that_was_not_fine_tuned(tuned: Run, qsearch: Qsearch) -> None:
    answer = qsearch("export", tuned.folder, "--trial", "0", "--finetuned", "--format", "torch")
    assert answer.code == 2
    assert "trial 0 must be fine-tuned first" in answer.line
    assert answer.line.endswith(f"qsearch finetune {tuned.folder} --trial 0")
    assert not (tuned.folder / "finetune" / "trial-0").exists()


def test_a_fine_tuning_of_another_trial(tuned: Run) -> None:
    with pytest.raises(ConfigError, match=r"must hold the fine-tuning of trial 0; got trial 1 of tiny"):
        fine_tuned(tuned, tuned.trials[0], tuned.folder / "finetune" / "trial-1")


@pytest.mark.parametrize("format_", [*TEXTS])
def test_texts_hold_no_network(tuned: Run, qsearch: Qsearch, format_: str) -> None:
    answer = qsearch("export", tuned.folder, "--finetuned", "--format", format_)
    assert answer.code == 2
    assert re.search(r"--finetuned needs the format of a network; got \w+; one of onnx", answer.line)


# an evaluator that trains


@pytest.mark.parametrize("warm", [False, True])
def test_an_evaluator_that_trains_has_its_trained_network_exported(tmp_path: Path, warm: bool) -> None:
    """What was recorded of the trial is what the file gives; trained again for it, from the same start."""
    options = {"epochs": 2, "batch_size": 50, "threads": 1, "warm_start": warm}
    run = a_run(tmp_path, evaluator={"name": QAT, "options": options}, seed=3)
    trial = run.trials[1]
    written = export_network(run, trial, "torch", None)
    assert written.path == run.folder / "export" / "trial-1.pt2"
    program = torch.export.load(written.path).module()
    data = read(workload_of(run).validation(), "validation")
    with torch.inference_mode():
        outcomes = (program(data.inputs).argmax(1) == data.targets).float().numpy()
    assert trial.quality is not None
    np.testing.assert_array_equal(outcomes, trial.quality.outcomes)


def test_of_a_trial_that_was_ended_early_the_network_as_far_as_it_was_judged(tmp_path: Path) -> None:
    """What a pruner has ended after the first of its epochs is exported as it was then."""
    evaluator = {"name": QAT, "options": {"epochs": 3, "batch_size": 50, "threads": 1}}
    whole = a_run(tmp_path, evaluator=evaluator, seed=3, budget={"evaluations": 1})
    setting = prepare(whole.config)
    reports = setting.evaluator.progress(whole.trials[0].assignment, seed=3)
    _, quality = next(reports)
    reports.close()
    assert (quality.details["epochs"], quality.details["planned"]) == (1, 3)
    trial = replace(whole.trials[0], state="pruned", quality=quality)
    run = replace(whole, trials=(trial,))
    judged = evaluated(setting, run, trial)
    found = Scoring(setting.workload, lambda inputs: judged.network(inputs), 64).quality(judged.network, judged.data)
    np.testing.assert_array_equal(found.outcomes, quality.outcomes)
    assert found.loss == pytest.approx(quality.loss, rel=1e-6)


# grids without their lowest code


@pytest.mark.parametrize("format_", ["onnx", "qonnx"])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_signed_input_that_leaves_its_lowest_code_unused(
    small: Case, tmp_path: Path, bits: int, format_: str
) -> None:
    """As 'pact' has them, its clip within the data: what is below comes out at the second lowest code."""
    learner = PactInput(small.network.activation_quantizer("first.input", bits))
    learner.clip.value.data.mul_(0.5)
    quantizer = learner.settle()
    assert quantizer.grid == Grid(1 - (1 << (bits - 1)), (1 << (bits - 1)) - 1)
    assert (small.samples < quantizer.scale * (quantizer.grid.low - 1)).any()
    settled = Settled(inputs={"first.input": quantizer})
    network = QuantizedNetwork(small.model, small.layers, [small.samples], correction=False, settled=settled)
    deployment = deploy(network, small.layers, BitAssignment({"first.input": bits}), small.samples)
    network.apply(deployment.assignment)
    formats = import_module(NETWORKS[format_]).FORMATS
    exported = write_agreeing(formats, deployment, small.data, outputs(network, small.data), tmp_path / "there")
    assert exported.agreement.same == exported.agreement.compared == len(small.samples)
    assert exported.agreement.largest < 1e-3


# codes that are no integers of their bits


def with_odd_levels(case: Case, bits: int) -> QuantizedNetwork:
    """The network with a weight on the levels ±1, ±3, … ±(2^b − 1) of a half step, as the quantiser of DoReFa has."""
    table = case.network.quantized_weight("first.weight", bits)
    codes = (2 * table.codes.long() + 1).to(torch.int16)
    values = codes * (table.scales / 2)[:, None, None, None]
    settled = Settled(weights={"first.weight": [replace(table, codes=codes, scales=table.scales / 2, values=values)]})
    return QuantizedNetwork(case.model, case.layers, [case.samples], correction=False, settled=settled)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_levels_that_are_no_integers_of_their_bits(small: Case, bits: int) -> None:
    assignment = BitAssignment({"first.weight": bits, "again.weight": 4})
    network = with_odd_levels(small, bits)
    deployment = deploy(network, small.layers, assignment, small.samples)
    with pytest.raises(ConfigError) as error:
        deployment.check()
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    assert f"needs codes of {bits} bits within {low}..{high}" in str(error.value)
    assert "'first.weight'" in str(error.value)
    assert "train with the quantizer 'lsq', or export as torch" in str(error.value)
    with torch.inference_mode():
        assert torch.equal(deployment.module()(small.samples), network(small.samples))


def test_codes_of_every_bitwidth_are_integers_of_it(small: Case) -> None:
    for seed in range(3):
        small.deploy(small.assignment((*EVERY_KIND, 20, 31), [8], by_kernel=True, seed=seed)).check()


def test_formats_of_integers_are_formats() -> None:
    assert set(NETWORKS) - INTEGERS == {"torch", "nir"}


def test_a_quantiser_with_odd_levels_from_end_to_end(run: Run, tmp_path: Path) -> None:
    """Fine-tuned with 'dorefa': a line for formats of integers; torch holds what was judged."""
    options = TrainingOptions(epochs=1, batch_size=50, quantizer="dorefa")
    fine_tune(Job(run, run.trials[0], options, None, tmp_path))
    source = fine_tuned(run, run.trials[0], tmp_path)
    for name in INTEGERS:
        with pytest.raises(ConfigError, match=r"needs codes of \d bits within .*'lsq', or export as torch"):
            export_network(run, run.trials[0], name, None, source, tmp_path)
    written = export_network(run, run.trials[0], "torch", None, source, tmp_path)
    assert (written.agreement.same, written.agreement.largest) == (128, 0.0)


# overlaid weights


def test_overlaid_weights_are_refused_and_plain_ones_beside_them_are_not(small: Case) -> None:
    layers = tuple(replace(layer, overlay=4) if layer.name == "again" else layer for layer in small.layers)
    network = QuantizedNetwork(small.model, layers, [small.samples])
    chosen = {"again.weight": 4, "again.input": 4, "first.weight": 3}
    layer = next(layer for layer in layers if layer.overlay)
    for kept in ({}, {layer.overlay_site: ALL, layer.pattern_site: 0}):
        assignment = BitAssignment({**chosen, **kept})
        module = deploy(network, layers, assignment, small.samples).module()
        with torch.inference_mode():
            assert torch.equal(module(small.samples), network(small.samples))
    overlaid = BitAssignment({**chosen, layer.overlay_site: 1, layer.pattern_site: 0})
    with pytest.raises(
        ConfigError, match=r"must be plain, not a ternary part.*got overlays at 'again'; export as json"
    ):
        deploy(network, layers, overlaid, small.samples)
