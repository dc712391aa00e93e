"""The one door: what it lets through, what it charges, what it writes down."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from qsearch import oracle as module
from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, SpaceError, UserError
from qsearch.oracle import PROPOSALS_PER_EVALUATION, Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound
from qsearch.testing.problems import coupled, separable
from qsearch.trial import Quality


class Clock:
    """A clock that moves when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)


def door(problem, evaluator, evaluations=10, **options) -> CampaignOracle:
    record = options.pop("record", None) or MemoryRecord()
    budget = options.pop("budget", None) or Budget(evaluations=evaluations)
    return CampaignOracle(problem, evaluator, record, budget, **options)


def assignments(problem, count, feasible=True):
    """The first assignments that are within the bounds, or over them."""
    found = [
        item
        for item in problem.space.enumerate()
        if (problem.cost_violations(problem.space.encode(item)[None])[0] <= 0) == feasible
    ]
    return found[:count]


def test_an_assignment_outside_the_space_is_refused_and_not_recorded():
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator)
    wrong = problem.space.decode(problem.space.lowest).replace({"layer0.weight": 3})
    with pytest.raises(SpaceError, match=r"layer0\.weight"):
        oracle.evaluate(wrong)
    with pytest.raises(SpaceError, match="every site"):
        oracle.evaluate(BitAssignment({"layer0.weight": 4}))
    assert (oracle.trials, list(oracle.record.trials()), evaluator.calls) == ([], [], 0)


def test_a_trial_carries_cost_quality_violations_and_number():
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator)
    first, second = (oracle.evaluate(item) for item in assignments(problem, 2))
    assert (first.number, second.number) == (0, 1)
    assert first.state == "complete"
    assert first.quality == evaluator.evaluate(first.assignment)
    assert first.cost == problem.cost.estimate(first.assignment)
    assert first.violations == problem.violations(first.cost, first.quality)
    assert list(oracle.record.trials()) == oracle.trials == [first, second]


def test_a_known_assignment_costs_nothing_even_when_nothing_is_left():
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator, evaluations=1)
    item = assignments(problem, 1)[0]
    first = oracle.evaluate(item)
    assert oracle.remaining == 0
    assert oracle.evaluate(BitAssignment(dict(item))) is first
    assert (evaluator.calls, oracle.spent, len(oracle.trials)) == (1, 1, 1)


def test_an_assignment_over_a_cost_bound_is_recorded_and_spends_nothing():
    problem, evaluator = separable(3)
    oracle = door(problem, evaluator)
    trial = oracle.evaluate(problem.space.uniform(8))
    assert (trial.state, trial.quality, trial.reason) == ("infeasible", None, "over size <= 0.5 x highest")
    assert trial.violations == {"size <= 0.5 x highest": pytest.approx(1.0)}
    assert (evaluator.calls, oracle.spent, oracle.remaining) == (0, 0, 10)
    assert list(oracle.record.trials()) == [trial]


def test_what_is_over_a_bound_is_evaluated_if_asked_for():
    problem, evaluator = separable(3)
    oracle = door(problem, evaluator, evaluate_infeasible=True)
    trial = oracle.evaluate(problem.space.uniform(8))
    assert (trial.state, trial.feasible, oracle.spent) == ("complete", False, 1)
    assert trial.quality is not None


def test_a_bound_on_quality_is_judged_after_the_evaluation():
    problem, evaluator = separable(3)
    bound = Bound("accuracy", 1.1, True, "accuracy >= 1.1")
    oracle = door(dataclasses.replace(problem, bounds=(bound,)), evaluator)
    trial = oracle.evaluate(problem.space.uniform(8))
    assert (trial.state, trial.feasible, oracle.spent) == ("complete", False, 1)
    assert trial.violations["accuracy >= 1.1"] == pytest.approx((1.1 - trial.value("accuracy")) / 1.1)


def test_the_budget_ends_with_an_exception_and_keeps_what_was_done():
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator, evaluations=2)
    items = assignments(problem, 3)
    with pytest.raises(BudgetExhausted, match="2 evaluations"):
        oracle.evaluate_many(items)
    assert [trial.assignment for trial in oracle.record.trials()] == items[:2]


def test_evaluate_many_answers_in_order():
    problem, evaluator = coupled(3)
    items = assignments(problem, 4)
    trials = door(problem, evaluator).evaluate_many([*items, items[0]])
    assert [trial.assignment for trial in trials] == [*items, items[0]]
    assert evaluator.calls == 4


def test_proposals_over_a_bound_have_an_end():
    problem, evaluator = separable(5, choices=range(2, 9), budget=0.3)
    oracle = door(problem, evaluator, evaluations=2)
    over = assignments(problem, 1000, feasible=False)
    oracle.evaluate_many(over[: 2 * PROPOSALS_PER_EVALUATION])
    with pytest.raises(BudgetExhausted):
        oracle.evaluate(over[2 * PROPOSALS_PER_EVALUATION])
    assert len(oracle.trials) == 2 * PROPOSALS_PER_EVALUATION
    assert evaluator.calls == 0


def test_a_failed_evaluation_is_a_trial_with_its_reason():
    problem, evaluator = coupled(3)
    evaluator.fails_at = frozenset({0})
    oracle = door(problem, evaluator)
    failed, good = (oracle.evaluate(item) for item in assignments(problem, 2))
    assert (failed.state, failed.quality, failed.feasible) == ("failed", None, False)
    assert failed.reason == "made to fail; got call 0"
    assert good.state == "complete"
    assert oracle.spent == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: Quality(float("nan"), 0.1, 10, 0.0), "loss and accuracy must be finite"),
        (lambda: Quality(0.5, float("inf"), 10, 0.0), "loss and accuracy must be finite"),
        (lambda: Quality(0.5, 0.1, 10, 0.0, name="f1"), "must return the Quality 'accuracy'"),
        (lambda: 0.9, "must return the Quality 'accuracy'; got 0.9"),
    ],
)
def test_whatever_goes_wrong_in_an_evaluator_fails_that_trial(monkeypatch, answer, reason):
    problem, evaluator = coupled(3)
    monkeypatch.setattr(evaluator, "evaluate", lambda assignment, seed: answer())
    trial = door(problem, evaluator).evaluate(assignments(problem, 1)[0])
    assert trial.state == "failed"
    assert reason in trial.reason


def test_the_reason_of_a_failure_is_one_line(monkeypatch, caplog):
    problem, evaluator = separable(2, budget=None)

    def fails(*_, **__):
        raise RuntimeError("no luck:\n  at all\r\n")

    monkeypatch.setattr(evaluator, "evaluate", fails)
    trial = door(problem, evaluator).evaluate(problem.space.decode(problem.space.lowest))
    assert trial.reason == "RuntimeError: no luck: at all"
    assert caplog.messages == ["trial 0 failed: RuntimeError: no luck: at all"]


def test_an_interrupt_is_not_a_failed_trial(monkeypatch):
    problem, evaluator = coupled(3)

    def interrupted(assignment, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluator, "evaluate", interrupted)
    oracle = door(problem, evaluator)
    with pytest.raises(KeyboardInterrupt):
        oracle.evaluate(assignments(problem, 1)[0])
    assert list(oracle.record.trials()) == []


def test_too_many_failures_end_the_campaign_with_all_of_them_recorded():
    problem, evaluator = coupled(3)
    evaluator.fails_at = frozenset(range(100))
    oracle = door(problem, evaluator, max_failures=3)
    with pytest.raises(EvaluationError, match="3 evaluations failed, the limit"):
        oracle.evaluate_many(assignments(problem, 5))
    assert [trial.state for trial in oracle.record.trials()] == ["failed"] * 3


def test_a_campaign_that_failed_too_often_can_be_resumed():
    problem, evaluator = coupled(3)
    evaluator.fails_at = frozenset(range(3))
    record = MemoryRecord()
    items = assignments(problem, 5)
    with pytest.raises(EvaluationError):
        door(problem, evaluator, max_failures=3, record=record).evaluate_many(items)
    mended = door(problem, evaluator, max_failures=3, record=record)
    states = [trial.state for trial in mended.evaluate_many(items)]
    assert states == ["failed"] * 3 + ["complete"] * 2
    assert mended.spent == 5


def test_replayed_trials_count_as_spent_and_call_no_evaluator():
    problem, evaluator = separable(3)
    record = MemoryRecord()
    items = [problem.space.uniform(8), *assignments(problem, 3)]
    whole = door(problem, evaluator, record=record).evaluate_many(items)
    seen: list[int] = []
    again = door(problem, evaluator, record=record, on_trial=lambda trial: seen.append(trial.number))
    assert (again.spent, again.trials) == (0, [])
    assert again.evaluate_many(items) == whole
    assert (evaluator.calls, again.spent, again.remaining) == (3, 3, 7)
    assert seen == [0, 1, 2, 3]
    assert len(record.trials()) == 4
    assert again.evaluate(assignments(problem, 4)[3]).number == 4


def test_the_evaluator_gets_the_campaigns_seed(monkeypatch):
    problem, evaluator = coupled(3)
    quality = evaluator.evaluate(assignments(problem, 1)[0])
    seeds = []
    monkeypatch.setattr(evaluator, "evaluate", lambda assignment, seed: seeds.append(seed) or quality)
    door(problem, evaluator, seed=17).evaluate(assignments(problem, 1)[0])
    assert seeds == [17]


def test_a_budget_of_minutes_follows_the_clock(monkeypatch):
    clock = Clock(monkeypatch)
    problem, evaluator = coupled(3)
    evaluate = evaluator.evaluate

    def slow(assignment, seed):
        clock.now += 10.0
        return evaluate(assignment, seed=seed)

    monkeypatch.setattr(evaluator, "evaluate", slow)
    oracle = door(problem, evaluator, budget=Budget(minutes=1.0))
    assert oracle.remaining > 0
    items = assignments(problem, 10)
    left = []
    for item in items[:5]:
        oracle.evaluate(item)
        left.append(oracle.remaining)
    assert left == [5, 4, 3, 2, 1]
    oracle.evaluate(items[5])
    assert (oracle.remaining, oracle.elapsed) == (0, 60.0)
    with pytest.raises(BudgetExhausted):
        oracle.evaluate(items[6])


def test_the_searchers_thinking_counts_as_time(monkeypatch):
    clock = Clock(monkeypatch)
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator, budget=Budget(minutes=1.0))
    clock.now += 25.0
    assert oracle.evaluate(assignments(problem, 1)[0]).seconds == 25.0
    clock.now += 30.0
    assert oracle.elapsed == 55.0
    clock.now += 5.0
    assert oracle.remaining == 0


def test_recorded_time_counts_after_a_resume_and_the_replay_itself_does_not(monkeypatch):
    clock = Clock(monkeypatch)
    problem, evaluator = coupled(3)
    record = MemoryRecord()
    first = door(problem, evaluator, budget=Budget(minutes=1.0), record=record)
    for item in assignments(problem, 2):
        clock.now += 20.0
        first.evaluate(item)
    clock.now += 10_000.0
    second = door(problem, evaluator, budget=Budget(minutes=1.0), record=record)
    for item in assignments(problem, 2):
        clock.now += 3.0
        second.evaluate(item)
    assert second.elapsed == 40.0


def test_whichever_budget_ends_first(monkeypatch):
    clock = Clock(monkeypatch)
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator, budget=Budget(evaluations=3, minutes=1.0))
    assert oracle.remaining == 3
    clock.now += 61.0
    assert oracle.remaining == 0


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"evaluations": 0},
        {"minutes": -1.0},
        {"evaluations": 5, "minutes": 0.0},
        {"minutes": float("inf")},
        {"evaluations": 5, "minutes": float("nan")},
    ],
)
def test_a_budget_must_be_above_zero_and_finite(given):
    with pytest.raises(ConfigError, match="above 0"):
        Budget(**given)


def test_sensitivities_are_computed_once_per_name_and_options():
    problem, evaluator = coupled(3)
    oracle = door(problem, evaluator)
    first = oracle.sensitivity("one-at-a-time")
    probes = 1 + sum(len(variable.choices) for variable in problem.space.variables)
    assert oracle.sensitivity("one-at-a-time", {}) is first
    assert oracle.sensitivity_samples == first.samples == 1000 * probes
    assert oracle.sensitivity("one-at-a-time", {"measure": "kl"}) is not first
    assert oracle.sensitivity_samples == 2 * first.samples
    assert oracle.sensitivity_seconds > 0
    assert (evaluator.calls, oracle.spent) == (0, 0)
    row = first.damage["layer1.weight"][0]
    np.testing.assert_allclose(row, evaluator.curvature[1] * 4.0 ** -np.asarray([2, 4, 6, 8.0]), rtol=1e-6)


def test_a_copy_in_another_process_is_refused(monkeypatch):
    problem, evaluator = separable(3)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=3))
    oracle.evaluate(problem.space.decode(problem.space.lowest))
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(UserError, match="in the process that made it"):
        oracle.evaluate(problem.space.decode(problem.space.lowest))
