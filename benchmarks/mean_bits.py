"""Accuracy at a mean number of bits per weight, per searcher, with what the search cost.

    QSEARCH_DATA=folder python benchmarks/mean_bits.py                        ResNet-20 on CIFAR-10
    python benchmarks/mean_bits.py --workload digits-resnet
    python benchmarks/mean_bits.py --granularity kernel --searchers uniform "ilp, fisher" auto
    python benchmarks/mean_bits.py --no-correction                            allocation alone: nothing is repaired

Weights per layer take 2–8 bits, activations 8. A search sees training images of CIFAR-10 only (512 to calibrate, 512 to
validate), and of digits the validation data; it is judged on all test images, beside the float network on the same ones.
The objective is the loss.

Cost is in float passes over 1,000 images: whatever the network is run on counts, a backward pass for two, an
evaluation for its calibration and validation images together. Searchers of many evaluations get as many as fit into
``--passes``. Seconds are those of the process, on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from weight_bits import WeightBits

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import Granularity
from qsearch.trial import Quality

IMAGES = 1000
OPTIONS = {"cifar10-resnet20": {"split": "training"}}


@dataclass(frozen=True)
class Entry:
    """A searcher with its options; ``sensitivity`` is what it pays for, ``evaluations`` None for as many as fit."""

    label: str
    searcher: str
    options: Mapping[str, Any]
    sensitivity: str | None = None
    evaluations: int | None = None
    seeds: int = 1


def entries(seeds: int) -> list[Entry]:
    """The rows of the table."""

    def first(sensitivity: str) -> Entry:
        return Entry(f"ilp, {sensitivity}", "ilp", {"sensitivity": sensitivity, "solutions": 1}, sensitivity, 1)

    return [
        Entry("uniform", "uniform", {}, evaluations=7),
        *(first(name) for name in ("fisher", "hessian", "noise", "quantization-error", "one-at-a-time")),
        Entry("iqp, pairwise", "iqp", {"solutions": 1}, "pairwise", 1),
        Entry("greedy, fisher", "greedy", {"sensitivity": "fisher"}, "fisher", 1),
        Entry("random", "random", {}, seeds=seeds),
        Entry("optuna, tpe", "optuna", {"sampler": "tpe"}, seeds=seeds),
        Entry("optuna, tpe, warm", "optuna", {"sampler": "tpe", "warm_start": "fisher"}, "fisher", seeds=seeds),
        Entry("gp, fisher", "gp", {"sensitivity": "fisher"}, "fisher", seeds=seeds),
        Entry("ilp, fisher, many", "ilp", {"sensitivity": "fisher"}, "fisher"),
        Entry("auto", "auto", {}, "fisher", seeds=seeds),
    ]


@dataclass(frozen=True)
class Case:
    """A network with its data; ``samples`` is what an evaluation passes through it."""

    layers: tuple[Layer, ...]
    granularity: Granularity
    evaluator: Any
    reference: Quality
    samples: int

    def problem(self, mean_bits: float) -> Problem:
        """Least loss at that many bits per weight."""
        space = build_space(
            self.layers,
            weight_bits=range(2, 9),
            activation_bits=[8],
            granularity=self.granularity,
            fixed={"activations": 8},
        )
        limit = mean_bits * sum(layer.params for layer in self.layers)
        bound = Bound("weight_bits", limit, False, f"mean bits <= {mean_bits:g}")
        cost = NetworkCost(WeightBits(), self.layers, space)
        return Problem(space, cost, (Objective("loss", "minimize"),), (bound,))


def case(name: str, granularity: Granularity, correction: bool) -> Case:
    """The workload, prepared."""
    workload = registry.create("workloads", name, OPTIONS.get(name, {}))
    layers = layers_of(workload)
    evaluator = registry.create("evaluators", "ptq", {"correction": correction}, workload, layers)
    everything = build_space(layers, weight_bits=[8], activation_bits=[8]).reference(FLOAT_BITS)
    samples = evaluator.probe(everything).samples + evaluator.evaluate(everything).samples
    return Case(layers, granularity, evaluator, evaluator.test(everything), samples)


@dataclass(frozen=True)
class Found:
    """What one search found: judged quality, mean bits, passes and seconds."""

    quality: Quality
    bits: float
    passes: float
    seconds: float


def search(judged: Case, entry: Entry, mean_bits: float, passes: float, seed: int) -> Found:
    """Run one searcher, and judge its best trial."""
    problem = judged.problem(mean_bits)
    oracle = CampaignOracle(problem, judged.evaluator, MemoryRecord(), Budget(evaluations=1), seed)
    spent = oracle.sensitivity(entry.sensitivity).samples if entry.sensitivity else 0
    start = time.process_time()
    fits = int((passes * IMAGES - spent) / judged.samples)
    oracle.budget = Budget(evaluations=entry.evaluations or max(1, fits))
    with suppress(BudgetExhausted):
        registry.create("searchers", entry.searcher, dict(entry.options)).search(oracle)
    seconds = time.process_time() - start + oracle.sensitivity_seconds
    best = problem.best(oracle.trials)
    assert best is not None  # the lowest assignment is within the bound
    assert best.cost is not None
    samples = oracle.sensitivity_samples + judged.samples * oracle.spent
    bits = best.cost.totals["weight_bits"] / sum(layer.params for layer in judged.layers)
    return Found(judged.evaluator.test(best.assignment), bits, samples / IMAGES, seconds)


def row(label: str, found: Sequence[Found], reference: Quality) -> Sequence[str]:
    """One line, averaged over seeds."""
    qualities = [item.quality for item in found]
    difference = paired_difference(qualities, [reference] * len(found))
    assert difference is not None  # all have outcomes
    low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
    return (
        label,
        f"{np.mean([item.bits for item in found]):.2f}",
        f"{100 * np.mean([quality.metric for quality in qualities]):.1f}",
        f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{np.mean([quality.loss for quality in qualities]):.3f}",
        f"{np.mean([item.passes for item in found]):.1f}",
        f"{np.mean([item.seconds for item in found]):.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="cifar10-resnet20")
    parser.add_argument("--granularity", choices=("layer", "kernel"), default="layer")
    parser.add_argument("--no-correction", action="store_true", help="leave out what repairs the shift")
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.0, 3.0, 2.5, 2.2], help="mean bits per weight")
    parser.add_argument("--passes", type=float, default=25.0, help="float passes over 1,000 images for each search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--searchers", nargs="+", metavar="LABEL", help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    judged = case(given.workload, given.granularity, not given.no_correction)
    console = Console()
    console.width = max(console.width, 110)
    chosen = [entry for entry in entries(given.seeds) if given.searchers is None or entry.label in given.searchers]
    console.print(f"float: {100 * judged.reference.metric:.1f} %, loss {judged.reference.loss:.3f}")
    for budget in given.budgets:
        repaired = "not corrected" if given.no_correction else "corrected"
        title = f"{given.workload}, {budget:g} bits per weight, by {given.granularity}, activations at 8, {repaired}"
        table = Table(title=title)
        for name in ("searcher", "bits", "accuracy %", "less float, paired 95 %", "loss", "passes", "seconds"):
            table.add_column(name, justify="left" if name == "searcher" else "right")
        for entry in chosen:
            found = [search(judged, entry, budget, given.passes, seed) for seed in range(entry.seeds)]
            table.add_row(*row(entry.label, found, judged.reference))
        console.print(table)


if __name__ == "__main__":
    main()
