"""``bisection``: the longest prefix of an order of layers that may go down, level by level (Schaefer et al.).

Notation

=====  ==============================================================================================
N      groups at the level above (a layer's weight and input activation, unless told otherwise)
k      groups of the order's prefix that go down to the level considered
=====  ==============================================================================================

All begin at their highest choice. For each lower level, the groups that reached the level above are sorted from the
least to the most sensitive, and bisection finds the largest k whose prefix keeps the quality: at most ⌈log2(N + 1)⌉
evaluations, on the assumption that quality falls with k (Schaefer et al., arXiv:2302.01382, 2306.04879). It does not quite:
prefix k + 1 is known to miss the target, but k + 2 may meet it, or the prefix in which group k + 2 takes the place of
k + 1. ``recheck`` asks these two, at most two evaluations more per level; the oracle remembers what it was asked, so
asking for k itself again would tell nothing new.

With L levels below the highest, it ends after at most 1 + L·(⌈log2(N + 1)⌉ + 2) evaluations, however much budget is left.
All kernels of a layer move together; :mod:`qsearch.search.water_filling` shares bits among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from qsearch import registry
from qsearch.errors import UserError
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.registry import PluginOptions
from qsearch.search.aims import require_bits, require_threshold
from qsearch.search.damage import Damage, predicted_damage
from qsearch.search.ordering import (
    DamageOrder,
    Group,
    Order,
    Together,
    X,
    at_level,
    differs,
    groups_of,
    levels_of,
    moved,
    random_order,
)
from qsearch.search.paired import Target


class Bisection(Searcher):
    """The least cost at a quality to keep, in a number of evaluations that grows with the logarithm of the layers.

    It takes any cost model, and looks at no cost: fewer bits are taken to cost less. See the module for what it
    evaluates, and when.
    """

    class Options(PluginOptions):
        """The order, what moves together, and how sure to be."""

        order: Literal["sensitivity", "interaction", "random"] = "sensitivity"
        """By damage at the level considered; the same with half of each interaction; or at random, as a control."""
        sensitivity: str | None = None
        """Plug-in that predicts the damage; without it hessian, or pairwise for the order by interaction."""
        sensitivity_options: dict[str, Any] = Field(default_factory=dict)
        """Of the plug-in."""
        together: Together = "layer"
        """Whether weight and input activation of a layer move together, or each site by itself; ties always do."""
        confidence: float = Field(default=0.5, gt=0.0, lt=1.0, allow_inf_nan=False)
        """That the limit is kept, to accept a step: 0.5 is the point estimate (:mod:`qsearch.search.paired`)."""
        recheck: bool = True
        """Look beyond the edge of each level."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.stochastic = self.options.order == "random"

    @property
    def sensitivity(self) -> str:
        """Plug-in that the order asks."""
        return self.options.sensitivity or ("pairwise" if self.options.order == "interaction" else "hessian")

    def check(self, problem: Problem) -> None:
        """Raise unless bisection can search the problem.

        Raises:
            UserError: it does not minimise a cost under a bound on quality; weights may be overlaid; the sensitivity is
                unknown or its options are not valid.
        """
        require_bits(problem, "bisection")
        require_threshold(problem, "bisection")
        if self.options.order != "random":
            registry.create("sensitivities", self.sensitivity, self.options.sensitivity_options)

    def search(self, oracle: Oracle) -> None:
        """Go down level by level, then end.

        Raises:
            UserError: as :meth:`check`; a table without interactions for the order by interaction.
            EvaluationError: sensitivities that are not finite.
        """
        require_bits(oracle.problem, "bisection")
        require_threshold(oracle.problem, "bisection")
        space = oracle.problem.space
        moving = groups_of(space, self.options.together)
        order = self._order(oracle, moving)
        descent = _Descent(oracle, Target(oracle.problem, self.options.confidence))
        x = space.highest
        descent.keeps(x, (), x)
        for bits in levels_of(space)[1:]:
            target = at_level(space, bits)
            still = [group for group in moving if not differs(x, group, target)]
            ahead = [group for group in moving if differs(x, group, target)]
            ahead = order(ahead, moved(x, ahead, target))
            lowered = descent.longest_prefix(x, ahead, target)
            if self.options.recheck:
                lowered = descent.beyond(x, ahead, target, len(lowered))
            oracle.note(level=bits, lowered=len(lowered), held=len(ahead) - len(lowered))
            x = moved(x, lowered, target)
            moving = [*still, *lowered]

    def _order(self, oracle: Oracle, groups: Sequence[Group]) -> Order:
        if self.options.order == "random":
            return random_order(groups, oracle.seed)
        space = oracle.problem.space
        table = oracle.sensitivity(self.sensitivity, self.options.sensitivity_options)
        damage = predicted_damage(space, table)
        if self.options.order == "sensitivity":
            return DamageOrder(Damage(damage.single))
        if not damage.pairs and len(space.variables) > 1:
            raise UserError(
                "the order by interaction needs a sensitivity that has interactions",
                got=f"{self.sensitivity!r}, whose table has none",
                fix="sensitivity: pairwise, or order: sensitivity",
            )
        return DamageOrder(damage)


@dataclass(frozen=True)
class _Descent:
    """Asks whether groups may go down."""

    oracle: Oracle
    target: Target

    def keeps(self, x: X, groups: Sequence[Group], target: X) -> bool:
        """Whether the quality is kept when some groups go to their choices of ``target``."""
        trial = self.oracle.evaluate(self.oracle.problem.space.decode(moved(x, groups, target)))
        return self.target.keeps(trial)

    def longest_prefix(self, x: X, ahead: Sequence[Group], target: X) -> Sequence[Group]:
        """By bisection: prefix ``low`` keeps the quality, prefix ``high`` does not or is one too many."""
        low, high = 0, len(ahead) + 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.keeps(x, ahead[:middle], target):
                low = middle
            else:
                high = middle
        return ahead[:low]

    def beyond(self, x: X, ahead: Sequence[Group], target: X, edge: int) -> Sequence[Group]:
        """The longest of what lies just beyond the edge and keeps the quality; the prefix up to the edge if nothing."""
        further = [ahead[: edge + 2], [*ahead[:edge], *ahead[edge + 1 : edge + 2]]] if edge + 2 <= len(ahead) else []
        return next((groups for groups in further if self.keeps(x, groups, target)), ahead[:edge])
