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

The cost of an assignment is Σ_u c_u plus a constant (layers whose bits are all fixed), its predicted damage Σ_u d_u. A
decision in several units (a tie across layers, or the activation bits beside the kernels of a layer) carries its damage
in the first of them only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.errors import EvaluationError, UserError
from qsearch.layers import Layer
from qsearch.protocols import SensitivityTable
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
    """
    found: list[Unit] = []
    constant = dict.fromkeys(metrics, 0.0)
    for decisions, choices, costs in _priced(cost, metrics):
        if decisions.size:
            found.append(Unit(decisions, choices, np.zeros(len(choices)), costs))
        else:
            constant = {metric: constant[metric] + float(costs[metric][0]) for metric in metrics}
    priced = {int(decision) for unit in found for decision in unit.decisions}
    counts = cost.space.choice_counts
    for decision in sorted(set(range(cost.space.dimension)) - priced):
        options = np.arange(counts[decision], dtype=np.int64)[:, None]
        free = {metric: np.zeros(len(options)) for metric in metrics}
        found.append(Unit(np.asarray([decision]), options, np.zeros(len(options)), free))
    return _with_damage(found, decision_damage(cost.space, table)), constant


def decision_damage(space: SearchSpace, table: SensitivityTable) -> list[Floats]:
    """Predicted damage of the choices of each decision: D arrays, one number per choice.

    Raises:
        EvaluationError: a sensitivity that is missing, not finite or of the wrong shape.
    """
    damage: list[Floats] = []
    for variable in space.variables:
        rows = np.asarray(table.damage.get(variable.name, np.nan), dtype=np.float64)
        shape = (variable.length, len(variable.choices))
        if rows.shape != shape or not np.all(np.isfinite(rows)):
            raise EvaluationError(
                f"sensitivities of {variable.name!r} must be finite, of shape {shape}",
                got=f"shape {rows.shape}, {int(np.sum(~np.isfinite(rows)))} not finite",
            )
        damage.extend(rows)
    return damage


def require_additive(cost: NetworkCost) -> None:
    """Raise unless the cost is a sum of what the decisions cost.

    A model whose attribute ``kernel_additive`` is True says that a layer costs the mean, over its kernels, of what it
    would cost with the bits of that kernel everywhere; then bits per kernel add up too.

    Raises:
        UserError: the cost model is not additive, or not over kernels in a space with bits per kernel.
    """
    name = type(cost.model).__name__
    if not cost.additive:
        raise UserError(
            "integer programming needs a cost that is the sum of its layers' costs",
            got=f"{name}, which is not additive",
            fix="use the searcher 'optuna' or 'random', which take any cost model",
        )
    by_kernel = any(variable.length > 1 for variable in cost.space.variables)
    if by_kernel and not getattr(cost.model, "kernel_additive", False):
        raise UserError(
            "with bits per kernel, integer programming needs a layer's cost to be the mean of its kernels' costs",
            got=f"{name}, which does not say so (kernel_additive)",
            fix="use granularity: layer, or the searcher 'optuna' or 'random'",
        )


def _priced(
    cost: NetworkCost, metrics: Sequence[str]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Floats]]]:
    """Decisions, joint choices and costs of each layer; of each kernel where kernels have bits of their own."""
    by_site = {name: variable for variable in cost.space.variables for name in variable.sites}
    for layer in cost.layers:
        weight, activation = by_site.get(layer.weight_site), by_site.get(layer.activation_site)
        choices = _joint_choices(weight, activation)
        bits = zip(
            _bits(weight, choices[:, 0], cost.space, layer.weight_site),
            _bits(activation, choices[:, -1], cost.space, layer.activation_site),
            strict=True,
        )
        prices = [_price(cost, layer, w, a) for w, a in bits]
        parts = weight.length if weight is not None else 1
        costs = {metric: np.asarray([price.get(metric, 0.0) for price in prices]) / parts for metric in metrics}
        columns = choices[:, -1:] if weight is None else choices[:, : 1 + (activation not in (None, weight))]
        for part in range(parts):
            starts = [weight.start + part] if weight is not None else []
            if activation is not None and activation is not weight:
                starts.append(activation.start)
            yield np.asarray(starts, dtype=np.int64), columns, costs


def _joint_choices(weight: Variable | None, activation: Variable | None) -> NDArray[np.int64]:
    """Pairs of choice indices of a layer's weight and activation, shape (O, 2); 0 for what is not decided."""
    count = len(weight.choices) if weight is not None else 1
    if weight is not None and weight is activation:
        return np.repeat(np.arange(count, dtype=np.int64)[:, None], 2, axis=1)
    pairs = product(range(count), range(len(activation.choices) if activation is not None else 1))
    return np.asarray(list(pairs), dtype=np.int64)


def _bits(variable: Variable | None, indices: NDArray[np.int64], space: SearchSpace, site: str) -> list[int]:
    """Bits of a site for each index; its fixed bits, or float for what is no site, where nothing is decided."""
    if variable is not None:
        return [variable.choices[index] for index in indices]
    return [(space.fixed or {}).get(site, FLOAT_BITS)] * len(indices)


def _price(cost: NetworkCost, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
    weights = np.full(layer.kernels, weight_bits, dtype=np.int64)
    return cost.model.layer_cost(layer, weights, activation_bits)


def _with_damage(units: Sequence[Unit], damage: Sequence[Floats]) -> list[Unit]:
    """The units with the damage of each decision in the first unit that has it."""
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
