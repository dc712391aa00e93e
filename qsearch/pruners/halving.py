"""``successive-halving`` and ``hyperband``: effort goes to the best of those that came as far.

Notation: η, reduction factor;  r, effort at the first rung;  effort at rung k is r·η^k.

A trial goes on beyond a rung if it is among the best 1/η of all that came to it so far, itself included; of fewer than η,
if it is the best (Li et al., MLSys 2020: asynchronous successive halving, without coming back to a trial that was ended).
So the first trial always runs to its end, and how many do afterwards does not depend on the size of the budget.

What starts slowly and ends well is lost. Hyperband (Li et al., JMLR 18, 2018) hedges against that: it deals the trials
out to brackets, each of which has its first rung η times as far as the one before; the last bracket ends hardly any.

Trials are compared by the metric alone, whatever they cost. Where costs are the only objectives, and the metric has a
lower bound, no more counts of it than the bound asks for. For a front of quality and costs ``confidence`` is the pruner.

The rules are Optuna's (:class:`optuna.pruners.SuccessiveHalvingPruner`, :class:`optuna.pruners.HyperbandPruner`).
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from pydantic import Field

from qsearch.problem import Problem
from qsearch.pruners.past import Memory, least_resource
from qsearch.pruning import Pruner
from qsearch.registry import PluginOptions
from qsearch.trial import Trial


class HalvingOptions(PluginOptions):
    """Where the rungs are."""

    reduction_factor: int = Field(default=3, ge=2)
    """η: one in so many goes on beyond a rung, to so many times the effort."""
    min_share: float = Field(default=0.0, ge=0.0, lt=1.0, allow_inf_nan=False)
    """The first rung is the first report at this share of the full effort, or later."""


class SuccessiveHalving(Pruner):
    """Ends what is not among the best of those that came as far, at efforts that grow by a factor."""

    Options = HalvingOptions

    def __init__(self, options: HalvingOptions | None = None) -> None:
        self.options = options or HalvingOptions()
        self._memory = Memory(self._make)

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """See :class:`qsearch.pruning.Pruner`."""
        ends = self._memory.ends(trial, earlier, problem)
        return f"not among the best 1 in {self.options.reduction_factor} so far" if ends else ""

    def _make(self, unit: float, full: int) -> optuna.pruners.BasePruner:
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=least_resource(self.options.min_share, unit),
            reduction_factor=self.options.reduction_factor,
        )


class Hyperband(SuccessiveHalving):
    """Successive halving in several brackets, some of which wait longer before they end anything."""

    def _make(self, unit: float, full: int) -> optuna.pruners.BasePruner:
        return optuna.pruners.HyperbandPruner(
            min_resource=min(full, least_resource(self.options.min_share, unit)),
            max_resource=full,
            reduction_factor=self.options.reduction_factor,
        )
