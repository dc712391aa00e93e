"""``CampaignOracle``: the one door to an evaluation.

Membership, memory, cost, budget, failures and the record are handled here once, for every searcher. Recorded trials
of an earlier, interrupted run answer at once and count as spent, so that the searcher, run again from its start,
sees the same history and arrives where it died: resume is replay.

Several assignments may be asked for at once. Whoever can answer them together does, and the answers enter one after the
other in the order of asking, each as if it had been asked for alone: how many workers there are leaves no trace.

Where the effort of an evaluation grows in steps and there is a pruner, a hopeless one ends early. An evaluation costs the
share of the full effort that was spent on it; one may begin as long as any of the budget is left.

Where its samples come some at a time and there is a stopper, an evaluation ends when they decide it. It costs a whole one all the
same, so that a search goes as far with a stopper as without.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, Failure, QSearchError, UserError, told
from qsearch.problem import Problem
from qsearch.protocols import Batching, Evaluator, Progressive, SensitivityTable, Teaching
from qsearch.pruning import Pruner, Sampling, Stopper, steps
from qsearch.sensitivity_cache import sensitivities
from qsearch.trial import Cost, Quality, Report, Trial, TrialState

if TYPE_CHECKING:
    from qsearch.training.lessons import Lessons

log = logging.getLogger(__name__)

PROPOSALS_PER_EVALUATION = 20
"""Proposals over a cost bound cost no evaluation; this many per evaluation of the budget end a search that makes no other."""
ROUNDING = 1e-9
"""Of sums of shares: three thirds of an evaluation are one."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend: evaluations, minutes, or whichever of the two ends first."""

    evaluations: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.evaluations, self.minutes) if value is not None]
        if not given or not all(0 < value < math.inf for value in given):
            raise ConfigError("a budget needs evaluations or minutes, above 0 and finite", got=self)


def checked(quality: Quality, name: str) -> Quality:
    """An evaluator's answer, if objectives and constraints can be computed from it.

    Args:
        name: what the workload's metric is called.

    Raises:
        EvaluationError: it is no quality, of another metric, or not finite.
    """
    if not isinstance(quality, Quality) or quality.name != name:
        raise EvaluationError(f"an evaluator must return the Quality {name!r}", got=quality)
    if not all(math.isfinite(value) for value in quality.values.values()):
        raise EvaluationError(f"loss and {name} must be finite", got=quality.values)
    return quality


class Record(Protocol):
    """Where trials are kept; the ledger of a campaign, or a list."""

    def trials(self) -> Sequence[Trial]:
        """What is recorded, in order."""
        ...

    def append(self, trial: Trial) -> None:
        """Record one trial durably before returning."""
        ...


class MemoryRecord:
    """A record that lives as long as the process: for tests, benchmarks and use as a library."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []

    def trials(self) -> Sequence[Trial]:
        """See :class:`Record`."""
        return tuple(self._trials)

    def append(self, trial: Trial) -> None:
        """See :class:`Record`."""
        self._trials.append(trial)


class _Ahead:
    """Answers that were asked for together, as they come in."""

    def __init__(self, batching: Batching, assignments: Sequence[BitAssignment], seed: int) -> None:
        self._assignments, self._name = deque(assignments), type(batching).__name__
        with self._blamed():
            self._answers = iter(batching.evaluate_many(assignments, seed=seed))

    def answer(self, assignment: BitAssignment) -> Callable[[], Quality] | None:
        """Gives or raises the answer to the next assignment; None where another one is asked for.

        Raises:
            Failure: nobody is left to answer, or an error belongs to no single assignment.
        """
        if not self._assignments or self._assignments[0] != assignment:
            return None
        self._assignments.popleft()
        with self._blamed():
            found = next(self._answers, None)
        if found is None:
            raise Failure("who evaluates assignments together must answer each", got="fewer answers than assignments")
        return partial(_given, found)

    def close(self) -> None:
        """No more answers are needed."""
        if isinstance(self._answers, Generator):
            self._answers.close()

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except QSearchError:
            raise
        except Exception as error:
            raise Failure(f"the evaluator {self._name!r} raised an error", got=told(error)) from error


def _given(answer: Quality | Exception) -> Quality:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _next_of(found: Iterator[Quality]) -> Quality:
    """The next of the qualities that grow with the samples seen."""
    quality = next(found, None)
    if quality is None:
        raise EvaluationError("the parts of an evaluation must be all of its samples", got="fewer")
    return quality


@dataclass
class CampaignOracle:
    """An :class:`qsearch.protocols.Oracle` on a problem, an evaluator, a record and a budget.

    Args:
        max_failures: failed evaluations after which the campaign gives up.
        evaluate_infeasible: spend evaluations on assignments over a cost bound as well.
        pruner: ends hopeless evaluations early; None to let all of them run to their end, unwatched.
        batching: answers several assignments together; None to evaluate one after the other, as evaluations that are
            watched always are.
        on_trial: called after each new or replayed trial, for progress.
        folder: where the searcher may leave what it has learnt.
        on_note: called when the searcher has something to show, with all it has shown so far.
        tables: sensitivities that are known already, and where new ones are kept; oracles on the same space and
            evaluator may share them.
    """

    problem: Problem
    evaluator: Evaluator
    record: Record
    budget: Budget
    seed: int = 0
    max_failures: int = 10
    evaluate_infeasible: bool = False
    pruner: Pruner | None = None
    batching: Batching | None = None
    folder: Path | None = None
    on_trial: Callable[[Trial], None] = lambda trial: None
    on_note: Callable[[Mapping[str, float]], None] = lambda notes: None
    tables: dict[str, SensitivityTable] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list, init=False)
    notes: dict[str, float] = field(default_factory=dict, init=False)
    sensitivity_samples: int = field(default=0, init=False)
    sensitivity_seconds: float = field(default=0.0, init=False)
    training_samples: int = field(default=0, init=False)
    training_seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._process = os.getpid()
        self._recorded = {trial.assignment: trial for trial in self.record.trials()}
        self._count = len(self._recorded)
        self._seen: dict[BitAssignment, Trial] = {}
        self._evaluations: float = 0
        self._refused = self._failures = 0
        self._elapsed = self._trained = 0.0
        self._ahead: _Ahead | None = None
        self._mark = time.perf_counter()

    @property
    def spent(self) -> float:
        """Evaluations spent, replayed ones included; of those that were ended early, the share that was spent."""
        return self._evaluations

    @property
    def elapsed(self) -> float:
        """Campaign time in seconds, the recorded time of replayed trials included."""
        return self._elapsed + time.perf_counter() - self._mark

    @property
    def remaining(self) -> int:
        """Evaluations that may still begin; under a budget of minutes, as many as fit at the present pace."""
        return self._left(self.elapsed)

    def _left(self, elapsed: float) -> int:
        """:attr:`remaining` after so many seconds of campaign time."""
        allowed = self.budget.evaluations
        left = [] if allowed is None else [math.ceil(allowed - self._evaluations - ROUNDING)]
        if self.budget.minutes is not None:
            seconds = 60 * self.budget.minutes - elapsed
            pace = max(elapsed, 1e-9) / max(self._evaluations, 1)
            left.append(max(1, int(seconds / pace)) if seconds > 0 else 0)
        return max(0, min(left))

    def evaluate(self, assignment: BitAssignment) -> Trial:
        """See :meth:`qsearch.protocols.Oracle.evaluate`."""
        if os.getpid() != self._process:  # a copy, whose trials and budget nobody would see
            raise UserError(
                "an oracle answers in the process that made it",
                got="a call from another process",
                fix="make_vec(…, vectorization_mode='sync'), or evaluate_many",
            )
        if assignment in self._seen:
            return self._seen[assignment]
        self.problem.space.check(assignment)
        recorded = self._recorded.get(assignment)
        trial = recorded or self._try(assignment)
        if recorded is None:
            self.record.append(trial)
            self._count += 1
        self._elapsed += trial.seconds
        self._mark, self._trained = time.perf_counter(), 0.0
        self._enter(trial)
        if recorded is None and trial.state == "failed":
            self._check_failures(trial)
        return trial

    def evaluate_many(self, assignments: Sequence[BitAssignment]) -> list[Trial]:
        """See :meth:`qsearch.protocols.Oracle.evaluate_many`."""
        together = [] if self.batching is None or self.pruner is not None else self._to_evaluate(assignments)
        if self.batching is None or not together:
            return [self.evaluate(assignment) for assignment in assignments]
        self._ahead = _Ahead(self.batching, together, self.seed)
        try:
            return [self.evaluate(assignment) for assignment in assignments]
        finally:
            self._ahead.close()
            self._ahead = None

    def _to_evaluate(self, assignments: Sequence[BitAssignment]) -> list[BitAssignment]:
        """Those of the assignments that an evaluation will be spent on, in order; how many fit into minutes nobody knows."""
        allowed = math.inf if self.budget.evaluations is None else self.budget.evaluations
        left = allowed - self._evaluations if self.remaining else 0
        found: list[BitAssignment] = []
        for assignment in dict.fromkeys(assignments):
            if left <= ROUNDING:
                break
            recorded = self._recorded.get(assignment)
            if assignment in self._seen:
                continue
            if recorded is not None:
                left -= recorded.effort
                continue
            try:
                spends = self._spends(assignment)
            except Exception:  # evaluate raises it in its turn, when what comes before is recorded
                break
            if spends:
                found.append(assignment)
                left -= 1
        return found

    def _spends(self, assignment: BitAssignment) -> bool:
        """Whether a new assignment is evaluated."""
        self.problem.space.check(assignment)
        return self.evaluate_infeasible or not self._over(self.problem.cost.estimate(assignment))

    def _over(self, cost: Cost) -> list[str]:
        """Labels of the bounds on costs that are not met."""
        return [label for label, value in self.problem.violations(cost, None).items() if value > 0]

    def sensitivity(self, name: str, options: Mapping[str, Any] | None = None) -> SensitivityTable:
        """See :meth:`qsearch.protocols.Oracle.sensitivity`."""
        key = f"{name} {json.dumps(options or {}, sort_keys=True)}"
        if key not in self.tables:
            found = sensitivities(name, options, self.problem.space, self.evaluator)
            self.tables[key] = found.table
            self.sensitivity_samples += found.table.samples  # spent, though an earlier run may have paid: runs compare
            self.sensitivity_seconds += found.seconds
        return self.tables[key]

    def lessons(self) -> Lessons:
        """See :meth:`qsearch.protocols.Oracle.lessons`."""
        if isinstance(self.evaluator, Teaching):
            return self.evaluator.lessons()
        raise ConfigError(
            "a searcher that learns bits by gradient needs an evaluator that hands out its network",
            got=type(self.evaluator).__name__,
            fix="evaluate with 'ptq' or 'qat'",
        )

    def trained(self, samples: int, seconds: float) -> None:
        """See :meth:`qsearch.protocols.Oracle.trained`."""
        self.training_samples += samples
        self.training_seconds += seconds
        self._trained += seconds
        self._mark = min(self._mark, time.perf_counter() - self._trained)  # an earlier run may have taken them

    def note(self, **values: float) -> None:
        """See :meth:`qsearch.protocols.Oracle.note`."""
        self.notes.update(values)
        self.on_note(self.notes)

    def _try(self, assignment: BitAssignment) -> Trial:
        """Cost, feasibility and quality of an assignment that is not known yet."""
        proposals = PROPOSALS_PER_EVALUATION * (self.budget.evaluations or 1000)
        elapsed = 0.0 if self._trained else self.elapsed  # what a training that began in time came to is evaluated
        if self._left(elapsed) == 0 or self._refused >= proposals:
            raise BudgetExhausted("the budget is spent", got=f"{self._evaluations:g} evaluations")
        cost = self.problem.cost.estimate(assignment)
        over = self._over(cost)
        if over and not self.evaluate_infeasible:
            return self._trial(assignment, "infeasible", cost, None, f"over {', '.join(over)}")
        if isinstance(self.pruner, Stopper):
            if isinstance(self.evaluator, Sampling):
                return self._sampled(assignment, cost, self.evaluator, self.pruner)
        elif self.pruner is not None and isinstance(self.evaluator, Progressive):
            return self._watched(assignment, cost, self.evaluator, self.pruner)
        ahead = None if self._ahead is None else self._ahead.answer(assignment)
        try:
            found = self.evaluator.evaluate(assignment, seed=self.seed) if ahead is None else ahead()
            quality = checked(found, self.problem.quality_name)
        except Exception as error:
            return self._failed(assignment, cost, error)
        return self._trial(assignment, "complete", cost, quality, "")

    def _watched(self, assignment: BitAssignment, cost: Cost, evaluator: Progressive, pruner: Pruner) -> Trial:
        """An evaluation that the pruner may end after any of its reports."""
        reports: tuple[Report, ...] = ()
        with closing(steps(evaluator, assignment, self.seed)) as found:
            while True:
                try:
                    share, quality = next(found)
                    checked(quality, self.problem.quality_name)
                except Exception as error:
                    return self._failed(assignment, cost, error, reports)
                reports = (*reports, (float(share), float(quality.metric)))
                if share == 1:
                    return self._trial(assignment, "complete", cost, quality, "", reports)
                so_far = self._trial(assignment, "pruned", cost, quality, "", reports)
                with self._blaming(pruner):
                    verdict = pruner.verdict(so_far, self.trials, self.problem)
                if verdict:
                    reached = f"{quality.name} {quality.metric:.4g}"
                    reason = f"pruned after {100 * share:.3g} % of the effort: {reached}, {verdict}"
                    return self._trial(assignment, "pruned", cost, quality, reason, reports)

    def _sampled(self, assignment: BitAssignment, cost: Cost, evaluator: Sampling, stopper: Stopper) -> Trial:
        """An evaluation that the stopper may end after any part of its samples; it counts as a whole one."""
        try:
            difficulty = evaluator.difficulty()
        except Exception as error:
            return self._failed(assignment, cost, error)
        with self._blaming(stopper):
            parts = stopper.parts(assignment, difficulty, self.seed)
        with closing(evaluator.sampled(assignment, parts, seed=self.seed)) as found:
            while True:
                try:
                    quality = checked(_next_of(found), self.problem.quality_name)
                except Exception as error:
                    return self._failed(assignment, cost, error)
                so_far = self._trial(assignment, "complete", cost, quality, "")
                if quality.samples == len(difficulty):
                    return so_far
                with self._blaming(stopper):
                    end = stopper.ending(so_far, difficulty, self.trials, self.problem)
                if end is not None:
                    return self._trial(assignment, end.state, cost, end.quality, end.reason)

    @contextmanager
    def _blaming(self, pruner: Pruner) -> Iterator[None]:
        """A pruner's own errors are no trial's.

        Raises:
            Failure: it raised one.
        """
        try:
            yield
        except QSearchError:
            raise
        except Exception as error:
            raise Failure(f"the pruner {type(pruner).__name__!r} raised an error", got=told(error)) from error

    def _failed(
        self, assignment: BitAssignment, cost: Cost, error: Exception, reports: tuple[Report, ...] = ()
    ) -> Trial:
        """Whatever a network or a plug-in raises is the reason this one trial failed."""
        reason = str(error) if isinstance(error, EvaluationError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())
        log.warning("trial %d failed: %s", self._count, reason)
        return self._trial(assignment, "failed", cost, None, reason, reports)

    def _trial(
        self,
        assignment: BitAssignment,
        state: TrialState,
        cost: Cost,
        quality: Quality | None,
        reason: str,
        reports: tuple[Report, ...] = (),
    ) -> Trial:
        violations = self.problem.violations(cost, quality)
        seconds = time.perf_counter() - self._mark
        return Trial(self._count, assignment, state, cost, quality, violations, reason, seconds, reports)

    def _enter(self, trial: Trial) -> None:
        """Count a trial, new or replayed."""
        self._seen[trial.assignment] = trial
        self.trials.append(trial)
        self._evaluations += trial.effort
        self._refused += not trial.evaluated
        self._failures += trial.state == "failed"
        self.on_trial(trial)

    def _check_failures(self, trial: Trial) -> None:
        """Give up when too many have failed; only on a new failure, or no such campaign could be resumed."""
        if self._failures >= self.max_failures:
            raise EvaluationError(
                f"{self._failures} evaluations failed, the limit",
                got=f"last: {trial.reason}",
                fix="the ledger keeps every trial; mend the cause and resume",
            )
