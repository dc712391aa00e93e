"""Campaigns whose evaluations end when their samples decide them: what is recorded, reported, refused, resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from campaigns import call, ledger_facts, settings, write

from qsearch import run as runs
from qsearch.assignment import BitAssignment
from qsearch.campaign import Campaign
from qsearch.config import CampaignConfig, parse
from qsearch.errors import ConfigError
from qsearch.evaluate.ptq import PostTraining
from qsearch.layers import Layer
from qsearch.protocols import Workload
from qsearch.report import facts, markdown
from qsearch.report.sections import report
from qsearch.report.summary import summary
from qsearch.report.terminal import run_table
from qsearch.run import Run
from qsearch.setting import Setting, prepare
from qsearch.trial import Quality

LOSS = {"metric": "loss", "direction": "minimize"}
SEQUENTIAL = "qsearch.pruners.sequential:Sequential"


class Whole:
    """An evaluator that knows nothing of parts."""

    def __init__(self, workload: Workload, layers: Sequence[Layer]) -> None:
        self._inner = PostTraining(workload, layers, PostTraining.Options(threads=1))

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return self._inner.evaluate(assignment, fidelity=fidelity, seed=seed)


def campaign(**changes: Any) -> CampaignConfig:
    given = {"pruner": SEQUENTIAL, "budget": {"evaluations": 12}, **changes}
    (config,) = parse(settings(**given), "test").campaigns()
    return config


@pytest.fixture(scope="module")
def setting() -> Setting:
    return prepare(campaign())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Run:
    return Campaign(campaign(), tmp_path_factory.mktemp("sequential")).run(setting)


def test_samples_are_saved_and_the_result_is_the_same(done: Run, tmp_path: Path, setting: Setting) -> None:
    plain = Campaign(campaign(pruner="none"), tmp_path).run(setting)
    assert [trial.assignment for trial in done.trials] == [trial.assignment for trial in plain.trials]
    assert done.best is not None
    assert plain.best is not None
    assert done.best.assignment == plain.best.assignment
    assert done.best.quality is not None
    assert plain.best.quality is not None
    assert done.best.quality.outcomes is not None
    assert plain.best.quality.outcomes is not None
    assert done.best.quality.outcomes.tolist() == plain.best.quality.outcomes.tolist()
    assert done.info.tested == plain.info.tested
    assert {trial.state for trial in done.trials} >= {"complete", "pruned"}
    assert done.info.evaluations == 12


def test_every_trial_tells_its_samples_and_the_report_their_sum(done: Run) -> None:
    found = facts.samples_used(done)
    assert found is not None
    used, whole = found
    assert used == sum(trial.quality.samples for trial in done.trials if trial.quality is not None)
    assert whole == 12 * 128
    document = report(done)
    text = markdown.render(document, {plot.name: "p.png" for plot in document.plots})
    assert f"{used:,} of 1,536 ({100 * used / whole:.1f} %)" in text
    assert "decided by their first samples; each counts as a whole one" in text
    assert summary(done)["spent"]["evaluation_samples"] == used
    cells = [str(cell) for cell in run_table(done).columns[1].cells]
    assert any(f"on {100 * used / whole:.1f} % of their samples" in cell for cell in cells)


def test_runs_whose_evaluations_were_whole_say_nothing_of_it(tmp_path: Path, setting: Setting) -> None:
    plain = Campaign(campaign(pruner="none"), tmp_path).run(setting)
    assert facts.samples_used(plain) is None
    document = report(plain)
    assert "validation samples |" not in markdown.render(document, {plot.name: "p.png" for plot in document.plots})


def test_a_run_read_back_is_the_same(done: Run) -> None:
    assert runs.load(done.folder).trials == done.trials


@pytest.mark.parametrize("searcher", ["random", pytest.param("auto", marks=pytest.mark.slow)])
def test_stopped_and_resumed_it_ends_as_if_it_never_was(tmp_path: Path, setting: Setting, searcher: str) -> None:
    whole = Campaign(campaign(searcher=searcher), tmp_path / "whole").run(setting)
    for killed_after in (1, 5):
        evaluator: Any = setting.evaluator
        original, calls = evaluator.sampled, []

        def sampled(
            *given: Any, original: Any = original, calls: Any = calls, after: int = killed_after, **more: Any
        ) -> Any:
            calls.append(given)
            if len(calls) > after:
                raise KeyboardInterrupt
            return original(*given, **more)

        root = tmp_path / str(killed_after)
        evaluator.sampled = sampled
        try:
            with pytest.raises(KeyboardInterrupt):
                Campaign(campaign(searcher=searcher), root).run(setting)
        finally:
            del evaluator.sampled
        assert Campaign(campaign(searcher=searcher), root).run(setting).trials == whole.trials
        assert ledger_facts(root / "tiny") == ledger_facts(tmp_path / "whole" / "tiny")


def test_an_evaluator_without_samples_in_parts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"samples can be evaluated some at a time; got evaluator .*; evaluator: ptq"):
        prepare(campaign(evaluator=f"{__file__}:Whole"))


def test_several_assignments_in_one_call_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"watches run one after the other; got pruner .* beside assignments_at_once"):
        prepare(campaign(evaluator={"name": "ptq", "options": {"assignments_at_once": 4}}))


def test_a_campaign_in_which_samples_decide_nothing_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "campaign.yaml", settings(pruner=SEQUENTIAL, objectives=[LOSS], constraints=[]))
    answer = call(capfd, "run", path, "--runs", tmp_path / "runs")
    assert answer.code == 2
    assert "decides on accuracy; got neither an objective nor a bound of it; pruner: none" in answer.line


def test_show_tells_samples(done: Run, capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "show", done.folder, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["spent"]["evaluation_samples"] == sum(
        trial.quality.samples for trial in done.trials if trial.quality is not None
    )
