"""The one door, asked for several assignments at once: who is given which, and who is blamed for an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from qsearch import oracle as module
from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, CostModelError, Failure, SpaceError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.testing.problems import separable
from qsearch.trial import Quality

PROBLEM, _ = separable(4, budget=1.0)


class Team:
    """Answers together what ``given`` makes of the answers, and notes what it is asked for."""

    def __init__(self, given: Callable[[Iterator[Quality]], Any] = lambda answers: answers) -> None:
        self.given, self.asked = given, list[BitAssignment]()

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Any:
        self.asked += assignments
        return self.given(iter([separable(4)[1].evaluate(item, seed=seed) for item in assignments]))


class Nobody:
    """Must not be asked."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("the campaign's own process evaluates")


def some(count: int) -> list[BitAssignment]:
    return [assignment for assignment, _ in zip(PROBLEM.space.enumerate(), range(count), strict=False)]


def door(team: Team, budget: Budget, record: MemoryRecord | None = None) -> CampaignOracle:
    return CampaignOracle(PROBLEM, Nobody(), record or MemoryRecord(), budget, batching=team)


def broken(answers: Iterator[Quality]) -> Iterator[Quality]:
    yield next(answers)
    yield next(answers)
    raise RuntimeError("an illegal memory access")


def raising(answers: object) -> Iterable[Quality]:
    raise RuntimeError("an illegal memory access")


@pytest.mark.parametrize(("given", "count"), [(broken, 2), (raising, 0)])
def test_an_error_beside_the_answers_is_the_evaluators(given: Callable[[Any], Any], count: int) -> None:
    oracle = door(Team(given), Budget(10))
    with pytest.raises(Failure, match="evaluator 'Team' raised an error; got RuntimeError: an illegal memory access"):
        oracle.evaluate_many(some(4))
    assert len(oracle.record.trials()) == count


def test_answers_in_a_list_do_as_well() -> None:
    oracle = door(Team(list), Budget(10))
    assert [trial.state for trial in oracle.evaluate_many(some(4))] == ["complete"] * 4


def test_what_is_no_series_of_answers_is_the_evaluators_error() -> None:
    with pytest.raises(Failure, match="evaluator 'Team' raised an error; got TypeError"):
        door(Team(lambda answers: None), Budget(10)).evaluate_many(some(2))


def test_errors_of_qsearch_pass() -> None:
    def gone(answers: object) -> Iterable[Quality]:
        raise Failure("workers must be there")

    with pytest.raises(Failure, match=r"^workers must be there$"):
        door(Team(gone), Budget(10)).evaluate_many(some(2))


def test_what_comes_before_an_assignment_that_is_none_is_recorded() -> None:
    team = Team()
    oracle = door(team, Budget(10))
    good = some(3)
    strange = good[1].replace({next(iter(good[1])): 31})
    with pytest.raises(SpaceError):
        oracle.evaluate_many([*good[:2], strange, good[2]])
    assert [trial.assignment for trial in oracle.record.trials()] == good[:2] == team.asked


def test_what_comes_before_a_cost_that_is_none_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    good, estimate = some(3), type(PROBLEM.cost).estimate

    def raises(cost: Any, assignment: BitAssignment) -> Any:
        if assignment == good[2]:
            raise CostModelError("no cost")
        return estimate(cost, assignment)

    monkeypatch.setattr(type(PROBLEM.cost), "estimate", raises)
    oracle = door(Team(), Budget(10))
    with pytest.raises(CostModelError, match="no cost"):
        oracle.evaluate_many(good)
    assert len(oracle.record.trials()) == 2


def test_together_are_evaluated_as_many_as_the_budget_has() -> None:
    team, items = Team(), some(8)
    oracle = door(team, Budget(5))
    oracle.evaluate_many(items[:2])
    with pytest.raises(BudgetExhausted):
        oracle.evaluate_many(items[1:])
    assert team.asked == items[:5]


def test_what_is_replayed_within_a_batch_is_spent() -> None:
    """The middle of a batch is recorded already, as after a run in which fewer were asked for together."""
    record, items = MemoryRecord(), some(8)
    door(Team(), Budget(3), record).evaluate_many(items[2:5])
    team = Team()
    oracle = door(team, Budget(6), record)
    with suppress(BudgetExhausted):
        oracle.evaluate_many(items)
    assert team.asked == [*items[:2], items[5]]
    assert oracle.spent == 6


def test_under_a_budget_of_minutes_all_are_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search took before says nothing of how many fit: those left over would be evaluated by the campaign alone."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def one_a_second(answers: Iterator[Quality]) -> Iterator[Quality]:
        for answer in answers:
            now[0] += 1
            yield answer

    team = Team(one_a_second)
    oracle = door(team, Budget(minutes=5))
    now[0] += 200  # sensitivities
    assert len(oracle.evaluate_many(some(64))) == 64
    now[0] += 30
    team.asked.clear()
    with pytest.raises(BudgetExhausted):
        oracle.evaluate_many(list(PROBLEM.space.enumerate())[64:])
    assert len(oracle.trials) == 64 + 6
    now[0] += 60
    asked = len(team.asked)
    with pytest.raises(BudgetExhausted):
        oracle.evaluate_many([list(PROBLEM.space.enumerate())[-1]])
    assert len(team.asked) == asked
