"""What searchers make of trials whose evaluation was ended early; that they stand them at all is in the contract."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from qsearch import registry
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective
from qsearch.search.gp import Known
from qsearch.search.optuna import BEYOND, _Teller
from qsearch.search.paired import Target
from qsearch.testing.learning import EndsAt, learning
from qsearch.testing.problems import ACCURACY_AND_SIZE, coupled
from qsearch.trial import Trial

ALWAYS = frozenset(range(1000))


def oracle(ends: frozenset[int], **changes: Any) -> CampaignOracle:
    problem, quadratic = coupled(4, budget=None)
    problem = replace(problem, **changes)
    return CampaignOracle(problem, learning(quadratic), MemoryRecord(), Budget(evaluations=20), pruner=EndsAt(ends))


def told(sampler: Any, trial: Trial, **changes: Any) -> optuna.trial.FrozenTrial:
    """What a study is told of a trial."""
    problem = replace(coupled(4, budget=None)[0], **changes)
    study = optuna.create_study(directions=[objective.direction for objective in problem.objectives])
    _Teller(problem, study, sampler).tell(study.ask(), trial)
    return study.trials[0]


@pytest.fixture
def pruned() -> Trial:
    door = oracle(ALWAYS)
    return door.evaluate(door.problem.space.uniform(4))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "cmaes"])
def test_samplers_are_told_the_quality_that_it_had(pruned: Trial, sampler: str) -> None:
    found = told(sampler, pruned)
    assert (found.state, found.values) == (TrialState.COMPLETE, [pruned.value("accuracy")])


def test_so_are_samplers_of_several_objectives(pruned: Trial) -> None:
    found = told("nsga2", pruned, objectives=ACCURACY_AND_SIZE)
    assert found.values == [pruned.value("accuracy"), pruned.value("size")]


def test_a_broken_bound_is_told_as_for_any_trial(pruned: Trial) -> None:
    bound = Bound("accuracy", 0.99, True, "accuracy >= 0.99")
    door = oracle(ALWAYS, bounds=(bound,))
    trial = door.evaluate(door.problem.space.uniform(4))
    violation = trial.violations[bound.label]
    assert violation > 0
    assert told("tpe", trial, bounds=(bound,)).constraints == {bound.label: violation}
    assert told("cmaes", trial, bounds=(bound,)).values == [-BEYOND * (1 + violation)]


def test_bits_do_not_go_down_to_those_of_a_pruned_trial() -> None:
    """Though its quality was kept when it ended: it was found to be of no use."""
    bound = Bound("accuracy", 0.1, True, "accuracy >= 0.1")
    changes = {"objectives": (Objective("size", "minimize"),), "bounds": (bound,)}
    trials = [oracle(ends, **changes) for ends in (frozenset(), ALWAYS)]
    complete, ended = (door.evaluate(door.problem.space.uniform(4)) for door in trials)
    target = Target(trials[0].problem, 0.01)
    assert ended.violations[bound.label] < 0
    assert target.keeps(complete)
    assert not target.keeps(ended)


def test_the_gaussian_process_learns_from_it_and_looks_around_what_came_to_its_end() -> None:
    door = oracle(frozenset({1}))
    known, space = Known(door), door.problem.space
    x = np.asarray([space.encode(space.uniform(bits)) for bits in (2, 8, 4)])  # the best is pruned, but above the first
    known.evaluate(x)
    rows, trials = known.complete()
    assert [trial.state for trial in trials] == ["complete", "pruned", "complete"]
    assert len(rows) == 3
    assert trials[1].value("accuracy") > trials[0].value("accuracy")
    assert known.centres().tolist() == x[[2, 0, 1]].tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("random", {}),
        ("gp", {"initial": 4}),
        ("optuna", {"sampler": "tpe"}),
        ("greedy", {}),
        ("ilp", {}),
        ("water-filling", {"sensitivity": "one-at-a-time"}),
    ],
)
def test_a_search_of_which_all_is_pruned_comes_to_an_end(name: str, options: dict[str, Any]) -> None:
    door = oracle(ALWAYS)
    door.budget = Budget(evaluations=2)
    registry.create("searchers", name, options).search(door)
    assert {trial.state for trial in door.trials} == {"pruned"}
    assert door.spent <= 3
    assert door.problem.best(door.trials) is None
