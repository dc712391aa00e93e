"""Two drivers: on one run folder, and in two folders with one name in one storage."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from campaigns import call, facts, ledger_facts, plugin, settings, spawn, start, write

from qsearch import run as runs
from qsearch.config import parse
from qsearch.errors import ConfigError, StorageError
from qsearch.sweep import run_sweep

EVALUATIONS = 8


def campaign(seconds: float, **changes: Any) -> dict[str, Any]:
    return settings(
        budget={"evaluations": EVALUATIONS},
        constraints=[],
        evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": seconds}},
        **changes,
    )


def recorded(ledger: Path) -> int:
    """Trials in a SQLite ledger that another process is writing."""
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=rw", uri=True)) as connection:
            return int(connection.execute("select count(*) from trials").fetchone()[0])
    except sqlite3.OperationalError:  # no file or no tables yet, or locked by the writer
        return 0


def test_the_second_driver_of_a_folder_is_refused_until_the_first_is_killed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, root = write(tmp_path / "campaign.yaml", campaign(1.0)), tmp_path / "runs"
    first = start("run", file, "--runs", root)
    try:
        while not recorded(root / "tiny" / "study.db"):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # it goes no further while the other one starts
        second = spawn("run", file, "--runs", root)
        assert second.code == 1
        assert "a run may be driven by one process at a time" in second.line
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    before = ledger_facts(root / "tiny")
    assert 1 <= len(before) < EVALUATIONS
    answer = call(capfd, "resume", root / "tiny")
    assert answer.code == 0, answer.err
    after = ledger_facts(root / "tiny")
    assert after[: len(before)] == before
    assert [trial["number"] for trial in after] == list(range(EVALUATIONS))
    assert len({trial["assignment"] for trial in after}) == EVALUATIONS


@pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
def test_two_folders_with_one_name_in_one_storage(tmp_path: Path, scheme: str) -> None:
    """They are one campaign twice: whoever comes second to a trial is refused in one line; nothing is lost or doubled."""
    sweep = parse(campaign(0.0, storage=f"{scheme}{tmp_path / 'shared'}"), "test")
    seen: list[int] = []

    def overtaken(config: Any, oracle: Any, trial: Any) -> None:
        seen.append(trial.number)
        if len(seen) == 3:
            run_sweep(sweep, tmp_path / "two")

    with pytest.raises(StorageError, match="one process at a time; got another one's trial 3") as error:
        run_sweep(sweep, tmp_path / "one", on_trial=overtaken)
    assert "\n" not in str(error.value)
    assert seen == [0, 1, 2]
    whole = run_sweep(parse(campaign(0.0), "test"), tmp_path / "whole")[0]
    for folder in ("one", "two"):
        run = runs.load(tmp_path / folder / "tiny")
        assert [facts(trial) for trial in run.trials] == [facts(trial) for trial in whole.trials]
        assert run.info.status == "complete"
    assert [trial.number for trial in run_sweep(sweep, tmp_path / "one")[0].trials] == list(range(EVALUATIONS))


def test_another_campaign_of_that_name_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared'}"
    run_sweep(parse(campaign(0.0, storage=url), "test"), tmp_path / "one")
    with pytest.raises(ConfigError, match="holds another campaign"):
        run_sweep(parse({**campaign(0.0, storage=url), "seed": 1}, "test"), tmp_path / "two")
