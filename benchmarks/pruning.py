"""What ending hopeless trainings early is worth: the best found for the same effort, with and without a pruner.

    python benchmarks/pruning.py --seeds 10                 digits-resnet, random search and TPE under `qat`

A campaign may spend as much effort as ``--evaluations`` whole trainings take; what a pruner saves goes into more
assignments. Each begins with the same seed with and without, so differences are paired. The objective is the validation
loss after training, within a share of the latency that 8 bits take on ``bismo``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Constraint, Objective, Problem, resolve
from qsearch.setting import layers_of
from qsearch.sites import build_space

SEARCHERS: Mapping[str, Mapping[str, Any]] = {"random": {}, "optuna": {"sampler": "tpe"}}
PRUNERS = ("none", "successive-halving", "hyperband", "median", "confidence")


@dataclass(frozen=True)
class Outcome:
    """The least loss that a search found, and how many trainings it began and ended early."""

    loss: float
    begun: int
    ended: int


def search(problem: Problem, evaluator: Any, searcher: str, pruner: str, evaluations: int, seed: int) -> Outcome:
    """One search."""
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations), seed)
    oracle.pruner = None if pruner == "none" else registry.create("pruners", pruner, {})
    with suppress(BudgetExhausted):
        registry.create("searchers", searcher, dict(SEARCHERS[searcher])).search(oracle)
    best = problem.best(oracle.trials)
    assert best is not None
    assert best.quality is not None
    trained = [trial for trial in oracle.trials if trial.evaluated]
    return Outcome(best.quality.loss, len(trained), sum(trial.state == "pruned" for trial in trained))


def row(searcher: str, pruner: str, found: list[Outcome], reference: list[Outcome]) -> list[str]:
    """One line: means over seeds, and the paired difference to no pruner with its 95 % Student interval."""
    losses = np.asarray([outcome.loss for outcome in found])
    difference = losses - [outcome.loss for outcome in reference]
    error = float(np.std(difference, ddof=1)) / len(found) ** 0.5 if len(found) > 1 else float("nan")
    width = float(stats.t.ppf(0.975, max(1, len(found) - 1))) * error
    shown = "–" if pruner == "none" else f"{difference.mean():+.4f} ± {width:.4f}"
    counts = [f"{np.mean([getattr(outcome, name) for outcome in found]):.1f}" for name in ("begun", "ended")]
    return [searcher, pruner, f"{losses.mean():.4f}", shown, *counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--limit", type=float, default=0.15, help="share of the latency of 8 bits")
    given = parser.parse_args()
    torch.set_num_threads(1)
    workload = registry.create("workloads", "digits-resnet", {})
    layers = layers_of(workload)
    options = {"epochs": given.epochs, "train_samples": 500}
    evaluator = registry.create("evaluators", "qat", options, workload, layers)
    space = build_space(layers, weight_bits=range(1, 9), activation_bits=range(1, 9))
    cost = NetworkCost(registry.create("cost_models", "bismo", {}), layers, space)
    limit = resolve(Constraint("latency", at_most=given.limit, relative_to="uniform-8"), cost, {})
    problem = Problem(space, cost, (Objective("loss", "minimize"),), (limit,))
    table = Table(title=f"least loss for the effort of {given.evaluations} trainings, {given.seeds} seeds")
    for name in ("searcher", "pruner", "loss", "less without, 95 %", "begun", "ended early"):
        table.add_column(name, justify="left" if name in ("searcher", "pruner") else "right")
    for searcher in SEARCHERS:
        found = {
            pruner: [
                search(problem, evaluator, searcher, pruner, given.evaluations, seed) for seed in range(given.seeds)
            ]
            for pruner in PRUNERS
        }
        for pruner in PRUNERS:
            table.add_row(*row(searcher, pruner, found[pruner], found["none"]))
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)


if __name__ == "__main__":
    main()
