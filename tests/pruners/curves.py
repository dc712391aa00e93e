"""Learning curves given number by number, and a search that evaluates one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qsearch.assignment import BitAssignment
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Problem
from qsearch.pruning import Pruner
from qsearch.testing.problems import separable
from qsearch.trial import Quality, Trial

SHARES = (1 / 9, 1 / 3, 1.0)
SAMPLES = 1000

Curve = Sequence[float]


class Curves:
    """Answers the i-th evaluation with the i-th curve.

    Args:
        curves: accuracy at each of ``shares``, or at the last of them.
        deviation: standard error of each of them.
    """

    def __init__(self, curves: Sequence[Curve], shares: Sequence[float] = SHARES, deviation: float = 0.0) -> None:
        self.curves, self.shares, self.deviation = curves, shares, deviation
        self.begun = 0

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        curve = self.curves[self.begun]
        self.begun += 1
        for share, value in zip(self.shares[-len(curve) :], curve, strict=True):
            yield share, Quality(value, 1 - value, SAMPLES, self.deviation)

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("watched evaluations are not asked for as a whole")


def watch(
    pruner: Pruner,
    curves: Sequence[Curve],
    shares: Sequence[float] = SHARES,
    *,
    problem: Problem | None = None,
    deviation: float = 0.0,
) -> list[Trial]:
    """The trials of a search that evaluates assignment after assignment, in the order of the space."""
    problem = problem or separable(6, budget=None)[0]
    oracle = CampaignOracle(
        problem, Curves(curves, shares, deviation), MemoryRecord(), Budget(evaluations=len(curves)), pruner=pruner
    )
    assignments = problem.space.enumerate()
    return [oracle.evaluate(next(assignments)) for _ in curves]


def drawn_curves(count: int, shares: Sequence[float] = SHARES, seed: int = 0) -> list[Curve]:
    """Curves that rise by random amounts, and cross."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(0.0, 1.0 / len(shares), size=(count, len(shares)))
    return [[float(value) for value in row] for row in np.cumsum(steps, axis=1)]


def shares_spent(trials: Sequence[Trial]) -> list[float]:
    return [trial.reports[-1][0] for trial in trials]
