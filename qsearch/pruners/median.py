"""``median``: the median stopping rule (Golovin et al., KDD 2017), as in :class:`optuna.pruners.MedianPruner`.

A trial ends if its best report so far is below the median of what complete trials reported at the same effort. Trials are
compared by the metric alone; :mod:`qsearch.pruners.halving` says what that means where costs are objectives.
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


class Median(Pruner):
    """Ends what is below the median of the complete trials, each at the same effort."""

    class Options(PluginOptions):
        """From when on."""

        startup: int = Field(default=5, ge=1)
        """Trials that must be complete before any is ended."""
        min_share: float = Field(default=0.0, ge=0.0, lt=1.0, allow_inf_nan=False)
        """None is ended before this share of the full effort."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self._memory = Memory(self._make)

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """See :class:`qsearch.pruning.Pruner`."""
        return "below the median of complete trials there" if self._memory.ends(trial, earlier, problem) else ""

    def _make(self, unit: float, full: int) -> optuna.pruners.BasePruner:
        return optuna.pruners.MedianPruner(
            n_startup_trials=self.options.startup,
            n_warmup_steps=least_resource(self.options.min_share, unit),
        )
