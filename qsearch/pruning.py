"""``Pruner``: ends an evaluation before its full effort is spent, where it is hopeless.

An evaluator whose effort grows in steps (:class:`qsearch.protocols.Progressive`) reports the workload's metric after
each of them. The oracle shows what is known by then to the campaign's pruner. A trial that is ended so keeps the quality
that it had, less than it would have come to; where its samples came some at a time, an estimate of it, which may be above or below.
It is never the best of a run.

Pruners judge by the metric alone, more of it being better, and never by costs: those are known before anything is spent.
Bounds on costs are kept before, by the oracle.

An evaluator whose answer is a mean over samples (:class:`Sampling`) may be asked for some of them at a time. What is seen then
is no lower estimate but a part of the whole, and says with a known error what the whole can still be: a :class:`Stopper`
ends an evaluation when the rest of its samples cannot change what is decided on it. It counts as a whole evaluation, so that
a search takes the same course; what is saved is samples, and time.

Like searchers, pruners are deterministic given what is recorded, so that resume is replay.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


@runtime_checkable
class Sampling(Protocol):
    """An evaluator whose quality is a mean over samples, which it can be asked for some at a time."""

    def difficulty(self) -> NDArray[np.float64]:
        """How hard each of its N samples is for the float network, its loss say, in data order, shape (N,)."""
        ...

    def sampled(
        self, assignment: BitAssignment, parts: Sequence[NDArray[np.intp]], *, seed: int = 0
    ) -> Generator[Quality]:
        """The quality on the samples of each part and of all before it.

        Outcomes have shape (N,), in data order, NaN where a sample was in no part yet. After all N samples the quality is that
        of :meth:`Evaluator.evaluate`, but for rounding, as other samples share a batch. Close it to spend no more.

        Args:
            parts: positions of samples in data order, no sample twice.
        """
        ...


@dataclass(frozen=True)
class Ending:
    """What is recorded of an evaluation that was ended before its last sample.

    Attributes:
        state: "complete" where it is decided that all bounds on quality are met, "pruned" where it is of no more use.
        quality: what is known; ``samples`` is how many were seen, and ``outcomes`` None.
        reason: why it is ended.
    """

    state: Literal["complete", "pruned"]
    quality: Quality
    reason: str


@runtime_checkable
class Stopper(Pruner, Protocol):
    """A pruner of evaluations by samples: it says which come first, and when those seen decide."""

    def parts(
        self, assignment: BitAssignment, difficulty: NDArray[np.float64], seed: int
    ) -> Sequence[NDArray[np.intp]]:
        """Positions of all samples, in the order of evaluation, in parts after each of which it is asked for an ending.

        It must depend on nothing but its arguments.

        Args:
            difficulty: see :meth:`Sampling.difficulty`.
        """
        ...

    def ending(
        self, trial: Trial, difficulty: NDArray[np.float64], earlier: Sequence[Trial], problem: Problem
    ) -> Ending | None:
        """How an evaluation should end now; None to let it go on.

        It is called after every part but the last, and must depend on nothing but its arguments, then and after the parts before.

        Args:
            trial: what would be recorded if it ended now, its quality being that of the samples so far.
            difficulty: as for :meth:`parts`.
            earlier: all trials before it, in order.
        """
        ...

    def check(self, problem: Problem) -> None:
        """Raise unless samples can decide anything in a problem.

        Raises:
            ConfigError: they cannot.
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
