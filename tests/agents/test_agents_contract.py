"""The contract of searchers, on every agent, layer by layer and kernel by kernel."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import AGENTS, agent, run

from qsearch.testing.problems import kernels
from qsearch.testing.searcher import SearcherContract

VARIANTS = {
    "ddpg": ("ddpg", {}),
    "ddpg-every": ("ddpg", {"credit": "every"}),
    "ddpg-last": ("ddpg", {"credit": "last"}),
    "ddpg-mask": ("ddpg", {"budget": "mask"}),
    "ppo": ("ppo", {}),
    "ppo-project": ("ppo", {"budget": "project"}),
    "hierarchical": ("hierarchical-ddpg", {}),
    "hierarchical-mask": ("hierarchical-ddpg", {"budget": "mask"}),
    "hierarchical-cloned": ("hierarchical-ddpg", {"start": "water-filling"}),
    "hierarchical-water-filling": ("hierarchical-ddpg", {"controller": "water-filling"}),
    "hierarchical-goal-tracking": ("hierarchical-ddpg", {"controller": "goal-tracking"}),
    "hierarchical-blind": ("hierarchical-ddpg", {"sensitivity": None}),
}
"""Agent and options."""


class TestDdpg(SearcherContract):
    def searcher(self):
        return agent("ddpg")


class TestDdpgCreditEvery(SearcherContract):
    def searcher(self):
        return agent("ddpg", credit="every")


class TestDdpgCreditLast(SearcherContract):
    def searcher(self):
        return agent("ddpg", credit="last")


class TestDdpgMask(SearcherContract):
    def searcher(self):
        return agent("ddpg", budget="mask")


class TestPpo(SearcherContract):
    def searcher(self):
        return agent("ppo")


class TestPpoProject(SearcherContract):
    def searcher(self):
        return agent("ppo", budget="project")


class TestHierarchical(SearcherContract):
    def searcher(self):
        return agent("hierarchical-ddpg")


class TestHierarchicalWaterFilling(SearcherContract):
    def searcher(self):
        return agent("hierarchical-ddpg", controller="water-filling")


class TestHierarchicalGoalTracking(SearcherContract):
    def searcher(self):
        return agent("hierarchical-ddpg", controller="goal-tracking", sensitivity=None)


@pytest.mark.slow
class TestHierarchicalCloned(SearcherContract):
    def searcher(self):
        return agent("hierarchical-ddpg", start="water-filling")


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[pytest.mark.slow] if "cloned" in v else []) for v in VARIANTS]
)
class TestKernels:
    """Bits per kernel of two layers, under a size budget."""

    def search(self, variant, evaluations=8, seed=0):
        name, options = VARIANTS[variant]
        problem, evaluator = kernels((5, 3), choices=range(5), mean=2.0)
        return problem, evaluator, run(agent(name, **options), problem, evaluator, evaluations, seed=seed)

    def test_spends_the_budget_within_the_bounds(self, variant):
        problem, evaluator, oracle = self.search(variant)
        assert evaluator.calls == oracle.spent == len(oracle.trials) == 8
        assert all(trial.feasible and trial.assignment in problem.space for trial in oracle.trials)

    def test_kernels_of_a_layer_differ(self, variant):
        _, _, oracle = self.search(variant)
        assert any(len(set(trial.assignment["layer0.weight"])) > 1 for trial in oracle.trials[:4])

    def test_the_same_seed_gives_the_same_trials(self, variant):
        first, again, other = (self.search(variant, seed=seed)[2] for seed in (1, 1, 2))
        assert first.trials == again.trials
        assert first.trials != other.trials


@pytest.mark.parametrize("name", ["ddpg", "ppo"])
def test_layer_decisions_in_a_space_with_bits_per_kernel(name):
    problem, evaluator = kernels((5, 3), choices=range(5), mean=2.0)
    oracle = run(agent(name, decisions="layer"), problem, evaluator, 6)
    assert oracle.trials
    assert all(trial.feasible for trial in oracle.trials)
    if name == "ppo":  # masks leave nothing to the projection, which may end between two bitwidths
        bits = [np.ravel(trial.assignment["layer0.weight"]) for trial in oracle.trials]
        assert all(len(set(found.tolist())) == 1 for found in bits)


def test_every_installed_agent_is_tested():
    assert {name for name, _ in VARIANTS.values()} == set(AGENTS)
