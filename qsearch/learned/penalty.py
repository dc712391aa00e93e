"""Costs at real-valued bits, and the penalty that drives them to a target.

Notation

=======  ======================================================================================
L        layers; V variables that learn, with real-valued bits b_v, one or one per kernel
C        most choices of a variable
P_v      shares of the choices of variable v (:mod:`qsearch.learned.interpolation`), mean over its kernels, shape (C,)
T_l      cost of layer l at every choice of its weight and of its input, shape (C, C)
λ        weight of the penalty
=======  ======================================================================================

::

    cost(b) = Σ_l P_w(l)ᵀ T_l P_a(l)          the greatest instead of the sum for metrics that are
    penalty = λ · Σ_metrics relu(cost(b) / target − 1)²

Costs are tabulated at the choices and interpolated bilinearly between them: exact at every choice, whatever the cost
model, and exact between them where it is linear in each of the two bits. So the size of p weights is p·b and the
bit operations of m multiply-accumulates are m·b_w·b_a, as FracBits counts them (Yang and Jin, AAAI 2021, eqs. 5 and 6). For
bits per kernel the shares are averaged, which asks for a cost that is the mean over kernels.

DQ and the edge-inference scheme penalise relu(kB − target)² (Uhlich et al., ICLR 2020, eq. 8; weights 0.1 and 1e-4);
here the overrun is relative to the target, so that one λ serves any network and any unit: λ is theirs times target².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.learned.interpolation import shares
from qsearch.learned.limits import Limit
from qsearch.space import Variable


class RealCost(nn.Module):
    """One metric of a network at real-valued bits.

    Args:
        cost: the cost model on the network; see :func:`qsearch.learned.limits.require_tabulated`.
        metric: one of its.
        learned: variables whose bits are given when it is called, in this order; all of the space if None.
        held: variable → bits of the others.
    """

    tables: Tensor
    weights: Tensor
    inputs: Tensor

    def __init__(
        self,
        cost: NetworkCost,
        metric: str,
        learned: Sequence[Variable] | None = None,
        held: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._variables = tuple(cost.space.variables if learned is None else learned)
        self._greatest = metric in getattr(cost.model, "maxima", ())
        width = max([1, *(len(variable.choices) for variable in self._variables)])
        rows = {variable.name: row for row, variable in enumerate(self._variables)}
        owners = cost.space.owners
        tables = np.zeros((len(cost.layers), width, width))
        places = []
        for table, layer in zip(tables, cost.layers, strict=True):
            axes = [
                _axis(site, owners.get(site), rows, {**(cost.space.fixed or {}), **(held or {})})
                for site in (layer.weight_site, layer.activation_site)
            ]
            _tabulate(cost, layer, metric, [choices for _, choices in axes], table)
            places.append([row for row, _ in axes])
        self.register_buffer("tables", torch.from_numpy(tables), persistent=False)
        for name, column in zip(("weights", "inputs"), zip(*places, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(column), persistent=False)

    def forward(self, bits: Sequence[Tensor]) -> Tensor:
        """The cost, a scalar in double precision and differentiable.

        Args:
            bits: of each variable, shape (length,).
        """
        found = self._shares(bits)
        layers = torch.einsum("li,lij,lj->l", found[self.weights], self.tables, found[self.inputs])
        return layers.amax() if self._greatest else layers.sum()

    def _shares(self, bits: Sequence[Tensor]) -> Tensor:
        """P of each variable, and a last row for what is held: shape (V + 1, C)."""
        width = self.tables.shape[1]
        found = [self.tables.new_tensor([[1.0] + [0.0] * (width - 1)])] * (len(bits) + 1)
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, variable in enumerate(self._variables):
            groups.setdefault(variable.choices, []).append(row)
        for choices, members in groups.items():  # variables with the same choices at once
            lengths = [len(bits[row]) for row in members]
            joined = torch.cat([bits[row] for row in members]).to(self.tables)
            every = shares(joined, self.tables.new_tensor(choices))
            for row, part in zip(members, torch.split(every, lengths), strict=True):
                found[row] = functional.pad(part.mean(0, keepdim=True), (0, width - len(choices)))
        return torch.cat(found)


class Penalty(nn.Module):
    """λ · Σ relu(cost / target − 1)² over limits.

    Args:
        limits: costs and targets.
        learned: variables whose bits are given.
        held: variable → bits of the others.
        weight: λ.
    """

    targets: Tensor

    def __init__(
        self, limits: Sequence[Limit], learned: Sequence[Variable], held: Mapping[str, int], weight: float
    ) -> None:
        super().__init__()
        self._weight = weight
        self._costs = nn.ModuleList(RealCost(limit.cost, limit.metric, learned, held) for limit in limits)
        targets = torch.tensor([limit.most for limit in limits], dtype=torch.float64)
        self.register_buffer("targets", targets, persistent=False)

    def forward(self, bits: Sequence[Tensor]) -> Tensor:
        """The penalty, a scalar."""
        over = functional.relu(self.relative(bits) - 1)
        return self._weight * over.square().sum()

    def relative(self, bits: Sequence[Tensor]) -> Tensor:
        """Each cost as a share of its target, shape (limits,)."""
        return torch.stack([cost(bits) for cost in self._costs]) / self.targets


def _axis(
    site: str, variable: Variable | None, rows: Mapping[str, int], held: Mapping[str, int]
) -> tuple[int, tuple[int, ...]]:
    """Where the shares of a site stand, −1 for the last row, and the bits that they are shares of."""
    if variable is not None and variable.name in rows:
        return rows[variable.name], variable.choices
    name = site if variable is None else variable.name
    return -1, (held.get(name, FLOAT_BITS),)


def _tabulate(
    cost: NetworkCost, layer: Layer, metric: str, choices: Sequence[tuple[int, ...]], table: np.ndarray
) -> None:
    """Write T of one layer."""
    for i, weight in enumerate(choices[0]):
        for j, activation in enumerate(choices[1]):
            bits = np.full(layer.kernels, weight, dtype=np.int64)
            table[i, j] = cost.model.layer_cost(layer, bits, activation).get(metric, 0.0)
