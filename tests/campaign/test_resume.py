"""Resume is replay: a campaign that is killed anywhere and resumed ends with the ledger of one that never was."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from campaigns import call, facts, ledger_facts, plugin, settings, start, write

from qsearch import run as runs
from qsearch.config import parse
from qsearch.run import Run
from qsearch.sweep import run_folders, run_sweep

EVALUATIONS = 6
SEARCHERS = ["random", {"name": "optuna", "options": {"sampler": "tpe"}}, "ilp"]
SWEEP = settings(
    name="sweep",
    searcher=SEARCHERS,
    budget={"evaluations": EVALUATIONS},
    space={"weight_bits": [2, 3, 4, 8], "activation_bits": [4, 8]},
    constraints=["size<=0.5"],
    evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.08}},
)
Stop = Callable[[Path], bool]


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return run_sweep(parse(SWEEP, "test"), tmp_path_factory.mktemp("uninterrupted"))


def recorded(folder: Path) -> int:
    """Trials in the ledger of a sweep that another process may be writing."""
    try:
        with closing(sqlite3.connect(f"file:{folder / 'study.db'}?mode=rw", uri=True)) as ledger:
            return int(ledger.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.OperationalError:  # no file or no tables yet, or locked by the writer
        return -1


def trials(count: int) -> Stop:
    return lambda folder: recorded(folder) >= count


def seconds(after: float) -> Stop:
    """So long after the process has written the sweep's file, which each does before anything else."""
    written: list[tuple[int, float]] = []

    def stop(folder: Path) -> bool:
        file = folder / "sweep.yaml"
        stamp = file.stat().st_mtime_ns if file.is_file() else 0
        if not written or stamp != written[-1][0]:
            written.append((stamp, time.monotonic()))
        return len(written) > 1 and time.monotonic() >= written[1][1] + after

    return stop


def kill_when(stop: Stop, folder: Path, *arguments: str | Path) -> int:
    """Kill ``qsearch …`` as soon as ``stop`` says so; the number of trials it left."""
    process = start(*arguments)
    try:
        while not stop(folder):
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    return recorded(folder)


def assert_same(found: list[Run], expected: list[Run]) -> None:
    assert [run.config.name for run in found] == [run.config.name for run in expected]
    for run, whole in zip(found, expected, strict=True):
        assert [facts(trial) for trial in run.trials] == [facts(trial) for trial in whole.trials]
        ours, theirs = run.info.model_dump(), whole.info.model_dump()
        for timed in ("seconds", "sensitivity_seconds", "provenance"):
            del ours[timed], theirs[timed]
        assert ours == theirs


def read(root: Path) -> list[Run]:
    order = ["random-s0", "optuna-tpe-s0", "ilp-s0"]
    return [runs.load(root / "sweep" / name) for name in order]


def test_the_sweep_has_trials_of_every_kind(uninterrupted: list[Run]) -> None:
    states = [{trial.state for trial in run.trials} for run in uninterrupted]
    assert set.union(*states) == {"complete", "infeasible", "failed"}
    assert [sum(trial.evaluated for trial in run.trials) for run in uninterrupted] == [EVALUATIONS] * 3
    assert all(run.info.status == "complete" and len(run.info.tested) == 2 for run in uninterrupted)


def interrupt_and_resume(stops: list[Stop], root: Path, capfd: pytest.CaptureFixture[str]) -> list[int]:
    """Kill the sweep once for each of ``stops``, then let it end; the number of trials after each kill."""
    file, folder, left = write(root / "campaign.yaml", SWEEP), root / "sweep", []
    for stop in stops:
        again = ("resume", folder) if (folder / "sweep.yaml").is_file() else ("run", file, "--runs", root)
        left.append(kill_when(stop, folder, *again))
    answer = call(capfd, "resume", folder)
    assert answer.code == 0, answer.err
    return left


def test_a_sweep_killed_at_every_stage_ends_with_the_ledger_of_one_that_was_not(
    tmp_path: Path, uninterrupted: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = np.cumsum([len(run.trials) for run in uninterrupted])
    begun: Stop = lambda folder: (folder / "sweep.yaml").is_file()  # noqa: E731
    counts = [1, int(sizes[0]) + 2, int(sizes[1]) + 3]
    left = interrupt_and_resume([begun, *map(trials, counts)], tmp_path, capfd)
    assert left[0] == -1
    assert all(count <= found < sizes[-1] for count, found in zip(counts, left[1:], strict=True))
    assert_same(read(tmp_path), uninterrupted)


@pytest.mark.slow
def test_a_sweep_killed_at_any_time_ends_with_the_ledger_of_one_that_was_not(
    tmp_path: Path, uninterrupted: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    times = np.random.default_rng(0).uniform(0.0, 1.0, size=6)
    left = interrupt_and_resume([seconds(after) for after in times], tmp_path, capfd)
    assert left == sorted(left)
    assert_same(read(tmp_path), uninterrupted)


def test_a_resumed_campaign_adds_nothing_when_it_was_complete(uninterrupted: list[Run]) -> None:
    root = uninterrupted[0].folder.parent.parent
    seen: list[int] = []
    again = run_sweep(parse(SWEEP, "test"), root, on_trial=lambda config, oracle, trial: seen.append(trial.number))
    assert_same(again, uninterrupted)
    assert len(seen) == sum(len(run.trials) for run in uninterrupted)
    assert len(run_folders(root / "sweep")) == 3


def test_resuming_with_a_larger_budget_is_a_run_with_the_larger_budget(
    tmp_path: Path, uninterrupted: list[Run], capfd: pytest.CaptureFixture[str]
) -> None:
    small = {**SWEEP, "budget": {"evaluations": EVALUATIONS // 2}}
    half = run_sweep(parse(small, "test"), tmp_path)
    answer = call(capfd, "resume", tmp_path / "sweep", "--evaluations", str(EVALUATIONS))
    assert answer.code == 0, answer.err
    for run, whole in zip(half, uninterrupted, strict=True):
        again = ledger_facts(run.folder)
        assert again[: len(run.trials)] == [facts(trial) for trial in run.trials]
        assert again == [facts(trial) for trial in whole.trials]
    assert all(run.info.evaluations == EVALUATIONS for run in read(tmp_path))
