"""Bits learned by gradient against bits allocated: layer by layer and kernel by kernel, at equal size, after the same training.

    python benchmarks/learned_precision.py                                             digits-resnet, an hour
    QSEARCH_DATA=folder python benchmarks/learned_precision.py --case cifar10          ResNet-20, hours; resumable
    python benchmarks/learned_precision.py --tables                                    only what is there already

Weights of all layers but the first and the last, which stay at 8 bits and count, have so many bits on average at most; inputs
have these, rounded up. "uniform" gives all layers the same; "ilp" is the integer program on Fisher sensitivities; "dq",
"fracbits" and "edge" learn bits on training data. Whatever an allocation comes to is then trained, from the float network, in
the same way and as long, and judged on the same images: validation data of digits; all test images of CIFAR-10, of which
neither an allocation nor a training sees any. A seed is that of learning and of training. Every row stands beside the
float network, and beside ilp of the same kind, paired by image and over seeds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import Records
from rich.console import Console
from rich.table import Table
from weight_bits import WeightBits, mean_weight_bits

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.report.statistics import Interval, paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import Granularity
from qsearch.trial import Quality

LEARNED = ("dq", "fracbits", "edge")
KINDS: tuple[Granularity, ...] = ("layer", "kernel")


@dataclass(frozen=True)
class Case:
    """A network, how bits are learned on it, and how it is trained."""

    workload: str
    options: Mapping[str, Any]
    learning: Mapping[str, Any]
    training: Mapping[str, Any]
    bits: tuple[float, ...]
    seeds: int


CASES = {
    "digits": Case("digits-resnet", {}, {"epochs": 20}, {"epochs": 20, "rate": 0.01}, (2.5, 3.0, 2.0, 4.0), 3),
    "cifar10": Case(
        "cifar10-resnet20",
        {"split": "all"},
        {"epochs": 4, "distillation": 1.0, "temperature": 1.0},
        {"epochs": 6, "rate": 0.01, "distillation": 1.0, "temperature": 1.0},
        (2.5, 3.0, 4.0),
        3,
    ),
}


@dataclass(frozen=True)
class Job:
    """An allocation at so many mean bits, and its training."""

    case: str
    bits: float
    allocation: str
    kind: Granularity
    seed: int


def jobs(name: str, case: Case) -> Iterator[Job]:
    """What is evaluated, what matters most first."""
    for bits in case.bits:
        for seed in range(case.seeds):
            if bits == int(bits):
                yield Job(name, bits, "uniform", "layer", seed)
            for allocation in ("ilp", *LEARNED):
                for kind in KINDS:
                    yield Job(name, bits, allocation, kind, seed)


@dataclass
class Bench:
    """A network prepared, and what has been found out about it."""

    case: Case
    layers: tuple[Layer, ...]
    evaluator: Evaluator
    tables: dict[tuple[float, str], dict[str, SensitivityTable]]

    def problem(self, bits: float, kind: Granularity) -> Problem:
        """Most accuracy at so many mean bits."""
        inputs = math.ceil(bits)
        space = build_space(
            self.layers,
            weight_bits=range(1, 9),
            activation_bits=range(1, 9),
            granularity=kind,
            fixed={"activations": inputs, "first": 8, "last": 8},
        )
        cost = NetworkCost(WeightBits(), self.layers, space)
        ends = sum(layer.params for layer in (self.layers[0], self.layers[-1]))
        limit = 8 * ends + bits * (sum(layer.params for layer in self.layers) - ends)
        bound = Bound("weight_bits", limit, False, f"{bits:g} mean bits")
        return Problem(space, cost, (Objective("accuracy", "maximize"),), (bound,))


def bench(case: Case) -> Bench:
    """The network of a case."""
    workload = registry.create("workloads", case.workload, dict(case.options))
    layers = layers_of(workload)
    return Bench(case, layers, registry.create("evaluators", "qat", dict(case.training), workload, layers), {})


def result(prepared: Bench, job: Job) -> dict[str, Any]:
    """What a job found, as JSON."""
    problem = prepared.problem(job.bits, job.kind)
    tables = prepared.tables.setdefault((job.bits, job.kind), {})
    oracle = CampaignOracle(
        problem, prepared.evaluator, MemoryRecord(), Budget(evaluations=1), seed=job.seed, tables=tables
    )
    if job.allocation == "uniform":
        oracle.evaluate(problem.space.uniform(int(job.bits)))
    elif job.allocation == "ilp":
        registry.create("searchers", "ilp", {"solutions": 1}).search(oracle)
    else:
        registry.create("searchers", job.allocation, dict(prepared.case.learning)).search(oracle)
    trial = oracle.trials[0]
    assert trial.quality is not None, trial.reason
    assert trial.quality.outcomes is not None
    return {
        "bits": mean_weight_bits(prepared.layers, trial.assignment),
        "loss": trial.quality.loss,
        "outcomes": trial.quality.outcomes.tolist(),
        "samples": oracle.training_samples,
        "seconds": oracle.training_seconds,
        "assignment": trial.assignment.to_json(),
    }


def table(name: str, case: Case, records: Records, reference: Quality) -> Table:
    """What is recorded, a line for each allocation."""
    shown = Table(title=f"{case.workload}: float {100 * reference.metric:.1f} % of {reference.samples}")
    columns = (
        "bits",
        "by",
        "allocation",
        "per weight",
        "accuracy %",
        "less float, 95 %",
        "less ilp, 95 %",
        "loss",
        "s",
        "n",
    )
    for column in columns:
        shown.add_column(column, justify="left" if column in ("by", "allocation") else "right")
    for bits in sorted(case.bits):
        for kind in KINDS:
            baseline = _recorded(records, name, case, bits, "ilp", kind)
            for allocation in ("uniform", "ilp", *LEARNED):
                if found := _recorded(records, name, case, bits, allocation, kind):
                    beside = {} if allocation == "ilp" else baseline
                    shown.add_row(f"{bits:g}", kind, allocation, *cells(found, reference, beside))
        shown.add_section()
    return shown


def cells(found: Mapping[int, Any], reference: Quality, baseline: Mapping[int, Any]) -> list[str]:
    """Means over seeds; results and baseline by seed."""
    qualities = {seed: _quality(item) for seed, item in found.items()}
    common = [seed for seed in qualities if seed in baseline]
    beside = (
        paired_difference([qualities[s] for s in common], [_quality(baseline[s]) for s in common]) if common else None
    )
    return [
        f"{np.mean([item['bits'] for item in found.values()]):.2f}",
        f"{100 * np.mean([quality.metric for quality in qualities.values()]):.1f}",
        _shown(paired_difference(list(qualities.values()), [reference] * len(qualities))),
        "" if beside is None else _shown(beside),
        f"{np.mean([quality.loss for quality in qualities.values()]):.3f}",
        f"{np.mean([item['seconds'] for item in found.values()]):.0f}",
        str(len(found)),
    ]


def _recorded(
    records: Records, name: str, case: Case, bits: float, allocation: str, kind: Granularity
) -> dict[int, Any]:
    """Seed → result."""
    every = {seed: asdict(Job(name, bits, allocation, kind, seed)) for seed in range(case.seeds)}
    return {seed: records[job] for seed, job in every.items() if job in records}


def _quality(item: Mapping[str, Any]) -> Quality:
    return Quality.from_outcomes(np.asarray(item["outcomes"], dtype=np.float32), item["loss"])


def _shown(difference: Interval | None) -> str:
    assert difference is not None  # all have outcomes
    low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
    return f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), default="digits")
    parser.add_argument("--records", type=Path, default=Path("learned-precision.jsonl"))
    parser.add_argument("--tables", action="store_true", help="evaluate nothing, only print what is there")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    case, records = CASES[given.case], Records(given.records)
    prepared = bench(case)
    for job in [] if given.tables else jobs(given.case, case):
        if asdict(job) not in records:
            records.add(asdict(job), result(prepared, job))
    everything = build_space(prepared.layers, weight_bits=[8], activation_bits=[8]).reference(FLOAT_BITS)
    console = Console()
    console.width = max(console.width, 130)
    console.print(table(given.case, case, records, prepared.evaluator.evaluate(everything)))


if __name__ == "__main__":
    main()
