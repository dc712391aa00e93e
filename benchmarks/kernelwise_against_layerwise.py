"""Bits per kernel against bits per layer at equal accuracy: digits-resnet on a bit-serial accelerator (bismo).

    python benchmarks/kernelwise_against_layerwise.py latency
    python benchmarks/kernelwise_against_layerwise.py energy
    python benchmarks/kernelwise_against_layerwise.py bops --hardware bops    where every kernel counts for itself

Every searcher gets as many evaluations (``--evaluations``) to find the least latency or energy with an accuracy on
validation data of at least the float network's less half a point. Printed: the cost of what it found as a share of
uniform 8 bits, mean over seeds with a 95 % interval (Student's t); accuracy on test data, read once at the end; seconds of
the search, evaluations included; evaluations spent; seeds in which nothing met the accuracy. The last lines compare the
best of each kind, by its mean.

``ilp`` needs costs that add up over kernels, which those of an array that works on tiles of kernels do not: it is here
per layer only. AutoQ's paper (Lou et al., ICLR 2020) reports 54.06 % less latency and 50.69 % less energy than
reinforcement learning per layer, on ImageNet networks with fine-tuning.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from qsearch.config import parse
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.protocols import HeldOutEvaluator
from qsearch.registry import create, load
from qsearch.report.statistics import mean_interval
from qsearch.setting import Setting, prepare

POINTS = 0.005
"""What the accuracy may lose."""

SEARCHERS: Mapping[str, Mapping[str, tuple[str, dict[str, Any]]]] = {
    "layer": {
        "uniform": ("uniform", {}),
        "random": ("random", {}),
        "ilp": ("ilp", {}),
        "auto": ("auto", {}),
        "optuna, tpe": ("optuna", {"sampler": "tpe"}),
        "ddpg": ("ddpg", {}),
        "ddpg, warm start": ("ddpg", {"warm_start": True}),
        "ppo": ("ppo", {}),
    },
    "kernel": {
        "random": ("random", {}),
        "water-filling": ("water-filling", {}),
        "auto": ("auto", {}),
        "hierarchical-ddpg, from scratch": ("hierarchical-ddpg", {"kernel_updates": 64, "start": "scratch"}),
        "ddpg, flat, warm start": ("ddpg", {"updates": 64, "warm_start": True}),
        "ppo, flat": ("ppo", {}),
        "hierarchical-ddpg": ("hierarchical-ddpg", {"kernel_updates": 64}),
        "hierarchical-ddpg, warm start": ("hierarchical-ddpg", {"kernel_updates": 64, "warm_start": True}),
        "hierarchical-ddpg, accuracy-guaranteed": (
            "hierarchical-ddpg",
            {"mode": "accuracy-guaranteed", "controller": "water-filling", "warm_start": True},
        ),
    },
}


@cache
def setting(granularity: str, hardware: str, metric: str) -> Setting:
    """The problem; each process prepares it once."""
    return prepare(
        parse(
            {
                "name": "kernelwise",
                "budget": {"evaluations": 1},
                "workload": "digits-resnet",
                "hardware": hardware,
                "space": {"granularity": granularity},
                "searcher": "random",
                "objectives": [{"metric": metric, "direction": "minimize"}],
                "constraints": [{"metric": "accuracy", "at_least": 1e-9}],
            },
            "this benchmark",
        ).campaigns()[0]
    )


def found(
    granularity: str, hardware: str, metric: str, name: str, evaluations: int, seed: int
) -> tuple[float, float, float, int]:
    """Cost relative to uniform 8 bits, accuracy on test data, seconds, evaluations; NaN where nothing met the accuracy."""
    given = setting(granularity, hardware, metric)
    limit = given.float_quality.metric - POINTS
    bound = replace(given.problem.bounds[0], limit=limit, label=f"accuracy >= {limit:.4f}")
    problem = replace(given.problem, bounds=(bound,))
    oracle = CampaignOracle(problem, given.evaluator, MemoryRecord(), Budget(evaluations=evaluations), seed)
    start = time.perf_counter()
    with contextlib.suppress(BudgetExhausted):
        create("searchers", *SEARCHERS[granularity][name]).search(oracle)
    seconds = time.perf_counter() - start
    best = problem.best(oracle.trials)
    if best is None:
        return float("nan"), float("nan"), seconds, int(oracle.spent)
    assert isinstance(given.evaluator, HeldOutEvaluator)
    top = problem.cost.estimate(problem.space.reference(8)).totals[metric]
    return best.value(metric) / top, given.evaluator.test(best.assignment).metric, seconds, int(oracle.spent)


def cell(values: Sequence[float], digits: int = 3) -> str:
    """Mean and interval of what is known."""
    known = [value for value in values if not np.isnan(value)]
    if not known:
        return "-"
    interval = mean_interval(known)
    shown = f"{interval.mean:.{digits}f}"
    if interval.low is None or interval.high is None or len(known) == 1:
        return shown
    return f"{shown} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("metric", help="latency, energy, or another that the hardware has")
    parser.add_argument("--hardware", default="bismo", help="cost model (default bismo)")
    parser.add_argument("--evaluations", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=5, help="of searchers that use chance (default 5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="searchers to run, of either kind")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    best: dict[str, tuple[float, str]] = {}
    print(
        f"{'bits per':<8}{'searcher':<40}{given.metric + ', of uniform 8':<28}{'test accuracy':<28}seconds; evaluations; missed"
    )
    with ProcessPoolExecutor(given.jobs) as pool:
        for granularity, entries in SEARCHERS.items():
            for name, (plugin, _) in entries.items():
                if given.only and name not in given.only:
                    continue
                seeds = range(given.seeds if getattr(load("searchers", plugin), "stochastic", True) else 1)
                n = len(seeds)
                columns = (
                    [granularity] * n,
                    [given.hardware] * n,
                    [given.metric] * n,
                    [name] * n,
                    [given.evaluations] * n,
                )
                rows = list(pool.map(found, *columns, seeds))
                costs, tests, seconds, spent = zip(*rows, strict=True)
                missed = int(np.isnan(costs).sum())
                print(f"{granularity:<8}{name:<40}{cell(costs):<28}{cell(tests, 4):<28}", end="")
                print(f"{np.mean(seconds):.0f}; {np.mean(spent):.0f}; {missed}", flush=True)
                mean = float(np.nanmean(costs)) if missed < n else float("inf")
                best[granularity] = min(best.get(granularity, (float("inf"), "")), (mean, name))
    if given.only:
        return
    (layer, layer_name), (kernel, kernel_name) = best["layer"], best["kernel"]
    print(f"best per layer: {layer_name} {layer:.3f}; best per kernel: {kernel_name} {kernel:.3f}")
    print(f"{given.metric} saved by bits per kernel: {100 * (1 - kernel / layer):.1f} %")


if __name__ == "__main__":
    main()
