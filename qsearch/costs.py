"""``NetworkCost``: a cost model bound to the layers and the search space of one network.

This is the one place where a cost model is called, so that its contract is checked once: every metric has a
unit, every cost is finite and not negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.errors import CostModelError
from qsearch.layers import Layer
from qsearch.space import SearchSpace
from qsearch.trial import Cost

if TYPE_CHECKING:
    from qsearch.protocols import CostModel


@dataclass(frozen=True)
class NetworkCost:
    """What assignments of one network cost on one piece of hardware.

    Attributes:
        model: the cost model.
        layers: the layers of the network.
        space: the space whose index vectors :meth:`estimate_many` takes.
    """

    model: CostModel
    layers: tuple[Layer, ...]
    space: SearchSpace

    @property
    def units(self) -> Mapping[str, str]:
        """Metric → unit."""
        return self.model.units

    @cached_property
    def additive(self) -> bool:
        """Whether the network's cost is the sum of its layers' costs, so that integer programming is exact."""
        return bool(getattr(self.model, "additive", True))

    def estimate(self, assignment: BitAssignment) -> Cost:
        """Cost of one assignment.

        Raises:
            CostModelError: a cost that is negative, not finite, or of a metric without a unit.
        """
        cost = self.model.estimate(self.layers, assignment)
        if not isinstance(cost, Cost):
            raise CostModelError("estimate must return a Cost", got=type(cost).__name__)
        for layer, metrics in cost.layers.items():
            self._check(metrics, f"layer {layer!r}")
        self._check(cost.totals, "the network")
        missing = set(self.units) - set(cost.totals)
        if missing:
            raise CostModelError(
                "a cost model must return every metric it gives a unit for",
                got=f"nothing for {', '.join(sorted(missing))}",
            )
        return cost

    def estimate_many(self, x: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Total costs of a batch of index vectors, shape (A, D): metric → shape (A,).

        Raises:
            CostModelError: as :meth:`estimate`.
        """
        totals = self.model.estimate_many(self.layers, self.space.bits(x))
        found = {metric: np.asarray(value, dtype=np.float64) for metric, value in totals.items()}
        for metric, value in found.items():
            for extreme in (value.min(initial=0.0), value.max(initial=0.0)):
                self._check({metric: float(extreme)}, "the network")
        return found

    def floor(self, metric: str) -> float:
        """The least that any assignment of the space costs.

        Exact for additive models when the bits of a layer's sites are free of ties (otherwise a lower bound);
        for other models the cost of the fewest bits, as costs are monotone in bits.
        """
        lowest = float(self.estimate_many(self.space.lowest[None])[metric][0])
        if not self.additive:
            return lowest
        sites = {site.name: site for site in self.space.sites}
        fixed = self.space.fixed or {}
        total = 0.0
        for layer in self.layers:
            choices: list[tuple[int, ...]] = []
            for name in (layer.weight_site, layer.activation_site):
                if name in fixed:
                    choices.append((fixed[name],))
                elif name in sites:
                    choices.append(sites[name].choices)
            costs = []
            for bits in product(*choices):
                weight = np.full(layer.kernels, bits[0], dtype=np.int64)
                costs.append(self.model.layer_cost(layer, weight, bits[1] if len(bits) > 1 else 32)[metric])
            total += min(costs)
        return min(lowest, float(total))

    def _check(self, metrics: Mapping[str, float], where: str) -> None:
        for metric, value in metrics.items():
            if metric not in self.units:
                raise CostModelError(
                    f"every metric of a cost model must have a unit, {metric!r} has none",
                    fix=f"add it to units, which has: {', '.join(sorted(self.units)) or 'nothing'}",
                )
            if not np.isfinite(value) or value < 0:
                raise CostModelError(f"{metric} of {where} must be finite and at least 0", got=float(value))
