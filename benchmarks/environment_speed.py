"""Time of an environment step, without the evaluation, on a network of 10,000 kernels.

Each row is one environment in one budget mode under one bound; a cell is the median over episodes, with quartiles:

- decision: microseconds of one decision, :meth:`BitwidthEnv.decide`; in mask mode with the mask asked for before it, as a
  learner that honours masks does. A hierarchical step is a layer: its time is divided by the decisions in it. The issue
  asks for at most 50 µs.
- end: milliseconds of what comes once an episode: projection onto the budget, the executed episode for the replay. The
  oracle's evaluation and its own cost estimate are left out.

Budgets are shares of the way from the fewest bits (0) to the most (1): at 0.05 nearly nothing is left, masks bite from
the first layers on; at 0.3 they bite in the middle. Actions are uniform, the most bits always (greedy), or always four of
eight (steady), which leaves room longest. ``placed`` is a made-up cost model in which it matters which kernel has which
bits, so that nothing is known from one kernel about the next: the slow path, which no built-in model takes.

Run ``python benchmarks/environment_speed.py``; ``--kernels`` and ``--layers`` change the network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.envs.base import BitwidthEnv
from qsearch.envs.hierarchical import HierarchicalEnv
from qsearch.envs.kernelwise import KernelwiseEnv
from qsearch.envs.layerwise import LayerwiseEnv
from qsearch.hardware.base import Costs, VectorCostModel
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, Evaluator
from qsearch.sites import build_space
from qsearch.trial import Quality, Trial

Floats = NDArray[np.float64]

POLICIES: Mapping[str, Callable[[int], Floats]] = {
    "uniform": lambda count: np.random.default_rng(0).random(count),
    "greedy": lambda count: np.ones(count),
    "steady": lambda count: np.full(count, 0.5),
}
ROWS = (
    ("kernelwise", "project", "size", ("size",)),
    ("kernelwise", "mask", "size", ("size",)),
    ("kernelwise", "mask", "bops", ("bops",)),
    ("kernelwise", "project", "bismo", ("latency",)),
    ("kernelwise", "mask", "bismo", ("latency",)),
    ("kernelwise", "mask", "bismo", ("latency", "energy", "size")),
    ("kernelwise", "mask", "bitfusion", ("latency",)),
    ("kernelwise", "mask", "roofline", ("latency",)),
    ("kernelwise", "mask", "placed", ("latency",)),
    ("layerwise", "mask", "bismo", ("latency",)),
    ("hierarchical", "mask", "bismo", ("latency",)),
)
ENVIRONMENTS: Mapping[str, Callable[..., Any]] = {
    "layerwise": LayerwiseEnv,
    "kernelwise": KernelwiseEnv,
    "hierarchical": HierarchicalEnv,
}


class Placed(VectorCostModel):
    """Kernels of unequal price: a layer costs Σ_j (1 + j)·w_j·a."""

    units: Mapping[str, str] = {"latency": "s"}

    def layer_costs(self, layer: Layer, weight_bits: BitArray, activation_bits: BitArray) -> Costs:
        """See :class:`VectorCostModel`."""
        prices = 1.0 + np.arange(layer.kernels)
        return {"latency": (weight_bits * prices).sum(axis=1) * activation_bits}


class NoEvaluator(Evaluator):
    """Nothing is evaluated here."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("the benchmark leaves the evaluation out")


def problem(model: CostModel, metrics: tuple[str, ...], share: float, kernels: int, layers: int) -> Problem:
    """Convolutions of equal width, 0..8 bits per kernel; bounds at ``share`` of the way from the floor to the top."""
    width = kernels // layers
    network = tuple(Layer(f"l{i}", "conv", width, width, (3, 3), (1, 1), 1, (8, 8), (8, 8)) for i in range(layers))
    space = build_space(network, weight_bits=range(9), activation_bits=range(2, 9), granularity="kernel")
    cost = NetworkCost(model, network, space)
    ends = cost.estimate_many(np.stack([space.lowest, space.highest]))
    limits = {metric: float(ends[metric][0] + share * np.ptp(ends[metric])) for metric in metrics}
    bounds = tuple(Bound(metric, limit, False, metric) for metric, limit in limits.items())
    return Problem(space, cost, (Objective("accuracy", "maximize"),), bounds)


def make(name: str, asked: Problem, budget: str) -> Any:
    """An environment that is never evaluated."""
    oracle = CampaignOracle(asked, NoEvaluator(), MemoryRecord(), Budget(1))
    return ENVIRONMENTS[name](oracle, budget=budget, reward=lambda trial: 0.0)


def episode(env: Any, actions: Floats, masks: bool) -> tuple[float, float]:
    """Seconds per decision and seconds of the end of one episode."""
    inner: BitwidthEnv = env.kernels if isinstance(env, HierarchicalEnv) else env
    env.reset()
    pairs = np.repeat(actions.astype(np.float32)[:, None], env.action_space.shape[0], axis=1)
    start = time.perf_counter()
    if isinstance(env, HierarchicalEnv):
        for action in pairs[: len(env.steps)]:
            env.decide(action)
    else:
        for action in pairs[: len(inner.schedule)]:
            if masks:
                inner.action_masks()
            inner.decide(action)
    middle = time.perf_counter()
    trial = Trial(0, inner.proposal(), "complete", None, Quality(0.5, 1.0, 1, 0.0))
    inner.conclude(trial)
    return (middle - start) / len(inner.schedule), time.perf_counter() - middle


def measure(env: Any, policy: str, episodes: int, masks: bool) -> Floats:
    """Seconds per decision and of the end, shape (2, episodes), after an episode that warms up."""
    actions = POLICIES[policy](env.oracle.problem.space.dimension)
    found = [episode(env, actions, masks) for _ in range(episodes + 1)]
    return np.asarray(found[1:]).T


def model_of(name: str) -> CostModel:
    """A cost model by name, or the made-up one."""
    made: CostModel = Placed() if name == "placed" else registry.create("cost_models", name)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time of an environment step, without the evaluation.")
    parser.add_argument("--kernels", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--share", type=float, action="append", help="may be repeated; default: 0.05, 0.3, 1")
    arguments = parser.parse_args()
    heads = f"{'environment':<13}{'budget':<9}{'cost model':<11}{'bounds':<21}{'share':>6}  {'actions':<8}"
    print(f"{arguments.kernels} kernels in {arguments.layers} layers\n{heads}{'decision, µs':>22}{'end, ms':>10}")
    for name, budget, model, metrics in ROWS:
        for share in arguments.share or (0.05, 0.3, 1.0):
            asked = problem(model_of(model), metrics, share, arguments.kernels, arguments.layers)
            env = make(name, asked, budget)
            for policy in POLICIES:
                decision, end = measure(env, policy, arguments.episodes, masks=budget == "mask")
                low, middle, high = 1e6 * np.quantile(decision, [0.25, 0.5, 0.75])
                cell = f"{middle:.1f} ({low:.1f}..{high:.1f})"
                row = f"{name:<13}{budget:<9}{model:<11}{'+'.join(metrics):<21}{share:>6g}  {policy:<8}"
                print(f"{row}{cell:>22}{1e3 * np.median(end):>10.1f}", flush=True)


if __name__ == "__main__":
    main()
