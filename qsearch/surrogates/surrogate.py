"""``Surrogate``: a cost model learned from measurements, by ``qsearch hardware fit``.

Notation

=========  ==========================================================================================
(w, a)     pair of bits at which the target runs a kind of layers
y          log cost of a layer at a pair; posterior mean μ and covariance Σ, measurement noise q² within Σ's diagonal
κ          how much wider than the posterior errors are (:mod:`qsearch.surrogates.calibration`)
m          mean cost, exp(μ + Σ_ii/2)
c          how often a network of one assignment has each layer at each pair; shares, where kernels differ
=========  ==========================================================================================

    T(w, a)     = min { m(w', a') : w' ≥ w, a' ≥ a }           a layer may run wider
    total       = Σ_i c_i·m_i
    variance    = Σ_ij c_i·c_j·m_i·m_j·(exp κ_i·κ_j·Σ_ij − 1)   of a sum of log-normals with these means, exactly

Of a metric in ``maxima`` the total is the greatest of the layers' costs, and its deviation that of the layer which has it: an
interval is of the greatest of them all.

Bits below those measured run at the least measured, as ``wider`` of a look-up table; nothing is said of bits above them.

A posterior wiggles where searchers rely on costs that rise with bits; running wider is always possible, and its minimum
rises. Means stand for costs, not medians: those of layers add up to that of their network.

Layers of one geometry at one pair are one point: they cost the same, whatever that is, so their errors add up and do not
average out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, SpaceError
from qsearch.hardware.constants import Constant
from qsearch.hardware.tabulated import KernelRule, Table, Tabulated, cheapest_holding
from qsearch.layers import Layer
from qsearch.measurements import geometry
from qsearch.registry import PluginOptions
from qsearch.surrogates.features import kind_of
from qsearch.surrogates.fitted import Fitted, Pair
from qsearch.surrogates.model import Batch, cost_mean
from qsearch.surrogates.network import Known, Network, Runs, joint
from qsearch.surrogates.saved import load
from qsearch.trial import Cost

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]

DRAWS = 4096
"""Draws of the joint posterior for an interval of a total."""


class Surrogate(Tabulated):
    """Costs learned from measurements; metrics and units are those of the target."""

    class Options(PluginOptions):
        """The fitted surrogate, and what to do beyond it."""

        path: Path
        """``surrogate.json``, or its folder."""
        outside: Literal["refuse", "warn"] = "refuse"
        """Layers outside the ranges measured are an error, or a warning."""
        kernels: KernelRule = "highest"
        """A layer whose kernels differ runs at the highest of their bits, or costs their mean."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.kernels = options.kernels
        self.fitted: Fitted = load(options.path)
        self.units = dict(self.fitted.units)
        self.definitions = dict(self.fitted.definitions)
        self.maxima = self.fitted.maxima

    @property
    def constants(self) -> Mapping[str, Constant]:
        """What the surrogate was learned from, in numbers."""
        source = f"learned from {self.fitted.target}, {self.options.path}"
        return {key: Constant(value, "1", source) for key, value in self.fitted.facts.items()}

    def domain(self) -> tuple[tuple[Layer, ...], tuple[int, ...], tuple[int, ...]]:
        """The layers measured, and bits that all of them have an answer at, for a check of the contract."""
        known = np.all([self._answers(kind) >= 0 for kind in self.fitted.ranges.kinds], axis=0)
        weights, activations = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
        layers = tuple(replace(layer, name=f"measured{index}") for index, layer in enumerate(self.fitted.layers))
        low = np.min([pair for pairs in self.fitted.pairs.values() for pair in pairs], axis=0)
        return layers, tuple(weights[weights >= low[0]].tolist()), tuple(activations[activations >= low[1]].tolist())

    def table(self, layer: Layer) -> Table:
        """T of each metric; see :meth:`Tabulated.table`.

        Raises:
            DataError: the layer is outside the ranges measured, and ``outside`` is not ``warn``.
        """
        return self._know(layer).table

    def refusal(self, layer: Layer, weight_bits: int, activation_bits: int) -> SpaceError:
        """See :meth:`Tabulated.refusal`."""
        answers = self._answers(kind_of(layer)) >= 0
        weights, activations = (np.flatnonzero(answers.any(axis=axis)) for axis in (1, 0))
        return SpaceError(
            f"the surrogate of {self.fitted.target!r} has no cost of layer {layer.name!r} at these bits",
            got=f"W{weight_bits}A{activation_bits}",
            fix=f"it learned weights up to {weights[-1]} bits, inputs up to {activations[-1]}",
        )

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network, with the standard deviation of each total."""
        if not layers:
            return super().estimate(layers, assignment)
        network, runs = self._network(layers), self._runs(layers, assignment)
        cost = self._read(layers, network, runs) or super().estimate(layers, assignment)
        deviations = {}
        for metric in self.units:
            rows, shares = network.rows(metric, runs), runs.share
            if metric in self.maxima:
                greatest = int(np.argmax([cost.layers[layer.name][metric] for layer in layers]))
                rows, shares = rows[runs.layer == greatest], shares[runs.layer == greatest]
            deviations[metric] = network.deviation(metric, rows, shares)
        return Cost(cost.totals, cost.units, cost.layers, deviations)

    def _read(self, layers: Sequence[Layer], network: Network, runs: Runs) -> Cost | None:
        """What :meth:`CostModel.estimate` answers, of all layers at once; None where it takes means, or refuses."""
        costs = {} if self.kernels == "mean" else {metric: network.costs(metric, runs) for metric in self.units}
        if not costs or any(found is None for found in costs.values()):
            return None
        rows = zip(*(found.tolist() for found in costs.values() if found is not None), strict=True)
        return self.added_up(
            {layer.name: dict(zip(costs, row, strict=True)) for layer, row in zip(layers, rows, strict=True)}
        )

    def interval(
        self, layers: Sequence[Layer], assignment: BitAssignment, level: float = 0.9, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Metric → interval that holds the network's total with probability ``level``, from draws of the posterior widened by κ.

        Raises:
            ConfigError: a level outside 0..1.
            QSearchError: as :meth:`estimate`.
        """
        if not 0 < level < 1:
            raise ConfigError("the level of an interval must be between 0 and 1", got=level)
        super().estimate(layers, assignment)
        network, runs = self._network(layers), self._runs(layers, assignment)
        rng, found = np.random.default_rng(seed), {}
        for metric in self.units:
            different, places = np.unique(network.rows(metric, runs), return_inverse=True)
            counts = np.zeros((len(different), len(layers)))
            np.add.at(counts, (places, runs.layer), runs.share)
            costs = self._draws(metric, network.points[different], rng) @ counts
            totals = costs.max(axis=1, initial=0.0) if metric in self.maxima else costs.sum(axis=1)
            low, high = np.quantile(totals, ((1 - level) / 2, (1 + level) / 2))
            found[metric] = (float(low), float(high))
        return found

    def _draws(self, metric: str, batch: Batch, rng: np.random.Generator) -> Floats:
        """Costs of different points, shape (DRAWS, A)."""
        if not len(batch):
            return np.zeros((DRAWS, 0))
        mean, covariance, wide = joint(self.fitted.models[metric], batch)
        values, vectors = np.linalg.eigh(wide[:, None] * covariance * wide)
        normal = rng.standard_normal((DRAWS, len(batch))) * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(np.exp(mean + normal @ vectors.T))

    @cached_property
    def _networks(self) -> dict[tuple[Layer, ...], Network]:
        return {}

    def _network(self, layers: Sequence[Layer]) -> Network:
        """What is known of these layers together; worked out once."""
        key = tuple(layers)
        if key not in self._networks:
            self._networks[key] = Network([self._know(layer) for layer in layers], self.fitted.models)
        return self._networks[key]

    @cached_property
    def _known(self) -> dict[Layer, Known]:
        """By layer, and by geometry."""
        return {}

    def _know(self, layer: Layer) -> Known:
        """What is known of a layer; worked out once for those of one geometry.

        Raises:
            DataError: as :meth:`table`.
        """
        if layer not in self._known:
            key = geometry(layer)
            if key not in self._known:
                self._check_range(layer)
                self._known[key] = self._work_out(key)
            self._known[layer] = self._known[key]
        return self._known[layer]

    def _check_range(self, layer: Layer) -> None:
        outside = self.fitted.ranges.outside(layer)
        if not outside:
            return
        rule = f"layer {layer.name!r} is outside what the surrogate of {self.fitted.target!r} was measured on"
        if self.options.outside == "refuse":
            raise DataError(
                rule, got="; ".join(outside), fix="fit it on a workload with such layers, or set outside: warn"
            )
        log.warning("%s: %s", rule, "; ".join(outside))

    def _pairs(self, kind: str) -> tuple[Pair, ...]:
        """Pairs at which a kind runs; those of any kind for one that was not measured."""
        every = {pair for pairs in self.fitted.pairs.values() for pair in pairs}
        return self.fitted.pairs.get(kind) or tuple(sorted(every))

    def _answers(self, kind: str) -> NDArray[np.intp]:
        """Some pair at least as wide that is known of a kind; −1 where there is none. Shape (33, 33)."""
        return self._best(kind, np.zeros(len(self._pairs(kind))))

    def _best(self, kind: str, costs: Floats) -> NDArray[np.intp]:
        """Index of the pair of a kind that answers at (w, a), given what each costs; −1 where none does. Shape (33, 33)."""
        pairs = [
            (weight, FLOAT_BITS if kind in ("embedding", "threshold") else activation)
            for weight, activation in self._pairs(kind)
        ]
        found = cheapest_holding(pairs, costs)
        found[0], found[:, 0] = -1, -1
        return found

    def _work_out(self, layer: Layer) -> Known:
        """T, and the index of the pair that answers at each (w, a), metric by metric."""
        kind = kind_of(layer)
        batch = Batch.of([(layer, *pair) for pair in self._pairs(kind)])
        table, answers = {}, {}
        for metric, model in self.fitted.models.items():
            mean, variance = model.predict(batch)
            cost = cost_mean(mean, variance + model.noise(batch))
            best = answers[metric] = self._best(kind, cost)
            table[metric] = np.where(best < 0, np.nan, cost[best])
            table[metric][0] = 0.0
        return Known(table, answers, batch)

    def _runs(self, layers: Sequence[Layer], assignment: BitAssignment) -> Runs:
        """What a network runs; pruned kernels cost nothing."""
        found: list[tuple[int, int, int, float]] = []
        for index, layer in enumerate(layers):
            bits = assignment.vector(layer.weight_site, layer.kernels)
            activation = (
                FLOAT_BITS if layer.kind in ("embedding", "threshold") else assignment.highest(layer.activation_site)
            )
            counts = {int(bits.max()): len(bits)} if self.kernels == "highest" else Counter(bits.tolist())
            found.extend((index, weight, activation, count / len(bits)) for weight, count in counts.items() if weight)
        columns = np.asarray(found, dtype=np.float64).reshape(len(found), 4).T
        layer_rows, weights, activations = columns[:3].astype(np.intp)
        return Runs(layer_rows, weights, activations, columns[3])
