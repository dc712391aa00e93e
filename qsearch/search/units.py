"""The additive picture of a problem: which decisions meet in one layer, and what each of their joint choices costs.

Notation

=========  ==========================================================================================
D          decisions of the space
u          unit: decisions whose cost is joint, as weight and activation bits of one layer are
O_u        joint choices of unit u
d_u        predicted damage of each choice, shape (O_u,)
c_u        cost of each choice, one array of shape (O_u,) per metric
K          kernels of a layer
=========  ==========================================================================================

The cost of an assignment is Σ_u c_u plus a constant (layers whose bits are all fixed), or the greatest of them for the
metrics that a cost model names in ``maxima``; its predicted damage is Σ_u d_u. A decision in several units (a tie across
layers, or the activation bits beside the kernels of a layer) carries its damage in the first of them only. A decision on
which no cost depends is a unit of its own, so that it holds no others together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.errors import UserError
from qsearch.layers import Layer
from qsearch.problem import Bound
from qsearch.protocols import SensitivityTable
from qsearch.sensitivity_tables import check_damage
from qsearch.space import SearchSpace, Variable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """Decisions whose cost is joint.

    Attributes:
        decisions: positions in the index vector, shape (n,).
        choices: joint choices as indices, shape (O, n).
        damage: d_u, shape (O,).
        costs: metric → c_u, shape (O,).
    """

    decisions: NDArray[np.int64]
    choices: NDArray[np.int64]
    damage: Floats
    costs: Mapping[str, Floats]


def additive_units(
    cost: NetworkCost, table: SensitivityTable, metrics: Sequence[str]
) -> tuple[list[Unit], dict[str, float]]:
    """Units of a network whose cost adds up (:func:`require_additive`), and the constant part of each cost.

    Raises:
        EvaluationError: a sensitivity that is not finite.
        UserError: see :func:`cost_units`.
    """
    units, constant = cost_units(cost, metrics)
    return with_damage(units, decision_damage(cost.space, table)), constant


def cost_units(cost: NetworkCost, metrics: Sequence[str]) -> tuple[list[Unit], dict[str, float]]:
    """The same units, with a damage of 0.

    Raises:
        UserError: in a space with bits per kernel, a metric of ``maxima`` that depends on the bits of weights.
    """
    found: list[Unit] = []
    constant = dict.fromkeys(metrics, 0.0)
    for decisions, choices, costs in _priced(cost, metrics):
        if decisions.size:
            found.append(Unit(decisions, choices, np.zeros(len(choices)), costs))
            continue
        for metric in metrics:
            value = float(costs[metric][0])
            constant[metric] = max(constant[metric], value) if metric in maxima(cost) else constant[metric] + value
    priced = {int(decision) for unit in found for decision in unit.decisions}
    counts = cost.space.choice_counts
    for decision in sorted(set(range(cost.space.dimension)) - priced):
        options = np.arange(counts[decision], dtype=np.int64)[:, None]
        free = {metric: np.zeros(len(options)) for metric in metrics}
        found.append(Unit(np.asarray([decision]), options, np.zeros(len(options)), free))
    return found, constant


def maxima(cost: NetworkCost) -> frozenset[str]:
    """Metrics of which the network has the greatest of its layers'."""
    return frozenset(getattr(cost.model, "maxima", ()))


def decision_damage(space: SearchSpace, table: SensitivityTable) -> list[Floats]:
    """Predicted damage of the choices of each decision: D arrays, one number per choice.

    Raises:
        EvaluationError: a sensitivity that is missing, not finite or of the wrong shape.
    """
    check_damage(space, table)
    return [row for variable in space.variables for row in np.asarray(table.damage[variable.name], dtype=np.float64)]


def require_additive(cost: NetworkCost, bounds: Sequence[Bound] = ()) -> None:
    """Raise unless the cost is a sum, or the greatest, of what the decisions cost.

    A model whose attribute ``kernel_additive`` is True says that a layer costs the mean, over its kernels, of what it
    would cost with the bits of that kernel everywhere; then bits per kernel add up too.

    Raises:
        UserError: weights may be overlaid; the cost model is not additive, or not over kernels in a space with bits per
            kernel; a bound asks for
            at least some value of a metric of which the network has the greatest of its layers'.
    """
    for bound in bounds:
        if bound.at_least and bound.metric in maxima(cost):
            raise UserError(
                "an exact predicted optimum needs upper limits only on a metric that is the greatest of the layers'",
                got=bound.label,
                fix="leave the constraint out, or use the searcher 'optuna' or 'random'",
            )
    if cost.overlaid:
        raise UserError(
            "an exact predicted optimum needs costs that bits alone decide",
            got="a space with overlays",
            fix="use the searcher 'optuna', 'gp', 'random' or 'grid'",
        )
    name = type(cost.model).__name__
    if not cost.additive:
        raise UserError(
            "an exact predicted optimum needs a cost that is the sum of its layers' costs",
            got=f"{name}, which is not additive",
            fix="use the searcher 'optuna' or 'random', which take any cost model",
        )
    by_kernel = any(variable.length > 1 for variable in cost.space.variables)
    if by_kernel and not getattr(cost.model, "kernel_additive", False):
        raise UserError(
            "with bits per kernel, an exact predicted optimum needs a layer's cost to be the mean of its kernels' costs",
            got=f"{name}, which does not say so (kernel_additive)",
            fix="use granularity: layer, or the searcher 'optuna' or 'random'",
        )


def _priced(
    cost: NetworkCost, metrics: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Floats]]]:
    """Decisions, joint choices and costs of each layer; of each kernel where kernels have bits of their own."""
    for layer in cost.layers:
        found = [cost.space.owners.get(layer.weight_site), cost.space.owners.get(layer.activation_site)]
        variables = list(dict.fromkeys(variable for variable in found if variable is not None))
        counts = [len(variable.choices) for variable in variables]
        prices = [_price(cost, layer, dict(zip(variables, index, strict=True)), found) for index in np.ndindex(*counts)]
        costs = {m: np.asarray([price.get(m, 0.0) for price in prices]).reshape(counts) for m in metrics}
        variables, costs = _that_matter(variables, costs)
        kernels = max((variable.length for variable in variables), default=1)
        if kernels > 1:
            costs = {m: _share(cost, layer, m, value, kernels) for m, value in costs.items()}
        choices = np.asarray(list(np.ndindex(*(len(variable.choices) for variable in variables))), dtype=np.int64)
        flat = {metric: value.ravel() for metric, value in costs.items()}
        for kernel in range(kernels):
            decisions = [variable.start + (kernel if variable.length > 1 else 0) for variable in variables]
            yield np.asarray(decisions, dtype=np.int64), choices, flat


def _that_matter(variables: list[Variable], costs: dict[str, Floats]) -> tuple[list[Variable], dict[str, Floats]]:
    """The variables that some cost of a layer depends on, and its costs over their choices alone."""
    for axis in reversed(range(len(variables))):
        if all(np.all(value == value.take([0], axis=axis)) for value in costs.values()):
            variables = variables[:axis] + variables[axis + 1 :]
            costs = {metric: np.asarray(value.take(0, axis=axis)) for metric, value in costs.items()}
    return variables, costs


def _share(cost: NetworkCost, layer: Layer, metric: str, value: Floats, kernels: int) -> Floats:
    """What one kernel adds to the cost of its layer, with the bits of weights on the first axis."""
    if metric not in maxima(cost):
        return value / kernels
    if np.any(value != value[:1]):
        raise UserError(
            "with bits per kernel, a metric that is the greatest of the layers' may not depend on the bits of weights",
            got=f"{metric!r} of layer {layer.name!r}",
            fix="use granularity: layer, or the searcher 'optuna' or 'random'",
        )
    return value


def _price(
    cost: NetworkCost, layer: Layer, index: Mapping[Variable, int], variables: Sequence[Variable | None]
) -> Mapping[str, float]:
    """Costs of a layer at a choice of each variable; where nothing is decided, at fixed bits, or float for no site."""
    bits = [
        (cost.space.fixed or {}).get(site, FLOAT_BITS) if variable is None else variable.choices[index[variable]]
        for site, variable in zip((layer.weight_site, layer.activation_site), variables, strict=True)
    ]
    return cost.model.layer_cost(layer, np.full(layer.kernels, bits[0], dtype=np.int64), bits[1])


def with_damage(units: Sequence[Unit], damage: Sequence[Floats]) -> list[Unit]:
    """The units with other damages, one array per decision; each decision's in the first unit that has it."""
    charged: set[int] = set()
    found = []
    for unit in units:
        total = np.zeros(len(unit.choices))
        for column, decision in enumerate(unit.decisions.tolist()):
            if decision not in charged:
                total += damage[decision][unit.choices[:, column]]
                charged.add(decision)
        found.append(Unit(unit.decisions, unit.choices, total, unit.costs))
    return found
