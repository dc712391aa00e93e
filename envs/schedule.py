"""``Schedule``: the decisions of an episode, in order, and where each stands in an index vector.

Notation

=====  =================================================================================
T      decisions of an episode
x      index vector of the space, shape (D,)
K      kernels of a variable
=====  =================================================================================

Layer by layer, T is the number of variables of the space, and a decision sets all K kernels of its variable. Kernel by
kernel, T = D. Ties are one variable, fixed sites are none: nothing that is not free is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import SpaceError
from qsearch.space import SearchSpace, Variable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Decision:
    """One decision: the choice of ``variable`` for the entries ``start`` to ``stop`` of x; ``kernel`` counts from 0."""

    variable: Variable
    start: int
    stop: int
    kernel: int

    @property
    def choices(self) -> tuple[int, ...]:
        """Bits to choose from."""
        return self.variable.choices

    @property
    def last_of_variable(self) -> bool:
        """Whether the variable is decided with it."""
        return self.stop == self.variable.start + self.variable.length


@dataclass(frozen=True)
class Schedule:
    """Decisions in network order.

    Raises:
        SpaceError: there is nothing to decide.
    """

    space: SearchSpace
    decisions: tuple[Decision, ...]

    def __post_init__(self) -> None:
        if not self.decisions:
            raise SpaceError(
                "an environment needs at least one free site", got="every site is fixed", fix="fix fewer sites"
            )

    @classmethod
    def by_layer(cls, space: SearchSpace) -> Schedule:
        """A decision per variable, for all its kernels."""
        return cls(space, tuple(Decision(v, v.start, v.start + v.length, 0) for v in space.variables))

    @classmethod
    def by_kernel(cls, space: SearchSpace) -> Schedule:
        """A decision per kernel of each variable."""
        return cls(
            space,
            tuple(Decision(v, v.start + k, v.start + k + 1, k) for v in space.variables for k in range(v.length)),
        )

    def __len__(self) -> int:
        return len(self.decisions)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Choices of each decision, shape (T,)."""
        return np.asarray([len(decision.choices) for decision in self.decisions], dtype=np.int64)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Entry of x that each decision sets first, shape (T,)."""
        return np.asarray([decision.start for decision in self.decisions], dtype=np.int64)

    @cached_property
    def relative_bits(self) -> Floats:
        """Bits of each choice as a share of the most bits in the space, shape (T, C), NaN beyond a decision's choices."""
        top = max(max(decision.choices) for decision in self.decisions) or 1
        table = np.full((len(self), int(self.counts.max())), np.nan)
        for row, decision in enumerate(self.decisions):
            table[row, : len(decision.choices)] = np.asarray(decision.choices) / top
        return table

    def taken(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Choices that an index vector takes at each decision, shape (D,) → (T,).

        Projection may give the kernels of one layer-wise decision different bits; the decision then stands for their
        rounded mean.
        """
        ends = [decision.stop for decision in self.decisions]
        sums = np.concatenate([[0], np.cumsum(x)])
        lengths = np.asarray(ends) - self.starts
        means: Floats = (sums[ends] - sums[self.starts]) / lengths
        return np.rint(means).astype(np.int64)
