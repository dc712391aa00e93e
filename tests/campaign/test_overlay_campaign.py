"""Campaigns with overlays, from the command line to the report: searchers that take them, and what the others say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from campaigns import call, ledger_facts, settings, write

from qsearch import run as runs
from qsearch.errors import ConfigError
from qsearch.measuring import Bench
from qsearch.overlay import ALL, stored_bits
from qsearch.remeasured import Remeasured, folder_of
from qsearch.remeasuring import remeasure
from qsearch.report.facts import mean_bits, uniform_bits
from qsearch.report.terminal import bits_line
from qsearch.run import Run

SPACE = {
    "weight_bits": [3, 8],
    "activation_bits": [8],
    "overlay": {"period": 16, "kept": [0, 2, 4, 16], "patterns": ["blocks", "channels"]},
}
TAUGHT = Path(__file__).parents[1] / "finetuning" / "taught_plugins.py"
QAT = {"name": "qat", "options": {"epochs": 2, "batch_size": 50, "threads": 1}}
SEARCHERS = ["random", "grid", {"name": "optuna", "options": {"sampler": "tpe"}}, "gp"]


def campaign(**changes: Any) -> dict[str, Any]:
    return settings(**{"space": SPACE, "constraints": ["size<=0.5"], **changes})


def searched(root: Path, capfd: pytest.CaptureFixture[str], **changes: Any) -> Run:
    file = write(root / "campaign.yaml", campaign(**changes))
    answer = call(capfd, "run", file, "--runs", root / "runs")
    assert answer.code == 0, answer.err
    return runs.load(root / "runs" / "tiny")


@pytest.mark.parametrize("searcher", SEARCHERS, ids=["random", "grid", "optuna", "gp"])
def test_a_search_over_overlays_ends_with_a_result(
    searcher: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = searched(tmp_path, capfd, searcher=searcher)
    assert run.info.status == "complete"
    assert {layer.overlay for layer in run.info.layers} == {16}
    evaluated = [trial for trial in run.trials if trial.evaluated]
    assert len(evaluated) == 6
    for trial in evaluated:
        assert trial.quality is not None
        assert trial.cost is not None
        assert trial.assignment["0.overlay"] in (0, 2, 4, ALL)
        assert trial.assignment["0.pattern"] in (0, 2)
    assert run.best is not None
    assert run.best.feasible
    assert run.tested("float") is not None


def test_reports_tell_overlays_from_bits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every overlay fixed, one of them at nothing: the table says so, and the mean counts what is stored."""
    fixed = {"0.overlay": 0, "2.overlay": 4, "2.pattern": 2, "5.overlay": 2, "5.pattern": 0}
    space = {**SPACE, "weight_bits": [8], "fixed": fixed}
    run = searched(tmp_path, capfd, searcher="grid", space=space)
    page = (run.folder / "report.md").read_text(encoding="utf-8")
    assert "ternary, 4 of 16 at 8 (channels)" in page
    assert "ternary, 2 of 16 at 8 (blocks)" in page
    assert "| 0 | ternary | 8 |" in page
    assert "other tensor" not in page
    assert run.best is not None
    assert bits_line(run, run.best.assignment, "weight") == "t t+8·4/16 t+8·2/16"
    stored = [
        stored_bits(4, 9, 16, 0, 0, 8) * 36,
        stored_bits(4, 36, 16, 4, 2, 8) * 144,
        stored_bits(4, 64, 16, 2, 0, 8) * 256,
    ]
    assert mean_bits(run.info.layers, run.best.assignment, "weight") == pytest.approx(sum(stored) / (36 + 144 + 256))
    assert uniform_bits(run, run.best.assignment) is None
    plain = run.best.assignment.replace({f"{layer}.overlay": ALL for layer in (0, 2, 5)})
    assert uniform_bits(run, plain) == 8


def test_a_resumed_search_ends_like_one_in_one_piece(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = searched(tmp_path / "whole", capfd, searcher="grid")
    part = searched(tmp_path / "part", capfd, searcher="grid", budget={"evaluations": 3})
    again = call(capfd, "resume", part.folder, "--evaluations", "6")
    assert again.code == 0, again.err
    assert ledger_facts(part.folder) == ledger_facts(whole.folder)


@pytest.mark.parametrize(
    ("searcher", "message"),
    [
        (
            "ilp",
            "needs costs that bits alone decide; got a space with overlays; use the searcher 'optuna', 'gp', 'random'",
        ),
        ("hawq", "needs costs that bits alone decide; got a space with overlays"),
        ("fracbits", "use the searcher 'optuna' or 'random'"),
        (
            {"name": "greedy", "options": {"sensitivity": "hessian"}},
            "a sensitivity that looks at tensors knows of bits only",
        ),
        (
            {"name": "greedy", "options": {"sensitivity": "quantization-error"}},
            "knows of bits only; got site '0.overlay'",
        ),
        ("ddpg", "an environment decides on bits only; got site '0.overlay'"),
    ],
)
def test_searchers_that_know_bits_only_say_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], searcher: Any, message: str
) -> None:
    file = write(tmp_path / "campaign.yaml", campaign(searcher=searcher))
    answer = call(capfd, "run", file, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert message in answer.line


def test_a_cost_model_that_does_not_add_up_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "whole.py"
    model.write_text(
        "from qsearch.protocols import CostModel\n\n\n"
        "class Whole(CostModel):\n"
        "    units = {'size': 'byte'}\n"
        "    additive = False\n\n"
        "    def layer_cost(self, layer, weight_bits, activation_bits):\n"
        "        return {'size': 1.0}\n"
    )
    file = write(tmp_path / "campaign.yaml", campaign(hardware=f"{model}:Whole"))
    answer = call(capfd, "run", file, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert "overlays need a cost model that adds up what its layers cost; got Whole" in answer.line


@pytest.mark.parametrize("searcher", ["bisection", "water-filling"])
def test_searchers_of_bits_refuse_before_anything_is_spent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], searcher: str
) -> None:
    objectives = [{"metric": "size", "direction": "minimize"}]
    changed = campaign(searcher=searcher, objectives=objectives, constraints=["accuracy>=0.5*float"])
    file = write(tmp_path / "campaign.yaml", changed)
    answer = call(capfd, "run", file, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert f"{searcher} decides on bits only" in answer.line
    assert not list((tmp_path / "runs").rglob("*.db"))


@pytest.mark.parametrize(
    "searcher", ["grid", {"name": "optuna", "options": {"sampler": "tpe"}}], ids=["grid", "optuna"]
)
def test_a_search_over_overlays_may_train(tmp_path: Path, capfd: pytest.CaptureFixture[str], searcher: Any) -> None:
    """From the command line, with the evaluator qat; killed and resumed it is the same, as every seed is recorded."""
    tpe = {"name": "optuna", "options": {"sampler": "tpe"}}
    trained: dict[str, Any] = {"workload": f"{TAUGHT}:Taught", "searcher": tpe, "evaluator": QAT}
    run = searched(tmp_path / "whole", capfd, **trained)
    assert run.info.status == "complete"
    evaluated = [trial for trial in run.trials if trial.quality is not None]
    assert any(trial.assignment["0.overlay"] != ALL for trial in evaluated)
    for trial in evaluated:
        assert trial.quality is not None
        assert trial.quality.details["epochs"] == 2
    part = searched(tmp_path / "part", capfd, **trained, budget={"evaluations": 2})
    again = call(capfd, "resume", part.folder, "--evaluations", "6")
    assert again.code == 0, again.err
    assert ledger_facts(part.folder) == ledger_facts(run.folder)


def test_what_is_measured_again_is_plain(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One weight overlaid is refused before anything is measured; where the search keeps all, the sums are as predicted."""

    def measured(root: Path, kept: int) -> Remeasured:
        space = {**SPACE, "fixed": {"0.overlay": ALL, "2.overlay": kept, "5.overlay": ALL}}
        run = searched(root, capfd, searcher="grid", space=space, constraints=[])
        with Bench("size", {}, folder_of(run, "size", {})) as bench:
            return remeasure(run, bench, 2)

    found = measured(tmp_path / "plain", ALL)
    for one in found.assignments:
        assert one.measured["size"] == pytest.approx(one.predicted["size"], rel=1e-12)
    with pytest.raises(
        ConfigError, match=r"must be plain, not a ternary part.*got overlays in trial \d+ at '2'; measure"
    ):
        measured(tmp_path / "overlaid", 2)
