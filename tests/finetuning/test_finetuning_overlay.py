"""Fine-tuning of a trial with overlays: the kept network is the trained one to the last bit, and is not exported as integers."""

from __future__ import annotations

import pytest
import torch
from campaigns import call, settings
from taught_plugins import taught

from qsearch.config import parse
from qsearch.finetuned import folder_of
from qsearch.finetuning.network_file import read_settled, settled_network
from qsearch.finetuning.tuning import Job, fine_tune
from qsearch.run import Run
from qsearch.setting import prepare
from qsearch.sweep import run_sweep
from qsearch.training.options import TrainingOptions

SPACE = {
    "weight_bits": [8],
    "activation_bits": [8],
    "overlay": {"period": 16, "kept": [0, 2, 4, 16], "patterns": ["channels"]},
    "fixed": {"0.overlay": 0, "2.overlay": 4, "5.overlay": 32},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    given = {"workload": taught("Taught"), "space": SPACE, "constraints": [], "budget": {"evaluations": 1}}
    return run_sweep(parse(settings(**given), "test"), tmp_path_factory.mktemp("runs") / "runs")[0]


def test_a_network_with_overlays_is_kept_and_judged(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    (trial,) = run.trials
    folder = folder_of(run, trial)
    options = TrainingOptions(epochs=3, batch_size=50, quantizer="lsq")
    found = fine_tune(Job(run, trial, options, None, folder))
    judged = {stage: one.quality("validation") for stage, one in found.judged.items()}
    assert judged["fine-tuned"].loss < judged["post-training"].loss
    settled, setting = read_settled(folder), prepare(run.config)
    assert set(settled.overlays) == {"0.weight", "2.weight"}
    assert set(settled.weights) == {"5.weight"}
    kept = settled.overlays["2.weight"]
    assert (kept.bits, kept.kept, kept.pattern) == (8, 4, 2)
    assert torch.equal(kept.values, torch.where(
        kept.mask, kept.codes * kept.scales.view(-1, 1, 1, 1), kept.ternary * kept.ternary_scales.view(-1, 1, 1, 1)
    ))  # fmt: skip
    network = settled_network(setting, settled)
    network.apply(trial.assignment)
    weight = dict(network.model.named_modules())["2"].weight
    assert torch.equal(weight, kept.values)
    refused = call(capfd, "export", run.folder, "--format", "onnx", "--finetuned", "--output", folder / "out.onnx")
    assert refused.code == 2
    assert "weights that are exported must be plain" in refused.line
