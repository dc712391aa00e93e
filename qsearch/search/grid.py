"""``grid``: the space point by point, in a fixed order, with nothing left to chance.

1. **Alike**: the same choice for all weights, the same for all activations, and the same of what else the space decides
   (:mod:`qsearch.overlay`); every combination, the highest choices first. A site without a choice takes its nearest.
2. **One layer at a time**: from the best of these, layer by layer in the order of the network, every combination of the
   layer's own choices with the other layers as they are; the layer then keeps the best, and the next is tried. Round after
   round, until one changes nothing.
3. **The rest**: every assignment, in lexicographic order from the lowest, in spaces of up to ``ENUMERATED``.

The order does not depend on the budget, so that a run resumed with a larger one goes on where it ended; a budget that holds
the whole space evaluates the whole space. Assignments over a bound on costs are left out. So are all but one of those
that make the same network (:mod:`qsearch.search.canonical`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from qsearch.protocols import Oracle, Searcher
from qsearch.search.canonical import canonical
from qsearch.space import Role, SearchSpace, Variable
from qsearch.trial import Trial

X = NDArray[np.int64]

ENUMERATED = 2**20
"""Spaces up to this size are enumerated to the end."""

BATCH = 256
"""Assignments whose costs are asked for at a time."""


class Grid(Searcher):
    """Regular enumeration, see the module. Kernels of a layer are alike in its first two steps."""

    stochastic = False

    def search(self, oracle: Oracle) -> None:
        """Evaluate point after point, until the budget is spent or nothing is left."""
        walk = _Walk(oracle)
        walk.visit(alike(oracle.problem.space))
        while walk.best is not None and walk.round(layer_groups(oracle.problem.space)):
            pass
        if oracle.problem.space.size <= ENUMERATED:
            walk.visit(everything(oracle.problem.space))


class _Walk:
    """What has been visited, and the best of it."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self._problem = oracle, oracle.problem
        self._space = oracle.problem.space
        self._seen: set[bytes] = set()
        self.best: tuple[X, Trial] | None = None

    def visit(self, points: Iterator[X]) -> None:
        """Evaluate those of some points that are new and within the bounds on costs."""
        while part := [canonical(self._space, self._problem.cost.layers, point) for point in islice(points, BATCH)]:
            x = np.stack(part)
            for row in x[self._problem.cost_violations(x) <= 0]:
                if self._oracle.remaining == 0:
                    return
                if row.tobytes() not in self._seen:
                    self._seen.add(row.tobytes())
                    self._enter(row, self._oracle.evaluate(self._space.decode(row)))

    def round(self, groups: Sequence[Sequence[Variable]]) -> bool:
        """Every layer once; whether anything was found that is better."""
        assert self.best is not None
        before = self.best[1]
        for group in groups:
            if self._oracle.remaining == 0:
                return False
            self.visit(_moved(self.best[0], group))
        return self.best[1] is not before

    def _enter(self, x: X, trial: Trial) -> None:
        if trial.quality is None:
            return
        if self.best is None or self._merit(trial) < self._merit(self.best[1]):
            self.best = x, trial

    def _merit(self, trial: Trial) -> tuple[float, ...]:
        """Feasible trials by their objectives, the others by how far they miss; less is better."""
        over = sum(max(value, 0.0) for value in trial.violations.values())
        return (over, not trial.feasible, *self._problem.minimised(trial).tolist(), trial.number)


def alike(space: SearchSpace) -> Iterator[X]:
    """Index vectors with one choice for all variables of a role, the highest first."""
    roles = [space.site(variable.name).role for variable in space.variables]
    values: dict[Role, set[int]] = {}
    for variable, role in zip(space.variables, roles, strict=True):
        values.setdefault(role, set()).update(variable.choices)
    for chosen in product(*(sorted(options, reverse=True) for options in values.values())):
        wanted = dict(zip(values, chosen, strict=True))
        x = space.lowest
        for variable, role in zip(space.variables, roles, strict=True):
            x[variable.slice] = int(np.argmin(np.abs(np.asarray(variable.choices) - wanted[role])))
        yield x


def everything(space: SearchSpace) -> Iterator[X]:
    """Every index vector, in lexicographic order."""
    for x in product(*map(range, space.choice_counts.tolist())):
        yield np.asarray(x, dtype=np.int64)


def layer_groups(space: SearchSpace) -> list[list[Variable]]:
    """The variables of each layer, in network order; a tie belongs to the layer of its first site."""
    found: dict[str, list[Variable]] = {}
    for variable in space.variables:
        found.setdefault(space.site(variable.name).layer, []).append(variable)
    return list(found.values())


def _moved(x: X, group: Sequence[Variable]) -> Iterator[X]:
    """x with every combination of choices of some variables, the highest first."""
    for chosen in product(*(range(len(variable.choices) - 1, -1, -1) for variable in group)):
        moved = x.copy()
        for variable, choice in zip(group, chosen, strict=True):
            moved[variable.slice] = choice
        yield moved
