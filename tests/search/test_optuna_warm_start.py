"""Optuna's samplers, warm-started from sensitivities."""

from __future__ import annotations

import contextlib

import pytest
from blind_evaluator import Blind

from qsearch.errors import BudgetExhausted, ConfigError, PluginError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.search.damage import predicted_damage
from qsearch.search.lattice import predicted_best
from qsearch.search.optuna import SAMPLERS, OptunaSampler
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.testing.problems import ACCURACY_AND_SIZE, coupled
from qsearch.testing.searcher import SearcherContract

WARM = {"warm_start": "one-at-a-time", "warm_starts": 5}


class TestWarmTpe(SearcherContract):
    def searcher(self):
        return OptunaSampler(OptunaSampler.Options(**WARM))


class TestWarmCmaes(SearcherContract):
    def searcher(self):
        return OptunaSampler(OptunaSampler.Options(sampler="cmaes", **WARM))


def run(problem, evaluator, record=None, evaluations=12, **options):
    oracle = CampaignOracle(problem, evaluator, record or MemoryRecord(), Budget(evaluations=evaluations), seed=1)
    with contextlib.suppress(BudgetExhausted):
        OptunaSampler(OptunaSampler.Options(**options)).search(oracle)
    return oracle


def expected(problem, evaluator, count):
    table = OneAtATime(OneAtATime.Options()).table(problem.space, evaluator)
    best = predicted_best(problem, predicted_damage(problem.space, table), count)
    return [problem.space.decode(x) for x in best]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_trials_are_the_predicted_best(sampler):
    problem, evaluator = coupled(5, budget=0.5)
    first = expected(problem, evaluator, 5)
    oracle = run(problem, evaluator, sampler=sampler, **WARM)
    assert [trial.assignment for trial in oracle.trials[:5]] == first
    assert all(trial.state == "complete" for trial in oracle.trials[:5])
    assert oracle.spent == 12


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"cmaes"}))
def test_for_a_front_they_are_spread_over_the_path(sampler):
    problem, evaluator = coupled(5, budget=None, objectives=ACCURACY_AND_SIZE)
    oracle = run(problem, evaluator, sampler=sampler, **WARM)
    assert [trial.assignment for trial in oracle.trials[:5]] == expected(problem, evaluator, 5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("killed_after", [2, 7])
def test_a_resumed_search_is_a_replay(sampler, killed_after):
    whole = run(*coupled(5, budget=0.5), sampler=sampler, **WARM).trials
    record = MemoryRecord()
    for trial in whole[:killed_after]:
        record.append(trial)
    problem, evaluator = coupled(5, budget=0.5)
    assert run(problem, evaluator, record, sampler=sampler, **WARM).trials == whole


def test_the_options_of_the_sensitivity_reach_it():
    problem, evaluator = coupled(4)
    oracle = run(problem, evaluator, **WARM, warm_start_options={"measure": "loss"})
    assert [key for key in oracle.tables if '"loss"' in key]


def test_options_without_a_sensitivity_are_refused():
    with pytest.raises(ConfigError, match="which warm_start must name; got warm_start: True"):
        OptunaSampler(OptunaSampler.Options(warm_start=True, warm_start_options={"measure": "loss"}))


def test_an_unknown_sensitivity_is_refused_before_anything_is_spent():
    problem, evaluator = coupled(4)
    with pytest.raises(PluginError, match="did you mean 'one-at-a-time'"):
        run(problem, evaluator, warm_start="one-at-time")
    assert evaluator.calls == 0


def test_an_evaluator_that_cannot_be_asked_is_told_of_in_one_line():
    problem, evaluator = coupled(4)
    with pytest.raises(PluginError, match="needs an evaluator that answers on calibration data"):
        run(problem, Blind(evaluator), **WARM)
