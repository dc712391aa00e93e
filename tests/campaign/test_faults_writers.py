"""Two writers, a doubtful commit, a database that is gone for a while: no trial is lost, none is there twice."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from campaigns import same
from optuna.storages import RDBStorage
from servers import Server
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from qsearch import storage
from qsearch.errors import StorageError
from qsearch.ledger import Ledger, open_storage
from qsearch.testing.problems import ACCURACY, separable
from qsearch.trial import Cost, Quality, Trial

SPACE = separable(3)[0].space


def trial(number: int) -> Trial:
    assignment = SPACE.decode(SPACE.sample(np.random.default_rng(number), 1)[0])
    quality = Quality.from_outcomes(np.asarray([1, 0, 1, number % 2], np.float32), 0.3)
    cost = Cost({"size": 10.0}, {"size": "bit"}, {"layer0": {"size": 10.0}})
    return Trial(
        number, assignment, "complete", cost, quality, {"size <= 1": -0.1}, "", 0.1 * number, ((0.5, 0.2), (1.0, 0.75))
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    found = Server()
    yield found
    found.close()


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("server").url
    return f"{request.param}:{'///' if request.param == 'sqlite' else ''}{tmp_path / 'study.db'}"


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name


def held(url: str, name: str) -> list[Trial]:
    return Ledger(url, name, ACCURACY).trials()


def test_the_second_of_two_writers_is_refused_and_nothing_is_lost(url: str, name: str) -> None:
    one, two = (Ledger(url, name, ACCURACY, SPACE) for _ in range(2))
    one.append(trial(0))
    with pytest.raises(
        StorageError, match=rf"study .*{name[:20]}.* one process at a time; got another one's trial 0"
    ) as error:
        two.append(trial(1))
    assert "\n" not in str(error.value)
    one.append(trial(2))
    assert [item.assignment for item in held(url, name)] == [trial(0).assignment, trial(2).assignment]


def test_two_writers_at_a_time_never_share_a_number(url: str, name: str) -> None:
    """However their transactions meet: every trial that was accepted is there, once, and no other."""
    accepted: list[Trial] = []
    Ledger(url, name, ACCURACY, SPACE)

    def write(first: int) -> None:
        for number in range(first, first + 12):
            ledger = Ledger(url, name, ACCURACY, SPACE)
            try:
                ledger.append(trial(number))
            except StorageError:
                continue
            accepted.append(trial(number))

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = held(url, name)
    assert [item.number for item in found] == list(range(len(found)))
    assert sorted(item.seconds for item in found) == sorted(item.seconds for item in accepted)
    assert len(accepted) >= 12


def test_optuna_reads_what_it_would_have_written(url: str, name: str) -> None:
    """The same trial by Optuna's own way, in a study of its own: no table, no column differs."""
    ours = Ledger(url, name, ACCURACY, SPACE)
    ours.append(trial(0))
    frozen = ours._to_frozen(trial(0))
    theirs = optuna.create_study(storage=open_storage(url), study_name=f"{name} theirs", direction="maximize")
    theirs.add_trial(frozen)
    found, expected = (
        optuna.load_study(study_name=n, storage=open_storage(url)).trials[0] for n in (name, f"{name} theirs")
    )
    for key in (
        "number",
        "state",
        "values",
        "params",
        "distributions",
        "user_attrs",
        "system_attrs",
        "intermediate_values",
    ):
        assert getattr(found, key) == getattr(expected, key), key
    assert abs((found.datetime_complete - expected.datetime_complete).total_seconds()) < 60
    assert found.datetime_start <= found.datetime_complete


def written(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table that says something of trials; what a row is called is no matter."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE name LIKE 'trial%'")]
        found = {table: [dict(row) for row in database.execute(f"SELECT * FROM {table}")] for table in tables}
    names = {"trials": "trial_id", "trial_params": "param_id"}
    for table, rows in found.items():
        for row in rows:
            row.pop(names.get(table, f"{table[:-1]}_id"))
        rows.sort(key=str)
    return found


STATES = {
    "whole": trial(0),
    "pruned": replace(trial(0), state="pruned", reason="hopeless"),
    "over a bound": replace(trial(0), state="infeasible", quality=None, reports=()),
    "failed": replace(trial(0), state="failed", cost=None, quality=None, violations={}, reports=(), reason="no memory"),
    "not a number": replace(trial(0), reports=((0.5, float("nan")), (1.0, float("inf")))),
}


@pytest.mark.parametrize("state", STATES)
def test_each_row_is_what_optuna_would_have_written(tmp_path: Path, state: str) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    ledger = Ledger(f"sqlite:///{ours}", "name", ACCURACY, SPACE)
    study = optuna.create_study(storage=f"sqlite:///{theirs}", study_name="name", direction="maximize")
    for _ in range(2):
        frozen = ledger._to_frozen(STATES[state])
        study.add_trial(frozen)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger, "_to_frozen", lambda item, made=frozen: made)
            ledger.append(STATES[state])
    ledger.annotate({"status": "complete"})
    assert written(ours)["trials"]
    assert written(ours) == written(theirs)


def test_another_optunas_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ledger(f"sqlite:///{tmp_path / 'study.db'}", "name", ACCURACY, SPACE)
    columns = storage._COLUMNS | {"trials": storage._COLUMNS["trials"] | {"mood"}}
    monkeypatch.setattr(storage, "_COLUMNS", columns)
    with pytest.raises(StorageError, match=r"in whose trials differ: mood; pip install 'optuna==5.0"):
        Ledger(f"sqlite:///{tmp_path / 'study.db'}", "name", ACCURACY, SPACE)


class TestDoubtfulCommit:
    """The connection is lost while a transaction ends: it may have been written or not."""

    @pytest.mark.parametrize("before", [True, False], ids=["not-written", "written"])
    def test_a_trial_is_there_once(
        self, server: Server, name: str, before: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "WAITS", (0.01, 0.01))
        ledger = Ledger(server.url, name, ACCURACY, SPACE)
        ledger.append(trial(0))
        left = [1]
        dialect = ledger._trials._engine.dialect  # type: ignore[attr-defined]  # the database's
        commit = dialect.do_commit

        def lost(connection: Any) -> None:
            if not before:
                commit(connection)
            if left:
                left.pop()
                connection.dbapi_connection.close()
                raise dialect.dbapi.OperationalError("server closed the connection unexpectedly")
            if before:
                commit(connection)

        monkeypatch.setattr(dialect, "do_commit", lost)
        ledger.append(trial(1))
        assert not left
        monkeypatch.undo()
        ledger.append(trial(2))
        assert all(same(found, trial(number)) for number, found in enumerate(held(server.url, name)))
        assert len(held(server.url, name)) == 3

    def test_another_ones_trial_is_not_taken_for_ours(
        self, server: Server, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The connection is lost before the commit; when it is back, somebody else has written."""
        monkeypatch.setattr(storage, "WAITS", (0.01, 0.01))
        one, two = (Ledger(server.url, name, ACCURACY, SPACE) for _ in range(2))
        dialect = one._trials._engine.dialect  # type: ignore[attr-defined]

        def lost(connection: Any) -> None:
            monkeypatch.undo()
            connection.dbapi_connection.close()
            two.append(trial(7))
            raise dialect.dbapi.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(dialect, "do_commit", lost)
        with pytest.raises(StorageError, match="one process at a time"):
            one.append(trial(0))
        assert [item.assignment for item in held(server.url, name)] == [trial(7).assignment]


class TestGoneAndBack:
    @pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
    def test_within_its_time(self, server: Server, name: str, how: str, caplog: pytest.LogCaptureFixture) -> None:
        ledger = Ledger(server.url, name, ACCURACY, SPACE)
        ledger.append(trial(0))
        server.kill() if how == "kill" else server.stop(how)
        back = threading.Timer(1.0, server.start)
        back.start()
        with caplog.at_level(logging.WARNING):
            ledger.append(trial(1))
        assert "does not answer; trying again for 120 s" in caplog.text
        assert [same(found, trial(number)) for number, found in enumerate(ledger.trials())] == [True, True]
        back.join()

    def test_readers_and_attributes_wait_too(self, server: Server, name: str) -> None:
        ledger = Ledger(server.url, name, ACCURACY, SPACE)
        ledger.append(trial(0))
        for ask in (ledger.trials, lambda: ledger.annotate({"a": 1}), lambda: ledger.attributes):
            server.stop("immediate")
            back = threading.Timer(0.5, server.start)
            back.start()
            ask()
            back.join()
        assert ledger.attributes["a"] == 1

    def test_beyond_its_time(self, server: Server, name: str) -> None:
        ledger = Ledger(server.url, name, ACCURACY, SPACE, patience=0.5)
        ledger.append(trial(0))
        server.stop("immediate")
        start = time.monotonic()
        try:
            with pytest.raises(StorageError, match="must be readable and writable") as error:
                ledger.append(trial(1))
        finally:
            server.start()
        assert 0.5 <= time.monotonic() - start < 20
        assert "\n" not in str(error.value)
        ledger.append(trial(1))
        assert len(ledger.trials()) == 2


def test_a_busy_sqlite_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's own five seconds are over, the other process is not."""
    monkeypatch.setattr(storage, "WAITS", (0.01, 0.01))
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "name", ACCURACY, SPACE)
    ledger.append(trial(0))
    engine = ledger._trials._engine  # type: ignore[attr-defined]
    locked = [2]

    @event.listens_for(engine, "before_cursor_execute")
    def busy(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO trials ") and locked[0]:
            locked[0] -= 1
            raise OperationalError(statement, None, engine.dialect.dbapi.OperationalError("database is locked"))

    ledger.append(trial(1))
    assert locked == [0]
    assert [item.number for item in ledger.trials()] == [0, 1]


def test_ledgers_from_before_bits_were_packed_are_read(url: str, name: str) -> None:
    """As the ledger wrote them then: through Optuna, the assignment a string of JSON with a list of numbers per site."""
    kernels = replace(trial(0), assignment=SPACE.uniform(8).replace({SPACE.sites[0].name: [2, 4, 8, 2]}))
    for item in (trial(0), kernels):
        ledger = Ledger(url, name, ACCURACY, SPACE)
        frozen = ledger._to_frozen(item)
        record = {**frozen.system_attrs["qsearch"], "assignment": item.assignment.to_json()}
        assert isinstance(record["assignment"], str)
        ledger.study.add_trial(optuna.create_trial(value=0.5, system_attrs={"qsearch": json.loads(json.dumps(record))}))
    assert [item.assignment for item in held(url, name)] == [trial(0).assignment, kernels.assignment]
    assert all(
        same(replace(found, number=0), expected)
        for found, expected in zip(held(url, name), (trial(0), kernels), strict=True)
    )


def test_a_database_is_whole_in_one_file_when_a_campaign_has_ended(tmp_path: Path) -> None:
    """SQLite logs ahead beside it; who copies the file alone must not lose a trial."""
    path = tmp_path / "study.db"
    ledger = Ledger(f"sqlite:///{path}", "name", ACCURACY, SPACE)
    for number in range(3):
        ledger.append(trial(number))
    assert path.with_name("study.db-wal").stat().st_size > 0
    ledger.annotate({"status": "complete"})
    (tmp_path / "copy.db").write_bytes(path.read_bytes())
    assert len(held(f"sqlite:///{tmp_path / 'copy.db'}", "name")) == 3


KILLED = """
import os, signal, sys
from test_faults_writers import ACCURACY, SPACE, Ledger, trial
ledger = Ledger(sys.argv[1], "name", ACCURACY, SPACE)
for number in range(3):
    ledger.append(trial(number))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_copied_after_a_kill_is_whole_and_so_is_the_file_once_it_was_opened(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, f"sqlite:///{folder / 'study.db'}"], env=environment, timeout=120, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert (folder / "study.db-wal").stat().st_size > 0
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert [item.number for item in held(f"sqlite:///{copied / 'study.db'}", "name")] == [0, 1, 2]
    gc.collect()  # which closes what read it
    assert not (copied / "study.db-wal").exists()
    (tmp_path / "alone.db").write_bytes((copied / "study.db").read_bytes())
    assert len(held(f"sqlite:///{tmp_path / 'alone.db'}", "name")) == 3


def test_sqlite_still_waits_for_the_disk(tmp_path: Path) -> None:
    """synchronous is FULL: a power failure takes no recorded trial along."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'study.db'}", "name", ACCURACY, SPACE)
    ledger.append(trial(0))
    assert isinstance(ledger.study._storage._backend, RDBStorage)  # type: ignore[attr-defined]
    with ledger._trials._engine.connect() as connection:  # type: ignore[attr-defined]
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
