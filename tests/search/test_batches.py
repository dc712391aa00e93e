"""Searchers that ask for several assignments at once: what they ask does not depend on who answers, nor when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, ConfigError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.protocols import Batching, Evaluator
from qsearch.search.draws import distinct_within_budget
from qsearch.testing.problems import separable
from qsearch.trial import Quality, Trial


class Counting(Batching):
    """Answers batches in order, and notes their sizes."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.sizes: list[int] = []

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Quality | Exception]:
        self.sizes.append(len(assignments))
        for assignment in assignments:
            yield self.evaluator.evaluate(assignment, seed=seed)


def search(
    name: str, options: dict[str, Any], evaluations: int = 50, *, shared: bool = False
) -> tuple[list[Trial], list[int]]:
    """Trials of a search, and the sizes of the batches that workers were asked for."""
    problem, evaluator = separable(6, budget=0.5)
    workers = Counting(evaluator)
    batching = workers if shared else None
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations), seed=4, batching=batching)
    with suppress(BudgetExhausted):
        registry.create("searchers", name, options).search(oracle)
    return oracle.trials, workers.sizes


def test_random_draws_are_the_same_for_any_batch_and_any_workers() -> None:
    problem, _ = separable(6, budget=0.5)
    drawn = distinct_within_budget(problem, np.random.default_rng(4))
    expected = [problem.space.decode(x) for x, _ in zip(drawn, range(50), strict=False)]
    for batch in (1, 7, 64, 1000):
        for shared in (False, True):
            trials, sizes = search("random", {"batch": batch}, shared=shared)
            assert [trial.assignment for trial in trials] == expected
            if shared and batch > 1:
                assert sum(sizes) == 50  # one alone too
                assert max(sizes) == min(batch, 50)


def test_uniform_asks_for_all_at_once() -> None:
    alone, _ = search("uniform", {})
    shared, sizes = search("uniform", {}, shared=True)
    assert shared == alone
    assert sizes == [sum(trial.evaluated for trial in alone)]
    cut, _ = search("uniform", {}, evaluations=1)
    assert sum(trial.evaluated for trial in cut) == 1
    assert cut == alone[: len(cut)]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "cmaes", "random"])
def test_optuna_proposes_the_same_batches_whoever_answers(sampler: str) -> None:
    options = {"sampler": sampler, "batch": 8, "warm_start": True}
    alone, _ = search("optuna", options)
    shared, sizes = search("optuna", options, shared=True)
    assert shared == alone
    assert sum(trial.evaluated for trial in alone) == 50
    assert max(sizes) >= 4


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
@pytest.mark.parametrize("first", [20, 37])
def test_optuna_resumed_with_a_larger_budget_goes_the_way_of_one_that_had_it_at_once(sampler: str, first: int) -> None:
    problem, evaluator = separable(6, budget=0.5)

    def ledger(record: MemoryRecord, *budgets: int) -> Sequence[Trial]:
        for evaluations in budgets:
            oracle = CampaignOracle(problem, evaluator, record, Budget(evaluations), seed=4)
            with suppress(BudgetExhausted):
                registry.create("searchers", "optuna", {"sampler": sampler, "batch": 16}).search(oracle)
            assert oracle.spent == evaluations
        return record.trials()

    straight, resumed = ledger(MemoryRecord(), 2 * first), ledger(MemoryRecord(), first, 2 * first)
    assert [trial.assignment for trial in resumed] == [trial.assignment for trial in straight]


def test_a_batch_of_one_is_what_optuna_did_before_there_were_batches() -> None:
    """One by one: each proposal knows all answers before it, so a batch of two goes another way."""
    one, other = (search("optuna", {"batch": batch})[0] for batch in (1, 2))
    default, _ = search("optuna", {})
    assert default == one
    assert [trial.assignment for trial in other] != [trial.assignment for trial in one]


def test_a_batch_has_at_least_one() -> None:
    for name in ("random", "optuna"):
        with pytest.raises(ConfigError, match="batch in options"):
            registry.create("searchers", name, {"batch": 0})


def test_ppo_asks_for_as_many_as_it_has_environments() -> None:
    _, sizes = search("ppo", {"environments": 5}, evaluations=20, shared=True)
    assert max(sizes) == 5
