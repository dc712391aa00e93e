"""Small networks, problems and oracles for the tests of environments."""

from __future__ import annotations

import numpy as np

from qsearch.costs import NetworkCost
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.sites import build_space
from qsearch.testing.problems import QuadraticEvaluator, SizeAndBops

ACCURACY = (Objective("accuracy", "maximize"),)
ENVIRONMENTS = {"layerwise": LayerwiseEnv, "kernelwise": KernelwiseEnv, "hierarchical": HierarchicalEnv}

LAYERS = (
    Layer("stem", "conv", 3, 6, (3, 3), (2, 2), 1, (8, 8), (4, 4)),
    Layer("depthwise", "conv", 6, 6, (5, 5), (1, 1), 6, (4, 4), (4, 4)),
    Layer("head", "linear", 6, 4),
)
"""A convolution, a depthwise one and a linear layer."""


def problem_of(
    *,
    layers=LAYERS,
    weight_bits=(0, 2, 4, 8),
    activation_bits=(4, 8),
    granularity="kernel",
    model=None,
    bounds=None,
    objectives=ACCURACY,
    float_quality=None,
    ties=(),
    fixed=None,
):
    """A problem; ``bounds`` maps metrics to shares of the way from the fewest bits (0) to the most (1)."""
    space = build_space(
        layers,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        granularity=granularity,
        ties=ties,
        fixed=fixed,
    )
    cost = NetworkCost(model or SizeAndBops(), tuple(layers), space)
    ends = cost.estimate_many(np.stack([space.lowest, space.highest]))
    limits = {metric: ends[metric][0] + share * np.ptp(ends[metric]) for metric, share in (bounds or {}).items()}
    return Problem(
        space,
        cost,
        objectives,
        tuple(Bound(metric, float(limit), False, f"{metric} <= {limit:g}") for metric, limit in limits.items()),
        float_quality=float_quality or {},
    )


def oracle_of(problem, *, evaluations=10_000, fails_at=frozenset()):
    """An oracle whose quality is in closed form, Σ h_i·mean 4^(−b) with h_i = 1, 2, 3, …"""
    curvature = 1.0 + np.arange(len(problem.space.variables))
    evaluator = QuadraticEvaluator(problem.space, curvature, fails_at=fails_at)
    return CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations), max_failures=1000)


def play(env, actions, **reset):
    """One episode: observations from reset to end, rewards, and the last step's info."""
    seen = [env.reset(**reset)[0]]
    rewards, info, done = [], {}, False
    for action in actions:
        observation, reward, done, truncated, info = env.step(action)
        assert not truncated
        seen.append(observation)
        rewards.append(reward)
    assert done
    return np.stack(seen), np.asarray(rewards), info


def length_of(env):
    """Steps of an episode."""
    return len(env.steps) if isinstance(env, HierarchicalEnv) else len(env.schedule)


def random_actions(env, seed):
    """An action for each step of an episode."""
    rng = np.random.default_rng(seed)
    if env.action_space.shape == ():
        return list(rng.integers(0, env.action_space.n, size=length_of(env)))
    return list(rng.random((length_of(env), *env.action_space.shape), dtype=np.float32))
