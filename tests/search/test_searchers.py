"""The contract, on every built-in searcher; what each promises beyond it."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, ConfigError, EvaluationError, PluginError, UserError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, Searcher
from qsearch.search.draws import NUMBERED, REPEATS, distinct_within_budget, draws
from qsearch.search.optuna import OptunaSampler, decision_names
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site
from qsearch.testing.problems import (
    ACCURACY_AND_SIZE,
    QuadraticEvaluator,
    SizeAndBops,
    coupled,
    exhaust,
    linear_layers,
    separable,
)
from qsearch.testing.searcher import SearcherContract


class TestUniform(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "uniform")


class TestRandom(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "random")


class TestIntegerProgram(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "ilp")


class TestQuadraticProgram(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "iqp")


class TestHawq(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "hawq", {"sensitivity": "one-at-a-time"})


class TestGreedy(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "greedy")


class TestAuto(SearcherContract):
    evaluations = 10

    def searcher(self) -> Searcher:
        return registry.create("searchers", "auto")

    def test_other_seeds_change_a_stochastic_searcher_only(self) -> None:
        """In the contract's small space sensitivities a little different have the same optimum; not in this one."""
        runs = [self.run(*coupled(8, choices=range(2, 9)), seed=seed).trials for seed in range(2)]
        assert [trial.assignment for trial in runs[0]] != [trial.assignment for trial in runs[1]]


@pytest.mark.slow  # the quick run has the same in test_gp.py
class TestGaussianProcess(SearcherContract):
    def searcher(self) -> Searcher:
        return registry.create("searchers", "gp")


class TestBisection(SearcherContract):
    """On the contract's problems turned into what it takes: the least size at an accuracy to keep."""

    def searcher(self) -> Searcher:
        return registry.create("searchers", "bisection", {"sensitivity": "one-at-a-time"})

    def run(self, problem: Problem, evaluator: Evaluator, **settings: Any) -> CampaignOracle:
        return super().run(at_an_accuracy(problem), evaluator, **settings)

    def test_too_many_failures_are_told(self) -> None:
        problem, evaluator = coupled(5)
        evaluator.fails_at = frozenset(range(100))
        budget = Budget(evaluations=20)
        oracle = CampaignOracle(at_an_accuracy(problem), evaluator, MemoryRecord(), budget, max_failures=2)
        with pytest.raises(EvaluationError, match="2 evaluations failed"):
            self.searcher().search(oracle)


def at_an_accuracy(problem: Problem) -> Problem:
    """The least size at an accuracy of at least 0.7."""
    keep = Bound("accuracy", 0.7, True, "accuracy >= 0.7")
    return replace(problem, objectives=(Objective("size", "minimize"),), bounds=(*problem.cost_bounds, keep))


class OptunaContract(SearcherContract):
    sampler = "tpe"

    def searcher(self) -> Searcher:
        return registry.create("searchers", "optuna", {"sampler": self.sampler})


class TestTpe(OptunaContract):
    sampler = "tpe"


class TestNsga2(OptunaContract):
    sampler = "nsga2"


class TestNsga3(OptunaContract):
    sampler = "nsga3"


class TestGp(OptunaContract):
    sampler = "gp"
    evaluations = 12


class TestCmaes(OptunaContract):
    sampler = "cmaes"


class TestQmc(OptunaContract):
    sampler = "qmc"


class TestOptunaRandom(OptunaContract):
    sampler = "random"


def run(searcher: Searcher, problem: Problem, evaluator: QuadraticEvaluator, evaluations: int, seed: int = 0):
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=evaluations), seed=seed)
    with contextlib.suppress(BudgetExhausted):
        searcher.search(oracle)
    return oracle


INSTALLED = ["auto", "bisection", "gp", "greedy", "hawq", "ilp", "iqp", "optuna", "random", "uniform", "water-filling"]


def test_every_searcher_of_this_room_is_installed():
    assert set(INSTALLED) <= set(registry.names("searchers"))


@pytest.mark.parametrize("name", INSTALLED)
def test_an_option_that_is_misspelt_is_answered_by_its_name(name):
    with pytest.raises(ConfigError, match=r"unknown option .sensitivityy.|takes no options") as caught:
        registry.create("searchers", name, {"sensitivityy": "fisher"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["auto", "bisection", "gp", "greedy", "hawq", "ilp", "iqp", "water-filling"])
def test_a_sensitivity_that_is_unknown_is_refused_before_the_search(name):
    problem = coupled(3)[0]
    with pytest.raises(PluginError, match="unknown sensitivity 'fishr'; did you mean 'fisher'"):
        registry.create("searchers", name, {"sensitivity": "fishr"}).check(at_an_accuracy(problem))


@pytest.mark.parametrize("name", ["bisection", "gp", "greedy", "hawq", "ilp", "iqp", "water-filling"])
@pytest.mark.parametrize("sensitivity", ["fisher", "hessian", "noise", "quantization-error"])
def test_a_sensitivity_that_the_evaluator_cannot_give_is_one_line_before_anything_is_spent(name, sensitivity):
    problem, evaluator = coupled(3)
    searcher = registry.create("searchers", name, {"sensitivity": sensitivity})
    oracle = CampaignOracle(at_an_accuracy(problem), evaluator, MemoryRecord(), Budget(evaluations=5))
    with pytest.raises(UserError, match="QuadraticEvaluator without a method float_network") as caught:
        searcher.search(oracle)
    assert "\n" not in str(caught.value)
    assert evaluator.calls == 0


def test_uniform_goes_through_the_union_of_the_choices_highest_first():
    sites = (Site("a.weight", "a", "weight", (2, 4)), Site("a.input", "a", "activation", (4, 8)))
    layers = (linear_layers([4])[0],)
    layer = type(layers[0])("a", "linear", 8, 4)
    space = SearchSpace(sites)
    problem = Problem(space, NetworkCost(SizeAndBops(), (layer,), space), coupled(1)[0].objectives)
    trials = run(registry.create("searchers", "uniform"), problem, QuadraticEvaluator(space, np.ones(2)), 9).trials
    assert [tuple(trial.assignment.values()) for trial in trials] == [(4, 8), (4, 4), (2, 4)]


def test_uniform_records_what_is_over_budget_at_no_cost():
    problem, evaluator = separable(3, budget=0.5)  # 8 and 6 bits are over half of 8 bits
    trials = run(registry.create("searchers", "uniform"), problem, evaluator, 9).trials
    assert [trial.state for trial in trials] == ["infeasible", "infeasible", "complete", "complete"]
    assert evaluator.calls == 2


def test_draws_number_small_spaces_and_sample_large_ones():
    small, large = coupled(5)[0].space, coupled(11)[0].space
    assert small.size <= NUMBERED < large.size
    found = [tuple(x.tolist()) for x in draws(small, np.random.default_rng(0))]
    assert sorted(found) == list(np.ndindex(*small.choice_counts.tolist()))
    stream = draws(large, np.random.default_rng(0))
    sampled = np.stack([next(stream) for _ in range(2000)])
    counts = Counter(sampled.ravel().tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert max(counts.values()) / min(counts.values()) < 1.1


def test_random_is_exhaustive_within_the_budget():
    problem, evaluator = coupled(5, budget=0.5)
    known = exhaust(problem, evaluator)
    trials = run(registry.create("searchers", "random"), problem, evaluator, 5000).trials
    assert len(trials) == known.feasible.sum()
    assert all(trial.feasible for trial in trials)


def test_random_ends_in_a_large_space_when_all_draws_are_known():
    problem, _ = separable(11, budget=0.25)  # only the lowest assignment is within it
    assert problem.space.size > NUMBERED
    calls = []
    counted = problem.space.sample
    object.__setattr__(problem.space, "sample", lambda rng, count: calls.append(count) or counted(rng, count))
    assert len(list(distinct_within_budget(problem, np.random.default_rng(0)))) == 1
    assert len(calls) == REPEATS + 1


def test_random_never_wastes_a_proposal_on_the_bounds():
    problem, evaluator = coupled(5, budget=0.5)
    trials = run(registry.create("searchers", "random"), problem, evaluator, 20).trials
    assert [trial.state for trial in trials] == ["complete"] * 20


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "cmaes", "qmc"])
def test_optuna_spends_the_whole_budget_of_a_small_space(sampler):
    problem, evaluator = coupled(4, budget=0.6)
    known = exhaust(problem, evaluator)
    oracle = run(registry.create("searchers", "optuna", {"sampler": sampler}), problem, evaluator, 10_000)
    best = problem.best(oracle.trials)
    assert sum(trial.feasible for trial in oracle.trials) == known.feasible.sum()
    assert best is not None
    assert best.quality is not None
    assert best.quality.loss == pytest.approx(known.best_loss)


def test_tpe_learns_where_the_bound_is():
    problem, evaluator = coupled(20, choices=range(2, 9), budget=0.4)
    states = [trial.state for trial in run(OptunaSampler(), problem, evaluator, 60).trials]
    late, early = states[-40:], states[:20]
    assert np.mean([state == "complete" for state in late]) > 0.5
    assert np.mean([state == "complete" for state in late]) > np.mean([state == "complete" for state in early])


def test_cmaes_ranks_what_is_infeasible_below_everything_and_by_violation(monkeypatch):
    told = told_values(monkeypatch, "cmaes", coupled(5, budget=0.45))
    feasible = [value for trial, value in told if trial.feasible]
    others = sorted(
        (sum(max(v, 0) for v in trial.violations.values()), -value[0]) for trial, value in told if not trial.feasible
    )
    assert feasible
    assert others
    assert min(feasible)[0] > -1e299 > max(-value for _, value in others)
    assert [value for _, value in others] == sorted(value for _, value in others)


def test_infeasible_trials_are_told_with_their_true_violation_and_the_median_quality(monkeypatch):
    told = told_values(monkeypatch, "tpe", coupled(5, budget=0.45, objectives=ACCURACY_AND_SIZE))
    known: list[float] = []
    infeasible = 0
    for trial, (accuracy, size) in told:
        assert size == trial.cost.totals["size"]
        if trial.feasible:
            known.append(accuracy)
        elif known:
            infeasible += 1
            assert accuracy == pytest.approx(np.median(known))
    assert infeasible


def told_values(monkeypatch, sampler, case):
    """Trials with the values that Optuna was told for them."""
    from qsearch.search import optuna as module

    told = []
    original = module._Teller._values

    def spy(self, trial):
        values = original(self, trial)
        told.append((trial, values))
        return values

    monkeypatch.setattr(module._Teller, "_values", spy)
    run(OptunaSampler(OptunaSampler.Options(sampler=sampler)), *case, 20)
    return told


def test_constraints_reach_the_study_by_name(monkeypatch):
    problem, evaluator = coupled(5, budget=0.45)
    bound = Bound("accuracy", 0.9, True, "accuracy >= 0.9")
    problem = Problem(problem.space, problem.cost, problem.objectives, (*problem.bounds, bound))
    studies = []
    create = optuna.create_study
    monkeypatch.setattr(optuna, "create_study", lambda **kwargs: studies.append(create(**kwargs)) or studies[-1])
    oracle = run(OptunaSampler(), problem, evaluator, 10)
    by_assignment = {trial.assignment: trial for trial in oracle.trials}
    names = decision_names(problem.space)
    for told in studies[0].trials:
        trial = by_assignment[problem.space.decode([told.params[name] for name in names])]
        assert told.constraints == {"accuracy >= 0.9": 0.0, **trial.violations}
        assert told.state.name == "COMPLETE"


def test_warm_start_proposes_the_uniform_assignments_first():
    problem, evaluator = coupled(5, budget=None)
    trials = run(OptunaSampler(OptunaSampler.Options(warm_start=True)), problem, evaluator, 8).trials
    assert [trial.assignment for trial in trials[:4]] == [problem.space.uniform(b) for b in (8, 6, 4, 2)]


def test_kernels_are_parameters_of_their_own():
    layers = linear_layers([3, 2])
    space = build_space(layers, weight_bits=[2, 4], activation_bits=[8], granularity="kernel", fixed={"activations": 8})
    assert decision_names(space)[:3] == ["layer0.weight[0]", "layer0.weight[1]", "layer0.weight[2]"]
    problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), coupled(1)[0].objectives)
    oracle = run(OptunaSampler(), problem, QuadraticEvaluator(space, np.ones(2)), 40)
    assert oracle.spent == space.size == 32


def test_optuna_leaves_the_verbosity_as_it_was(capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        with quiet_optuna():
            assert optuna.logging.get_verbosity() == optuna.logging.ERROR
        run(OptunaSampler(), *coupled(4), 12)
        assert optuna.logging.get_verbosity() == optuna.logging.INFO
    finally:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampler": "tpee"}, "sampler"),
        ({"sampler": "nsga2", "sampler_options": {"populationsize": 8}}, "did you mean 'population_size'"),
        ({"sampler": "nsga2", "sampler_options": {"population_size": 1}}, "greater than or equal to 2"),
        ({"sampler_options": {"seed": 3}}, "unknown option 'seed'"),
        ({"sampler_options": {"n_startup_trials": 5}, "warmstart": True}, "did you mean 'warm_start'"),
    ],
)
def test_wrong_options_are_answered_when_the_searcher_is_made(options, match):
    with pytest.raises(ConfigError, match=match):
        registry.create("searchers", "optuna", options)


def test_sampler_options_reach_the_sampler():
    problem, evaluator = coupled(6, budget=None)
    late = {"sampler_options": {"n_startup_trials": 100}}
    patient = run(registry.create("searchers", "optuna", late), problem, evaluator, 40).trials
    eager = run(registry.create("searchers", "optuna"), problem, evaluator, 40).trials
    assert patient[:5] == eager[:5]
    assert patient != eager


def test_optuna_warns_of_a_space_in_which_it_is_slow(caplog):
    layers = linear_layers([1001, 1001])
    space = build_space(layers, weight_bits=[2, 4], activation_bits=[8], granularity="kernel")
    problem = Problem(space, NetworkCost(SizeAndBops(), layers, space), coupled(1)[0].objectives)
    searcher = OptunaSampler(OptunaSampler.Options(sampler="random"))
    run(searcher, problem, QuadraticEvaluator(space, np.ones(space.dimension)), 1)
    assert "beyond 2,000 decisions, got 2,004" in caplog.text
    assert "'random' or 'ilp', or granularity: layer" in caplog.text
    caplog.clear()
    run(OptunaSampler(), *coupled(4), 2)
    assert caplog.text == ""


def test_cmaes_refuses_several_objectives():
    with pytest.raises(ConfigError, match="takes one objective"):
        run(OptunaSampler(OptunaSampler.Options(sampler="cmaes")), *coupled(4, objectives=ACCURACY_AND_SIZE), 5)
    with pytest.raises(ConfigError, match="takes one objective"):
        OptunaSampler(OptunaSampler.Options(sampler="cmaes")).check(coupled(4, objectives=ACCURACY_AND_SIZE)[0])
    OptunaSampler().check(coupled(4, objectives=ACCURACY_AND_SIZE)[0])
