"""``random``: independent draws, projected onto the budget."""

from __future__ import annotations

import numpy as np

from qsearch.protocols import Oracle, Searcher
from qsearch.search.draws import distinct_within_budget


class Random(Searcher):
    """Uniform draws from the space, each lowered by :func:`qsearch.projection.project` until it meets the cost bounds.

    No assignment is evaluated twice. Under a tight budget many draws fall onto its edge, which is where the good
    assignments are: random search without the projection would spend its time on proposals that cannot be used.
    """

    stochastic = True

    def search(self, oracle: Oracle) -> None:
        """Draw until the budget is spent or the space is exhausted."""
        problem = oracle.problem
        for x in distinct_within_budget(problem, np.random.default_rng(oracle.seed)):
            if oracle.remaining == 0:
                return
            oracle.evaluate(problem.space.decode(x))
