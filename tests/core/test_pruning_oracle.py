"""The one door where an evaluation may end early: what it asks, what it charges, what it writes down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, ConfigError, Failure
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective
from qsearch.protocols import Progressive
from qsearch.pruning import check_prunable, required
from qsearch.testing.learning import EndsAt, LearningEvaluator, learning
from qsearch.testing.problems import ACCURACY_AND_SIZE, coupled
from qsearch.trial import Quality, Trial

NEVER = EndsAt(frozenset())
ALWAYS = EndsAt(frozenset(range(1000)))


def door(pruner: Any, evaluations: int = 10, record: MemoryRecord | None = None, **settings: Any) -> CampaignOracle:
    problem, quadratic = coupled(3, budget=None)
    evaluator = settings.pop("evaluator", None) or learning(quadratic, **settings)
    return CampaignOracle(
        problem, evaluator, record or MemoryRecord(), Budget(evaluations=evaluations), pruner=pruner, seed=3
    )


def ask(oracle: CampaignOracle, count: int) -> list[Trial]:
    assignments = oracle.problem.space.enumerate()
    return [oracle.evaluate(next(assignments)) for _ in range(count)]


class Watcher:
    """Keeps what it is shown, and ends nothing."""

    active = True

    def __init__(self) -> None:
        self.shown: list[tuple[Trial, list[Trial]]] = []

    def verdict(self, trial: Trial, earlier: Any, problem: Any) -> str:
        self.shown.append((trial, list(earlier)))
        return ""


def test_the_learning_evaluator_is_progressive() -> None:
    assert isinstance(door(None).evaluator, Progressive)


def test_without_a_pruner_nothing_is_watched() -> None:
    oracle = door(None)
    (trial,) = ask(oracle, 1)
    assert (trial.state, trial.reports, oracle.evaluator.spent) == ("complete", (), 0)
    assert trial.quality == oracle.evaluator.evaluate(trial.assignment)


def test_a_watched_trial_that_runs_to_its_end_differs_in_its_reports_only() -> None:
    (watched,), (plain,) = ask(door(NEVER), 1), ask(door(None), 1)
    assert replace(watched, reports=()) == plain
    accuracy = plain.value("accuracy")
    assert [share for share, _ in watched.reports] == [1 / 9, 1 / 3, 1]
    assert [value for _, value in watched.reports] == pytest.approx([accuracy * s**0.1 for s in (1 / 9, 1 / 3, 1)])
    assert (watched.effort, plain.effort) == (1, 1)


def test_the_pruner_is_shown_what_would_be_recorded_and_all_before_it() -> None:
    watcher = Watcher()
    oracle = door(watcher)
    first, second = ask(oracle, 2)
    assert [len(shown.reports) for shown, _ in watcher.shown] == [1, 2, 1, 2]
    assert [earlier for _, earlier in watcher.shown] == [[], [], [first], [first]]
    shown, _ = watcher.shown[-1]
    assert (shown.state, shown.number, shown.assignment, shown.cost) == ("pruned", 1, second.assignment, second.cost)
    assert shown.reports == second.reports[:2]
    assert shown.quality is not None
    assert shown.quality.metric == second.reports[1][1]


def test_a_pruned_trial_keeps_the_quality_that_it_had_and_its_reason() -> None:
    oracle = door(ALWAYS)
    (trial,) = ask(oracle, 1)
    assert trial.quality is not None
    assert trial.quality.details == {"share": 1 / 9}
    assert trial.reports == ((1 / 9, trial.quality.metric),)
    assert trial.reason == f"pruned after 11.1 % of the effort: accuracy {trial.quality.metric:.4g}, made to end"
    assert (trial.state, trial.evaluated, trial.feasible, trial.effort) == ("pruned", True, False, 1 / 9)
    assert trial.violations == oracle.problem.violations(trial.cost, trial.quality)
    assert oracle.problem.best(oracle.trials) is None
    assert oracle.problem.front(oracle.trials) == []
    assert list(oracle.record.trials()) == [trial]


def test_an_evaluation_costs_what_was_spent_on_it() -> None:
    oracle = door(EndsAt(frozenset({1, 2})), evaluations=5)
    left = [oracle.remaining]
    for count in range(1, 4):
        ask(oracle, count)
        left.append(oracle.remaining)
    assert left == [5, 4, 4, 4]  # 4, 3 + 8/9 and 3 + 7/9 evaluations are left: so many may begin
    assert oracle.spent == pytest.approx(1 + 2 / 9)
    assert oracle.evaluator.spent == pytest.approx(1 + 2 / 9)


def test_nine_ninths_are_one() -> None:
    oracle = door(ALWAYS, evaluations=1)
    with pytest.raises(BudgetExhausted, match="got 1 evaluations"):
        ask(oracle, 10)
    assert (len(oracle.trials), oracle.remaining) == (9, 0)


def test_the_last_evaluation_may_begin_while_anything_is_left() -> None:
    oracle = door(EndsAt(frozenset({0})), evaluations=1)
    ask(oracle, 2)
    assert (oracle.spent, oracle.remaining) == (pytest.approx(10 / 9), 0)


def test_spent_stays_a_whole_number_without_pruning() -> None:
    for pruner in (None, NEVER):
        oracle = door(pruner)
        ask(oracle, 3)
        assert isinstance(oracle.spent, int)
        assert oracle.spent == 3


@pytest.mark.parametrize("killed_after", range(8))
def test_replayed_trials_count_what_was_spent(killed_after: int) -> None:
    whole = door(EndsAt(frozenset({0, 3, 4})))
    ask(whole, 8)
    record = MemoryRecord()
    for trial in whole.trials[:killed_after]:
        record.append(trial)
    again = door(EndsAt(frozenset({0, 3, 4})), record=record)
    assert ask(again, 8) == whole.trials
    assert again.spent == whole.spent
    assert again.evaluator.calls == 8 - killed_after


class Scripted:
    """Yields what it is given; an exception among it is raised. Notes when it is closed."""

    def __init__(self, *steps: Any) -> None:
        self.steps, self.closed_after = steps, -1

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        assert seed == 3
        count = 0
        try:
            for step in self.steps:
                if isinstance(step, BaseException):
                    raise step
                count += 1
                yield step
        finally:
            self.closed_after = count

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("not asked for")


def step(share: float, metric: float = 0.5) -> tuple[float, Quality]:
    return share, Quality(metric, 1.0, 10, 0.1)


@pytest.mark.parametrize(
    ("steps", "reason", "effort"),
    [
        ([RuntimeError("loss is NaN\nat step 3")], "RuntimeError: loss is NaN at step 3", 1),
        ([step(0.25), step(0.5), RuntimeError("diverged")], "RuntimeError: diverged", 0.5),
        ([step(0.25), step(0.5, float("nan"))], "loss and accuracy must be finite", 0.25),
        ([step(0.5), step(0.25)], "shares of the effort must ascend to 1; got 0.25 after 0.5", 0.5),
        ([step(0.0)], "shares of the effort must ascend to 1; got 0.0 after 0.0", 1),
        ([step(0.5), step(1.5)], "shares of the effort must ascend to 1; got 1.5 after 0.5", 0.5),
        ([step(0.5)], "the last share of the effort must be 1; got 0.5", 0.5),
        ([], "the last share of the effort must be 1; got 0.0", 1),
        ([step(0.5), 3], "TypeError", 0.5),
    ],
)
def test_what_fails_on_the_way_is_a_failed_trial_with_its_reports(steps: list[Any], reason: str, effort: float) -> None:
    evaluator = Scripted(*steps)
    oracle = door(NEVER, evaluator=evaluator)
    (trial,) = ask(oracle, 1)
    assert trial.state == "failed"
    assert reason in trial.reason
    assert (trial.quality, trial.effort, oracle.spent) == (None, effort, effort)
    assert all(share <= effort < 1 for share, _ in trial.reports)


def test_the_evaluator_is_closed_where_it_is_ended() -> None:
    evaluator = Scripted(step(0.25), step(0.5), step(1.0))
    ask(door(ALWAYS, evaluator=evaluator), 1)
    assert evaluator.closed_after == 1


def test_nothing_is_asked_of_it_beyond_its_full_effort() -> None:
    evaluator = Scripted(step(0.5), step(1.0), RuntimeError("never reached"))
    (trial,) = ask(door(NEVER, evaluator=evaluator), 1)
    assert (trial.state, evaluator.closed_after) == ("complete", 2)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_records_nothing_and_closes_the_evaluator(error: type[BaseException]) -> None:
    evaluator = Scripted(step(0.5), error())
    oracle = door(NEVER, evaluator=evaluator)
    with pytest.raises(error):
        ask(oracle, 1)
    assert (list(oracle.record.trials()), evaluator.closed_after) == ([], 1)


def test_an_error_of_the_pruner_is_no_failed_trial() -> None:
    class Broken:
        active = True

        def verdict(self, *_: Any) -> str:
            raise KeyError("x")

    oracle = door(Broken())
    with pytest.raises(Failure, match=r"the pruner 'Broken' raised an error; got KeyError: 'x' \(test_pruning_oracle"):
        ask(oracle, 1)
    assert oracle.trials == []


def test_an_infeasible_assignment_spends_nothing() -> None:
    oracle = door(NEVER)
    oracle.problem = replace(oracle.problem, bounds=(Bound("size", 0.0, False, "size <= 0"),))
    (trial,) = ask(oracle, 1)
    assert (trial.state, trial.effort, oracle.spent) == ("infeasible", 0, 0)


def test_a_budget_of_minutes_counts_the_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("qsearch.oracle.time.perf_counter", lambda: now[0])

    class Slow(LearningEvaluator):
        def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
            for share, quality in super().progress(assignment, seed=seed):
                now[0] += 2.0
                yield share, quality

    problem, quadratic = coupled(3, budget=None)
    evaluator = Slow(quadratic.space, quadratic.curvature, quadratic.interaction)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(minutes=1.0), pruner=EndsAt(frozenset({1})))
    ask(oracle, 2)
    assert oracle.elapsed == 8.0
    assert oracle.remaining == int(52 / (8 / (1 + 1 / 9)))


QUALITY_BOUND = Bound("accuracy", 0.9, True, "accuracy >= 0.9")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, float("inf")),
        ({"bounds": (QUALITY_BOUND,)}, float("inf")),
        ({"objectives": (Objective("size", "minimize"),), "bounds": (QUALITY_BOUND,)}, 0.9),
        ({"objectives": (Objective("size", "minimize"),)}, float("inf")),
        ({"objectives": ACCURACY_AND_SIZE, "bounds": (QUALITY_BOUND,)}, float("inf")),
    ],
)
def test_from_where_on_more_quality_is_worth_nothing(change: dict[str, Any], expected: float) -> None:
    assert required(replace(coupled(3)[0], **change)) == expected


def test_pruning_keeps_what_is_good() -> None:
    problem, _ = coupled(3)
    check_prunable(problem)
    check_prunable(replace(problem, objectives=(Objective("loss", "minimize"),)))
    with pytest.raises(
        ConfigError, match="pruning keeps what has the highest accuracy; got the objective accuracy:min"
    ):
        check_prunable(replace(problem, objectives=(Objective("accuracy", "minimize"),)))
