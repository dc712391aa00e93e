"""Time inside the agent for each evaluation, against the evaluation itself.

    python benchmarks/agent_time.py                  digits-resnet on bismo, per layer and per kernel

One thread, one process, seed 0. ``evaluation`` is the mean time in the evaluator, ``agent`` all the rest of the search for
each evaluation: acting, learning, projection, costs, the record; sensitivities (paid once) are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qsearch.assignment import BitAssignment
from qsearch.config import parse
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.protocols import Evaluator
from qsearch.registry import create
from qsearch.setting import prepare
from qsearch.trial import Quality

SEARCHERS: Mapping[str, Sequence[tuple[str, dict[str, Any]]]] = {
    "layer": (("random", {}), ("optuna", {}), ("ddpg", {}), ("ppo", {})),
    "kernel": (
        ("random", {}),
        ("water-filling", {}),
        ("ddpg", {}),
        ("ddpg", {"updates": 64}),
        ("ppo", {}),
        ("hierarchical-ddpg", {}),
        ("hierarchical-ddpg", {"kernel_updates": 64}),
        ("hierarchical-ddpg", {"controller": "water-filling"}),
    ),
}


@dataclass
class Timed:
    """An evaluator with a stop watch; passes on what else it can do."""

    inner: Any
    seconds: float = 0.0

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The inner evaluator's answer."""
        start = time.perf_counter()
        try:
            quality: Quality = self.inner.evaluate(assignment, fidelity=fidelity, seed=seed)
            return quality
        finally:
            self.seconds += time.perf_counter() - start

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def campaign(granularity: str) -> dict[str, Any]:
    """The problem: least loss at 0.4 of the latency of uniform 8 bits."""
    return {
        "name": "agent-time",
        "budget": {"evaluations": 1},
        "workload": "digits-resnet",
        "hardware": "bismo",
        "space": {"granularity": granularity},
        "searcher": "random",
        "objectives": [{"metric": "loss", "direction": "minimize"}],
        "constraints": ["latency<=0.4"],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--evaluations", type=int, default=48)
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    print(f"{'bits per':<10}{'searcher':<56}{'decisions':>10}{'evaluation':>14}{'agent':>12}{'ratio':>8}")
    for granularity, entries in SEARCHERS.items():
        setting = prepare(parse(campaign(granularity), "this benchmark").campaigns()[0])
        for name, options in entries:
            timed: Evaluator = Timed(setting.evaluator)
            oracle = CampaignOracle(setting.problem, timed, MemoryRecord(), Budget(evaluations=given.evaluations))
            start = time.perf_counter()
            with contextlib.suppress(BudgetExhausted):
                create("searchers", name, options).search(oracle)
            total = time.perf_counter() - start - oracle.sensitivity_seconds
            inside = timed.seconds  # type: ignore[attr-defined]
            each, rest = 1e3 * inside / oracle.spent, 1e3 * (total - inside) / oracle.spent
            shown = f"{name} {options or ''}"
            count = setting.problem.space.dimension
            print(
                f"{granularity:<10}{shown:<56}{count:>10}{each:>11.0f} ms{rest:>9.0f} ms{rest / each:>8.1f}", flush=True
            )


if __name__ == "__main__":
    main()
