"""``verdict``: a reward that knows what an assignment costs and whether it keeps its bounds, and nothing else of its quality.

Notation

======  ===============================================================================================================
s       mean over the objectives of c/c_0, the cost of the trial and the highest of the space; of 1 − c/c_0 to maximise
R       1 − s where all bounds are kept, within 0..1;  −g − (1 − s) elsewhere, within −g − 1..−g, with g the ``gap``
======  ===============================================================================================================

What a cost saves counts for an assignment that keeps its bounds and against one that does not: the more it saves, the
farther it is likely to be from keeping them. So the way back is shown without any measure of how much a bound is missed.

An evaluation that is ended early (``pruner: sequential`` with a ``doubt``) has the verdict of a whole one but for a small
probability, and not its quality: rewards are then the same number, and an agent's course is the same step by step.
"""

from __future__ import annotations

from pydantic import Field

from qsearch.errors import ConfigError
from qsearch.problem import Problem
from qsearch.registry import PluginOptions
from qsearch.trial import Trial


class VerdictReward:
    """R = 1 − s where all bounds are kept, −gap − (1 − s) elsewhere: for objectives that are costs."""

    class Options(PluginOptions):
        """How far apart what keeps the bounds is from what does not."""

        gap: float = Field(default=1.0, gt=0, allow_inf_nan=False)
        """Least difference between a trial that keeps all bounds and one that does not; costs make 1 at most."""

    def __init__(self, problem: Problem, options: Options | None = None) -> None:
        """Refuse problems on which costs alone say nothing.

        Raises:
            ConfigError: a quality is an objective.
        """
        for objective in problem.objectives:
            if objective.metric not in problem.cost.units:
                raise ConfigError(
                    "the reward 'verdict' needs objectives that are costs",
                    got=objective.metric,
                    fix="reward: objective",
                )
        self._gap = (options or self.Options()).gap
        self._goals = [
            (objective.metric, objective.sign, problem.cost.ceiling(objective.metric) or 1.0)
            for objective in problem.objectives
        ]

    def __call__(self, trial: Trial) -> float:
        shares = [trial.value(metric) / highest for metric, _, highest in self._goals]
        saved = [1 - share if sign > 0 else share for share, (_, sign, _) in zip(shares, self._goals, strict=True)]
        gain = sum(saved) / len(saved)
        kept = all(violation <= 0 for violation in trial.violations.values())
        return gain if kept else -self._gap - gain
