"""Campaigns as a library: what is recorded of them, what they share, and what they refuse."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from campaigns import facts, plugin, settings
from filelock import FileLock

import qsearch
from qsearch import run as runs
from qsearch.assignment import FLOAT_BITS
from qsearch.campaign import Campaign
from qsearch.config import CampaignConfig, parse
from qsearch.errors import ConfigError, PluginError, StorageError
from qsearch.problem import resolve
from qsearch.run import Run
from qsearch.setting import Setting, prepare
from qsearch.sweep import read_sweep, run_folders, run_sweep


def campaign(**changes: Any) -> CampaignConfig:
    (config,) = parse(settings(**changes), "test").campaigns()
    return config


@pytest.fixture(scope="module")
def setting() -> Setting:
    return prepare(campaign())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, setting: Setting) -> Run:
    return Campaign(campaign(), tmp_path_factory.mktemp("runs")).run(setting)


def bounds(setting: Setting, *constraints: Any) -> list[tuple[str, float, bool]]:
    """The bounds of the small campaign under other constraints: metric, limit, at least."""
    config = campaign(constraints=list(constraints))
    found = [resolve(item.build(), setting.problem.cost, setting.float_quality.values) for item in config.constraints]
    return [(bound.metric, bound.limit, bound.at_least) for bound in found]


class TestProblem:
    def test_of_a_campaign(self, setting: Setting) -> None:
        problem = setting.problem
        assert [layer.name for layer in problem.layers] == ["0", "2", "5"]
        assert problem.space.size == 3**3 * 2**3
        assert (problem.quality_name, setting.float_quality.samples) == ("accuracy", 128)
        assert [item.metric for item in problem.objectives] == ["accuracy"]

    def test_costs_are_relative_to_uniform_8_unless_told_otherwise(self, setting: Setting) -> None:
        weights = sum(layer.params for layer in setting.problem.layers)
        cost, space = setting.problem.cost, setting.problem.space
        at = {bits: cost.estimate(space.reference(bits)).totals["size"] for bits in (4, 8, FLOAT_BITS)}
        assert at[8] > weights  # in bytes, with what else has to be stored
        assert bounds(setting, "size<=0.5") == [("size", 0.5 * at[8], False)]
        assert bounds(setting, "size<=0.5*uniform-4") == [("size", 0.5 * at[4], False)]
        assert bounds(setting, "size<=0.5*float") == [("size", 0.5 * at[FLOAT_BITS], False)]
        assert bounds(setting, f"size<=500{cost.units['size']}") == [("size", 500.0, False)]
        assert bounds(setting, {"metric": "size", "at_most": 500, "unit": cost.units["size"]}) == [
            ("size", 500.0, False)
        ]
        assert bounds(setting, {"metric": "size", "at_most": 0.5}) == [("size", 0.5 * at[8], False)]

    def test_qualities_are_absolute_unless_relative_to_float(self, setting: Setting) -> None:
        quality = setting.float_quality
        assert bounds(setting, "accuracy>=0.9") == [("accuracy", 0.9, True)]
        assert bounds(setting, "accuracy>=0.9*float") == [("accuracy", 0.9 * quality.metric, True)]
        assert bounds(setting, "loss<=1.5*float") == [("loss", 1.5 * quality.loss, False)]

    def test_several_objectives(self, tmp_path: Path) -> None:
        objectives = [{"metric": name, "direction": way} for name, way in (("loss", "minimize"), ("size", "minimize"))]
        run = Campaign(campaign(objectives=objectives), tmp_path).run()
        assert run.front
        study = optuna.load_study(study_name="tiny", storage=runs.storage_url(run.config, tmp_path))
        assert study.metric_names == ["loss", "size"]
        complete = [trial for trial in run.trials if trial.state == "complete"]
        for trial, frozen in zip(complete, study.get_trials(states=[optuna.trial.TrialState.COMPLETE]), strict=True):
            assert frozen.values == [trial.value("loss"), trial.value("size")]

    def test_kernel_wise_bits(self, tmp_path: Path) -> None:
        space = {"weight_bits": [2, 8], "activation_bits": [8], "granularity": "kernel", "fixed": {"last": 8}}
        root = Campaign(campaign(space=space, constraints=["size<=0.8"]), tmp_path).run()
        again = runs.load(root.folder)
        assert [facts(trial) for trial in again.trials] == [facts(trial) for trial in root.trials]
        assert any(isinstance(bits, tuple) for trial in again.trials for bits in trial.assignment.values())


class TestRecord:
    def test_reads_back_as_it_was_returned(self, done: Run) -> None:
        again = runs.load(done.folder)
        assert again.config == done.config
        assert again.info == done.info
        assert [facts(trial) for trial in again.trials] == [facts(trial) for trial in done.trials]
        assert again.best == done.best

    def test_what_was_spent(self, done: Run) -> None:
        assert done.info.status == "complete"
        assert done.info.evaluations == sum(trial.evaluated for trial in done.trials) == 6
        assert done.info.seconds == pytest.approx(sum(trial.seconds for trial in done.trials), abs=1.0)
        assert [trial.number for trial in done.trials] == list(range(len(done.trials)))

    def test_sensitivities_are_accounted_for(self, tmp_path: Path, setting: Setting) -> None:
        run = Campaign(campaign(searcher="ilp"), tmp_path).run(setting)
        probes = 1 + sum(len(variable.choices) for variable in setting.problem.space.variables)
        assert run.info.sensitivity_samples == 64 * probes
        assert run.info.sensitivity_seconds > 0

    def test_the_campaign_resolved(self, done: Run, setting: Setting) -> None:
        info = done.info
        assert CampaignConfig.model_validate(info.config) == done.config
        assert info.config["space"]["granularity"] == "layer"  # a default, spelt out
        assert info.layers == setting.problem.layers
        assert info.bounds == setting.problem.bounds
        assert info.variables == {item.name: list(item.choices) for item in setting.problem.space.variables}
        assert info.space_log10 == pytest.approx(np.log10(216))
        assert info.units == dict(setting.problem.cost.units)
        assert info.reference == dict(setting.problem.cost.estimate(setting.problem.space.reference(8)).totals)
        assert done.float_quality == setting.float_quality

    def test_provenance(self, done: Run) -> None:
        found = done.info.provenance
        assert found["versions"]["qsearch"] == qsearch.__version__
        assert found["versions"]["optuna"] == optuna.__version__
        assert datetime.fromisoformat(found["started"]).tzinfo is not None
        assert found["python"].count(".") == 2
        assert "cores" in found["machine"]

    def test_the_commit_is_that_of_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        monkeypatch.chdir(tmp_path)
        assert runs.provenance()["git"] is None

    def test_other_versions_are_told(
        self, tmp_path: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        Campaign(campaign(), tmp_path).run(setting)
        monkeypatch.setattr(runs.metadata, "version", lambda name: "0.0.0")
        Campaign(campaign(), tmp_path).run(setting)
        assert "begun with other versions" in caplog.text

    def test_a_campaign_that_goes_on_is_running_in_the_record(self, tmp_path: Path, setting: Setting) -> None:
        config = campaign()
        Campaign(config, tmp_path).run(setting)
        larger = config.model_copy(update={"budget": config.budget.model_copy(update={"evaluations": 8})})
        seen: list[str] = []

        def look(oracle: Any, trial: Any) -> None:
            seen.append(runs.load(tmp_path / "tiny").info.status)

        run = Campaign(larger, tmp_path, look).run(setting)
        assert set(seen) == {"running"}
        assert (run.info.status, run.info.evaluations) == ("complete", 8)


class TestTest:
    """Test data is read once, of the float network and of the best trial."""

    def test_what_is_tested(self, done: Run) -> None:
        best = done.best
        assert best is not None
        assert set(done.info.tested) == {"float", str(best.number)}
        found = done.tested("float")
        assert found is not None
        assert (found.samples, found.outcomes is not None) == (64, True)
        assert done.tested("99") is None

    def test_once(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        config = campaign(evaluator={"name": plugin("CountsTests"), "options": {"log": str(log), "threads": 1}})
        first = Campaign(config, tmp_path).run()
        assert first.best is not None
        assert log.read_text().split()[1:] == [first.best.assignment.digest]
        again = Campaign(config, tmp_path).run()
        assert len(log.read_text().split()) == 2
        assert again.info.tested == first.info.tested

    def test_not_without_a_test_split(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run = Campaign(campaign(workload=plugin("WithoutTest")), tmp_path).run()
        assert (run.info.tested, run.info.status) == ({}, "complete")
        assert "no test split" in caplog.text

    def test_not_when_nothing_is_feasible(self, tmp_path: Path, setting: Setting) -> None:
        problem = dataclasses.replace(
            setting.problem,
            bounds=(dataclasses.replace(setting.problem.bounds[0], metric="accuracy", at_least=True, limit=2.0),),
        )
        run = Campaign(campaign(), tmp_path).run(dataclasses.replace(setting, problem=problem))
        assert (run.best, run.info.tested, run.info.status) == (None, {}, "complete")


class TestFolders:
    def test_of_a_sweep(self, tmp_path: Path) -> None:
        found = parse(settings(searcher=["random", "ilp"], seed=[0, 1]), "test")
        done: list[str] = []
        results = run_sweep(found, tmp_path, on_run=lambda run: done.append(run.config.name))
        names = ["tiny/random-s0", "tiny/random-s1", "tiny/ilp-s0"]
        assert done == [run.config.name for run in results] == names
        assert {path.name for path in run_folders(tmp_path / "tiny")} == {name.split("/")[1] for name in names}
        assert run_folders(tmp_path / "tiny" / "ilp-s0") == [tmp_path / "tiny" / "ilp-s0"]
        assert run_folders(tmp_path) == []
        assert read_sweep(tmp_path / "tiny") == (found, tmp_path)
        member, root = read_sweep(tmp_path / "tiny" / "random-s1")
        assert (member.campaigns(), root) == ([results[1].config], tmp_path)
        study = optuna.get_all_study_names(f"sqlite:///{tmp_path / 'tiny' / 'study.db'}")
        assert sorted(study) == sorted(names)

    def test_seeds_differ_and_the_same_seed_does_not(self, tmp_path: Path, setting: Setting) -> None:
        def assignments(folder: str, seed: int) -> list[Any]:
            run = Campaign(campaign(seed=seed), tmp_path / folder).run(setting)
            return [trial.assignment for trial in run.trials]

        assert assignments("a", 0) == assignments("b", 0) != assignments("c", 1)

    def test_a_storage_of_ones_own(self, tmp_path: Path, setting: Setting) -> None:
        config = campaign(storage=f"journal:{tmp_path / 'elsewhere' / 'log'}")
        run = Campaign(config, tmp_path / "runs").run(setting)
        assert not (tmp_path / "runs" / "tiny" / "study.db").exists()
        assert (tmp_path / "elsewhere" / "log").is_file()
        assert [facts(trial) for trial in runs.load(run.folder).trials] == [facts(trial) for trial in run.trials]

    def test_that_was_moved(self, tmp_path: Path, setting: Setting) -> None:
        run = Campaign(campaign(), tmp_path / "a").run(setting)
        (tmp_path / "a").rename(tmp_path / "b")
        assert [facts(trial) for trial in runs.load(tmp_path / "b" / "tiny").trials] == [facts(t) for t in run.trials]

    def test_one_process_at_a_time(self, tmp_path: Path, setting: Setting) -> None:
        root = tmp_path / "runs"
        (root / "tiny").mkdir(parents=True)
        with FileLock(root / "tiny" / ".lock"), pytest.raises(StorageError, match="one process at a time"):
            Campaign(campaign(), root).run(setting)
        assert Campaign(campaign(), root).run(setting).info.status == "complete"

    def test_the_lock_is_released_when_the_search_fails(self, tmp_path: Path, setting: Setting) -> None:
        config = campaign(searcher=plugin("Stumbles"))
        for _ in range(2):
            with pytest.raises(qsearch.QSearchError, match=r"raised an error; got IndexError: oops \(tiny_plugins.py"):
                Campaign(config, tmp_path).run(setting)
        assert len(runs.load(tmp_path / "tiny").trials) == 1

    def test_holds_another_campaign(self, done: Run, setting: Setting) -> None:
        root = done.folder.parent
        for changes in ({"seed": 1}, {"searcher": "ilp"}, {"constraints": []}, {"evaluate_infeasible": True}):
            with pytest.raises(ConfigError, match=f"holds another campaign; got {next(iter(changes))}: "):
                Campaign(campaign(**changes), root).run(setting)
        assert runs.load(done.folder).config == done.config

    def test_a_campaign_that_cannot_begin_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(PluginError):
            Campaign(campaign(searcher="ilpp"), tmp_path).run()
        assert list(tmp_path.iterdir()) == []


def test_plugins_by_path() -> None:
    assert prepare(campaign(hardware=plugin("Adder"))).problem.cost.units == {"size": "bit"}
