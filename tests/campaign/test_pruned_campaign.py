"""Campaigns that prune: what their files say, what they record, that resume is replay, and how they compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from campaigns import call, ledger_facts, plugin, settings, write

from qsearch import run as runs
from qsearch.campaign import Campaign
from qsearch.config import CampaignConfig, parse
from qsearch.errors import ConfigError, Failure, PluginError
from qsearch.report.comparison import comparison_rows
from qsearch.run import Run
from qsearch.setting import Setting, prepare
from qsearch.sweep import run_sweep

FILE = Path(__file__).parent / "learning_plugins.py"
HALVING = {"name": "successive-halving", "options": {"reduction_factor": 2}}


def learner(name: str = "Learns", **options: Any) -> dict[str, Any]:
    return {"name": f"{FILE}:{name}", "options": {"threads": 1, **options}}


def campaign(**changes: Any) -> CampaignConfig:
    given = {"evaluator": learner(), "pruner": HALVING, "constraints": [], "budget": {"evaluations": 5}, **changes}
    (config,) = parse(settings(**given), "test").campaigns()
    return config


@pytest.fixture(scope="module")
def setting() -> Setting:
    return prepare(campaign())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Run:
    return Campaign(campaign(), tmp_path_factory.mktemp("pruned")).run(setting)


class TestWhatIsRecorded:
    def test_some_are_pruned_and_count_in_part(self, done: Run) -> None:
        states = [trial.state for trial in done.trials]
        assert set(states) == {"complete", "pruned"}
        assert len(states) > 5
        assert done.info.evaluations == sum(trial.effort for trial in done.trials)
        assert 5 <= done.info.evaluations < 6
        assert done.best is not None
        assert done.best.state == "complete"
        assert set(done.info.tested) == {"float", str(done.best.number)}

    def test_details_reach_the_record(self, done: Run) -> None:
        assert all(dict(trial.quality.details) == {"share": trial.effort} for trial in done.trials if trial.quality)

    def test_a_run_read_back_is_the_same(self, done: Run) -> None:
        again = runs.load(done.folder)
        assert again.trials == done.trials
        assert again.info == done.info
        assert again.config.pruner.model_dump() == HALVING

    def test_unpruned_runs_count_whole_numbers(self, tmp_path: Path, setting: Setting) -> None:
        run = Campaign(campaign(pruner="none"), tmp_path).run(setting)
        assert (run.info.evaluations, isinstance(run.info.evaluations, int)) == (5, True)
        assert all(trial.reports == () for trial in run.trials)

    def test_failures_on_the_way(self, tmp_path: Path) -> None:
        run = Campaign(campaign(evaluator=learner("Stumbles")), tmp_path).run()
        failed = [trial for trial in run.trials if trial.state == "failed"]
        assert failed
        assert all(trial.effort == 0.25 and trial.reason == "RuntimeError: diverged" for trial in failed)


PRUNERS = [HALVING, "hyperband", {"name": "median", "options": {"startup": 2}}, "confidence"]


def check_resume(root: Path, setting: Setting, config: CampaignConfig, stops: list[float]) -> None:
    """Stop a campaign after some of its reports, in the middle of an evaluation, and resume it."""
    evaluator: Any = setting.evaluator
    evaluator.reported, evaluator.interrupt_after = 0, None
    whole = Campaign(config, root / "whole").run(setting)
    reports = evaluator.reported
    assert reports > len(whole.trials)
    for stop in sorted({max(1, round(reports * share)) for share in stops}):
        evaluator.reported, evaluator.interrupt_after = 0, stop
        with pytest.raises(KeyboardInterrupt):
            Campaign(config, root / str(stop)).run(setting)
        evaluator.interrupt_after = None
        assert Campaign(config, root / str(stop)).run(setting).trials == whole.trials
        assert ledger_facts(root / str(stop) / "tiny") == ledger_facts(root / "whole" / "tiny")


@pytest.mark.parametrize("pruner", PRUNERS)
def test_stopped_and_resumed_it_ends_as_if_it_never_was(tmp_path: Path, setting: Setting, pruner: Any) -> None:
    check_resume(tmp_path, setting, campaign(pruner=pruner), [0.5, 0.9])


@pytest.mark.slow
@pytest.mark.parametrize("pruner", PRUNERS)
@pytest.mark.parametrize("searcher", [{"name": "optuna", "options": {"sampler": "tpe"}}, "greedy", "auto"])
def test_stopped_anywhere_and_resumed_it_ends_as_if_it_never_was(
    tmp_path: Path, setting: Setting, searcher: Any, pruner: Any
) -> None:
    config = campaign(searcher=searcher, pruner=pruner, constraints=["size<=0.6"])
    check_resume(tmp_path, prepare(config), config, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


class TestRemembering:
    def test_an_evaluator_is_told_where_and_what_before_each_search(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        config = campaign(evaluator=learner("Remembers", log=str(log)), pruner="none", budget={"evaluations": 2})
        setting = prepare(config)
        assert not log.exists()
        Campaign(config, tmp_path).run(setting)
        Campaign(config.model_copy(update={"budget": campaign().budget}), tmp_path).run(setting)
        folder = tmp_path / "tiny"
        assert log.read_text().splitlines() == [f"{folder} []", f"{folder} ['complete', 'complete']"]

    def test_what_it_raises_is_its_own(self, tmp_path: Path) -> None:
        with pytest.raises(Failure, match=r"the evaluator '.*FailsToRemember' raised an error; got KeyError"):
            Campaign(campaign(evaluator=learner("FailsToRemember")), tmp_path).run()


class TestConfig:
    def test_none_by_default(self) -> None:
        (config,) = parse(settings(), "test").campaigns()
        assert config.pruner.model_dump() == {"name": "none", "options": {}}

    def test_an_evaluator_whose_effort_does_not_grow(self) -> None:
        with pytest.raises(ConfigError) as caught:
            prepare(campaign(evaluator={"name": "ptq", "options": {"threads": 1}}))
        assert str(caught.value) == (
            "pruner 'successive-halving' needs an evaluator whose effort grows in steps; got evaluator 'ptq'; "
            "evaluator: qat, or pruner: none"
        )

    def test_an_objective_that_minimises_the_score(self) -> None:
        with pytest.raises(ConfigError, match="pruning keeps what has the highest accuracy"):
            prepare(campaign(objectives=[{"metric": "accuracy", "direction": "minimize"}]))

    @pytest.mark.parametrize(
        ("pruner", "error", "text"),
        [
            ("halving", PluginError, "unknown pruner 'halving'; did you mean 'successive-halving'"),
            ({"name": "median", "options": {"start": 3}}, ConfigError, "unknown option 'start' in options of 'median'"),
            ({"name": "none", "options": {"x": 1}}, ConfigError, "'none' takes no options"),
            ({"name": "median", "options": {"startup": 0}}, ConfigError, "startup in options of 'median'"),
            (
                f"{FILE}:Learns",
                PluginError,
                r"must be a pruner; got a class without verdict; see Pruner in qsearch.pruning",
            ),
        ],
    )
    def test_what_is_wrong_with_a_pruner(self, pruner: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            prepare(campaign(pruner=pruner))

    def test_a_pruner_of_ones_own(self, tmp_path: Path, setting: Setting) -> None:
        own = {"name": f"{FILE}:AtMost", "options": {"limit": 0.75}}
        run = Campaign(campaign(pruner=own), tmp_path).run(setting)
        assert any("0.75 needed" in trial.reason for trial in run.trials)
        assert all(trial.value("accuracy") < 0.75 for trial in run.trials if trial.state == "pruned")

    def test_another_pruner_is_another_campaign(self, done: Run, setting: Setting) -> None:
        with pytest.raises(ConfigError, match="holds another campaign; got pruner"):
            Campaign(campaign(pruner="median"), done.folder.parent).run(setting)

    def test_a_folder_from_before_there_were_pruners(self, tmp_path: Path, setting: Setting) -> None:
        config = campaign(pruner="none")
        run = Campaign(config, tmp_path).run(setting)
        file = run.folder / "campaign.yaml"
        lines = file.read_text().splitlines(keepends=True)
        start = next(i for i, line in enumerate(lines) if line.startswith("pruner:"))
        end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(" "))
        file.write_text("".join(lines[:start] + lines[end:]))
        assert "pruner" not in file.read_text()
        assert Campaign(config, tmp_path).run(setting).trials == run.trials


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", plugin("Tiny"), "--hardware", "size", "--searcher", "random", "--evaluations", "5"]
    arguments += ["--weight-bits", "2,4,8", "--activation-bits", "4,8"]
    more = [
        "--evaluator",
        f"{FILE}:Learns",
        "--set",
        "evaluator.options.threads=1",
        "--runs",
        tmp_path,
        "--name",
        "own",
    ]
    answer = call(capfd, *arguments, *more, "--pruner", "successive-halving", "--json")
    assert answer.code == 0, answer.err
    spent = json.loads(answer.out)["spent"]
    assert spent["pruned"] == sum(fact["state"] == "pruned" for fact in ledger_facts(tmp_path / "own")) > 0
    assert 5 <= spent["evaluations"] < 6
    answer = call(capfd, "show", tmp_path / "own")
    assert f"({spent['pruned']} pruned)" in answer.out
    answer = call(capfd, "search", plugin("Tiny"), "--pruner", "median", "--runs", tmp_path)
    assert answer.code == 2
    assert "needs an evaluator whose effort grows" in answer.line


def test_a_campaign_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "c.yaml", settings(evaluator=learner(), pruner="confidence", budget={"evaluations": 3}))
    answer = call(capfd, "run", file, "--runs", tmp_path)
    assert answer.code == 0, answer.err
    assert runs.load(tmp_path / "tiny").config.pruner.name == "confidence"


def test_pruners_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "list", "pruners")
    assert answer.code == 0
    for text in ("successive-halving", "reduction_factor: 3", "hyperband", "median", "confidence: 0.95", "none"):
        assert text in answer.out


def test_with_and_without_a_pruner_side_by_side(tmp_path: Path, setting: Setting) -> None:
    given = {"evaluator": learner(), "constraints": [], "budget": {"evaluations": 4}}
    pruned, whole = (
        run_sweep(parse(settings(name=name, pruner=pruner, **given), "test"), tmp_path)[0]
        for name, pruner in (("pruned", "successive-halving"), ("whole", "none"))
    )
    rows = comparison_rows([pruned, whole])
    assert [row.searcher for row in rows] == ["random + successive-halving", "random"]
    assert [row.pruned > 0 for row in rows] == [True, False]
    assert len(pruned.trials) > len(whole.trials)
