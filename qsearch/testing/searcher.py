"""``SearcherContract``: what every searcher must keep to. Subclass it in a pytest module::

    class TestMySearcher(SearcherContract):
        def searcher(self) -> Searcher:
            return MySearcher()

It runs the searcher on small problems with a closed-form quality; a few seconds in all for a searcher that does not
think long. A searcher may refuse a problem with a :class:`qsearch.errors.UserError`, before it spends anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from qsearch.assignment import BitAssignment
from qsearch.errors import BudgetExhausted, EvaluationError, UserError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Problem
from qsearch.protocols import Evaluator, Searcher
from qsearch.pruning import Pruner
from qsearch.space import SearchSpace
from qsearch.testing.learning import EndsAt, learning
from qsearch.testing.problems import ACCURACY_AND_SIZE, QuadraticEvaluator, coupled, separable
from qsearch.trial import Trial


class SearcherContract:
    """Tests that any searcher must pass."""

    evaluations = 14
    """Budget of the tests; more than a searcher's random start-up, if it has one."""

    def searcher(self) -> Searcher:
        """A fresh searcher."""
        raise NotImplementedError("a contract's subclass returns its searcher here")

    def run(
        self,
        problem: Problem,
        evaluator: Evaluator,
        *,
        seed: int = 0,
        record: MemoryRecord | None = None,
        evaluations: int | None = None,
        pruner: Pruner | None = None,
    ) -> CampaignOracle:
        """Run a fresh searcher on a problem as a campaign does; the oracle afterwards."""
        budget = Budget(evaluations=evaluations or self.evaluations)
        oracle = CampaignOracle(problem, evaluator, record or MemoryRecord(), budget, seed=seed, pruner=pruner)
        try:
            self.searcher().search(oracle)
        except BudgetExhausted:
            pass
        except UserError:
            assert oracle.trials == [], "a searcher that refuses a problem does so before it spends anything"
            pytest.skip("this searcher refuses the problem")
        return oracle

    def test_spends_some_and_no_more_than_the_budget(self) -> None:
        problem, evaluator = coupled(5)
        oracle = self.run(problem, evaluator)
        assert 1 <= evaluator.calls <= self.evaluations
        assert oracle.spent == evaluator.calls

    def test_trials_lie_in_the_space_and_have_no_nan(self) -> None:
        problem, evaluator = coupled(5)
        trials = self.run(problem, evaluator).trials
        assert all(trial.assignment in problem.space for trial in trials)
        assert all(np.isfinite(problem.minimised(trial)).all() for trial in trials if trial.state == "complete")

    def test_evaluates_nothing_twice(self) -> None:
        problem, evaluator = coupled(5)
        trials = self.run(problem, evaluator).trials
        assert len({trial.assignment for trial in trials}) == len(trials)

    def test_the_same_seed_gives_the_same_trials(self) -> None:
        first, second = (self.run(*coupled(5), seed=3) for _ in range(2))
        assert first.trials == second.trials

    def test_other_seeds_change_a_stochastic_searcher_only(self) -> None:
        runs = [_assignments(self.run(*coupled(5), seed=seed).trials) for seed in range(3)]
        assert (len(set(runs)) > 1) == self.searcher().stochastic

    @pytest.mark.parametrize("killed_after", [0, 1, 5, 9])
    def test_a_killed_search_ends_like_one_never_killed(self, killed_after: int) -> None:
        problem, evaluator = coupled(5)
        whole = self.run(problem, evaluator, seed=1).trials
        record = MemoryRecord()
        for trial in whole[:killed_after]:
            record.append(trial)
        again, fresh = coupled(5)
        resumed = self.run(again, fresh, seed=1, record=record)
        assert resumed.trials == whole
        assert list(record.trials()) == whole
        assert fresh.calls == evaluator.calls - sum(trial.evaluated for trial in whole[:killed_after])

    def test_a_complete_record_is_replayed_without_an_evaluation(self) -> None:
        record = MemoryRecord()
        whole = self.run(*coupled(5), seed=2, record=record).trials
        problem, evaluator = coupled(5)
        assert self.run(problem, evaluator, seed=2, record=record).trials == whole
        assert evaluator.calls == 0

    def test_a_space_of_one_assignment(self) -> None:
        problem, evaluator = separable(2, choices=[4], budget=None)
        assert [trial.assignment for trial in self.run(problem, evaluator).trials] == [problem.space.decode([0, 0])]

    def test_nothing_but_fixed_sites(self) -> None:
        problem, _ = separable(1, budget=None)
        fixed = {site.name: 4 for site in problem.space.sites}
        space = SearchSpace(problem.space.sites, fixed=fixed)
        cost = type(problem.cost)(problem.cost.model, problem.layers, space)
        oracle = self.run(
            Problem(space, cost, problem.objectives), QuadraticEvaluator(space, np.zeros(0)), evaluations=3
        )
        assert len(oracle.trials) == 1

    def test_a_single_site_is_not_searched_for_ever(self) -> None:
        problem, evaluator = separable(1, choices=[2, 3, 4], budget=None)
        assert 1 <= len(self.run(problem, evaluator).trials) <= 3

    def test_a_budget_that_one_assignment_meets(self) -> None:
        problem, evaluator = separable(3, choices=[2, 4, 8], budget=0.25)
        oracle = self.run(problem, evaluator, evaluations=4)
        feasible = [trial.assignment for trial in oracle.trials if trial.feasible]
        assert feasible in ([], [problem.space.decode(problem.space.lowest)])
        assert evaluator.calls == len(feasible)

    def test_failed_evaluations_do_not_end_the_search(self) -> None:
        problem, evaluator = coupled(5)
        evaluator.fails_at = frozenset({0, 2})
        trials = self.run(problem, evaluator).trials
        states = [trial.state for trial in trials if trial.evaluated]
        assert states[0] == "failed"
        assert len(states) == 1 or "complete" in states

    @pytest.mark.parametrize("killed_after", [0, 1, 6])
    def test_pruned_evaluations_are_spent_in_part_and_never_the_best(self, killed_after: int) -> None:
        problem, evaluator = coupled(5)
        pruner = EndsAt(frozenset({0, 2}))
        whole = self.run(problem, learning(evaluator), pruner=pruner)
        states = [trial.state for trial in whole.trials if trial.evaluated]
        assert states[0] == "pruned"
        assert len(states) == 1 or "complete" in states
        best = problem.best(whole.trials)
        assert best is None or best.state == "complete"
        assert whole.spent < self.evaluations + 1
        record = MemoryRecord()
        for trial in whole.trials[:killed_after]:
            record.append(trial)
        assert self.run(problem, learning(evaluator), record=record, pruner=pruner).trials == whole.trials

    def test_too_many_failures_are_told(self) -> None:
        problem, evaluator = coupled(5)
        evaluator.fails_at = frozenset(range(100))
        oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=20), max_failures=2)
        with pytest.raises(EvaluationError, match="2 evaluations failed"):
            self.searcher().search(oracle)

    def test_several_objectives(self) -> None:
        problem, evaluator = coupled(5, objectives=ACCURACY_AND_SIZE, budget=0.8)
        oracle = self.run(problem, evaluator)
        assert problem.front(oracle.trials)

    def test_a_bound_on_quality(self) -> None:
        problem, evaluator = coupled(5, budget=0.8)
        bound = Bound("accuracy", 0.5, True, "accuracy >= 0.5")
        oracle = self.run(Problem(problem.space, problem.cost, problem.objectives, (*problem.bounds, bound)), evaluator)
        assert oracle.trials


def _assignments(trials: Sequence[Trial]) -> tuple[BitAssignment, ...]:
    return tuple(trial.assignment for trial in trials)
