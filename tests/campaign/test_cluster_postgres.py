"""Several campaigns in one PostgreSQL database, each ledger whole, whatever becomes of the server."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from campaigns import facts, plugin, settings, start, write
from servers import Server

from qsearch import run as runs
from qsearch.config import parse
from qsearch.run import Run
from qsearch.sweep import run_sweep

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.slow

EVALUATIONS = 30


def campaign(name: str, searcher: str, **changes: Any) -> dict[str, Any]:
    return settings(
        name=name,
        searcher=searcher,
        seed=len(name),
        budget={"evaluations": EVALUATIONS},
        space={"weight_bits": [2, 3, 4, 8], "activation_bits": [4, 8]},
        constraints=["size<=0.5"],
        evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.08}},
        **{"max_failures": 30, **changes},
    )


CAMPAIGNS = [campaign("first", "random"), campaign("second-one", "optuna")]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The campaigns one after the other, each in a SQLite file of its own."""
    root = tmp_path_factory.mktemp("alone")
    return [run for value in CAMPAIGNS for run in run_sweep(parse(value, "test"), root)]


def launch(root: Path, server: Server, database: str) -> list[subprocess.Popen[str]]:
    """All campaigns at once, in one database."""
    engine = optuna.storages.RDBStorage(server.url).engine
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"create database {database}")
    engine.dispose()
    storage = server.url.rpartition("/")[0] + "/" + database
    optuna.storages.RDBStorage(
        storage
    ).engine.dispose()  # the tables: two that make them at once are in each other's way
    files = [write(root / f"{value['name']}.yaml", {**value, "storage": storage}) for value in CAMPAIGNS]
    return [start("run", file, "--runs", root) for file in files]


def recorded(server: Server, database: str) -> int:
    """Trials of all campaigns so far."""
    with psycopg.connect(f"{server.url.rpartition('/')[0].replace('+psycopg', '')}/{database}") as connection:
        row = connection.execute("select count(*) from trials").fetchone()
    assert row is not None
    return int(row[0])


def wait_for(holds: Callable[[], bool], processes: list[subprocess.Popen[str]]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def ended(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def finished(root: Path, processes: list[subprocess.Popen[str]]) -> list[Run]:
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    return [runs.load(root / value["name"]) for value in CAMPAIGNS]


def assert_same(found: list[Run], expected: list[Run]) -> None:
    for run, whole in zip(found, expected, strict=True):
        assert run.config.storage is not None
        assert [facts(trial) for trial in run.trials] == [facts(trial) for trial in whole.trials]
        assert run.info.tested == whole.info.tested
        assert run.info.status == "complete"


def test_campaigns_that_share_a_database_have_whole_ledgers(tmp_path: Path, server: Server, alone: list[Run]) -> None:
    assert_same(finished(tmp_path, launch(tmp_path, server, "shared")), alone)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_server_that_is_gone_for_a_while_loses_no_trial(
    tmp_path: Path, server: Server, alone: list[Run], end: str
) -> None:
    processes = launch(tmp_path, server, end)
    try:
        for count in (6, 18):
            wait_for(lambda count=count: recorded(server, end) >= count, processes)
            server.kill() if end == "kill" else server.stop("immediate")
            time.sleep(1.0)
            server.start()
        found = finished(tmp_path, processes)
    finally:
        ended(processes)
    assert_same(found, alone)
