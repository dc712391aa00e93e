"""``Pruner``: ends an evaluation before its full effort is spent, where it is hopeless.

An evaluator whose effort grows in steps (:class:`qsearch.protocols.Progressive`) reports the workload's metric after
each of them. The oracle shows what is known by then to the campaign's pruner. A trial that is ended so keeps the quality
that it had: a lower estimate of what it would have come to. It is never the best of a run.

Pruners judge by the metric alone, more of it being better, and never by costs: those are known before anything is spent.
Bounds on costs are kept before, by the oracle.

Like searchers, pruners are deterministic given what is recorded, so that resume is replay.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError
from qsearch.problem import Problem
from qsearch.protocols import Progressive
from qsearch.trial import Quality, Trial


class Pruner(Protocol):
    """A rule by which evaluations are ended early. One campaign has one of its own."""

    active: bool = True
    """Whether it ever ends any; evaluations are not watched for one that does not."""

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """Why an evaluation should end now, to stand behind "accuracy 0.61: "; empty to let it go on.

        It is called after every report but the last, and must depend on nothing but its arguments.

        Args:
            trial: what would be recorded if it ended now: its ``reports``, the latest last, and its ``quality`` there.
            earlier: all trials before it, in order.
        """
        ...


def steps(evaluator: Progressive, assignment: BitAssignment, seed: int) -> Generator[tuple[float, Quality]]:
    """What an evaluator reports, up to the full effort; closed, it closes the evaluator's own iterator.

    Raises:
        EvaluationError: shares that do not ascend to 1.
    """
    found = evaluator.progress(assignment, seed=seed)
    before = 0.0
    try:
        for share, quality in found:
            if not before < share <= 1:
                raise EvaluationError("shares of the effort must ascend to 1", got=f"{share} after {before}")
            yield share, quality
            before = share
    finally:
        if isinstance(found, Generator):
            found.close()
    raise EvaluationError("the last share of the effort must be 1", got=before)


def check_prunable(problem: Problem) -> None:
    """Raise unless more of the workload's metric is better in a problem.

    Raises:
        ConfigError: an objective minimises it.
    """
    for objective in problem.objectives:
        if objective.metric == problem.quality_name and objective.direction == "minimize":
            raise ConfigError(
                f"pruning keeps what has the highest {problem.quality_name}",
                got=f"the objective {problem.quality_name}:min",
                fix="pruner: none",
            )


def required(problem: Problem) -> float:
    """The metric from which more of it is worth nothing: the highest lower bound on it, where all objectives are costs.

    Infinite where a quality is an objective, or nothing bounds the metric.
    """
    limits = [bound.limit for bound in problem.bounds if bound.metric == problem.quality_name and bound.at_least]
    costs_only = all(objective.metric in problem.cost.units for objective in problem.objectives)
    return max(limits) if costs_only and limits else float("inf")
