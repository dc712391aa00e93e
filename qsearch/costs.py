"""``NetworkCost``: a cost model bound to the layers and the search space of one network.

This is the one place where a cost model is called, so that its contract is checked once: every metric has a
unit, every cost is finite and not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import CostModelError, QSearchError
from qsearch.layers import Layer
from qsearch.overlay import ALL
from qsearch.overlay_costs import Charge, Choice, OverlayPrices
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
        charge: what overlays are charged (:mod:`qsearch.overlay_costs`), where layers have one.

    Raises:
        ConfigError: layers with overlays, and a model that does not add layers up.
    """

    model: CostModel
    layers: tuple[Layer, ...]
    space: SearchSpace
    charge: Charge = field(default_factory=Charge)

    def __post_init__(self) -> None:
        if self.overlaid:
            OverlayPrices(self.model, self.charge)  # which refuses what cannot be charged

    @cached_property
    def overlaid(self) -> bool:
        """Whether some layer may have an overlay."""
        return any(layer.overlay for layer in self.layers)

    @cached_property
    def _prices(self) -> CostModel | OverlayPrices:
        """What estimates networks."""
        return OverlayPrices(self.model, self.charge) if self.overlaid else self.model

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
        """Whether the network's cost is the sum, or the greatest, of what ``model`` says of its layers' bits.

        Integer programming is exact then. Not with overlays: their layers cost what more than bits decide.
        """
        return self._sums and not self.overlaid

    @property
    def _sums(self) -> bool:
        return bool(getattr(self.model, "additive", True))

    def estimate(self, assignment: BitAssignment) -> Cost:
        """Cost of one assignment.

        Raises:
            CostModelError: a cost that is negative, not finite, missing, or of a metric without a unit; the
                model raised something of its own.
        """
        cost = _ask(lambda: self._prices.estimate(self.layers, assignment))
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
        found = _ask(lambda: _arrays(self._prices.estimate_many(self.layers, bits)))
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
        return min(lowest, self._over_layers(metric, min)) if self._sums else lowest

    def ceiling(self, metric: str) -> float:
        """The most that any assignment of the space costs; exact, or an upper bound, where :meth:`floor` is."""
        highest = float(self.estimate_many(self.space.highest[None])[metric][0])
        return max(highest, self._over_layers(metric, max)) if self._sums else highest

    def _over_layers(self, metric: str, pick: Callable[[list[float]], float]) -> float:
        """The least or the greatest cost of each layer, summed, or the greatest of them for a metric of ``maxima``.

        All kernels of a layer are at the same bits.
        """
        total = 0.0
        for layer in self.layers:
            price = pick([_ask(partial(self._layer, layer, choice))[metric] for choice in self._choices(layer)])
            total = max(total, price) if metric in getattr(self.model, "maxima", ()) else total + price
        return float(total)

    def _choices(self, layer: Layer) -> Iterator[Choice]:
        """Everything that may be chosen for a layer; where nothing is, it is in float, and plain."""
        sites = {site.name: site.choices for site in self.space.sites}
        fixed = {name: (bits,) for name, bits in (self.space.fixed or {}).items()}
        names = (layer.weight_site, layer.activation_site, layer.overlay_site, layer.pattern_site)
        defaults = (FLOAT_BITS, FLOAT_BITS, ALL, 0)
        options = [fixed.get(name, sites.get(name, (default,))) for name, default in zip(names, defaults, strict=True)]
        yield from (Choice(*choice) for choice in product(*options))

    def _layer(self, layer: Layer, choice: Choice) -> Mapping[str, float]:
        """Cost of a layer, all its kernels at the same bits."""
        if isinstance(self._prices, OverlayPrices):
            return self._prices.layer(layer, choice)
        return self.model.layer_cost(layer, np.full(layer.kernels, choice.weight, dtype=np.int64), choice.activation)

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
