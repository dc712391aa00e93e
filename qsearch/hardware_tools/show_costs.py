"""What each layer of a network costs at uniform bits, by one cost model or several: the numbers of ``qsearch hardware show``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, nearest
from qsearch.hardware.axes import check_same_axis
from qsearch.hardware.constants import Constant
from qsearch.layers import Layer
from qsearch.protocols import CostModel
from qsearch.sites import build_space
from qsearch.trial import Cost


@dataclass(frozen=True)
class UniformCosts:
    """One cost model on one network, all weights and inputs at the same bits.

    Attributes:
        model: its name.
        layers: names of the layers, in the order in which they run.
        bits: B choices, ascending.
        costs: of the network at each of them.
        units: metric → unit.
        definitions: metric → what is counted, where the model says so.
        maxima: metrics of which the network has the greatest of its layers'.
        constants: every number of hardware the model uses, where it says so.
    """

    model: str
    layers: tuple[str, ...]
    bits: tuple[int, ...]
    costs: tuple[Cost, ...]
    units: Mapping[str, str]
    definitions: Mapping[str, str]
    maxima: frozenset[str]
    constants: Mapping[str, Constant]

    @property
    def reference(self) -> int:
        """Bits that others are compared with: 8, or the most there are without them."""
        return 8 if 8 in self.bits else self.bits[-1]

    def totals(self, metric: str) -> NDArray[np.float64]:
        """Of the network, shape (B,)."""
        return np.asarray([cost.totals[metric] for cost in self.costs])

    def deviations(self, metric: str) -> list[float | None]:
        """Standard deviation of each total, where the model says how sure it is."""
        return [cost.deviations.get(metric) for cost in self.costs]

    def by_layer(self, metric: str) -> NDArray[np.float64]:
        """Of each layer, shape (layers, B); no layers where the model gives totals only."""
        rows = [[cost.layers[name][metric] for cost in self.costs] for name in self.layers if self.costs[0].layers]
        return np.asarray(rows).reshape(len(rows), len(self.bits))

    def relative(self, metric: str) -> NDArray[np.float64]:
        """Totals over that of the reference, shape (B,); NaN where that is 0."""
        totals = self.totals(metric)
        base = totals[self.bits.index(self.reference)]
        return totals / base if base else np.full_like(totals, np.nan)

    def shares(self, metric: str) -> NDArray[np.float64]:
        """Share of each layer in the network's cost at the reference, shape (layers,); NaN where that is 0."""
        column = self.bits.index(self.reference)
        found, total = self.by_layer(metric)[:, column], self.totals(metric)[column]
        return found / total if total else np.full_like(found, np.nan)


@dataclass(frozen=True)
class Axis:
    """Cost models that give one metric, defined alike: they may share a table and a plot.

    Attributes:
        metric: the metric.
        models: one or several.
        note: why they stand apart from others that give a metric of this name; empty where none does.
    """

    metric: str
    models: tuple[UniformCosts, ...]
    note: str = ""

    @property
    def unit(self) -> str:
        return self.models[0].units[self.metric]

    @property
    def definition(self) -> str:
        return self.models[0].definitions.get(self.metric, "")


def uniform_costs(name: str, model: CostModel, layers: tuple[Layer, ...], bits: Sequence[int]) -> UniformCosts:
    """Costs of a network with every site at each of the bits; first and last layer are not fixed.

    Raises:
        QSearchError: the model refuses, or breaks its contract.
    """
    ascending = tuple(sorted(set(bits)))
    space = build_space(layers, weight_bits=ascending, activation_bits=ascending)
    network = NetworkCost(model, layers, space)
    return UniformCosts(
        model=name,
        layers=tuple(layer.name for layer in layers),
        bits=ascending,
        costs=tuple(network.estimate(space.reference(choice)) for choice in ascending),
        units=dict(model.units),
        definitions=dict(getattr(model, "definitions", {})),
        maxima=frozenset(getattr(model, "maxima", ())),
        constants=dict(getattr(model, "constants", {})),
    )


def check_metric(models: Mapping[str, CostModel], metric: str | None) -> None:
    """Raise unless the metric that is asked for is given by some model, and defined alike by all that do.

    Raises:
        ConfigError: unknown; or two models define it differently.
    """
    if metric is None:
        return
    giving = {name: model for name, model in models.items() if metric in model.units}
    if not giving:
        known = {key for model in models.values() for key in model.units}
        raise ConfigError(f"no cost model here gives the metric {metric!r}", fix=nearest(metric, known))
    check_same_axis(metric, giving)


def axes(models: Mapping[str, CostModel], found: Sequence[UniformCosts], metric: str | None) -> list[Axis]:
    """What is shown, a metric after the other: models side by side where they define it alike, else one by one."""
    order = dict.fromkeys(key for costs in found for key in costs.units if metric in (None, key))
    shown: list[Axis] = []
    for key in order:
        giving = tuple(costs for costs in found if key in costs.units)
        try:
            check_same_axis(key, {costs.model: models[costs.model] for costs in giving})
        except ConfigError:
            note = f"not side by side: {', '.join(costs.model for costs in giving)} mean different things by {key}"
            shown.extend(Axis(key, (costs,), note) for costs in giving)
        else:
            shown.append(Axis(key, giving))
    return shown
