"""Rewards: one number for a trial, from validation quality and from costs.

Notation

========  ==============================================================================
m, m_0    metric of the trial and of the float network (accuracy, in 0..1)
c, c_0    a cost of the trial, and with the most bits of the space everywhere
v         violation of a bound, relative to its limit; ≤ 0 where it is met
========  ==============================================================================

A reward is a class, built as ``Class(problem, options)``; the built-in ones are entry points of ``qsearch.rewards``, your
own is named as ``path/to/file.py:Class``. A trial that has no quality (its evaluation failed, or it is over a bound)
gets the least reward of the search so far from :func:`reward_of`, so that no NaN reaches an agent. One that was pruned is
rewarded for the quality that it had when it ended, which is less than it would have come to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field

from qsearch.errors import ConfigError, nearest
from qsearch.problem import Problem
from qsearch.protocols import Reward
from qsearch.registry import PluginOptions
from qsearch.trial import Trial

PERCENT = 100.0
LEAST_METRIC = 1e-3
"""Stands for an accuracy of 0 in logarithms."""


def reward_of(reward: Reward, trial: Trial, earlier: Sequence[Trial]) -> float:
    """The reward of a trial; where it has no quality, the least of the ``earlier`` trials' rewards, or 0."""
    if trial.quality is not None:
        value = float(reward(trial))
        if math.isfinite(value):
            return value
    known = [float(reward(other)) for other in earlier if other.quality is not None]
    return min((value for value in known if math.isfinite(value)), default=0.0)


class HaqReward:
    """R = 0.1·(m − m_0) in percent (HAQ). Costs do not enter: bounds are kept by the environment."""

    def __init__(self, problem: Problem) -> None:
        self._name, self._floating = problem.quality_name, problem.float_quality.get(problem.quality_name, 0.0)

    def __call__(self, trial: Trial) -> float:
        return 0.1 * PERCENT * (trial.value(self._name) - self._floating)


class ObjectiveReward:
    """R = Σ over objectives − ``penalty`` · Σ max(v, 0) over bounds: for any problem.

    A quality counts as HAQ's reward does, 10·(m − m_0), and a loss likewise, −10·(L − L_0); a cost counts −c/c_0.
    """

    class Options(PluginOptions):
        penalty: float = Field(default=100.0, ge=0, allow_inf_nan=False)
        """Per violation of 1, the whole limit: missing an accuracy by 1 % weighs as much as a whole cost."""

    def __init__(self, problem: Problem, options: Options | None = None) -> None:
        self._options = options or self.Options()
        self._terms = [(o.metric, -o.sign, *_shift_and_scale(problem, o.metric)) for o in problem.objectives]

    def __call__(self, trial: Trial) -> float:
        gain = sum(sign * scale * (trial.value(metric) - shift) for metric, sign, shift, scale in self._terms)
        return gain - self._options.penalty * sum(max(value, 0.0) for value in trial.violations.values())


class ReleqReward:
    """R = (1 − s^a)·q^(b / max(q, th)) with q = m/m_0 and s = c/c_0;  −1 if q < th (ReLeQ, Elthakeb et al.).

    An unknown m_0 counts as 1.
    """

    class Options(PluginOptions):
        cost: str | None = None
        """Cost metric of s; the first bounded one, or the first of the cost model."""
        a: float = Field(default=0.2, gt=0, allow_inf_nan=False)
        b: float = Field(default=0.4, gt=0, allow_inf_nan=False)
        threshold: float = Field(default=0.4, gt=0, lt=1)

    def __init__(self, problem: Problem, options: Options | None = None) -> None:
        self._options = options or self.Options()
        self._cost = _cost_metric(problem, self._options.cost)
        self._top = _top(problem)[self._cost]
        self._name = problem.quality_name
        self._floating = problem.float_quality.get(self._name, 0.0) or 1.0

    def __call__(self, trial: Trial) -> float:
        return self.value(trial.value(self._name) / self._floating, trial.value(self._cost) / self._top)

    def value(self, quality: float, state: float) -> float:
        """R at q = ``quality`` and s = ``state``."""
        options = self._options
        if quality < options.threshold:
            return -1.0
        return float((1 - state**options.a) * quality ** (options.b / max(quality, options.threshold)))


class AutoqReward:
    """R = ψ_m·log m − Σ ψ_c·log(c/c_0): AutoQ's extrinsic reward, of NetScore's family.

    ``accuracy-guaranteed`` has ψ_m = 2 and ψ_c = 0.5 for latency, energy and area, whichever the cost model has;
    ``resource-constrained`` has ψ_m = 1 and no costs, as bounds are kept by the environment.
    """

    class Options(PluginOptions):
        mode: str = Field(default="accuracy-guaranteed", pattern="^(accuracy-guaranteed|resource-constrained)$")
        weights: dict[str, float] = Field(default_factory=dict)
        """ψ by metric; takes the place of the mode's."""

    def __init__(self, problem: Problem, options: Options | None = None) -> None:
        chosen = options or self.Options()
        self._name, top = problem.quality_name, _top(problem)
        guaranteed = chosen.mode == "accuracy-guaranteed"
        weights = {self._name: 2.0 if guaranteed else 1.0}
        if guaranteed:
            weights |= {metric: 0.5 for metric in ("latency", "energy", "area") if metric in top}
        for metric in chosen.weights:
            if metric not in {self._name, *top}:
                raise ConfigError(f"unknown metric {metric!r} in weights", fix=nearest(metric, {self._name, *top}))
        weights |= chosen.weights
        self._quality = weights.pop(self._name)
        self._costs = [(metric, weight, top[metric]) for metric, weight in weights.items()]

    def __call__(self, trial: Trial) -> float:
        value = self._quality * math.log(max(trial.value(self._name), LEAST_METRIC))
        for metric, weight, top in self._costs:
            value -= weight * math.log(max(trial.value(metric) / top, LEAST_METRIC))
        return value


def intrinsic(goal: float, bits: float, extrinsic: float, zeta: float) -> float:
    """AutoQ's intrinsic reward of a layer, per kernel: −(1 − ζ)·|goal − mean bits| + ζ·extrinsic reward.

    The paper's form sums over the kernels of a layer; divided by their number, layers of all widths weigh the same.
    """
    return -(1 - zeta) * abs(goal - bits) + zeta * extrinsic


def _shift_and_scale(problem: Problem, metric: str) -> tuple[float, float]:
    if metric in problem.cost.units:
        return 0.0, 1.0 / _top(problem)[metric]
    return problem.float_quality.get(metric, 0.0), 0.1 * PERCENT


def _top(problem: Problem) -> dict[str, float]:
    """Each cost with the most bits everywhere; 1 where that is 0."""
    found = problem.cost.estimate_many(problem.space.highest[None])
    return {metric: float(np.asarray(value)[0]) or 1.0 for metric, value in found.items()}


def _cost_metric(problem: Problem, name: str | None) -> str:
    if name is None:
        return next((bound.metric for bound in problem.cost_bounds), next(iter(problem.cost.units)))
    if name not in problem.cost.units:
        raise ConfigError(f"unknown cost metric {name!r}", fix=nearest(name, problem.cost.units))
    return name
