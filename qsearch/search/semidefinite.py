"""Damages with what is certainly not negative taken out: a semidefinite relaxation of the quadratic program.

Notation

=========  ==========================================================================================
n          choices of all decisions together
v          [1, y], shape (1 + n,): y[i, k] is 1 where decision i takes its choice k, else 0
C, R, r    matrices, shape (1 + n, 1 + n), with damage = vᵀCv, and with vᵀRv ≤ r for each limit
V          orthonormal basis of the span of all v, those with Σ_k y[i, k] = v_0 for each i
S          a matrix, positive semidefinite on that span
X, Y       what stands for vvᵀ: X as its entries are, Y positive semidefinite on the span
λ          prices of the limits, shape (limits,)
=========  ==========================================================================================

For every S, vᵀSv ≥ 0, so no assignment has less damage than vᵀ(C − S)v says. The S that leaves the most, when little of the
interactions is left in C − S, is the multiplier of X = Y in

    minimise ⟨C, X⟩  subject to  X = Y,  ⟨R, X⟩ ≤ r,
                                 X ≥ 0, X_00 = 1, diagonal = first row, zero between two choices of a decision, one in sum

(Lovász & Schrijver, SIAM J. Optimization 1(2), 1991; Zhao et al., J. Combinatorial Optimization 2(1), 1998). The alternating
direction method climbs towards it (Oliveira, Wolkowicz & Xu, Math. Prog. Computation 10(4), 2018). The S of each of its
steps is positive semidefinite whatever X is, so any number of steps is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import null_space

from qsearch.search.damage import Damage
from qsearch.search.units import Floats

COLUMNS = 512
"""Most choices of all decisions together: a step takes the eigenvalues of a matrix of that size."""
STEPS = 150
"""Steps of the alternating direction method."""
PENALTY = 0.05
"""Weight of the distance of X from Y, where the norm of C is 1."""
PRICE_STEP = 20.0
"""Step of the prices, as a multiple of the penalty, where the norm of R is 1."""
RELAXATION = 1.6
"""How far a step goes beyond X."""


@dataclass(frozen=True)
class Limit:
    """An upper limit on a sum over choices and pairs of choices."""

    cost: Damage
    most: float


def relieved(total: Damage, limits: Sequence[Limit]) -> Damage | None:
    """A damage that is nowhere above ``total``, of which interactions make up little; None for too many choices.

    Args:
        total: the damage.
        limits: what solutions keep to; the result holds for all assignments, and is meant for these.
    """
    lifted = Lifted(tuple(len(values) for values in total.single))
    if sum(lifted.sizes) > COLUMNS:
        return None
    matrix = lifted.matrix(total)
    scale = float(np.linalg.norm(matrix)) or 1.0
    return lifted.damage(matrix - scale * _multiplier(lifted, matrix / scale, limits))


def _multiplier(lifted: Lifted, objective: Floats, limits: Sequence[Limit]) -> Floats:
    """S for an objective of norm 1."""
    rows = np.zeros((len(limits), *objective.shape))
    most = np.zeros(len(limits))
    for index, limit in enumerate(limits):
        row = lifted.matrix(limit.cost)
        norm = float(np.linalg.norm(row)) or 1.0
        rows[index], most[index] = row / norm, limit.most / norm
    prices = np.zeros(len(limits))
    basis, s, y = lifted.basis, np.zeros(objective.shape), lifted.centre
    for _ in range(STEPS):
        x = lifted.projected(y - (objective + np.tensordot(prices, rows, axes=1) - s) / PENALTY)
        overrun = np.einsum("mij,ij->m", rows, x) - most
        prices = np.maximum(0.0, prices + PENALTY * PRICE_STEP * overrun)
        beyond = RELAXATION * x + (1 - RELAXATION) * y
        values, vectors = np.linalg.eigh(basis.T @ (beyond - s / PENALTY) @ basis)
        rotated = basis @ vectors[:, values > 0]
        y = (rotated * values[values > 0]) @ rotated.T
        s = s + PENALTY * (y - beyond)  # on the span: the other eigenvalues, with the other sign
    return s


@dataclass(frozen=True)
class Lifted:
    """Damages as matrices.

    Attributes:
        sizes: choices of each decision.
    """

    sizes: tuple[int, ...]

    @cached_property
    def _slices(self) -> list[slice]:
        """Places of each decision in v."""
        return [slice(start, end) for start, end in pairwise((1 + np.cumsum([0, *self.sizes])).tolist())]

    @cached_property
    def _owner(self) -> NDArray[np.int64]:
        """The decision of each choice, shape (n,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @cached_property
    def basis(self) -> Floats:
        """V, shape (1 + n, 1 + n − decisions)."""
        sums = (self._owner == np.arange(len(self.sizes))[:, None]).astype(np.float64)
        return np.asarray(null_space(np.concatenate([-np.ones((len(sums), 1)), sums], axis=1)))

    @property
    def centre(self) -> Floats:
        """vvᵀ of all choices in equal shares."""
        v = np.concatenate([[1.0], 1 / np.asarray(self.sizes, dtype=np.float64)[self._owner]])
        return np.outer(v, v)

    def matrix(self, damage: Damage) -> Floats:
        """C of a damage."""
        found = np.zeros((1 + len(self._owner),) * 2)
        found[0, 1:] = found[1:, 0] = np.concatenate(damage.single) / 2
        for (i, j), values in damage.pairs.items():
            found[self._slices[i], self._slices[j]] = values / 2
            found[self._slices[j], self._slices[i]] = values.T / 2
        return found

    def damage(self, matrix: Floats) -> Damage:
        """The damage of which a symmetric matrix is C; the constant counts for the first decision."""
        matrix = (matrix + matrix.T) / 2
        values = 2 * matrix[0, 1:] + np.diag(matrix)[1:]
        values[: self.sizes[0]] += matrix[0, 0]
        return Damage(
            tuple(np.split(values, np.cumsum(self.sizes)[:-1])),
            {(i, j): 2 * matrix[self._slices[i], self._slices[j]] for j in range(len(self.sizes)) for i in range(j)},
        )

    def projected(self, matrix: Floats) -> Floats:
        """A matrix with the entries of X, near a symmetric one; the first row and the diagonal go by their mean."""
        x = np.maximum(matrix, 0.0)
        x[1:, 1:][self._owner[:, None] == self._owner] = 0.0
        each = np.arange(1, len(x))
        shares = self._shares((2 * matrix[0, 1:] + matrix[each, each]) / 3)
        x[0, 1:] = x[1:, 0] = x[each, each] = shares
        x[0, 0] = 1.0
        return x

    def _shares(self, values: Floats) -> Floats:
        """The nearest numbers that are not negative and sum to 1 over each decision, shape (n,) → (n,)."""
        padded = np.full((len(self.sizes), max(self.sizes)), -np.inf)
        padded[np.arange(padded.shape[1]) < np.asarray(self.sizes)[:, None]] = values
        falling = -np.sort(-padded, axis=1)
        # what the k greatest have beyond a sum of 1, per number: the greatest of these is the one to take off
        beyond = (np.cumsum(falling, axis=1) - 1) / np.arange(1, padded.shape[1] + 1)
        return np.asarray(np.maximum(values - beyond.max(axis=1)[self._owner], 0.0), dtype=np.float64)
