"""Post-training quality on CIFAR-10: the public ResNet-20, weights only, uniform bits and an integer program.

Every row is judged on the same test images as the float network, paired. No label of these images is seen before:
ranges, corrections and sensitivities come from training images, and the integer program's first solution is taken as it is.

    QSEARCH_DATA=folder python benchmarks/posttraining_cifar10.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence

import torch
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
from qsearch.space import SearchSpace
from qsearch.trial import Quality


def solve(
    evaluator: Evaluator,
    layers: tuple[Layer, ...],
    space: SearchSpace,
    mean_bits: float,
    measure: str,
    tables: dict[str, SensitivityTable],
) -> BitAssignment:
    """The integer program's first solution; sensitivities are measured once and kept in ``tables``."""
    limit = mean_bits * sum(layer.params for layer in layers)
    problem = Problem(
        space=space,
        cost=NetworkCost(WeightBits(), layers, space),
        objectives=(Objective("accuracy", "maximize"),),
        bounds=(Bound("weight_bits", limit, False, f"mean bits <= {mean_bits:g}"),),
    )
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=1), tables=tables)
    options = {"solutions": 1, "sensitivity_options": {"measure": measure}}
    registry.create("searchers", "ilp", options).search(oracle)
    return oracle.trials[0].assignment


def results(evaluator: Evaluator, layers: tuple[Layer, ...], budgets: Sequence[float]) -> Iterator[Sequence[str]]:
    """Rows of the table."""
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=[8], fixed={"activations": FLOAT_BITS})
    reference = evaluator.evaluate(space.reference(FLOAT_BITS))
    yield row("float", 32.0, reference, reference, 0, 0.0)
    for bits in (8, 6, 5, 4, 3, 2):
        start = time.perf_counter()
        quality = evaluator.evaluate(space.uniform(bits))
        yield row("uniform", float(bits), quality, reference, 0, time.perf_counter() - start)
    for measure in ("kl", "loss"):
        tables: dict[str, SensitivityTable] = {}
        for budget in budgets:
            start = time.perf_counter()
            assignment = solve(evaluator, layers, space, budget, measure, tables)
            samples = sum(table.samples for table in tables.values())
            yield row(
                f"ilp ({measure})",
                mean_weight_bits(layers, assignment),
                evaluator.evaluate(assignment),
                reference,
                samples,
                time.perf_counter() - start,
            )


def row(name: str, bits: float, quality: Quality, reference: Quality, samples: int, seconds: float) -> Sequence[str]:
    difference = paired_difference([quality], [reference])
    assert difference is not None  # both have outcomes
    low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
    return (
        name,
        f"{bits:.2f}",
        f"{100 * quality.metric:.1f}",
        f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{quality.loss:.3f}",
        f"{samples:,}",
        f"{seconds:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.0, 3.0, 2.5, 2.2], help="mean bits per weight")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    workload = registry.create("workloads", "cifar10-resnet20", {"split": "all"})
    layers = layers_of(workload)
    evaluator = registry.create("evaluators", "ptq", {}, workload, layers)
    table = Table(title="ResNet-20, CIFAR-10, weights only, post-training")
    for name in (
        "assignment",
        "mean bits",
        "accuracy %",
        "minus float, paired 95 %",
        "loss",
        "calibration samples",
        "seconds",
    ):
        table.add_column(name, justify="left" if name == "assignment" else "right")
    for cells in results(evaluator, layers, arguments.budgets):
        table.add_row(*cells)
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)


if __name__ == "__main__":
    main()
