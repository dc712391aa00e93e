"""qsearch: one of its searchers, on the files that every tool is given.

Validation images are the calibration images: a search sees no others, as no other tool does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from exchange import BATCH, Given
from mean_bits import Case
from torch import nn
from worker import Quantized, main

from qsearch import registry
from qsearch.assignment import FLOAT_BITS
from qsearch.errors import BudgetExhausted
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class GivenWorkload(ArrayWorkload):
    """What is given, as a workload without test data."""

    name = "given"
    batch_size = BATCH

    def __init__(self, given: Given) -> None:
        self._given = given
        self.input_shape = tuple(given.inputs.shape[1:])
        with torch.no_grad():
            self.classes = given.network()(given.inputs[:1]).shape[1]

    def network(self) -> nn.Module:
        return self._given.network()

    def load(self) -> Splits:
        samples = Samples(self._given.inputs, self._given.targets)
        return Splits(calibration=samples, validation=samples, test=None, train=None)


def quantize(given: Given, budget: float, options: dict[str, Any]) -> Quantized:
    """Options: ``searcher`` with ``arguments``, ``granularity``, ``evaluations``; the evaluator corrects the shift."""
    workload = GivenWorkload(given)
    layers = layers_of(workload)
    evaluator = registry.create("evaluators", "ptq", {}, workload, layers)
    floating = build_space(layers, weight_bits=[8], activation_bits=[8]).reference(FLOAT_BITS)
    case = Case(layers, options["granularity"], evaluator, evaluator.evaluate(floating), len(given.inputs))
    problem = case.problem(budget)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=options["evaluations"]), 0)
    with suppress(BudgetExhausted):
        registry.create("searchers", options["searcher"], options["arguments"]).search(oracle)
    best = problem.best(oracle.trials)
    assert best is not None  # the lowest assignment is within the bound
    evaluator.network.apply(best.assignment)
    modules = dict(evaluator.network.model.named_modules())
    return Quantized(
        evaluator.network,
        {layer.name: as_json(best.assignment[layer.weight_site]) for layer in layers},
        {layer.name: modules[layer.name].weight for layer in layers},
    )


def as_json(bits: int | tuple[int, ...]) -> int | list[int]:
    """Bits of a site as a number or a list."""
    return bits if isinstance(bits, int) else list(bits)


if __name__ == "__main__":
    main(quantize)
