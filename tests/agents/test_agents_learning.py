"""Agents learn: at equal evaluations they find more than random decisions through the same projection."""

from __future__ import annotations

import numpy as np
import pytest
from agent_runs import run

from qsearch import registry
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.testing.problems import kernels, optimal_loss, separable

pytestmark = pytest.mark.slow

EVALUATIONS, SEEDS = 150, range(3)


class RandomDecisions:
    """Uniform decisions, projected onto the budget as an agent's are."""

    def search(self, oracle):
        rng = np.random.default_rng(oracle.seed)
        env = LayerwiseEnv(oracle)
        while oracle.remaining:
            env.reset()
            done = False
            while not done:
                *_, done, _, _ = env.step(rng.random(1))


def problem():
    return separable(10, choices=range(2, 9), budget=0.5)


def excess(make):
    """Least loss found above the optimum, relative to it, by seed."""
    optimum = optimal_loss(*problem())
    runs = [run(make(), *problem(), EVALUATIONS, seed=seed) for seed in SEEDS]
    assert all(oracle.spent <= EVALUATIONS for oracle in runs)  # fewer, where an agent has settled
    return np.asarray([min(trial.quality.loss for trial in oracle.trials) / optimum - 1 for oracle in runs])


@pytest.fixture(scope="module")
def by_chance():
    return excess(RandomDecisions)


@pytest.mark.parametrize("name", ["ddpg", "ppo"])
def test_better_than_random_decisions(name, by_chance):
    found = excess(lambda: registry.create("searchers", name, {"hidden": (64, 64)}))
    assert np.all(found >= -1e-9)  # no better than the optimum
    assert found.mean() < 0.8 * by_chance.mean()


@pytest.mark.parametrize("name", ["ddpg", "ppo"])
def test_late_episodes_earn_more_than_early_ones(name):
    rewards = []
    searcher = registry.create("searchers", name, {"hidden": (64, 64)})
    run(searcher, *problem(), EVALUATIONS, on_note=lambda notes: rewards.append(notes["reward"]))
    third = len(rewards) // 3
    assert np.mean(rewards[-third:]) > np.mean(rewards[:third]) + np.std(rewards[:third]) / third**0.5


def test_the_hierarchy_finds_more_than_flat_ddpg_on_kernels():
    best = {}
    for name in ("hierarchical-ddpg", "ddpg"):
        searcher = registry.create("searchers", name, {"hidden": (64, 64)})
        oracle = run(searcher, *kernels((16, 16), mean=3.0), 40)
        best[name] = max(trial.quality.metric for trial in oracle.trials)
    assert best["hierarchical-ddpg"] > best["ddpg"]
