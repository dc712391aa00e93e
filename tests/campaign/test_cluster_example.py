"""``examples/cluster.yaml`` is valid, and runs on one machine without what it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from qsearch.config import load, override
from qsearch.sweep import run_sweep

FILE = Path(__file__).parents[2] / "examples" / "cluster.yaml"


def test_it_is_valid() -> None:
    pytest.importorskip("ray")
    campaigns = load(FILE).campaigns()
    assert {campaign.seed for campaign in campaigns} == {0, 1}
    assert {campaign.searcher.name for campaign in campaigns} == {"random", "optuna", "ppo"}
    assert {campaign.workers.name for campaign in campaigns} == {"ray"}
    assert {campaign.storage for campaign in campaigns} == {"postgresql+psycopg://qsearch@localhost/qsearch"}


@pytest.mark.slow
def test_it_runs_without_a_cluster(tmp_path: Path) -> None:
    changes = [f"storage=sqlite:///{tmp_path / 'cluster.db'}", "workers=none", "seed=0", "budget={evaluations: 8}"]
    sweep = override(load(FILE), [*changes, "searcher=[random, {name: optuna, options: {batch: 4}}]"], "test")
    for run in run_sweep(sweep, tmp_path / "runs"):
        assert sum(trial.evaluated for trial in run.trials) == 8
