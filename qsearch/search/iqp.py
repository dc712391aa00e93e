"""``iqp``: integer programming on sensitivities of choices and of pairs of choices.

As :mod:`qsearch.search.ilp`, with the damage of two choices beyond the sum of each (CLADO, Deng et al.,
arXiv:2307.05657); where nothing interacts, the two are the same. The first solution, and each next best, is exact if it
can be proven by seeing ``exact_up_to`` solutions of an additive program that no solution is below
(:mod:`qsearch.search.quadratic`). Beyond that, solutions are those of a local search, and not quite in order; the notes of
the campaign then show how far the predicted ``damage`` of the last one may be above the least: down to ``bound``.

Where all layers interact, in the positive semidefinite problems of ``benchmarks/ilp_scale.py``, the first solution is within
5 % of its bound for 20 layers × 7 choices, in 0.8 s, and within 14 % for 50 × 7, in 5 s on one thread. Beyond 512 choices
of all decisions together the bound is that of diffusion alone, which says little where interactions have both signs.
"""

from __future__ import annotations

from pydantic import Field

from qsearch.protocols import Oracle
from qsearch.search.damage import predicted_damage
from qsearch.search.ilp import IntegerProgram, Relaxed, X
from qsearch.search.quadratic import PairedProgram
from qsearch.trial import Trial


class QuadraticProgram(IntegerProgram):
    """Integer programming with interactions between layers: exact on the predicted damage of small problems.

    See the module for what it proves, :mod:`qsearch.search.ilp` for what it evaluates, and when.
    """

    class Options(IntegerProgram.Options):
        """What predicts the damage, how much to prove, and when to stop."""

        sensitivity: str = "pairwise"
        """Plug-in that predicts the damage of each choice, and of each pair."""
        exact_up_to: int = Field(default=1000, ge=1)
        """Solutions of the additive program that are seen for a proof; then local search takes over."""

    options: Options

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options or self.Options())

    def _relaxed(self, oracle: Oracle) -> Relaxed:
        return PairedRelaxed(oracle, self.options)


class PairedRelaxed(Relaxed):
    """The problem as the quadratic program sees it.

    Raises:
        UserError: a cost model that is not additive.
        EvaluationError: sensitivities or interactions that are not finite.
    """

    def __init__(self, oracle: Oracle, options: QuadraticProgram.Options) -> None:
        super().__init__(oracle, options)
        table = oracle.sensitivity(options.sensitivity, options.sensitivity_options)
        total = predicted_damage(oracle.problem.space, table)
        self._program = self._paired = PairedProgram(self._additive, total, options.exact_up_to)

    def evaluate(self, x: X) -> Trial:
        """The oracle's answer to a solution, with a note of its predicted damage and of what is proven."""
        damage = self._paired.damage(x)
        self._oracle.note(damage=damage, bound=min(damage, self._paired.bound))
        return super().evaluate(x)
