"""``NetworkCost``: a cost model bound to the layers and the search space of one network.

This is the one place where a cost model is called, so that its contract is checked once: every metric has a
unit, every cost is finite and not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from numbers import Real
from typing import TYPE_CHECKING, Any, TypeVar

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


ROUNDING = 1e-9
"""Relative: what sums of the same numbers in another order are never apart."""
RECENT = 128
"""Estimates that are kept for who asks twice: searchers project a batch of proposals, then have it evaluated."""
REMEMBERED = 64
"""Prices of a layer that are kept: of a walk's passes, and of where it turns within one."""


class LayerCosts(Mapping[str, Mapping[str, float]]):
    """Layer → metric → cost, as one array: a campaign keeps a breakdown for every trial.

    Args:
        names: of the layers.
        metrics: of the costs.
        values: shape (layers, metrics).
    """

    def __init__(self, names: tuple[str, ...], metrics: tuple[str, ...], values: NDArray[np.float64]) -> None:
        self._rows, self._metrics, self._values = _numbered(names), metrics, values

    @classmethod
    def of(cls, layers: Mapping[str, Mapping[str, float]]) -> Mapping[str, Mapping[str, float]]:
        """A breakdown in this form, if its layers all have the same metrics; else as it is."""
        rows = list(layers.values())
        metrics = tuple(rows[0]) if rows else ()
        if not metrics or any(tuple(row) != metrics for row in rows):
            return layers
        return cls(
            tuple(layers), metrics, np.asarray([[row[metric] for metric in metrics] for row in rows], np.float64)
        )

    def __getitem__(self, name: str) -> Mapping[str, float]:
        return dict(zip(self._metrics, self._values[self._rows[name]].tolist(), strict=True))

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return repr(dict(self))


@lru_cache(maxsize=256)
def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    """Name → its place, one dictionary for all breakdowns of a network."""
    return {name: place for place, name in enumerate(names)}


class KernelTable:
    """Costs of a network whose layers cost the mean over their kernels, from a table of its layers: but for rounding, and fast.

    Notation: T_l(w, a), cost of layer l with all kernels at w bits and its input at a; b, bits of each decision, and of
    what is fixed. The cost is Σ_l Σ_k T_l(b_k, a_l) / K_l, one sum over all decisions.
    """

    def __init__(self, cost: NetworkCost) -> None:
        width, places = FLOAT_BITS + 1, _places(cost)
        weights, inputs = ([places[layer.name][role] for layer in cost.layers] for role in (0, 1))
        lengths = np.asarray([part.stop - part.start for part in weights])
        self._space = cost.space
        self._places = np.concatenate([np.arange(part.start, part.stop) for part in weights])
        self._inputs = np.asarray([part.start for part in inputs])
        self._layers = np.repeat(np.arange(len(lengths)), lengths)
        self._share = np.repeat(1 / lengths, lengths)
        self._tables = {metric: np.zeros((len(lengths), width, width)) for metric in cost.units}
        for place, layer in enumerate(cost.layers):
            for choice in cost.choices(layer):
                for metric, value in cost.layer(layer, choice).items():
                    self._tables[metric][place, choice.activation, choice.weight] = value

    def totals(self, x: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Costs of index vectors, shape (A, D): metric → shape (A,)."""
        found = [self._totals_of(row) for row in x]
        return {metric: np.asarray([totals[metric] for totals in found]) for metric in self._tables}

    def _totals_of(self, x: NDArray[np.int64]) -> dict[str, float]:
        width = FLOAT_BITS + 1
        bits = np.concatenate([self._space.bits_of(x), np.arange(width)])
        rows = width * (np.arange(len(self._inputs)) * width + bits[self._inputs])
        cells = rows.take(self._layers) + bits.take(self._places)
        return {metric: float(table.ravel().take(cells) @ self._share) for metric, table in self._tables.items()}


class LayerPrices:
    """Costs of a network whose layers add up: but for rounding, and without asking again for bits that a layer has had before.

    A state of some walk differs from others of it in a layer or two.
    """

    def __init__(self, cost: NetworkCost) -> None:
        self._cost, self._places = cost, _places(cost)
        self._sites = {site.name for site in cost.space.sites}
        self._known: dict[str, dict[tuple[bytes, int], tuple[float, ...]]] = {layer.name: {} for layer in cost.layers}

    def totals(self, x: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Costs of index vectors, shape (A, D): metric → shape (A,)."""
        states = [self._cost.space.bits_of(row).tobytes() + _EVERY_BIT for row in x]
        prices = np.asarray([self._prices(layer, states) for layer in self._cost.layers])  # (layers, A, metrics)
        maxima = getattr(self._cost.model, "maxima", ())
        return {
            metric: prices[..., i].max(axis=0) if metric in maxima else prices[..., i].sum(axis=0)
            for i, metric in enumerate(self._cost.units)
        }

    def _prices(self, layer: Layer, states: Sequence[bytes]) -> list[tuple[float, ...]]:
        """Costs of a layer in each state, in the order of the units."""
        known, (weight, entry) = self._known[layer.name], self._places[layer.name]
        keys = [(state[weight], max(state[entry])) for state in states]
        if new := [key for key in dict.fromkeys(keys) if key not in known]:
            if len(known) + len(new) > REMEMBERED:
                known.clear()
                new = list(dict.fromkeys(keys))
            known.update(zip(new, self._asked(layer, new), strict=True))
        return [known[key] for key in keys]

    def _asked(self, layer: Layer, keys: Sequence[tuple[bytes, int]]) -> Iterator[tuple[float, ...]]:
        weights, entries = zip(*keys, strict=True)
        bits: dict[str, NDArray[Any]] = {
            layer.weight_site: np.frombuffer(b"".join(weights), dtype=np.int8).reshape(len(keys), -1),
            layer.activation_site: np.asarray(entries, dtype=np.int8)[:, None],
        }
        named = {name: value for name, value in bits.items() if name in self._sites}
        found = _ask(lambda: _arrays(self._cost.model.estimate_many((layer,), named)))
        return zip(*(found[metric].tolist() for metric in self._cost.units), strict=True)


_EVERY_BIT = bytes(range(FLOAT_BITS + 1))
"""What is fixed, and what is no site, has a place behind the decisions."""


def _places(cost: NetworkCost) -> dict[str, tuple[slice, slice]]:
    """Layer → where its weights and its input are, among the bits of all decisions and then 0, 1, …, 32."""
    space = cost.space
    found = {name: variable.slice for name, variable in space.owners.items()}
    found |= {name: _behind(space, int(bits)) for name, bits in (space.fixed or {}).items()}
    free = _behind(space, FLOAT_BITS)
    return {
        layer.name: (found.get(layer.weight_site, free), found.get(layer.activation_site, free))
        for layer in cost.layers
    }


def _behind(space: SearchSpace, bits: int) -> slice:
    return slice(space.dimension + bits, space.dimension + bits + 1)


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

    @cached_property
    def kernel_table(self) -> KernelTable | None:
        """Fast costs of spaces with bits per kernel, where costs add up over kernels as the model says; None elsewhere."""
        if not self._by_kernel or self.model.maxima or not getattr(self.model, "kernel_additive", False):
            return None
        table = KernelTable(self)
        return table if self._agrees(table) else None

    @cached_property
    def layer_prices(self) -> LayerPrices | None:
        """The same, where costs add up over layers, and the model tells what one of them costs."""
        if not self._by_kernel:
            return None
        prices = LayerPrices(self)
        try:
            return prices if self._agrees(prices) else None
        except (
            QSearchError
        ):  # of a model that knows whole networks only; what is wrong with the network, it will say again
            return None

    @property
    def _by_kernel(self) -> bool:
        return self.additive and self.space.dimension > len(self.space.variables)

    def _agrees(self, quick: KernelTable | LayerPrices) -> bool:
        """Whether costs that are found faster are the model's, but for rounding; of three assignments."""
        x = self.space.sample(np.random.default_rng(0), 3)
        found, exact = quick.totals(x), self.estimate_many(x)
        return all(np.allclose(found[metric], exact[metric], rtol=ROUNDING, atol=0) for metric in exact)

    @property
    def _sums(self) -> bool:
        return bool(getattr(self.model, "additive", True))

    def estimate(self, assignment: BitAssignment) -> Cost:
        """Cost of one assignment.

        Raises:
            CostModelError: a cost that is negative, not finite, missing, or of a metric without a unit; the
                model raised something of its own.
        """
        known = self._recent.get(assignment)
        if known is None:
            known = self._estimated(assignment)
            if len(self._recent) >= RECENT:
                self._recent.pop(next(iter(self._recent)))
            self._recent[assignment] = known
        return known

    @cached_property
    def _recent(self) -> dict[BitAssignment, Cost]:
        """The last few estimates: searchers hold an assignment against its bounds, then the oracle asks for its cost."""
        return {}

    def _estimated(self, assignment: BitAssignment) -> Cost:
        cost = _ask(lambda: self._prices.estimate(self.layers, assignment))
        if not isinstance(cost, Cost):
            raise CostModelError("estimate must return a Cost", got=type(cost).__name__)
        for layer, metrics in cost.layers.items():
            self._check(metrics, f"layer {layer!r}")
        self._check(cost.totals, "the network")
        self._check(cost.deviations, "a deviation of the network")
        self._check_complete(cost.totals)
        return replace(cost, layers=LayerCosts.of(cost.layers))

    def estimate_many(self, x: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Total costs of a batch of index vectors, shape (A, D): metric → shape (A,).

        Raises:
            CostModelError: as :meth:`estimate`.
        """
        if len(x) == 1 and self.additive:  # the same numbers, and the oracle will ask for them again
            alone = self.estimate(self.space.decode(x[0])).totals
            return {metric: np.asarray([alone[metric]], dtype=np.float64) for metric in self.units}
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
            price = pick([_ask(partial(self.layer, layer, choice))[metric] for choice in self.choices(layer)])
            total = max(total, price) if metric in getattr(self.model, "maxima", ()) else total + price
        return float(total)

    def choices(self, layer: Layer) -> Iterator[Choice]:
        """Everything that may be chosen for a layer; where nothing is, it is in float, and plain."""
        sites = {site.name: site.choices for site in self.space.sites}
        fixed = {name: (bits,) for name, bits in (self.space.fixed or {}).items()}
        names = (layer.weight_site, layer.activation_site, layer.overlay_site, layer.pattern_site)
        defaults = (FLOAT_BITS, FLOAT_BITS, ALL, 0)
        options = [fixed.get(name, sites.get(name, (default,))) for name, default in zip(names, defaults, strict=True)]
        yield from (Choice(*choice) for choice in product(*options))

    def layer(self, layer: Layer, choice: Choice) -> Mapping[str, float]:
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
