"""Clocks that jump by hours: no budget ends early or late, no trial ends before it began, no lock is taken for dead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qsearch import ledger as ledgers
from qsearch.errors import BudgetExhausted
from qsearch.ledger import Ledger, open_storage
from qsearch.oracle import Budget, CampaignOracle
from qsearch.search.random import Random
from qsearch.storage import ProcessLock
from qsearch.testing.problems import ACCURACY, QuadraticEvaluator, separable

HOUR = 3600.0


class Jumping:
    """Wall time that is moved by hours, forwards and backwards, each time it is asked for."""

    def __init__(self) -> None:
        self.calls = 0
        self._rng = np.random.default_rng(0)

    def seconds(self) -> float:
        self.calls += 1
        return 1.8e9 + HOUR * float(self._rng.uniform(-12, 12))

    def now(self, zone: Any = None) -> datetime:
        return datetime.fromtimestamp(self.seconds(), zone)


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> Jumping:
    """What Python code is told of the time of day; the monotonic clock goes on as it does."""
    clock = Jumping()

    class Moved(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return clock.now(tz)

    monkeypatch.setattr(time, "time", clock.seconds)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * clock.seconds()))
    monkeypatch.setattr(ledgers, "datetime", Moved)
    return clock


class Steady(QuadraticEvaluator):
    def evaluate(self, assignment: Any, *, fidelity: float = 1.0, seed: int = 0) -> Any:
        time.sleep(0.01)
        return super().evaluate(assignment, fidelity=fidelity, seed=seed)


@pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
def test_a_budget_of_minutes_is_spent_on_the_monotonic_clock(tmp_path: Path, jumping: Jumping, scheme: str) -> None:
    problem, exact = separable(12)
    evaluator = Steady(problem.space, exact.curvature)
    ledger = Ledger(f"{scheme}{tmp_path / 'study'}", "name", ACCURACY, problem.space)
    oracle = CampaignOracle(problem, evaluator, ledger, Budget(minutes=1 / 60))
    start = time.monotonic()
    with suppress(BudgetExhausted):
        Random().search(oracle)
    assert 0.9 < time.monotonic() - start < 10
    assert 3 < len(oracle.trials) < 101
    assert all(0 <= trial.seconds < 10 for trial in oracle.trials)
    assert jumping.calls > 3
    found = open_storage(ledger.url).get_all_trials(0 if scheme == "journal:" else 1)
    assert len(found) == len(oracle.trials)
    for frozen, trial in zip(found, ledger.trials(), strict=True):
        assert frozen.datetime_start is not None
        assert frozen.datetime_complete is not None
        took = frozen.datetime_complete - frozen.datetime_start
        assert timedelta(0) <= took
        assert took.total_seconds() == pytest.approx(trial.seconds, abs=1e-5)


def test_a_trial_that_ends_as_clocks_are_put_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In local time without a zone it would begin after its end: 02:50 is not there that night, and reads as 03:50."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:

        class Spring(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                moment = datetime(2026, 3, 29, 1, 5, tzinfo=UTC)  # 03:05 in summer time, five minutes after the jump
                return moment.astimezone(tz) if tz is not None else moment.astimezone().replace(tzinfo=None)

        monkeypatch.setattr(ledgers, "datetime", Spring)
        problem, exact = separable(3)
        ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "name", ACCURACY, problem.space)
        oracle = CampaignOracle(problem, exact, ledger, Budget(1))
        oracle._mark -= 15 * 60
        oracle.evaluate(problem.space.decode(problem.space.lowest))
        with ledger._trials._engine.connect() as connection:  # type: ignore[attr-defined]  # the database's
            row = connection.exec_driver_sql("select datetime_start, datetime_complete from trials").one()
        begun, ended = (datetime.fromisoformat(moment) for moment in row)
        assert ended == datetime(2026, 3, 29, 1, 5)
        assert (ended - begun).total_seconds() == pytest.approx(900, abs=5)
    finally:
        monkeypatch.undo()
        time.tzset()


HOLD = """
import sys, time
from pathlib import Path
from qsearch.storage import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_that_is_held_is_never_stale(tmp_path: Path, jumping: Jumping) -> None:
    """Its file is a year old, and the clock jumps; Optuna's own lock would be broken once its file has not changed for long."""
    path = tmp_path / "study.log"
    process = holder(path)
    try:
        for file in tmp_path.iterdir():
            os.utime(file, (1e9, 1e9))
        got = threading.Event()

        def wait() -> None:
            with ProcessLock(path):
                got.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(1.0)
    finally:
        process.kill()
        process.communicate()
    assert got.wait(10)  # and the dead hold none
    waiting.join()


def test_a_writer_that_was_killed_holds_no_one_up(tmp_path: Path) -> None:
    """Optuna's own lock of journals would stand for half a minute."""
    path = tmp_path / "study.log"
    process = holder(path)
    process.kill()
    process.communicate()
    problem, exact = separable(3)
    start = time.monotonic()
    ledger = Ledger(f"journal:{path}", "name", ACCURACY, problem.space)
    CampaignOracle(problem, exact, ledger, Budget(1)).evaluate(problem.space.decode(problem.space.lowest))
    assert time.monotonic() - start < 10
    assert len(ledger.trials()) == 1
