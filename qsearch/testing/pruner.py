"""``PrunerContract``: what every pruner must keep to. Subclass it in a pytest module::

    class TestMyPruner(PrunerContract):
        def pruner(self) -> Pruner:
            return MyPruner()

It watches evaluations whose curves are known in closed form; a fraction of a second in all.
"""

from __future__ import annotations

import numpy as np
import pytest

from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.pruning import Pruner
from qsearch.testing.learning import LearningEvaluator, learning
from qsearch.testing.problems import coupled
from qsearch.trial import Trial


class PrunerContract:
    """Tests that any pruner must pass."""

    evaluations = 40
    """Assignments that are evaluated, or begun."""

    def pruner(self) -> Pruner:
        """A fresh pruner."""
        raise NotImplementedError("a contract's subclass returns its pruner here")

    def run(self, record: MemoryRecord | None = None) -> tuple[CampaignOracle, LearningEvaluator]:
        """Evaluate random assignments under a fresh pruner; the oracle and the evaluator afterwards."""
        problem, quadratic = coupled(5, budget=None)
        evaluator = learning(quadratic)
        budget, pruner = Budget(evaluations=self.evaluations), self.pruner()
        watching = pruner if getattr(pruner, "active", True) else None
        oracle = CampaignOracle(problem, evaluator, record or MemoryRecord(), budget, pruner=watching)
        rng = np.random.default_rng(0)
        for x in problem.space.sample(rng, self.evaluations):
            oracle.evaluate(problem.space.decode(x))
        return oracle, evaluator

    def test_it_ends_some_if_it_is_active_and_says_why(self) -> None:
        oracle, _ = self.run()
        pruned = [trial for trial in oracle.trials if trial.state == "pruned"]
        assert bool(pruned) == getattr(self.pruner(), "active", True)
        assert all(trial.reason.startswith("pruned after ") for trial in pruned)

    def test_what_it_ends_is_not_spent(self) -> None:
        oracle, evaluator = self.run()
        if getattr(self.pruner(), "active", True):
            assert oracle.spent == pytest.approx(evaluator.spent)
        else:
            assert oracle.spent == len(oracle.trials)

    def test_the_best_of_all_runs_to_its_end(self) -> None:
        """Curves do not cross here, so the best at the end is the best at every report."""
        oracle, evaluator = self.run()
        at_the_end = [evaluator.evaluate(trial.assignment).metric for trial in oracle.trials]
        assert oracle.trials[int(np.argmax(at_the_end))].state == "complete"

    @pytest.mark.parametrize("killed_after", [0, 1, 7, 25])
    def test_a_killed_search_ends_like_one_never_killed(self, killed_after: int) -> None:
        """A pruner that has seen the trials only in the record decides as the one that watched them."""
        whole = self.run()[0].trials
        record = MemoryRecord()
        for trial in whole[:killed_after]:
            record.append(trial)
        assert self.run(record)[0].trials == whole

    def test_the_same_question_has_the_same_answer(self) -> None:
        """Asked twice of one pruner, and of a fresh one; those that were ended are ended again."""
        trials, problem = self.run()[0].trials, coupled(5, budget=None)[0]
        pruned = [trial for trial in trials if trial.state == "pruned"]
        for trial in pruned:
            earlier, asked = trials[: trial.number], self.pruner()
            verdicts = [pruner.verdict(trial, earlier, problem) for pruner in (asked, asked, self.pruner())]
            assert verdicts == [verdicts[0]] * 3
            assert trial.reason.endswith(verdicts[0])
            assert verdicts[0]

    def test_it_does_not_change_what_it_is_shown(self) -> None:
        trials = self.run()[0].trials
        kept = list(trials)
        shown = next(trial for trial in trials if trial.quality is not None)
        reports = shown.reports or ((0.5, 0.5),)
        again = Trial(len(trials), shown.assignment, "pruned", shown.cost, shown.quality, reports=reports[:1])
        verdicts = [self.pruner().verdict(again, trials, coupled(5, budget=None)[0]) for _ in range(2)]
        assert verdicts[0] == verdicts[1]
        assert trials == kept
