"""SIGKILL of the driver, bits per kernel, each kind of storage: the ledger ends as that of a campaign never killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from campaigns import call, facts, ledger_facts, plugin, settings, start, write
from optuna.storages import JournalStorage
from servers import Server

from qsearch.config import parse
from qsearch.ledger import open_storage
from qsearch.storage import Journal
from qsearch.sweep import run_sweep

EVALUATIONS = 10


def campaign(**changes: Any) -> dict[str, Any]:
    return settings(
        budget={"evaluations": EVALUATIONS},
        space={"weight_bits": [2, 3, 4, 8], "activation_bits": [4, 8], "granularity": "kernel"},
        constraints=["size<=0.5"],
        evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.1}},
        **changes,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The ledger of the campaign that nobody killed, in SQLite."""
    run = run_sweep(parse(campaign(), "test"), tmp_path_factory.mktemp("whole"))[0]
    return [facts(trial) for trial in run.trials]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg")
    found = Server()
    yield found
    found.close()


def recorded(url: str) -> int:
    """Trials that another process has written, by Optuna's eyes; a journal is read past half a line."""
    try:
        if url.startswith("journal:"):
            path = Path(url.removeprefix("journal:"))
            storage: Any = JournalStorage(Journal(path)) if path.is_file() else None
        else:
            storage = open_storage(url)
        studies = [] if storage is None else storage.get_all_studies()
        return sum(storage.get_n_trials(study._study_id) for study in studies)
    except Exception:  # no tables yet, or half a line
        return 0


def killed(file: Path, root: Path, url: str, count: int) -> None:
    """Start or resume the campaign, and kill it once so many trials are recorded."""
    again = ("resume", root / "tiny") if (root / "tiny" / "campaign.yaml").is_file() else ("run", file, "--runs", root)
    process = start(*again)
    try:
        while recorded(url) < count:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_killed_twice(
    kind: str,
    tmp_path: Path,
    whole: list[dict[str, Any]],
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if kind == "postgresql":
        url = request.getfixturevalue("server").url
    else:
        url = f"{kind}:{'///' if kind == 'sqlite' else ''}{tmp_path / 'study'}"
    file = write(tmp_path / "campaign.yaml", campaign(storage=url))
    counts = np.sort(np.random.default_rng(0).choice(np.arange(1, EVALUATIONS - 2), size=2, replace=False))
    for count in counts.tolist():
        killed(file, tmp_path, url, count)
    answer = call(capfd, "resume", tmp_path / "tiny")
    assert answer.code == 0, answer.err
    found = ledger_facts(tmp_path / "tiny")
    assert found == whole
    assert any(not isinstance(bits, int) for trial in found for bits in trial["assignment"].values())
    assert sum(trial["state"] != "infeasible" for trial in found) == EVALUATIONS
