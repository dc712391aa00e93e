"""``auto`` in real campaigns: killed and resumed, given more, stopped by the clock, on a network of its own."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from campaigns import call, facts, ledger_facts, plugin, settings, start, write

from qsearch import run as runs
from qsearch.config import parse
from qsearch.run import Run
from qsearch.sweep import run_sweep

EVALUATIONS = 18  # more than the predicted front: the last ones are the Gaussian process's
AUTO = settings(
    name="auto",
    searcher="auto",
    budget={"evaluations": EVALUATIONS},
    space={"weight_bits": [2, 3, 4, 8], "activation_bits": [4, 8]},
    constraints=["size<=0.8"],
    objectives=[{"metric": "accuracy", "direction": "maximize"}, {"metric": "size", "direction": "minimize"}],
    evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.05}},
)


def campaign(root: Path, **changes: Any) -> Run:
    (found,) = run_sweep(parse({**AUTO, **changes}, "test"), root)
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return campaign(tmp_path_factory.mktemp("uninterrupted"))


def recorded(folder: Path) -> int:
    """Trials in the ledger of a campaign that another process may be writing."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=rw", uri=True)) as ledger:
            return int(ledger.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.OperationalError:  # no file or no tables yet, or locked by the writer
        return -1


def killed_at(count: int, folder: Path, *arguments: str | Path) -> int:
    """Kill ``qsearch …`` when so many trials are recorded; how many it left."""
    process = start(*arguments)
    try:
        while recorded(folder) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    return recorded(folder)


def test_it_spends_its_budget_on_what_the_bounds_allow(uninterrupted: Run) -> None:
    assert uninterrupted.info.status == "complete"
    assert len(uninterrupted.trials) == EVALUATIONS
    assert {trial.state for trial in uninterrupted.trials} == {"complete", "failed"}
    assert len({trial.assignment for trial in uninterrupted.trials}) == EVALUATIONS
    assert uninterrupted.info.sensitivity_samples > 0


@pytest.mark.slow  # two processes that load everything
def test_killed_in_the_front_and_in_the_refinement_it_ends_as_if_it_had_not_been(
    tmp_path: Path, uninterrupted: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    file, folder = write(tmp_path / "campaign.yaml", AUTO), tmp_path / "auto"
    left = [killed_at(3, folder, "run", file, "--runs", tmp_path), killed_at(14, folder, "resume", folder)]
    assert 3 <= left[0] < 14 <= left[1] < EVALUATIONS
    answer = call(capfd, "resume", folder)
    assert answer.code == 0, answer.err
    assert ledger_facts(folder) == [facts(trial) for trial in uninterrupted.trials]


def test_a_larger_budget_goes_on_where_a_smaller_one_ended(
    tmp_path: Path, uninterrupted: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    small = campaign(tmp_path, budget={"evaluations": 7})
    assert len(small.trials) == 7
    answer = call(capfd, "resume", small.folder, "--evaluations", str(EVALUATIONS))
    assert answer.code == 0, answer.err
    again = ledger_facts(small.folder)
    assert again[:7] == [facts(trial) for trial in small.trials]
    assert again == [facts(trial) for trial in uninterrupted.trials]


def test_a_budget_of_minutes_is_a_part_of_the_same_trajectory(tmp_path: Path, uninterrupted: Run) -> None:
    found = campaign(tmp_path, budget={"minutes": 0.02})  # room for a first evaluation on a busy machine
    assert found.info.status == "complete"
    count = min(len(found.trials), EVALUATIONS)
    assert count
    assert [facts(t) for t in found.trials[:count]] == [facts(t) for t in uninterrupted.trials[:count]]


def test_bits_per_kernel(tmp_path: Path) -> None:
    space = {"weight_bits": [0, 2, 4, 8], "activation_bits": [4, 8], "granularity": "kernel"}
    found = campaign(tmp_path, space=space, budget={"evaluations": 14}, evaluator=settings()["evaluator"])
    assert len(found.trials) == 14
    assert {trial.state for trial in found.trials} == {"complete"}
    assert any(not isinstance(trial.assignment["0.weight"], int) for trial in found.trials)
    assert [facts(trial) for trial in runs.load(found.folder).trials] == [facts(trial) for trial in found.trials]


def test_nothing_to_search(tmp_path: Path) -> None:
    space = {"weight_bits": [8], "activation_bits": [8], "fixed": {"weights": 8, "activations": 8}}
    found = campaign(tmp_path, space=space, constraints=[], evaluator=settings()["evaluator"])
    assert len(found.trials) == 1


def test_a_sensitivity_that_cannot_be_had_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for options, line in (
        ({"sensitivity": "fishr"}, "did you mean 'fisher'"),
        ({"sensitivity_options": {"samples": 3}}, "sensitivity_options belong to a sensitivity"),
    ):
        file = write(tmp_path / "campaign.yaml", {**AUTO, "searcher": {"name": "auto", "options": options}})
        answer = call(capfd, "run", file, "--runs", tmp_path)
        assert answer.code == 2
        assert line in answer.line


def test_bounds_that_contradict_each_other_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "campaign.yaml", {**AUTO, "constraints": ["size<=0.4", "size>=0.6"]})
    answer = call(capfd, "run", file, "--runs", tmp_path)
    assert answer.code == 2
    assert "no assignment that meets all cost bounds together was found" in answer.line
