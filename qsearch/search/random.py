"""``random``: independent draws, projected onto the budget."""

from __future__ import annotations

from itertools import islice

import numpy as np
from pydantic import Field

from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.draws import distinct_within_budget


class Random(Searcher):
    """Uniform draws from the space, each lowered by :func:`qsearch.projection.project` until it meets the cost bounds.

    No assignment is evaluated twice. Under a tight budget many draws fall onto its edge, which is where the good
    assignments are: random search without the projection would spend its time on proposals that cannot be used.
    """

    stochastic = True

    class Options(PluginOptions):
        """How it asks."""

        batch: int = Field(default=64, ge=1)
        """Draws that are asked for together, for workers to divide. The trials are the same for any."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    def search(self, oracle: Oracle) -> None:
        """Draw until the budget is spent or the space is exhausted."""
        space = oracle.problem.space
        drawn = distinct_within_budget(oracle.problem, np.random.default_rng(oracle.seed))
        while batch := list(islice(drawn, min(self.options.batch, oracle.remaining))):
            oracle.evaluate_many([space.decode(x) for x in batch])
