"""Campaigns with workers: the ledger is that of the campaign alone, whoever is killed on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from campaigns import call, facts, plugin, settings, start, write

from qsearch import run as runs
from qsearch.config import parse
from qsearch.run import Run
from qsearch.sweep import run_sweep

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

EVALUATIONS = 16
SEARCHERS = ["uniform", {"name": "random", "options": {"batch": 5}}, {"name": "optuna", "options": {"batch": 4}}, "gp"]
SWEEP = settings(
    name="shared",
    searcher=SEARCHERS,
    budget={"evaluations": EVALUATIONS},
    space={"weight_bits": [2, 3, 4, 8], "activation_bits": [4, 8]},
    constraints=["size<=0.5"],
    evaluator={"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.05}},
    seed=5,
)
RAY = {"name": "ray", "options": {"actors": 2, "patience": 60}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """The sweep without workers."""
    return run_sweep(parse(SWEEP, "test"), tmp_path_factory.mktemp("alone"))


def assert_same(found: list[Run], expected: list[Run]) -> None:
    assert [run.config.name for run in found] == [run.config.name for run in expected]
    for run, whole in zip(found, expected, strict=True):
        assert [facts(trial) for trial in run.trials] == [facts(trial) for trial in whole.trials]
        assert run.info.tested == whole.info.tested
        assert run.info.status == "complete"


def read(folder: Path, expected: list[Run]) -> list[Run]:
    return [runs.load(folder / run.config.name) for run in expected]


def eventually(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def recorded(root: Path) -> int:
    """Trials that the ledger holds, read as others read it."""
    from test_resume import recorded as count

    return count(root / "shared")


def offspring(process: Any) -> list[psutil.Process]:
    """All that a process has started, and what those have."""
    return psutil.Process(process.pid).children(recursive=True)


def holders(process: Any) -> list[psutil.Process]:
    """The workers that hold the evaluator."""
    return [child for child in offspring(process) if "Holder" in " ".join(child.cmdline())]


def test_the_sweep_has_trials_of_every_kind(alone: list[Run]) -> None:
    states = [{trial.state for trial in run.trials} for run in alone]
    assert set.union(*states) == {"complete", "infeasible", "failed"}


def test_a_killed_worker_leaves_no_trace(tmp_path: Path, alone: list[Run]) -> None:
    file = write(tmp_path / "campaign.yaml", {**SWEEP, "workers": RAY})
    process = start("run", file, "--runs", tmp_path, "--json")
    try:
        for count in (4, 12, 20):
            assert eventually(lambda count=count: recorded(tmp_path) >= count or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            assert eventually(lambda: bool(holders(process)))
            holders(process)[0].kill()
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert out.startswith("["), out  # JSON and nothing else: Ray's complaints stay out
    assert "a worker was lost" in err
    assert_same(read(tmp_path, alone), alone)


@pytest.mark.parametrize("workers", ["ray", "none"])
def test_a_killed_campaign_goes_on_with_workers_or_without(
    tmp_path: Path, alone: list[Run], capfd: pytest.CaptureFixture[str], workers: str
) -> None:
    file = write(tmp_path / "campaign.yaml", SWEEP)
    process = start("run", file, "--runs", tmp_path, "--workers", "ray")
    left: list[psutil.Process] = []
    working: list[psutil.Process] = []
    try:
        assert eventually(lambda: recorded(tmp_path) >= 10 or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        left, working = offspring(process), holders(process)
        assert working
    finally:
        process.kill()
        process.communicate()
    assert 10 <= recorded(tmp_path) < sum(len(run.trials) for run in alone)
    assert eventually(lambda: not any(map(alive, working)), seconds=20)
    answer = call(capfd, "resume", tmp_path / "shared", "--workers", workers)
    assert answer.code == 0, answer.err
    assert_same(read(tmp_path, alone), alone)
    assert eventually(lambda: not any(map(alive, left)), seconds=90)  # two idle agents of Ray's wait for a minute


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes, one core each."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.other = made.add_node(num_cpus=1)
    made.wait_for_nodes()
    try:
        yield made
    finally:
        made.shutdown()
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]


def test_a_lost_machine_leaves_no_trace(
    tmp_path: Path, alone: list[Run], cluster: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A node is killed in the midst of the second campaign, another one joins during the third."""
    changes: dict[int, Callable[[], object]] = {
        len(alone[0].trials) + 7: lambda: cluster.remove_node(cluster.other, allow_graceful=False),
        len(alone[0].trials) + len(alone[1].trials) + 5: lambda: cluster.add_node(num_cpus=1),
    }
    seen = 0

    def watch(config: Any, oracle: Any, trial: Any) -> None:
        nonlocal seen
        if trial is not None:
            seen += 1
            changes.pop(seen, lambda: None)()

    shared = parse({**SWEEP, "workers": cluster.address}, "test")
    found = run_sweep(shared, tmp_path, on_trial=watch)
    assert not changes
    assert "a worker was lost" in caplog.text
    assert_same(found, alone)


def test_no_cluster_at_an_address_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "campaign.yaml", settings())
    for address, got in (("127.0.0.1:1", "Connection refused"), ("auto", "none on this machine")):
        answer = call(capfd, "run", file, "--runs", tmp_path, "--workers", address)
        assert answer.code == 1
        assert answer.line.startswith(f"a Ray cluster must answer at {address}; got ")
        assert got in answer.line
        assert answer.line.endswith("or use the cores of this machine: --workers ray")
