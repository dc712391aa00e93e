"""``NetworkCost``: a cost model bound to the layers and the search space of one network.

This is the one place where a cost model is called, so that its contract is checked once: every metric has a
unit, every cost is finite and not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import CostModelError, QSearchError
from qsearch.layers import Layer
from qsearch.space import SearchSpace
from qsearch.trial import Cost

if TYPE_CHECKING:
    from qsearch.protocols import CostModel

T = TypeVar("T")


def _ask(question: Callable[[], T]) -> T:
    """The model's answer; whatever it raises of its own becomes one clear line."""
    try:
        return question()
    except QSearchError:
        raise
    except Exception as error:  # a plug-in may fail in any way; the user needs to know that it was the cost model
        raise CostModelError("the cost model raised an error", got=f"{type(error).__name__}: {error}") from error


def _arrays(totals: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    return {metric: np.asarray(value, dtype=np.float64) for metric, value in totals.items()}


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

    @property
    def definitions(self) -> Mapping[str, str]:
        """Metric → what is counted, and by whose numbers, for metrics of which the model says so."""
        return getattr(self.model, "definitions", {})

    @cached_property
    def additive(self) -> bool:
        """Whether the network's cost is the sum, or the greatest, of its layers' costs: integer programming is exact."""
        return bool(getattr(self.model, "additive", True))

    def estimate(self, assignment: BitAssignment) -> Cost:
        """Cost of one assignment.

        Raises:
            CostModelError: a cost that is negative, not finite, missing, or of a metric without a unit; the
                model raised something of its own.
        """
        cost = _ask(lambda: self.model.estimate(self.layers, assignment))
        if not isinstance(cost, Cost):
            raise CostModelError("estimate must return a Cost", got=type(cost).__name__)
        for layer, metrics in cost.layers.items():
            self._check(metrics, f"layer {layer!r}")
        self._check(cost.totals, "the network")
        self._check(cost.deviations, "a deviation of the network")
        self._check_complete(cost.totals)
        return cost

    def estimate_many(self, x: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Total costs of a batch of index vectors, shape (A, D): metric → shape (A,).

        Raises:
            CostModelError: as :meth:`estimate`.
        """
        bits = self.space.bits(x)
        found = _ask(lambda: _arrays(self.model.estimate_many(self.layers, bits)))
        self._check_complete(found)
        for metric, value in found.items():
            if value.shape != (len(x),):
                raise CostModelError(f"{metric} of a batch must have shape ({len(x)},)", got=value.shape)
            for extreme in (value.min(initial=0.0), value.max(initial=0.0)):
                self._check({metric: float(extreme)}, "the network")
        return found

    def floor(self, metric: str) -> float:
        """The least that any assignment of the space costs.

        Exact for additive models when the bits of a layer's sites are free of ties (otherwise a lower bound);
        for other models the cost of the fewest bits, as costs are monotone in bits.
        """
        lowest = float(self.estimate_many(self.space.lowest[None])[metric][0])
        return min(lowest, self._over_layers(metric, min)) if self.additive else lowest

    def ceiling(self, metric: str) -> float:
        """The most that any assignment of the space costs; exact, or an upper bound, where :meth:`floor` is."""
        highest = float(self.estimate_many(self.space.highest[None])[metric][0])
        return max(highest, self._over_layers(metric, max)) if self.additive else highest

    def _over_layers(self, metric: str, pick: Callable[[list[float]], float]) -> float:
        """The least or the greatest cost of each layer, summed, or the greatest of them for a metric of ``maxima``.

        All kernels of a layer are at the same bits.
        """
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
            costs: list[float] = []
            for bits in product(*choices):
                weight = np.full(layer.kernels, bits[0], dtype=np.int64)
                ask = partial(self.model.layer_cost, layer, weight, bits[1] if len(bits) > 1 else FLOAT_BITS)
                costs.append(_ask(ask)[metric])
            total = max(total, pick(costs)) if metric in getattr(self.model, "maxima", ()) else total + pick(costs)
        return float(total)

    def _check_complete(self, metrics: Mapping[str, object]) -> None:
        missing = set(self.units) - set(metrics)
        if missing:
            raise CostModelError(
                "a cost model must return every metric it gives a unit for",
                got=f"nothing for {', '.join(sorted(missing))}",
            )

    def _check(self, metrics: Mapping[str, float], where: str) -> None:
        for metric, value in metrics.items():
            if metric not in self.units:
                raise CostModelError(
                    f"every metric of a cost model must have a unit, {metric!r} has none",
                    fix=f"add it to units, which has: {', '.join(sorted(self.units)) or 'nothing'}",
                )
            if not isinstance(value, Real):
                raise CostModelError(f"{metric} of {where} must be a number", got=value)
            if not np.isfinite(value) or value < 0:
                raise CostModelError(f"{metric} of {where} must be finite and at least 0", got=float(value))
