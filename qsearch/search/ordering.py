"""Groups of decisions that move together, the levels they move through, and the order in which they may go.

Notation

=======  ==============================================================================================
D        decisions of the space;  x, an index vector, shape (D,)
level    bits b; a decision is at level b when it has its lowest choice of at least b bits, or its highest choice
         where it has none
g        group of decisions that move together
y        index vector with the groups to be ordered at the level considered, the others where they are
d_u      predicted damage of each choice of decision u;  I_uv, damage of a pair beyond d_u + d_v
=======  ==============================================================================================

    S_g = Σ_{u∈g} d_u[y_u] + Σ_{u<v∈g} I_uv[y_u, y_v] + ½ Σ_{u∈g, v∉g} I_uv[y_u, y_v]

Without the pairs it is the order by sensitivity; with them, the order by interaction: a pair's damage is shared by
the two (the estimator of Schaefer et al., arXiv:2306.04879, is not published; this is its implementable form). For a
quadratic loss, I_uv = ΔW_uᵀ H_uv ΔW_v is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qsearch.search.damage import Damage
from qsearch.space import SearchSpace, Variable

X = NDArray[np.int64]
"""An index vector, shape (D,)."""

Together = Literal["layer", "site"]
"""What moves together: the variables that share a layer, or each variable by itself."""


@dataclass(frozen=True)
class Group:
    """Decisions that move together; all kernels of a kernel-wise variable do.

    Attributes:
        name: of its first variable.
        decisions: positions in the index vector, shape (n,).
    """

    name: str
    decisions: NDArray[np.int64]


Order: TypeAlias = Callable[[Sequence[Group], X], list[Group]]
"""Groups and y → the groups in the order in which they may go to their choices in y, least harmful first."""


def groups_of(space: SearchSpace, together: Together) -> list[Group]:
    """The groups of a space, in network order."""
    return [
        Group(members[0].name, np.concatenate([np.arange(v.start, v.start + v.length) for v in members]))
        for members in _GROUPINGS[together](space)
    ]


def _by_variable(space: SearchSpace) -> list[list[Variable]]:
    return [[variable] for variable in space.variables]


def _by_layer(space: SearchSpace) -> list[list[Variable]]:
    """Variables that share a layer, directly or through a tie."""
    found: list[tuple[list[Variable], set[str]]] = []
    for variable in space.variables:
        layers = {space.site(name).layer for name in variable.sites}
        joined = [item for item in found if item[1] & layers]
        members = [*(other for item in joined for other in item[0]), variable]
        found = [item for item in found if not item[1] & layers]
        found.append((members, layers.union(*(item[1] for item in joined))))
    members_of = [sorted(members, key=lambda variable: variable.start) for members, _ in found]
    return sorted(members_of, key=lambda members: members[0].start)


_GROUPINGS: Mapping[Together, Callable[[SearchSpace], list[list[Variable]]]] = {
    "layer": _by_layer,
    "site": _by_variable,
}


def levels_of(space: SearchSpace) -> list[int]:
    """Every bitwidth that some variable may take, highest first."""
    return sorted({bits for variable in space.variables for bits in variable.choices}, reverse=True)


def at_level(space: SearchSpace, bits: int) -> X:
    """The index vector of all decisions at a level."""
    x = space.highest
    for variable in space.variables:
        x[variable.slice] = min(int(np.searchsorted(variable.choices, bits)), len(variable.choices) - 1)
    return x


def moved(x: X, groups: Sequence[Group], target: X) -> X:
    """``x`` with some groups at their choices of ``target``."""
    y = x.copy()
    for group in groups:
        y[group.decisions] = target[group.decisions]
    return y


def differs(x: X, group: Group, target: X) -> bool:
    """Whether a group has other choices in ``target``."""
    return bool(np.any(x[group.decisions] != target[group.decisions]))


def group_damage(damage: Damage, groups: Sequence[Group], y: X) -> NDArray[np.float64]:
    """S of each group, shape (G,)."""
    scores = np.zeros(len(groups) + 1)  # the last is for decisions outside the groups
    owner = np.full(y.size, len(groups))
    for number, group in enumerate(groups):
        owner[group.decisions] = number
    for decision, values in enumerate(damage.single):
        scores[owner[decision]] += values[y[decision]]
    for (i, j), values in damage.pairs.items():
        half = 0.5 * values[y[i], y[j]]
        scores[owner[i]] += half
        scores[owner[j]] += half
    return scores[:-1]


@dataclass(frozen=True)
class DamageOrder:
    """Groups by their predicted damage S, least first; interactions count where the damage has pairs."""

    damage: Damage

    def __call__(self, groups: Sequence[Group], y: X) -> list[Group]:
        scores = group_damage(self.damage, groups, y)
        return [groups[number] for number in np.argsort(scores, kind="stable")]


@dataclass(frozen=True)
class FixedOrder:
    """Groups by a rank of their own, whatever the level: a random one is the control for the others.

    Attributes:
        ranks: name of a group → its rank.
    """

    ranks: Mapping[str, int]

    def __call__(self, groups: Sequence[Group], y: X) -> list[Group]:
        return sorted(groups, key=lambda group: self.ranks[group.name])


def random_order(groups: Sequence[Group], seed: int) -> FixedOrder:
    """A random permutation of the groups."""
    ranks = np.random.default_rng(seed).permutation(len(groups)).tolist()
    return FixedOrder({group.name: rank for group, rank in zip(groups, ranks, strict=True)})
