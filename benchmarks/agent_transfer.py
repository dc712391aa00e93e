"""Does an agent that was trained before find more, sooner? DDPG on digits-resnet.

    python benchmarks/agent_transfer.py

An agent is trained with 200 evaluations on the bit-serial accelerator (bismo) at 0.4 of the latency of uniform 8 bits. Then
it starts, with ``init``, on the same accelerator at 0.3, and on the spatial one (bitfusion) at 0.4 of the energy. Beside it: an
agent from scratch, and ``random``. Best loss on validation data after so many evaluations, mean over seeds with a 95 %
interval (Student's t); each seed trains its own agent. The last column is the paired difference at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.config import parse
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.registry import create
from qsearch.report.statistics import mean_interval
from qsearch.setting import Setting, prepare

MARKS = (8, 16, 32, 64)
TRAINED_ON, TRAINING = ("bismo", "latency<=0.4"), 200
TARGETS = {"bismo, latency 0.3": ("bismo", "latency<=0.3"), "bitfusion, energy 0.4": ("bitfusion", "energy<=0.4")}


def setting(hardware: str, limit: str) -> Setting:
    """Least loss within a share of what uniform 8 bits cost."""
    return prepare(
        parse(
            {
                "name": "transfer",
                "budget": {"evaluations": 1},
                "workload": "digits-resnet",
                "hardware": hardware,
                "searcher": "random",
                "objectives": [{"metric": "loss", "direction": "minimize"}],
                "constraints": [limit],
            },
            "this benchmark",
        ).campaigns()[0]
    )


def search(
    given: Setting, name: str, options: dict[str, Any], count: int, seed: int, folder: Path | None
) -> list[float]:
    """Best loss after each of ``MARKS`` evaluations, and how many were spent."""
    oracle = CampaignOracle(
        given.problem, given.evaluator, MemoryRecord(), Budget(evaluations=count), seed, folder=folder
    )
    with contextlib.suppress(BudgetExhausted):
        create("searchers", name, options).search(oracle)
    losses = [trial.quality.loss for trial in oracle.trials if trial.quality is not None]
    return [*(min(losses[:mark]) for mark in MARKS), float(oracle.spent)]


def one_seed(seed: int) -> dict[tuple[str, str], list[float]]:
    """Target and kind of agent → best losses."""
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        search(setting(*TRAINED_ON), "ddpg", {}, TRAINING, seed, Path(folder))
        for target, (hardware, limit) in TARGETS.items():
            given = setting(hardware, limit)
            for kind, name, options in (
                ("trained", "ddpg", {"init": folder}),
                ("from scratch", "ddpg", {}),
                ("random", "random", {}),
            ):
                found[target, kind] = search(given, name, options, max(MARKS), 1000 + seed, None)
    return found


def cell(values: Sequence[float]) -> str:
    """Mean and interval."""
    interval = mean_interval(values)
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.4f}"
    return f"{interval.mean:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(given.jobs) as pool:
        results = list(pool.map(one_seed, range(given.seeds)))
    print(f"{'':<38}" + "".join(f"{mark:>26}" for mark in MARKS) + "   less 'from scratch' at the end")
    for target, kind in results[0]:
        table = np.asarray([result[target, kind] for result in results])
        losses, spent = table[:, :-1], table[:, -1]
        ends = np.asarray([result[target, "from scratch"][-2] for result in results])
        paired = "" if kind == "from scratch" else f"   {cell((losses[:, -1] - ends).tolist())}"
        print(f"{target + ', ' + kind:<38}" + "".join(f"{cell(column.tolist()):>26}" for column in losses.T), end="")
        print(f"   {spent.mean():.0f} spent{paired}")


if __name__ == "__main__":
    main()
