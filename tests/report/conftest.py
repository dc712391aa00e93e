"""Runs to report on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import RunFactory

from qsearch.run import Run


@pytest.fixture
def make_run(tmp_path: Path) -> RunFactory:
    return RunFactory(tmp_path)


@pytest.fixture
def comparable(make_run: RunFactory) -> Callable[[], list[Run]]:
    """Runs of four searchers on one problem, as the main job has them."""

    def build() -> list[Run]:
        runs = [make_run(name="demo/uniform-s0", searcher="uniform", evaluations=4, budget=40, start=(2, 3, 4, 5))]
        for seed in range(3):
            runs.append(make_run(name=f"demo/random-s{seed}", seed=seed))
            runs.append(
                make_run(
                    name=f"demo/optuna-TPE-s{seed}",
                    searcher="optuna",
                    options={"sampler": "TPE"},
                    seed=seed + 10,
                    skill=0.6,
                )
            )
        runs.append(
            make_run(name="demo/ilp-s0", searcher="ilp", seed=5, evaluations=10, budget=40, skill=0.9, start=(5,))
        )
        return runs

    return build
