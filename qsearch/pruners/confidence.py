"""``confidence``: ends a trial when even an optimistic guess of where it will end does not reach what it must.

Notation

=====  ===================================================================================================
q      metric of the trial at a share of the effort, more is better
g      gain from that share to the end: a quantile of the gains of complete trials, never below 0
G      what the trial must reach, see below
c      confidence that q, on other samples of the same kind, is at least G − g (:mod:`qsearch.search.paired`)
=====  ===================================================================================================

It ends the trial if c < 1 − ``confidence``. Scores are normal enough for this to read: q plus z standard errors plus g
is below G; where outcomes of single samples are known, the test is paired, on what differs between the trial and its rival.

G is a lower bound of the problem on the metric; and, where a quality is an objective, the metric of the best feasible trial
that costs no more in any objective: its rival. So cheap assignments are not measured against dear ones.

Gains are those of trials that were let run to their end, so they know little of what starts low: the lower it
starts, the more there is to gain. ``startup`` and ``quantile: 1`` (the largest gain seen) are there to be careful.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.problem import Problem
from qsearch.pruning import Pruner
from qsearch.registry import PluginOptions
from qsearch.search.paired import confidence
from qsearch.trial import Trial

Goal = tuple[float, NDArray[np.float32] | None]
"""G, and the outcomes that those of the trial are paired with."""


class Confidence(Pruner):
    """Ends what will most likely not reach the best so far at its cost, or a bound on quality, by what others gained."""

    class Options(PluginOptions):
        """How sure to be."""

        confidence: float = Field(default=0.95, ge=0.5, lt=1.0, allow_inf_nan=False)
        """That the trial would fall short; 0.5 takes its metric as it is."""
        quantile: float = Field(default=1.0, ge=0.0, le=1.0, allow_inf_nan=False)
        """Of the gains that others made from here to the end; 1 is the largest."""
        startup: int = Field(default=3, ge=1)
        """Gains that must have been seen before any trial is ended."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """See :class:`qsearch.pruning.Pruner`."""
        gains = gains_from(trial.reports[-1][0], earlier)
        if len(gains) < self.options.startup or trial.quality is None:
            return ""
        gain = max(0.0, float(np.quantile(gains, self.options.quantile, method="higher")))
        for goal, outcomes in _goals(trial, earlier, problem):
            if confidence(trial.quality, outcomes, goal - gain) < 1 - self.options.confidence:
                return f"at most {gain:.3g} more to be expected, {goal:.4g} needed"
        return ""


def gains_from(share: float, trials: Sequence[Trial]) -> list[float]:
    """What complete trials gained from a share of their effort to its end."""
    curves = [dict(trial.reports) for trial in trials if trial.state == "complete"]
    return [curve[1.0] - curve[share] for curve in curves if share in curve]


def _goals(trial: Trial, earlier: Sequence[Trial], problem: Problem) -> Iterator[Goal]:
    """What the trial must reach to be of any use."""
    for bound in problem.bounds:
        if bound.metric == problem.quality_name and bound.at_least:
            yield bound.limit, problem.float_outcomes
    costs = [objective for objective in problem.objectives if objective.metric in problem.cost.units]
    if len(costs) == len(problem.objectives):
        return
    rivals = [
        other.quality
        for other in earlier
        if other.feasible
        and other.quality is not None
        and all(item.sign * other.value(item.metric) <= item.sign * trial.value(item.metric) for item in costs)
    ]
    if rivals:
        best = max(rivals, key=lambda quality: quality.metric)
        yield best.metric, best.outcomes
