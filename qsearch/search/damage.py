"""``Damage``: what a table of sensitivities predicts for whole assignments.

Notation

=========  ==========================================================================================
x          index vector, shape (D,); X a batch of A of them, shape (A, D)
d_i        predicted damage of each choice of decision i, shape (choices of i,)
I_ij       damage of a pair of decisions beyond d_i + d_j, shape (choices of i, choices of j)
=========  ==========================================================================================

    damage(x) = Σ_i d_i[x_i] + Σ_{i<j} I_ij[x_i, x_j]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from qsearch.protocols import SensitivityTable
from qsearch.search.units import decision_damage
from qsearch.sensitivity_tables import check_interactions
from qsearch.space import SearchSpace

Floats = NDArray[np.float64]

GATHERED = 2**14
"""Numbers that are looked up at once: few enough to stay in the cache."""


@dataclass(frozen=True)
class Damage:
    """Predicted damage of index vectors.

    Attributes:
        single: d_i, one array per decision.
        pairs: (i, j) with i < j → I_ij.
    """

    single: tuple[Floats, ...]
    pairs: Mapping[tuple[int, int], Floats] = field(default_factory=dict)

    def __call__(self, x: NDArray[np.int64]) -> Floats:
        """Damage of a batch, shape (A, D) → (A,)."""
        if not self.single:
            return np.zeros(len(x))
        parts = -(-x.size // GATHERED) or 1
        return np.concatenate([self._of(part) for part in np.array_split(x, parts)])

    def _of(self, x: NDArray[np.int64]) -> Floats:
        values, starts = self._singles
        total: Floats = values.take(starts + x).sum(axis=1)
        if self.pairs:
            values, starts, (i, j), widths = self._paired
            total = total + values.take(starts + x[:, i] * widths + x[:, j]).sum(axis=1)
        return total

    @cached_property
    def _singles(self) -> tuple[Floats, NDArray[np.int64]]:
        """All d_i in one array, and where each begins, shape (D,)."""
        return np.concatenate(self.single), _starts(self.single)

    @cached_property
    def _paired(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """All I_ij in one array, where each begins, the pairs, shape (2, pairs), and the choices of each j."""
        tables = list(self.pairs.values())
        widths = np.asarray([table.shape[1] for table in tables], dtype=np.int64)
        return np.concatenate([t.ravel() for t in tables]), _starts(tables), np.asarray(list(self.pairs)).T, widths


def _starts(tables: Sequence[Floats]) -> NDArray[np.int64]:
    """Where each of some arrays begins once all are joined."""
    return np.cumsum([0, *(table.size for table in tables)], dtype=np.int64)[:-1]


def predicted_damage(space: SearchSpace, table: SensitivityTable) -> Damage:
    """The damage that a table predicts on a space.

    Raises:
        EvaluationError: a sensitivity that is missing, not finite or of the wrong shape; a pair that the space does
            not have.
    """
    check_interactions(space, table)
    start = {variable.name: variable.start for variable in space.variables}
    pairs = {
        (start[first], start[second]): np.asarray(values, dtype=np.float64)
        for (first, second), values in table.interactions.items()
    }
    return Damage(tuple(decision_damage(space, table)), pairs)


def blind_damage(space: SearchSpace) -> Damage:
    """Where no sensitivities are at hand: 4^(−bits) of each choice, the squared quantisation step, all decisions alike."""
    return Damage(
        tuple(4.0 ** -np.asarray(v.choices, dtype=np.float64) for v in space.variables for _ in range(v.length))
    )
