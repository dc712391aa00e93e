"""``none``: every evaluation runs to its end."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.problem import Problem
from qsearch.pruning import Pruner
from qsearch.trial import Trial


class NoPruner(Pruner):
    """Lets every evaluation run to its end, unwatched."""

    active = False

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> str:
        """Nothing against it."""
        return ""
