"""Small problems of the least cost at a quality to keep, with the tables that predict their damage exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, Searcher, SensitivityTable
from qsearch.sites import build_space
from qsearch.testing.problems import QuadraticEvaluator, SizeAndBops, exhaust, linear_layers
from qsearch.trial import Quality

Floats = NDArray[np.float64]


@dataclass
class MadeUpEvaluator(Evaluator):
    """The accuracy that a function of the assignment gives, without any order in it if the function has none."""

    accuracy: Callable[[BitAssignment], float]
    asked: list[BitAssignment] = field(default_factory=list)

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        self.asked.append(assignment)
        accuracy = self.accuracy(assignment)
        return Quality(accuracy, 1 - accuracy, 1000, 0.01)


def equal_layers(
    count: int,
    choices: Sequence[int] = (4, 8),
    *,
    limit: float = 0.5,
    objectives: Sequence[tuple[str, str]] = (("size", "minimize"),),
    activations: bool = False,
) -> Problem:
    """Layers of equal cost, size to be minimised at an accuracy of at least ``limit``."""
    network = linear_layers([8] * count)
    fixed = None if activations else {"activations": 8}
    space = build_space(network, weight_bits=choices, activation_bits=choices if activations else [8], fixed=fixed)
    wanted = tuple(Objective(metric, direction) for metric, direction in objectives)
    bounds = (Bound("accuracy", limit, True, f"accuracy >= {limit:g}"),)
    return Problem(space, NetworkCost(SizeAndBops(), network, space), wanted, bounds)


def with_limit(problem: Problem, limit: float) -> Problem:
    """The same problem with another limit on the accuracy."""
    return Problem(
        problem.space, problem.cost, problem.objectives, (Bound("accuracy", limit, True, f"accuracy >= {limit:g}"),)
    )


def exact_table(evaluator: QuadraticEvaluator, *, pairs: bool = False, sign: float = 1.0) -> SensitivityTable:
    """The table that predicts the loss of a quadratic exactly, or its diagonal; ``sign`` −1 reverses the order."""
    variables = evaluator.space.variables
    errors = [2.0 ** -np.asarray(variable.choices, dtype=float) for variable in variables]
    damage = {v.name: sign * (h * e**2)[None] for v, h, e in zip(variables, evaluator.curvature, errors, strict=True)}
    found = {}
    if pairs and evaluator.interaction is not None:
        for i in range(len(variables)):
            for j in range(i + 1, len(variables)):
                cross = evaluator.interaction[i, j] * np.outer(errors[i], errors[j])
                found[variables[i].name, variables[j].name] = cross
    return SensitivityTable(damage, 0, found)


def run(
    searcher: Searcher,
    problem: Problem,
    evaluator: Evaluator,
    table: SensitivityTable | None = None,
    *,
    seed: int = 0,
    evaluations: int = 1000,
) -> CampaignOracle:
    """Search with one table under every name; the oracle afterwards."""
    names = ("hessian", "pairwise", "one-at-a-time")
    tables = {} if table is None else {f"{name} {{}}": table for name in names}
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations), seed, tables=tables)
    searcher.search(oracle)
    return oracle


def least_size(problem: Problem, evaluator: QuadraticEvaluator) -> float:
    """The optimum by brute force; what the oracle says is feasible."""
    known = exhaust(problem, evaluator)
    feasible = problem.bounds[0].violation(np.exp(-known.loss)) <= 0
    return float(known.costs["size"][feasible].min())


def best_size(oracle: CampaignOracle) -> float:
    """The least size that a search found."""
    best = oracle.problem.best(oracle.trials)
    assert best is not None
    return best.value("size")


def any_limit(evaluator: QuadraticEvaluator, problem: Problem, share: float) -> float:
    """An accuracy between two neighbouring ones of the space, ``share`` of the way from the highest to the lowest."""
    accuracies = np.unique(np.exp(-exhaust(problem, evaluator).loss))[::-1]
    position = min(int(share * (len(accuracies) - 1)), len(accuracies) - 2)
    return float((accuracies[position] + accuracies[position + 1]) / 2) if len(accuracies) > 1 else 0.0
