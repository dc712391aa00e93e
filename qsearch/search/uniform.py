"""``uniform``: the same bitwidth everywhere, the baseline that every mixed assignment has to beat."""

from __future__ import annotations

from qsearch.protocols import Oracle, Searcher


class Uniform(Searcher):
    """Every bitwidth that some site allows, as :meth:`SearchSpace.uniform`, highest first.

    Bitwidths over a cost bound are proposed too: they are recorded as infeasible and cost no evaluation.
    """

    stochastic = False

    def search(self, oracle: Oracle) -> None:
        """Evaluate each uniform assignment once, together."""
        space = oracle.problem.space
        union = {bits for variable in space.variables for bits in variable.choices}
        oracle.evaluate_many([space.uniform(bits) for bits in sorted(union, reverse=True) or [0]])
