"""Ternary weights with a sparse part of high precision, against one bitwidth per layer: accuracy at equal size.

First how much a pattern costs: the same share of weights kept at 8 bits in every layer, in each regular pattern and in
none ("unstructured"). Then what a search makes of it: density and pattern of each layer, by grid and by the Bayesian
searchers, within the sizes of uniform bitwidths, beside the integer program's bits per layer and bits that are uniform.

Weights only; first and last layer at 8 bits. Searches minimise the loss on validation data; accuracies are of test data,
paired with the float network's. Sizes count codes, indices, scales and fields. Errors of weights are those before training.

    python benchmarks/overlay.py
    python benchmarks/overlay.py --evaluator qat --epochs 6 --budget 0
    QSEARCH_DATA=folder python benchmarks/overlay.py --case cifar10
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from markdown_table import show

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.qat import QuantizationAware
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.overlay import PATTERNS, Overlay
from qsearch.problem import Bound, Objective, Problem
from qsearch.quantize.network import QuantizedNetwork
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space, overlaid
from qsearch.space import SearchSpace
from qsearch.trial import Quality

CASES = {"digits": "digits-resnet", "cifar10": "cifar10-resnet20"}
FIXED = {"activations": FLOAT_BITS, "first": 8, "last": 8}
LIMITS = (2, 3)
"""Uniform bitwidths whose sizes are the limits."""

SEARCHERS: dict[str, dict[str, Any]] = {
    "grid": {},
    "optuna": {"sampler": "tpe"},
    "gp": {},
}


@dataclass(frozen=True)
class Case:
    """A network, with and without overlays.

    Attributes:
        network: the weights as calibrated.
        period: P.
        plain, mixed: the space of bits alone, and that of overlays; with what their assignments cost.
    """

    evaluator: PostTraining | QuantizationAware
    network: QuantizedNetwork
    period: int
    plain: NetworkCost
    mixed: NetworkCost


def prepare(
    workload: Any, period: int, kept: Sequence[int], samples: int | None = None, epochs: int | None = None
) -> Case:
    """A case; every regular pattern is searched.

    Args:
        epochs: of the training before an assignment is judged; None to judge after quantisation alone.
    """
    layers = layers_of(workload)
    overlay = Overlay(period, (*kept, period))
    plain = build_space(layers, weight_bits=range(2, 9), activation_bits=[8], fixed=FIXED)
    mixed = build_space(layers, weight_bits=[4, 8], activation_bits=[8], fixed=FIXED, overlay=overlay)
    marked, size = overlaid(layers, mixed, overlay), registry.create("cost_models", "size")
    options = {"threads": 1, "samples": samples}
    evaluator: Any
    if epochs is None:
        evaluator = registry.create("evaluators", "ptq", options, workload, marked)
        network = evaluator.network
    else:
        evaluator = registry.create("evaluators", "qat", {**options, "epochs": epochs}, workload, marked)
        network = evaluator.lessons().calibrated
    return Case(evaluator, network, period, NetworkCost(size, layers, plain), NetworkCost(size, marked, mixed))


def alike(space: SearchSpace, layers: Sequence[Layer], bits: int, kept: int, pattern: int) -> BitAssignment:
    """The same overlay in every layer that may have one; it need not be a choice of the space."""
    chosen = {site: value for layer in layers if layer.overlay for site, value in _named(layer, bits, kept, pattern)}
    return space.uniform(8).replace(chosen)


def _named(layer: Layer, bits: int, kept: int, pattern: int) -> Iterator[tuple[str, int]]:
    yield layer.weight_site, bits
    yield layer.overlay_site, kept
    yield layer.pattern_site, pattern


def search(
    case: Case, cost: NetworkCost, searcher: str, options: dict[str, Any], limit: float, budget: int
) -> BitAssignment | None:
    """The best assignment that a search finds within a size; None where it finds none."""
    bounds = (Bound("size", limit, False, f"size <= {limit:.0f} byte"),)
    problem = Problem(cost.space, cost, (Objective("loss", "minimize"),), bounds)
    oracle = CampaignOracle(problem, case.evaluator, MemoryRecord(), Budget(evaluations=budget))
    with suppress(BudgetExhausted):
        registry.create("searchers", searcher, options).search(oracle)
    best = problem.best(oracle.trials)
    return None if best is None else best.assignment


def patterns(case: Case, densities: Sequence[int]) -> Iterator[Sequence[str]]:
    """Rows: density, pattern, size, accuracy, and the squared error of the weights as a share of their squares."""
    reference = case.evaluator.test(case.mixed.space.reference(FLOAT_BITS))
    for kept in densities:
        for number, pattern in enumerate(PATTERNS):
            assignment = alike(case.mixed.space, case.mixed.layers, 8, kept, number)
            shown = pattern if kept else "–"
            yield (
                f"{kept} of {case.period}",
                shown,
                *_judged(case, case.mixed, assignment, reference),
                _error(case, kept, number),
            )
            if not kept:
                break


def _error(case: Case, kept: int, pattern: int) -> str:
    network, lost, whole = case.network, 0.0, 0.0
    for layer in case.mixed.layers:
        if layer.overlay:
            lost += float(network.overlaid_weight(layer.weight_site, 8, kept, pattern).errors.sum())
            whole += float(network.quantized_weight(layer.weight_site, 0).errors.sum())
    return f"{100 * lost / whole:.1f}"


def searches(case: Case, budget: int) -> Iterator[Sequence[str]]:
    """Rows: limit, what was searched and by what, size, accuracy; uniform bits alone where there is no budget."""
    reference = case.evaluator.test(case.plain.space.reference(FLOAT_BITS))
    for bits in (2, 3, 4):
        uniform = case.plain.space.uniform(bits)
        yield ("–", f"uniform {bits} bits", *_judged(case, case.plain, uniform, reference))
    for bits in LIMITS if budget else ():
        limit = case.plain.estimate(case.plain.space.uniform(bits)).totals["size"]
        runs = [("bits per layer, ilp", case.plain, "ilp", {"solutions": 1})]
        runs += [(f"overlays, {name}", case.mixed, name, options) for name, options in SEARCHERS.items()]
        for label, cost, searcher, options in runs:
            found = search(case, cost, searcher, options, limit, budget)
            judged = ("–", "none", "–") if found is None else _judged(case, cost, found, reference)
            yield (f"uniform {bits}", label, *judged)


def _judged(case: Case, cost: NetworkCost, assignment: BitAssignment, reference: Quality) -> tuple[str, str, str]:
    """Size, accuracy on test data, and what it is more than the float network's, of one assignment."""
    quality = case.evaluator.test(assignment)
    difference = paired_difference([quality], [reference])
    assert difference is not None  # both have outcomes
    low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
    size = cost.estimate(assignment).totals["size"] / 1024
    return f"{size:.1f}", f"{100 * quality.metric:.1f}", f"{100 * difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), default="digits")
    parser.add_argument("--budget", type=int, default=60, help="evaluations of each search; 0 for none")
    parser.add_argument("--samples", type=int, default=None, help="validation samples of an evaluation")
    parser.add_argument("--period", type=int, default=32)
    parser.add_argument(
        "--kept", type=int, nargs="+", default=[0, 1, 2, 4, 8], help="choices of weights kept per period"
    )
    parser.add_argument("--evaluator", choices=["ptq", "qat"], default="ptq")
    parser.add_argument("--epochs", type=int, default=6, help="of the training, with qat")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    workload = registry.create("workloads", CASES[arguments.case])
    epochs = arguments.epochs if arguments.evaluator == "qat" else None
    case = prepare(workload, arguments.period, arguments.kept, arguments.samples, epochs)
    against = ("size, KiB", "accuracy %", "minus float, paired 95 %")
    show(("kept at 8 bits", "pattern", *against, "error of weights %"), patterns(case, arguments.kept))
    show(("within the size of", "searched", *against), searches(case, arguments.budget))


if __name__ == "__main__":
    main()
