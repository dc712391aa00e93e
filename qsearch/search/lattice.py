"""Moves on the integer lattice of index vectors: the predicted path, neighbours, mutations.

Notation

=====  ==========================================================================================
x      index vector, shape (D,); X, a batch of A of them, shape (A, D)
Δd     growth of the predicted damage by a move
Δc     saving of cost by it: the sum over cost metrics, each as a share of what the highest assignment costs
=====  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.problem import Problem
from qsearch.projection import project
from qsearch.search.damage import Damage
from qsearch.space import SearchSpace, Variable

X = NDArray[np.int64]
Floats = NDArray[np.float64]

BLOCKS = 8
"""Kernels of a variable that stand at one choice are lowered in so many blocks, those that mind least first."""
RAISED = 1024
"""Decisions of a space up to which the room that bounds leave is spent, decision by decision."""
RUN = 4
"""Longest run of neighbouring variables that a block move shifts together."""


def predicted_path(problem: Problem, damage: Damage) -> X:
    """From the highest assignment to the lowest, each step what does least predicted damage per cost saved.

    A step lowers one decision, by one choice or by several where that is the better bargain: costs of real hardware
    have steps, so that a single choice may save nothing. Costs are the problem's own (``estimate_many``), additive or
    not; their metrics are the costs that it minimises or limits from above, and the mean index where it has none.
    Decisions of a kernel-wise variable are lowered by the block (see ``BLOCKS``). For an additive cost and convex
    damage every state is the one of least damage at its cost or below, up to one step (Fox, Oper. Res. 14, 1966).

    Returns:
        States, shape (steps, D), the highest assignment first. Steps are some Σ (choices − 1) over layer-wise
        decisions, ``BLOCKS`` times that over kernel-wise variables.
    """
    walk = _Walk(problem, damage)
    states = [problem.space.highest]
    while (lowered := walk.step(states[-1])) is not None:
        states.append(lowered)
    return np.stack(states)


def predicted_best(problem: Problem, damage: Damage, count: int) -> X:
    """At most ``count`` assignments within the cost bounds that the damage predicts to be good, shape (A, D).

    Of the part of the predicted path within the bounds: where quality alone is asked for, the first states, raised until
    the bounds are spent, then as they are; where a cost is among the objectives, states spread over all of it, its ends
    included.
    """
    path = within_bounds(problem, predicted_path(problem, damage))
    if all(objective.metric not in problem.cost.units for objective in problem.objectives):
        spent = [raised(problem, damage, x) for x in path[:count]]
        return within_bounds(problem, np.stack([*spent, *path]))[:count] if len(path) else path
    return np.asarray(path[np.unique(np.linspace(0, len(path) - 1, min(count, len(path))).round().astype(int))])


def raised(problem: Problem, damage: Damage, x: X) -> X:
    """x with the room that it leaves in the cost bounds spent, one choice of one decision after the other.

    See :func:`room_spent`. Spaces of more than ``RAISED`` decisions have steps too small to matter.
    """

    def higher(x: X) -> X:
        moved = x + np.eye(len(x), dtype=np.int64)
        return moved[(moved <= problem.space.highest).all(axis=1)]

    return room_spent(problem, damage, x, higher) if problem.space.dimension <= RAISED else x


def room_spent(problem: Problem, damage: Damage, x: X, higher: Callable[[X], X]) -> X:
    """x, within the cost bounds, with the room that it leaves in them spent: what the steps of a path leave over.

    Again and again, of the states just above that are within the bounds, the one that takes away most damage, until
    none takes away any.

    Args:
        higher: a state → the states just above it, shape (A, D).
    """
    while problem.cost_bounds:
        above = higher(x)
        above = above[problem.cost_violations(above) <= 0] if len(above) else above
        saved = damage(x[None]) - damage(above)
        if not (saved > 0).any():
            break
        x = above[int(np.argmax(saved))]
    return x


@dataclass(frozen=True)
class _Move:
    """Some decisions of one variable, set to one lower choice; Δd, and Δc in ``saving``."""

    decisions: NDArray[np.int64]
    choice: int
    increase: float
    saving: float


class _Walk:
    """Prices of the moves that lead downwards; kept from step to step where they cannot have changed."""

    def __init__(self, problem: Problem, damage: Damage) -> None:
        self._problem, self._damage = problem, damage
        cost, space = problem.cost, problem.space
        named = [o.metric for o in problem.objectives if o.sign > 0] + [
            b.metric for b in problem.bounds if not b.at_least
        ]
        self._metrics = [metric for metric in dict.fromkeys(named) if metric in cost.units]
        top = cost.estimate_many(space.highest[None])
        self._scale = {metric: float(top[metric][0]) or 1.0 for metric in self._metrics}
        self._moves: dict[str, list[_Move]] = {}
        self._related = _related(problem, damage)

    def step(self, x: X) -> X | None:
        """The state after the best move; None at the lowest assignment."""
        missing = [v for v in self._problem.space.variables if v.name not in self._moves]
        self._price(x, missing)
        found = [(move, name) for name, moves in self._moves.items() for move in moves]
        if not found:
            return None
        saving = [pair for pair in found if pair[0].saving > 0]
        if saving:
            move, name = min(saving, key=lambda pair: pair[0].increase / pair[0].saving)
        else:  # on a plateau of the cost: several must be lowered before anything is saved
            move, name = min(found, key=lambda pair: pair[0].increase)
        for other in self._related[name]:
            self._moves.pop(other, None)
        lowered = x.copy()
        lowered[move.decisions] = move.choice
        return lowered

    def _price(self, x: X, variables: Sequence[Variable]) -> None:
        """Moves of some variables from x, with their prices; one batch of costs for all."""
        blocks = [(v, block, choice) for v in variables for block, choice in self._downwards(v, x)]
        self._moves.update({variable.name: [] for variable in variables})
        if not blocks:
            return
        rows = np.repeat(x[None], len(blocks), axis=0)
        for row, (_, block, choice) in zip(rows, blocks, strict=True):
            row[block] = choice
        savings = self._cost(x[None])[0] - self._cost(rows)
        increases = self._increases(x, rows)
        for (variable, block, choice), increase, saved in zip(blocks, increases, savings, strict=True):
            self._moves[variable.name].append(_Move(block, choice, float(increase), float(saved)))

    def _downwards(self, variable: Variable, x: X) -> list[tuple[NDArray[np.int64], int]]:
        """Blocks of a variable's decisions at one choice, with each lower choice: those that mind least."""
        size = -(-variable.length // BLOCKS)
        decisions = np.arange(variable.start, variable.start + variable.length)
        found = []
        for now in np.unique(x[variable.slice]).tolist():
            here = decisions[x[variable.slice] == now]
            rows = np.stack([self._damage.single[decision] for decision in here.tolist()])
            for choice in range(now - 1, -1, -1):
                order = np.argsort(rows[:, choice] - rows[:, now], kind="stable")
                found.append((here[order[:size]], choice))
        return found

    def _cost(self, x: X) -> Floats:
        if not self._metrics:
            return np.asarray(x.mean(axis=1))
        totals = self._problem.cost.estimate_many(x)
        return np.asarray(sum(totals[metric] / self._scale[metric] for metric in self._metrics))

    def _increases(self, x: X, rows: X) -> Floats:
        """Δd of each row against x; only what differs is looked up."""
        changed = np.flatnonzero((rows != x).any(axis=0)).tolist()
        total = np.zeros(len(rows))
        for decision in changed:
            values = self._damage.single[decision]
            total += values[rows[:, decision]] - values[x[decision]]
        touched = set(changed)
        for (i, j), values in self._damage.pairs.items():
            if i in touched or j in touched:
                total += values[rows[:, i], rows[:, j]] - values[x[i], x[j]]
        return total


def _related(problem: Problem, damage: Damage) -> dict[str, set[str]]:
    """Variable → variables whose prices a move of it may change: of its layers, or that it interacts with.

    All of them where the cost is no sum over layers.
    """
    variables = problem.space.variables
    names = {variable.name for variable in variables}
    if not problem.cost.additive or problem.cost.model.maxima:
        return dict.fromkeys(names, names)
    related = {name: {name} for name in names}
    of_site = {site: variable.name for variable in variables for site in variable.sites}
    joint = [[of_site.get(layer.weight_site), of_site.get(layer.activation_site)] for layer in problem.layers]
    owner = [variable.name for variable in variables for _ in range(variable.length)]
    joint += [[owner[i], owner[j]] for i, j in damage.pairs]
    for one, other in joint:
        if one is not None and other is not None:
            related[one].add(other)
            related[other].add(one)
    return related


def neighbours(space: SearchSpace, x: X, rng: np.random.Generator, limit: int) -> X:
    """Local moves from x, shape (at most about ``limit``, D): drawn at random where there are more.

    One decision by ±1; two decisions by +1 and −1, which trades bits at nearly the same cost; a run of 2..``RUN``
    neighbouring variables by ±1 with all their kernels, as layers of one stage often want the same; a random half of
    the kernels of a variable by ±1.
    """
    moves = np.concatenate(
        [_runs(space, rng), _steps(space.dimension, rng, limit), _swaps(space.dimension, rng, limit)]
    )
    moved = x + moves if len(moves) <= limit else x + moves[rng.permutation(len(moves))[:limit]]
    moved = np.clip(moved, 0, space.highest)  # a run at the edge moves those of its decisions that can
    return np.asarray(moved[(moved != x).any(axis=1)])


def _steps(dimension: int, rng: np.random.Generator, limit: int) -> X:
    """±1 on one decision, shape (at most ``limit``, D)."""
    numbers = rng.permutation(2 * dimension)[:limit]
    moves = np.zeros((len(numbers), dimension), dtype=np.int64)
    moves[np.arange(len(numbers)), numbers // 2] = 2 * (numbers % 2) - 1
    return moves


def _swaps(dimension: int, rng: np.random.Generator, limit: int) -> X:
    """+1 on one decision, −1 on another, shape (at most ``limit``, D)."""
    pairs = dimension * (dimension - 1)
    numbers = rng.permutation(pairs)[:limit] if pairs <= 2**16 else rng.integers(0, pairs, limit)
    up, down = np.divmod(numbers, max(dimension - 1, 1))
    down = down + (down >= up)
    moves = np.zeros((len(numbers), dimension), dtype=np.int64)
    moves[np.arange(len(numbers)), up] = 1
    moves[np.arange(len(numbers)), down] = -1
    return moves


def _runs(space: SearchSpace, rng: np.random.Generator) -> X:
    """±1 on runs of variables, whole kernel-wise variables and random halves of them."""
    variables = space.variables
    masks = []
    for first, variable in enumerate(variables):
        for last in range(first, min(first + RUN, len(variables))):
            if last > first or variable.length > 1:
                mask = np.zeros(space.dimension, dtype=np.int64)
                mask[variable.start : variables[last].start + variables[last].length] = 1
                masks.append(mask)
        if variable.length > 1:
            mask = np.zeros(space.dimension, dtype=np.int64)
            mask[variable.slice] = rng.integers(0, 2, variable.length)
            masks.append(mask)
    if not masks:
        return np.zeros((0, space.dimension), dtype=np.int64)
    stacked = np.stack(masks)
    return np.concatenate([stacked, -stacked])


def mutated(space: SearchSpace, x: X, rng: np.random.Generator, count: int) -> X:
    """Copies of x with two or three decisions on average drawn anew, at least one, shape (count, D)."""
    if space.dimension == 0:
        return np.zeros((0, 0), dtype=np.int64)
    chosen = rng.random((count, space.dimension)) < min(2.0 / space.dimension, 0.5)
    chosen[np.arange(count), rng.integers(0, space.dimension, count)] = True
    return np.where(chosen, space.sample(rng, count), x)


def projected(problem: Problem, rng: np.random.Generator, count: int) -> X:
    """Random assignments, lowered onto the cost bounds by :func:`qsearch.projection.project`, shape (count, D)."""
    return np.asarray([project(problem, x) for x in problem.space.sample(rng, count)], dtype=np.int64).reshape(
        count, problem.space.dimension
    )


def within_bounds(problem: Problem, x: X) -> X:
    """Those of a batch, shape (A, D), that meet the cost bounds, each once, in order of first appearance."""
    if not len(x):
        return x
    _, first = np.unique(x, axis=0, return_index=True)
    distinct = x[np.sort(first)]
    return distinct[problem.cost_violations(distinct) <= 0]
