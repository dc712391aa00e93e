"""What a layer costs that may be overlaid: the one home of the charge, for every cost model.

Notation, for one layer and one metric:

=======  ====================================================================================
C(b)     what the cost model says of the layer with plain weights of b bits
b        bits of the kept weights; ρ, their share; ι, bits of the index per weight
t        bits of a ternary weight in storage: 1.6 packed, 2 otherwise
d        what a bit in every weight costs, (C(8) − C(2)) / 6; (C(8) − C(0)) / 8 where hardware rounds bits
C₀       what the layer costs beside the bits of its weights, C(2) − 2d
σ        what the scales cost, C₀ − C(0)
δ        what finding the kept weights adds to their arithmetic, as a share of it
=======  ====================================================================================

::

    metrics in byte    C₀ + t·d + σ + ρ·(C(b) − C₀) + ι·d           exactly 1.6 + ρ·b + ι bits per weight of
                                                                    storage, and each part's own scales
    those that round   C(2) + ρ·(C(b) − C(0)) + ι·d                 C(2), C(4), C(8) are on no rising line: hardware that
                                                                    stores fewer bits as more, of ternary weights as of 2
    others             C(2) + ρ·(1 + δ)·C(b)                        the layer runs twice: all of it ternary, which
                                                                    hardware runs as 2 bits, and a part of it at b bits

They are C₀ + t·d or C(2) where nothing is kept, and C(b) where everything is: then there is no ternary part. They do not
fall with k up to P/2, nor with b, nor with the pattern. From there to all weights they may: a dense overlay at few bits costs
more than a plain weight, and is charged so.

That assumes the cost of a network to be the sum, or the greatest, of what its layers cost; of other models nobody can say
what a part of a layer costs, and they are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment, Bits
from qsearch.errors import ConfigError, CostModelError, SpaceError
from qsearch.layers import Layer
from qsearch.overlay import ALL, PACKED_BITS, PATTERNS, UNPACKED_BITS, index_bits, kept_weights
from qsearch.space import SiteBits
from qsearch.trial import Cost

if TYPE_CHECKING:
    from qsearch.protocols import CostModel

Arrays = dict[str, NDArray[np.float64]]

STORAGE = "byte"
"""Unit of the metrics that are charged by the bits stored."""

TERNARY = 2
"""Bits at which hardware without ternary arithmetic runs ternary weights."""

_LEVELS = FLOAT_BITS + 1
"""Values that bits and kept weights may have."""


@dataclass(frozen=True)
class Charge:
    """What hardware makes of an overlay.

    Attributes:
        packed: five ternary weights share a byte in storage; otherwise each takes two bits.
        decode: δ, at least 0.

    Raises:
        ConfigError: a negative δ, or one that is not finite.
    """

    packed: bool = True
    decode: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.decode) and self.decode >= 0):
            raise ConfigError("what decoding an overlay adds must be finite and at least 0", got=self.decode)

    @property
    def ternary_bits(self) -> float:
        """t."""
        return PACKED_BITS if self.packed else UNPACKED_BITS


class Choice(NamedTuple):
    """What is chosen for one layer; ``kept`` and ``pattern`` are those of :mod:`qsearch.overlay`."""

    weight: Bits
    activation: int
    kept: int = ALL
    pattern: int = 0


@dataclass(frozen=True)
class OverlayPrices:
    """Costs of the layers of a network, overlaid or plain, under a model that adds them up. What is found is kept.

    Raises:
        ConfigError: the model does not add layers up.
    """

    model: CostModel
    charge: Charge = Charge()
    _known: dict[tuple[Layer, Choice], Mapping[str, float]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not getattr(self.model, "additive", True):
            raise ConfigError(
                "overlays need a cost model that adds up what its layers cost",
                got=f"{type(self.model).__name__}, which is not additive",
                fix="choose another, or leave space.overlay out",
            )

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network, with its breakdown by layer; layers whose overlay is not named are plain."""
        parts = {layer.name: dict(self.layer(layer, choice_of(layer, assignment))) for layer in layers}
        totals: dict[str, float] = {}
        for found in parts.values():
            for metric, value in found.items():
                so_far = totals.get(metric, 0.0)
                totals[metric] = max(so_far, value) if metric in self._maxima else so_far + value
        return Cost(totals, dict(self.model.units), parts)

    def estimate_many(self, layers: Sequence[Layer], bits: SiteBits) -> Arrays:
        """Totals of a batch of A assignments of one bitwidth per site, metric → (A,): the same numbers, bit for bit."""
        totals = {metric: np.zeros(max(map(len, bits.values()))) for metric in self.model.units}
        for layer in layers:
            codes = _codes(layer, bits)
            distinct, where = np.unique(codes, return_inverse=True)
            rows = [self.layer(layer, _decoded(code)) for code in distinct.tolist()]
            for metric, total in totals.items():
                combine = np.maximum if metric in self._maxima else np.add
                combine(total, np.asarray([_of(row, metric) for row in rows])[where], out=total)
        return totals

    def layer(self, layer: Layer, choice: Choice) -> Mapping[str, float]:
        """Cost of one layer: metric → number."""
        key = (layer, choice)
        if key not in self._known:
            self._known[key] = self._priced(layer, choice)
        return self._known[key]

    @property
    def _maxima(self) -> frozenset[str]:
        return frozenset(getattr(self.model, "maxima", ()))

    def _priced(self, layer: Layer, choice: Choice) -> Mapping[str, float]:
        plain = replace(layer, overlay=0)

        def at(bits: Bits) -> Mapping[str, float]:
            weight = np.full(plain.kernels, bits, dtype=np.int64) if isinstance(bits, int) else np.asarray(bits)
            return self.model.layer_cost(plain, weight, choice.activation)

        if not layer.overlay or choice.kept == ALL:
            return at(choice.weight)
        if not isinstance(choice.weight, int):
            raise SpaceError(f"the overlaid weight of layer {layer.name!r} has one bitwidth", got="bits per kernel")
        units = self.model.units
        stored = {metric for metric, unit in units.items() if unit == STORAGE}
        found: dict[str, float] = {}
        if stored:
            found |= self._stored(layer, choice, at, stored)
        if set(units) - stored:
            found |= self._spent(layer, choice, at, set(units) - stored)
        return {metric: found[metric] for metric in units}

    def _stored(
        self, layer: Layer, choice: Choice, at: Callable[[Bits], Mapping[str, float]], metrics: set[str]
    ) -> dict[str, float]:
        kept, index = _share(layer, choice), _index(layer, choice)
        pruned, two, four, eight, high = at(0), at(2), at(4), at(8), at(choice.weight)
        found: dict[str, float] = {}
        for metric in metrics:
            zero, low, top = _of(pruned, metric), _of(two, metric), _of(eight, metric)
            bit = (top - low) / 6
            if bit > 0 and math.isclose(_of(four, metric), low + 2 * bit, rel_tol=1e-9):
                beside = low - 2 * bit
                ternary, scales = beside + self.charge.ternary_bits * bit, max(beside - zero, 0.0)
            else:
                beside, bit = zero, max(top - zero, 0.0) / 8
                ternary, scales = low, 0.0
            found[metric] = ternary
            if kept:
                found[metric] += scales + kept * max(_of(high, metric) - beside, 0.0) + index * bit
        return found

    def _spent(
        self, layer: Layer, choice: Choice, at: Callable[[Bits], Mapping[str, float]], metrics: set[str]
    ) -> dict[str, float]:
        ternary, kept = at(TERNARY), _share(layer, choice)
        if not kept:
            return {metric: _of(ternary, metric) for metric in metrics}
        high, more = at(choice.weight), kept * (1 + self.charge.decode)
        return {metric: _of(ternary, metric) + more * _of(high, metric) for metric in metrics}


def choice_of(layer: Layer, assignment: BitAssignment) -> Choice:
    """What an assignment says of a layer; float for inputs that are no site, plain where it names no overlay."""
    pattern = assignment.highest(layer.pattern_site) if layer.pattern_site in assignment else 0
    kept = assignment.highest(layer.overlay_site)
    weight = assignment.vector(layer.weight_site, layer.kernels).tolist()
    bits: Bits = weight[0] if min(weight) == max(weight) else tuple(weight)
    return Choice(bits, assignment.highest(layer.activation_site), kept, pattern)


def _codes(layer: Layer, bits: SiteBits) -> NDArray[np.int64]:
    """One number per assignment of a batch for what it chooses for a layer, shape (A,) or (1,)."""
    code: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
    defaults = Choice(FLOAT_BITS, FLOAT_BITS)
    sites = (layer.weight_site, layer.activation_site, layer.overlay_site, layer.pattern_site)
    for site, default in zip(sites, defaults, strict=True):
        value = np.asarray(bits[site]).astype(np.int64) if site in bits else np.full((1, 1), default, dtype=np.int64)
        if value.shape[1] != 1:
            raise SpaceError("beside overlays every site has one bitwidth", got=f"bits per kernel at {site!r}")
        code = code * _LEVELS + value[:, 0]
    return code


def _decoded(code: int) -> Choice:
    values = []
    for _ in Choice._fields:
        code, value = divmod(code, _LEVELS)
        values.append(value)
    pattern, kept, activation, weight = values
    return Choice(weight, activation, kept, pattern)


def _share(layer: Layer, choice: Choice) -> float:
    """ρ; by what is kept, which is less than k/P where the last runs are short."""
    return kept_weights(layer.kernel_params, layer.overlay, choice.kept) / layer.kernel_params


def _index(layer: Layer, choice: Choice) -> float:
    """ι."""
    if not 0 <= choice.pattern < len(PATTERNS):
        raise SpaceError(f"a pattern is one of 0..{len(PATTERNS) - 1}", got=choice.pattern)
    bits = index_bits(layer.kernels, layer.kernel_params, layer.overlay, choice.kept, choice.pattern)
    return bits / layer.params


def _of(costs: Mapping[str, float], metric: str) -> float:
    if metric not in costs:
        raise CostModelError("a cost model must return every metric it gives a unit for", got=f"nothing for {metric}")
    return costs[metric]
