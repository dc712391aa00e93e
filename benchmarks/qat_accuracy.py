"""Accuracy at 2, 3 and 4 mean bits: post-training against quantisation-aware training, by layer and by kernel.

    python benchmarks/qat_accuracy.py                                             digits-resnet, minutes
    QSEARCH_DATA=folder python benchmarks/qat_accuracy.py --case cifar10          ResNet-20, about an hour; resumable
    python benchmarks/qat_accuracy.py --tables                                    only what is there already

Weights take so many bits on average, inputs of layers exactly as many; the first and the last layer stay at 8 and count.
"uniform" gives all other layers the same bits; "ilp" chooses 1–8 for each layer, or each kernel, by the integer program on
Fisher sensitivities, with no more bits in all than uniform has. An assignment is then evaluated as it is, and after
training under it, on the same images: validation data of digits; all test images of CIFAR-10, of which neither an
allocation nor a training sees any. Every row stands beside the float network, paired by image and over the seeds of the
training.
"""

from __future__ import annotations

import argparse
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
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import Granularity, SearchSpace
from qsearch.trial import Quality

BITS = (2, 3, 4)


@dataclass(frozen=True)
class Case:
    """A network and how it is trained."""

    workload: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    seeds: int
    quantizers: tuple[str, ...]


CASES = {
    "digits": Case("digits-resnet", {}, {"epochs": 30, "rate": 0.01}, 3, ("lsq", "ewgs", "pact", "dorefa")),
    "cifar10": Case(
        "cifar10-resnet20",
        {"split": "all"},
        {"epochs": 6, "rate": 0.01, "distillation": 1.0, "temperature": 1.0, "augment": True},
        1,
        ("lsq",),
    ),
}


@dataclass(frozen=True)
class Job:
    """One evaluation: an allocation at so many bits, after a training by a quantiser, or after none."""

    case: str
    bits: int
    allocation: str
    quantizer: str
    seed: int


def key(job: Job, case: Case) -> dict[str, Any]:
    """What a result is recorded under."""
    return {**asdict(job), **(case.training if job.quantizer != "none" else {})}


def jobs(name: str, case: Case) -> Iterator[Job]:
    """What is evaluated, what matters most first."""
    for bits in BITS:
        for allocation in ("uniform", "ilp, layers", "ilp, kernels"):
            yield Job(name, bits, allocation, "none", 0)
    for quantizer in case.quantizers:
        for seed in range(case.seeds):
            for bits in BITS:
                for allocation in ("uniform", "ilp, layers", "ilp, kernels"):
                    if quantizer == "lsq" or allocation == "uniform":
                        yield Job(name, bits, allocation, quantizer, seed)


@dataclass
class Bench:
    """A network prepared, and what has been found out about it."""

    case: Case
    layers: tuple[Layer, ...]
    evaluators: dict[str, Evaluator]
    tables: dict[str, dict[str, SensitivityTable]]

    def evaluator(self, quantizer: str) -> Evaluator:
        """Post-training for "none", else training by a quantiser; made once."""
        if quantizer not in self.evaluators:
            workload = registry.create("workloads", self.case.workload, dict(self.case.options))
            name, options = (
                ("ptq", {}) if quantizer == "none" else ("qat", {**self.case.training, "quantizer": quantizer})
            )
            self.evaluators[quantizer] = registry.create("evaluators", name, options, workload, self.layers)
        return self.evaluators[quantizer]

    def assignment(self, allocation: str, bits: int) -> BitAssignment:
        """The assignment of an allocation."""
        granularity: Granularity = "kernel" if allocation.endswith("kernels") else "layer"
        space = build_space(
            self.layers,
            weight_bits=range(1, 9),
            activation_bits=range(1, 9),
            granularity=granularity,
            fixed={"activations": bits, "first": 8, "last": 8},
        )
        uniform = space.uniform(bits)
        return uniform if allocation == "uniform" else self._program(space, uniform, allocation)

    def _program(self, space: SearchSpace, uniform: BitAssignment, allocation: str) -> BitAssignment:
        """The integer program's first solution, with the bits of ``uniform`` as its budget."""
        cost = NetworkCost(WeightBits(), self.layers, space)
        limit = cost.estimate(uniform).totals["weight_bits"]
        bound = Bound("weight_bits", limit, False, "bits of uniform")
        problem = Problem(space, cost, (Objective("accuracy", "maximize"),), (bound,))
        tables = self.tables.setdefault(f"{allocation} {uniform.highest(self.layers[1].activation_site)}", {})
        oracle = CampaignOracle(problem, self.evaluator("none"), MemoryRecord(), Budget(evaluations=1), tables=tables)
        registry.create("searchers", "ilp", {"solutions": 1}).search(oracle)
        return oracle.trials[0].assignment


def bench(case: Case) -> Bench:
    """The network of a case."""
    layers = layers_of(registry.create("workloads", case.workload, dict(case.options)))
    return Bench(case, layers, {}, {})


def result(prepared: Bench, job: Job) -> dict[str, Any]:
    """What an evaluation found, as JSON."""
    assignment = prepared.assignment(job.allocation, job.bits)
    quality = prepared.evaluator(job.quantizer).evaluate(assignment, seed=job.seed)
    assert quality.outcomes is not None
    return {
        "bits": mean_weight_bits(prepared.layers, assignment),
        "loss": quality.loss,
        "outcomes": quality.outcomes.tolist(),
    }


def table(name: str, case: Case, records: Records, reference: Quality) -> Table:
    """What is recorded, a line for each allocation and quantiser."""
    found: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for job in jobs(name, case):
        if key(job, case) in records:
            found.setdefault((job.bits, job.allocation, job.quantizer), []).append(records[key(job, case)])
    shown = Table(title=f"{case.workload}: float {100 * reference.metric:.1f} % of {reference.samples}")
    for column in (
        "bits",
        "allocation",
        "training",
        "bits per weight",
        "accuracy %",
        "less float, 95 %",
        "loss",
        "seeds",
    ):
        shown.add_column(column, justify="left" if column in ("allocation", "training") else "right")
    for (bits, allocation, quantizer), results in sorted(found.items()):
        shown.add_row(str(bits), allocation, quantizer, *cells(results, reference))
    return shown


def cells(results: Sequence[dict[str, Any]], reference: Quality) -> list[str]:
    """Means over seeds."""
    qualities = [
        Quality.from_outcomes(np.asarray(item["outcomes"], dtype=np.float32), item["loss"]) for item in results
    ]
    difference = paired_difference(qualities, [reference] * len(qualities))
    assert difference is not None  # all have outcomes
    low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
    return [
        f"{results[0]['bits']:.2f}",
        f"{100 * np.mean([quality.metric for quality in qualities]):.1f}",
        f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{np.mean([quality.loss for quality in qualities]):.3f}",
        str(len(results)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), default="digits")
    parser.add_argument("--records", type=Path, default=Path("qat-accuracy.jsonl"))
    parser.add_argument("--tables", action="store_true", help="evaluate nothing, only print what is there")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    case, records = CASES[given.case], Records(given.records)
    prepared = bench(case)
    for job in [] if given.tables else jobs(given.case, case):
        if key(job, case) not in records:
            records.add(key(job, case), result(prepared, job))
    everything = build_space(prepared.layers, weight_bits=[8], activation_bits=[8]).reference(FLOAT_BITS)
    console = Console()
    console.width = max(console.width, 120)
    console.print(table(given.case, case, records, prepared.evaluator("none").evaluate(everything)))


if __name__ == "__main__":
    main()
