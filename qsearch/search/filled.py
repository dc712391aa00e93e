"""Bits per kernel by steps: a problem with bits per kernel, seen as one with a level per layer.

Notation

=====  ==================================================================================
K, O   kernels of a variable with bits per kernel, and choices of each
d      damage of each choice of each kernel, shape (K, O)
b      bits of the choices, shape (O,)
S      levels of such a variable, at most ``LEVELS``
l      level: the position of a goal for the mean bits, the lowest at the fewest bits
=====  ==================================================================================

A step takes one kernel from a choice to the next on the lower convex hull of its damage against bits. All kernels start
at the fewest bits; steps are taken in order of the damage that they avoid per bit, and level l is where the next one
would go beyond its goal. As the kernels of a variable are of equal size, that is the least damage of all bits with the
same sum (Shoham and Gersho, IEEE Trans. ASSP 36, 1988). What falls between two goals, or between the ends of a step, no
level has. Where damages follow 4^(−b), reverse water-filling is the closed form (:mod:`qsearch.search.filling`).

More bits than do the least damage avoid nothing: these steps come last, so that the highest level has the most bits.

Levels take the place of bits, variable by variable; what has one bitwidth already stays as it is. A search among levels
decides V numbers instead of thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitArray, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.problem import Problem
from qsearch.protocols import CostModel, Oracle, SensitivityTable
from qsearch.search.filling import TOLERANCE
from qsearch.search.units import decision_damage
from qsearch.space import SearchSpace, SiteBits, Variable
from qsearch.trial import Cost, Trial

if TYPE_CHECKING:
    from qsearch.training.lessons import Lessons

LEVELS = 33
"""Goals of a layer, at equal distances: bits are numbers from 0 to 32, and levels stand in their place."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Fillings:
    """What the levels of a space stand for.

    Attributes:
        indices: variable with bits per kernel → position of each kernel's bits among its choices, shape (S, K).
        bits: site with bits per kernel → bits at each level, shape (S, K).
    """

    indices: Mapping[str, Indices]
    bits: Mapping[str, BitArray]

    def assignment(self, levels: BitAssignment) -> BitAssignment:
        """The bits that an assignment of levels stands for."""
        found: dict[str, Any] = {}
        for site, level in levels.items():
            found[site] = self.bits[site][level] if site in self.bits and isinstance(level, int) else level
        return BitAssignment(found)


class FilledCost(CostModel):
    """What levels cost: what the bits cost that they stand for.

    Args:
        model: the cost of bits.
    """

    def __init__(self, model: CostModel, fillings: Fillings) -> None:
        self._model, self._fillings = model, fillings
        self.units, self.additive, self.maxima = model.units, model.additive, model.maxima

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        """See :class:`qsearch.protocols.CostModel`."""
        table = self._fillings.bits.get(layer.weight_site)
        bits = weight_bits if table is None else table[int(weight_bits[0])]
        return self._model.layer_cost(layer, bits, activation_bits)

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """See :class:`qsearch.protocols.CostModel`."""
        return self._model.estimate(layers, self._fillings.assignment(assignment))

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Mapping[str, NDArray[np.float64]]:
        """See :class:`qsearch.protocols.CostModel`."""
        tables = self._fillings.bits
        filled = {site: tables[site][levels[:, 0]] if site in tables else levels for site, levels in bits.items()}
        return self._model.estimate_many(layers, filled)


class FilledOracle(Oracle):
    """An oracle that takes levels, and asks another for the bits that they stand for.

    Args:
        oracle: on a problem with bits per kernel.
        sensitivity, options: what predicts the damage of its kernels.
    """

    def __init__(self, oracle: Oracle, sensitivity: str, options: Mapping[str, Any]) -> None:
        self._oracle = oracle
        self.seed = oracle.seed
        self.folder: Path | None = oracle.folder
        table = oracle.sensitivity(sensitivity, options)
        self._fillings = fillings(oracle.problem.space, table)
        self._table = _filled_table(oracle.problem.space, table, self._fillings)
        self.problem = _filled_problem(oracle.problem, self._fillings)
        self._trials: dict[BitAssignment, Trial] = {}

    @property
    def trials(self) -> Sequence[Trial]:
        """Trials so far, of levels."""
        return tuple(self._trials.values())

    @property
    def remaining(self) -> int:
        """See :class:`qsearch.protocols.Oracle`."""
        return self._oracle.remaining

    def evaluate(self, assignment: BitAssignment) -> Trial:
        """The trial of the bits that an assignment of levels stands for."""
        return self.evaluate_many([assignment])[0]

    def evaluate_many(self, assignments: Sequence[BitAssignment]) -> list[Trial]:
        """The same for several."""
        found = self._oracle.evaluate_many([self._fillings.assignment(item) for item in assignments])
        named = [replace(trial, assignment=item) for trial, item in zip(found, assignments, strict=True)]
        self._trials.update(zip(assignments, named, strict=True))
        return named

    def sensitivity(self, name: str, options: Mapping[str, Any] | None = None) -> SensitivityTable:
        """Damage of each level, by the sensitivity that the kernels are filled by."""
        return self._table

    def lessons(self) -> Lessons:
        """See :class:`qsearch.protocols.Oracle`; of bits, not of levels."""
        return self._oracle.lessons()

    def trained(self, samples: int, seconds: float) -> None:
        """See :class:`qsearch.protocols.Oracle`."""
        self._oracle.trained(samples, seconds)

    def note(self, **values: float) -> None:
        """See :class:`qsearch.protocols.Oracle`."""
        self._oracle.note(**values)


def fillings(space: SearchSpace, table: SensitivityTable) -> Fillings:
    """The levels of a space with bits per kernel."""
    damage = decision_damage(space, table)
    indices = {v.name: _levels(v, [damage[v.start + k] for k in range(v.length)]) for v in _by_kernel(space)}
    bits = {site: np.asarray(v.choices)[indices[v.name]] for v in _by_kernel(space) for site in v.sites}
    return Fillings(indices, bits)


def _by_kernel(space: SearchSpace) -> list[Variable]:
    return [variable for variable in space.variables if variable.length > 1]


def _levels(variable: Variable, damage: Sequence[Floats]) -> Indices:
    """Position of each kernel's bits at each level, shape (S, K), fewest bits first; equal ones once."""
    bits = np.asarray(variable.choices, dtype=np.float64)
    steps = _steps(np.stack(damage), bits)
    goals = np.linspace(0.0, bits[-1] - bits[0], LEVELS) * variable.length
    taken = np.searchsorted(np.cumsum(steps.bits), goals + TOLERANCE * variable.length, side="right")
    levels = np.zeros((len(np.unique(taken)), variable.length), dtype=np.int64)
    for level, count in zip(levels, np.unique(taken).tolist(), strict=True):
        np.maximum.at(level, steps.kernel[:count], steps.choice[:count])
    return levels


@dataclass(frozen=True)
class _Steps:
    """Steps in the order in which they are taken: the kernel, the choice that it goes to, and the bits that it gains."""

    kernel: Indices
    choice: Indices
    bits: Floats


def _steps(damage: Floats, bits: Floats) -> _Steps:
    """Steps along the hulls of all kernels; of those that avoid as much per bit, first the one from fewer bits.

    Damage that rises with bits counts as level: no step avoids less than nothing.
    """
    least = np.minimum.accumulate(damage, axis=1)
    at, gain = np.zeros(len(damage), dtype=np.int64), np.full(len(damage), np.inf)
    none = np.zeros(0, dtype=np.int64)
    found: list[tuple[Floats, Indices, Indices, Indices]] = [(np.zeros(0), none, none, none)]
    while (kernels := np.flatnonzero(at < len(bits) - 1)).size:
        start = at[kernels]
        avoided, more = least[kernels, start][:, None] - least[kernels], bits - bits[start][:, None]
        slopes = np.divide(avoided, more, out=np.full(more.shape, -1.0), where=more > 0)
        at[kernels] = np.argmax(slopes, axis=1)  # the hull's next corner is where the slope is steepest
        gain[kernels] = np.minimum(gain[kernels], slopes.max(axis=1))  # rounding must not put a step before its last
        found.append((gain[kernels], start, at[kernels], kernels))
    gains, starts, ends, owners = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((owners, starts, -gains))
    return _Steps(owners[order], ends[order], (bits[ends] - bits[starts])[order])


def _filled_table(space: SearchSpace, table: SensitivityTable, found: Fillings) -> SensitivityTable:
    damage = {name: np.asarray(values) for name, values in table.damage.items()}
    for name, levels in found.indices.items():
        damage[name] = np.take_along_axis(damage[name], levels.T, axis=1).sum(axis=0, keepdims=True)
    return replace(table, damage=damage)


def _filled_problem(problem: Problem, found: Fillings) -> Problem:
    sites = tuple(
        replace(site, choices=tuple(range(len(found.bits[site.name]))), kernels=1) if site.name in found.bits else site
        for site in problem.space.sites
    )
    space = SearchSpace(sites, problem.space.ties, problem.space.fixed)
    cost = NetworkCost(FilledCost(problem.cost.model, found), problem.layers, space)
    return replace(problem, space=space, cost=cost)
