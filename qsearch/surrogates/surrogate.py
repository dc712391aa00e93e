"""``Surrogate``: a cost model learned from measurements, by ``qsearch hardware fit``.

Notation

=========  ==========================================================================================
(w, a)     pair of bits at which the target runs a kind of layers
y          log cost of a layer at a pair; posterior mean μ and covariance Σ, measurement noise q² within Σ's diagonal
m          mean cost, exp(μ + Σ_ii/2)
c          how often a network of one assignment has each layer at each pair; shares, where kernels differ
=========  ==========================================================================================

    T(w, a)     = min { m(w', a') : w' ≥ w, a' ≥ a }           a layer may run wider
    total       = Σ_i c_i·m_i
    variance    = Σ_ij c_i·c_j·m_i·m_j·(exp Σ_ij − 1)           of a sum of log-normals, exactly

A posterior wiggles where searchers rely on costs that rise with bits; running wider is always possible, and its minimum
rises. Means stand for costs, not medians: those of layers add up to that of their network.

Layers of one geometry at one pair are one point: they cost the same, whatever that is, so their errors add up and do not
average out.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, SpaceError
from qsearch.hardware.constants import Constant
from qsearch.hardware.tabulated import KernelRule, Table, Tabulated
from qsearch.layers import Layer
from qsearch.measurements import geometry
from qsearch.registry import PluginOptions
from qsearch.surrogates.features import kind_of
from qsearch.surrogates.fitted import Fitted, Pair
from qsearch.surrogates.model import Batch, LogCost, cost_mean
from qsearch.surrogates.saved import load
from qsearch.trial import Cost

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Answers = NDArray[np.intp]
"""Index of the pair that answers at (w, a), shape (33, 33); −1 where none does."""

DRAWS = 4096
"""Draws of the joint posterior for an interval of a total."""


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of a geometry.

    Attributes:
        table: T.
        answers: metric → which pair of ``batch`` answers.
        batch: the geometry at each pair.
    """

    table: Table
    answers: Mapping[str, Answers]
    batch: Batch


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

    @property
    def constants(self) -> Mapping[str, Constant]:
        """What the surrogate was learned from, in numbers."""
        source = f"learned from {self.fitted.target}, {self.options.path}"
        facts = {key: value for key, value in self.fitted.facts.items() if not isinstance(value, str)}
        return {key: Constant(value, "1", source) for key, value in facts.items()}

    def domain(self) -> tuple[tuple[Layer, ...], tuple[int, ...], tuple[int, ...]]:
        """The layers measured, and bits that all of them have an answer at, for a check of the contract."""
        known = np.all([self._answers(kind) >= 0 for kind in self.fitted.ranges.kinds], axis=0)
        weights, activations = (np.flatnonzero(known.any(axis=axis)) for axis in (1, 0))
        layers = tuple(replace(layer, name=f"measured{index}") for index, layer in enumerate(self.fitted.layers))
        return layers, tuple(weights.tolist()), tuple(activations.tolist())

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
            fix=f"it learned weights at {weights[0]}..{weights[-1]}, inputs at {activations[0]}..{activations[-1]} bits",
        )

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network, with the standard deviation of each total."""
        cost = super().estimate(layers, assignment)
        deviations = {}
        for metric in self.units:
            batch, counts = self._composition(metric, layers, assignment)
            mean, covariance = self._joint(metric, batch)
            means = counts * cost_mean(mean, np.diag(covariance))
            deviations[metric] = float(np.sqrt(max(float(means @ np.expm1(covariance) @ means), 0.0)))
        return Cost(cost.totals, cost.units, cost.layers, deviations)

    def interval(
        self, layers: Sequence[Layer], assignment: BitAssignment, level: float = 0.9, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Metric → interval that holds the network's total with probability ``level``, from draws of the joint posterior.

        Raises:
            ConfigError: a level outside 0..1.
            QSearchError: as :meth:`estimate`.
        """
        if not 0 < level < 1:
            raise ConfigError("the level of an interval must be between 0 and 1", got=level)
        super().estimate(layers, assignment)
        rng, found = np.random.default_rng(seed), {}
        for metric in self.units:
            batch, counts = self._composition(metric, layers, assignment)
            mean, covariance = self._joint(metric, batch)
            values, vectors = np.linalg.eigh(covariance)
            normal = rng.standard_normal((DRAWS, len(batch))) * np.sqrt(np.maximum(values, 0.0))
            totals = np.exp(mean + normal @ vectors.T) @ counts
            low, high = np.quantile(totals, ((1 - level) / 2, (1 + level) / 2))
            found[metric] = (float(low), float(high))
        return found

    @cached_property
    def _known(self) -> dict[Layer, _Known]:
        """By layer, and by geometry."""
        return {}

    def _know(self, layer: Layer) -> _Known:
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

    def _answers(self, kind: str) -> NDArray[np.int_]:
        """1 within the bits measured of a kind, where a pair at least as wide is known; else −1. Shape (33, 33)."""
        pairs = np.asarray(self._pairs(kind))
        found = np.full((FLOAT_BITS + 1, FLOAT_BITS + 1), -1)
        low = pairs.min(axis=0)
        for weight, activation in pairs:
            found[low[0] : weight + 1, low[1] : activation + 1] = 1
        if kind == "embedding":
            found[low[0] :] = found[low[0] :].max(axis=1, keepdims=True)
        return found

    def _work_out(self, layer: Layer) -> _Known:
        """T, and the index of the pair that answers at each (w, a), metric by metric."""
        kind = kind_of(layer)
        pairs, within = self._pairs(kind), self._answers(kind) >= 0
        batch = Batch.of([(layer, *pair) for pair in pairs])
        table, answers = {}, {}
        for metric, model in self.fitted.models.items():
            mean, variance = model.predict(batch)
            cost = cost_mean(mean, variance + model.noise(batch))
            best = np.full(within.shape, -1)
            for index in np.argsort(-cost, kind="stable"):  # the cheapest last: it stays where several answer
                weight, activation = pairs[index]
                best[: weight + 1, : (FLOAT_BITS if kind == "embedding" else activation) + 1] = index
            answers[metric] = np.where(within, best, -1)
            table[metric] = np.where(within, cost[best], np.nan)
            table[metric][0] = 0.0
        return _Known(table, answers, batch)

    def _composition(self, metric: str, layers: Sequence[Layer], assignment: BitAssignment) -> tuple[Batch, Floats]:
        """The different points that a network runs, and c, shape (points,)."""
        counts: dict[tuple[_Known, int], float] = defaultdict(float)
        for layer in layers:
            known = self._know(layer)
            for weight, activation, share in self._runs(layer, assignment):
                counts[known, int(known.answers[metric][weight, activation])] += share
        x = np.asarray([known.batch.x[index] for known, index in counts])
        kinds = np.asarray([known.batch.kinds[index] for known, index in counts], dtype=np.str_)
        return Batch(x, kinds), np.asarray(list(counts.values()))

    def _runs(self, layer: Layer, assignment: BitAssignment) -> Iterator[tuple[int, int, float]]:
        """Bits at which a layer runs, with the share of its kernels; pruned ones cost nothing."""
        bits = assignment.vector(layer.weight_site, layer.kernels)
        activation = FLOAT_BITS
        if layer.kind != "embedding":
            activation = int(np.max(assignment.get(layer.activation_site, FLOAT_BITS)))
        if self.kernels == "highest":
            counts = {int(bits.max()): len(bits)}
        else:
            counts = Counter(bits.tolist())
        for weight, count in counts.items():
            if weight:
                yield weight, activation, count / len(bits)

    def _joint(self, metric: str, batch: Batch) -> tuple[Floats, Floats]:
        """μ and Σ of different points."""
        model: LogCost = self.fitted.models[metric]
        if not len(batch):
            return np.zeros(0), np.zeros((0, 0))
        mean, covariance = model.joint(batch)
        return mean, covariance + np.diag(model.noise(batch))
