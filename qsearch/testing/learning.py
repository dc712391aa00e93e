"""An evaluator that learns along a known curve, and a pruner that ends what it is told to: to test either by hand.

Notation

=====  ====================================================================
a, L   accuracy and loss of an assignment at full effort, in closed form
s      share of the full effort
τ      slowness, ≥ 0: an assignment of slowness 0 is at once as good as it gets
=====  ====================================================================

    accuracy(s) = a·s^τ,        loss(s) = L − τ·ln s
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qsearch.assignment import BitAssignment
from qsearch.problem import Problem
from qsearch.pruning import Pruner
from qsearch.testing.problems import QuadraticEvaluator
from qsearch.trial import Quality, Trial

SHARES = (1 / 9, 1 / 3, 1.0)


@dataclass
class LearningEvaluator(QuadraticEvaluator):
    """Quality in closed form, approached along a curve in closed form; counts what it spends.

    Attributes:
        shares: at which it reports.
        slowness: τ of an assignment.
        spent: effort so far, in evaluations.
    """

    shares: tuple[float, ...] = SHARES
    slowness: Callable[[BitAssignment], float] = field(default=lambda assignment: 0.1)
    spent: float = field(default=0.0, init=False)

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        """See :meth:`qsearch.protocols.Progressive.progress`; fails when it is this call's turn, before any report."""
        final, before = self.evaluate(assignment, seed=seed), 0.0
        for share in self.shares:
            self.spent += share - before
            before = share
            slowness = self.slowness(assignment)
            accuracy, loss = final.metric * share**slowness, final.loss - slowness * math.log(share)
            error = (accuracy * (1 - accuracy) / final.samples) ** 0.5
            yield share, Quality(accuracy, loss, final.samples, error, details={"share": share})


def learning(evaluator: QuadraticEvaluator, **settings: Any) -> LearningEvaluator:
    """An evaluator of the same qualities that learns; ``settings`` are its further attributes."""
    given = evaluator
    return LearningEvaluator(
        given.space,
        given.curvature,
        given.interaction,
        given.fails_at,
        given.variances,
        given.steepness,
        **settings,
    )


@dataclass(frozen=True)
class EndsAt(Pruner):
    """Ends chosen evaluations at their first report.

    Attributes:
        evaluations: their numbers, from 0, infeasible trials not counted.
    """

    evaluations: frozenset[int]

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """See :class:`qsearch.pruning.Pruner`."""
        return "made to end" if sum(other.evaluated for other in earlier) in self.evaluations else ""
