"""Agents on problems whose optimum is known.

    python benchmarks/agents_known_optimum.py separable      8 layers × 7 bitwidths, size at most half
    python benchmarks/agents_known_optimum.py kernels        64 kernels of known variances, 4 bits on average

``separable``: the reward is −Σ h_i·4^(−b_i), where 0 % is the mean of random assignments, projected onto the same budget,
and 100 % the optimum (dynamic programming); reached is the best after so many episodes, mean over seeds with a 95 %
interval (Student's t), and the share of seeds at 95 % or more.

``kernels``: the loss of the best assignment, as a multiple of the optimum's, and the accuracy exp(−256·loss), the reward,
as a share of water-filling's. Flat DDPG and the hierarchy see the same features of each kernel, sensitivities included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from qsearch import registry
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.projection import project
from qsearch.report.statistics import mean_interval
from qsearch.testing.problems import kernels, optimal_loss, separable

SEPARABLE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "ddpg": ("ddpg", {}),
    "ddpg, credit every": ("ddpg", {"credit": "every"}),
    "ddpg, masks": ("ddpg", {"budget": "mask"}),
    "ppo": ("ppo", {}),
}
KERNELS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "water-filling": ("water-filling", {}),
    "ddpg, flat": ("ddpg", {}),
    "hierarchical-ddpg, from scratch": ("hierarchical-ddpg", {"start": "scratch"}),
    "hierarchical-ddpg": ("hierarchical-ddpg", {}),
    "hierarchical-ddpg, water-filling below": ("hierarchical-ddpg", {"controller": "water-filling"}),
}
EPISODES = {"separable": (64, 200, 600), "kernels": (32, 100, 200)}


def best_losses(case: str, entry: tuple[str, dict[str, Any]], seed: int) -> tuple[list[float], float]:
    """Best loss after each number of ``EPISODES``, and the search's seconds. The problem has the same seed."""
    problem, evaluator = make(case, seed)
    marks = EPISODES[case]
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=max(marks)), seed)
    seen: list[int] = []  # evaluations spent at the end of each episode

    def count(notes: Mapping[str, float]) -> None:
        seen.append(int(oracle.spent))
        if len(seen) == max(marks):
            raise BudgetExhausted("all episodes are over")

    oracle.on_note = count
    start = time.perf_counter()
    with contextlib.suppress(BudgetExhausted):
        registry.create("searchers", *entry).search(oracle)
    losses = [trial.quality.loss for trial in oracle.trials if trial.quality is not None]
    spent = [seen[min(mark, len(seen)) - 1] if seen else mark for mark in marks]
    return [min(losses[:count]) for count in spent], time.perf_counter() - start


def make(case: str, seed: int) -> Any:
    """Problem and evaluator of a case."""
    if case == "separable":
        return separable(8, choices=(2, 3, 4, 5, 6, 7, 8), seed=seed)
    return kernels(64, seed=seed)


def mean_random(seed: int) -> float:
    """Mean loss of 2,000 random assignments of the separable problem, projected onto its budget."""
    problem, evaluator = make("separable", seed)
    drawn = problem.space.sample(np.random.default_rng(seed), 2000)
    return float(np.mean(evaluator.losses(np.stack([project(problem, x) for x in drawn]))))


def cell(values: Sequence[float], unit: str = "") -> str:
    """Mean and interval."""
    found = mean_interval(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.3g}{unit}"
    return f"{found.mean:.3g}{unit} [{found.low:.3g}, {found.high:.3g}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("case", choices=EPISODES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="rows to run")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = SEPARABLE if given.case == "separable" else KERNELS
    optimum = [optimal_loss(*make(given.case, seed)) for seed in range(given.seeds)]
    floor = [mean_random(seed) for seed in range(given.seeds)] if given.case == "separable" else []
    print(f"{given.case}, {given.seeds} seeds; after so many episodes: {EPISODES[given.case]}")
    with ProcessPoolExecutor(given.jobs) as pool:
        for name in given.only or rows:
            n = given.seeds
            found = list(pool.map(best_losses, [given.case] * n, [rows[name]] * n, range(n)))
            losses, seconds = np.asarray([item[0] for item in found]), [item[1] for item in found]
            print(f"{name:<40}" + "; ".join(_columns(given.case, losses, optimum, floor)), end="; ")
            print(f"{cell(seconds, ' s')}", flush=True)


def _columns(case: str, losses: Any, optimum: Sequence[float], floor: Sequence[float]) -> list[str]:
    best = np.asarray(optimum)[:, None]
    if case == "kernels":
        ratio = losses / best
        share = np.exp(-256 * losses[:, -1]) / np.exp(-256 * best[:, 0])
        return [f"{cell(column)} x" for column in ratio.T] + [f"accuracy {cell(100 * share, ' %')} of the optimum's"]
    reached = 100 * (np.asarray(floor)[:, None] - losses) / (np.asarray(floor)[:, None] - best)
    return [cell(column, " %") for column in reached.T] + [f"{np.mean(reached[:, -1] >= 95):.0%} of seeds at 95 %"]


if __name__ == "__main__":
    main()
