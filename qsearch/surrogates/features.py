"""What a surrogate sees of a layer at a pair of bits, and how far a layer lies outside what was measured.

Notation (of :mod:`qsearch.layers`)

=====  =================================================================================
P      output positions, all uses
r      products added up for one output: c_in/g · K; 1 of neurons
g, K   groups; positions of the kernel
w, a   bits of a layer's weights, or of a product's second operand, and of its input; a = 32 for embeddings, whose
       input has none, and for thresholds, which have no input; of neurons, bits of leak and state
=====  =================================================================================

Costs multiply, so all features but the kind are logarithms, base 2. Traffic and passes go with P·a: that product stands for P.
The first six nearly say what a closed-form model charges for. Measured hardware also tells apart layers that agree in them, by how a
kernel, a stride or groups map onto it: those follow, and the input's positions. Medians of six seeds: on simulated and measured
pools the median error at 60 random samples fell from 9.6 to 6.3 % and from 9.3 to 7.4 %; on HAQ's table, where the six suffice, it stayed at 5.5 to 5.7 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS
from qsearch.layers import Layer
from qsearch.measurements import Point

Floats = NDArray[np.float64]

FEATURES = (
    "positions·activation bits",
    "out_channels",
    "reduction",
    "weight bits",
    "activation bits",
    "kernel positions",
    "stride",
    "groups",
    "input positions",
    "kind",
)
"""Names of the columns of :func:`features`."""
KINDS: Mapping[str, float] = {
    "conv": 0.0,
    "linear": 0.0,
    "depthwise": 1.0,
    "embedding": 2.0,
    "matmul": -1.0,
    "neuron": 3.0,
    "threshold": 4.0,
}
"""Kinds of layers, as a feature; a linear layer is a convolution of extent 1, and a product of activations next to it."""

EXTENTS: Mapping[str, Callable[[Layer], int]] = {
    "in_channels": lambda layer: layer.in_channels,
    "out_channels": lambda layer: layer.out_channels,
    "kernel positions": lambda layer: math.prod(layer.kernel),
    "groups": lambda layer: layer.groups,
    "input positions": lambda layer: math.prod(layer.input_size),
    "output positions": lambda layer: layer.positions,
    "uses": lambda layer: layer.uses,
}
"""What must be within the range measured, by the name that a message gives it."""


def kind_of(layer: Layer) -> str:
    """One of :data:`KINDS`."""
    return "depthwise" if layer.depthwise else layer.kind


def features(points: Sequence[Point]) -> Floats:
    """Features of N points, shape (N, 10); see the module."""
    return np.asarray([_features(*point) for point in points], dtype=np.float64).reshape(len(points), len(FEATURES))


def _features(layer: Layer, weight_bits: int, activation_bits: int) -> list[float]:
    activation = FLOAT_BITS if layer.kind in ("embedding", "threshold") else activation_bits
    positions = layer.positions * layer.uses
    reduction = 1 if layer.neurons else layer.in_channels // layer.groups * math.prod(layer.kernel)
    sizes = (
        positions * activation,
        layer.out_channels,
        reduction,
        weight_bits,
        activation,
        math.prod(layer.kernel),
        math.prod(layer.stride),
        layer.groups,
        math.prod(layer.input_size),
    )
    return [*(math.log2(size) for size in sizes), KINDS[kind_of(layer)]]


@dataclass(frozen=True)
class Ranges:
    """What was measured: kinds of layers, and the least and the greatest of each of :data:`EXTENTS`."""

    kinds: tuple[str, ...]
    extents: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, layers: Iterable[Layer]) -> Ranges:
        """The ranges of at least one layer."""
        measured = list(layers)
        found = {name: [extent(layer) for layer in measured] for name, extent in EXTENTS.items()}
        kinds = {kind_of(layer) for layer in measured}
        return cls(
            tuple(kind for kind in KINDS if kind in kinds),
            {name: (min(values), max(values)) for name, values in found.items()},
        )

    def outside(self, layer: Layer) -> list[str]:
        """Each way in which a layer is outside, with by how much; empty for one within."""
        found = []
        if kind_of(layer) not in self.kinds:
            found.append(f"kind {kind_of(layer)} was not measured, only {', '.join(self.kinds)}")
        for name, extent in EXTENTS.items():
            value, (low, high) = extent(layer), self.extents[name]
            if value > high:
                found.append(f"{name} {value} is {value / high:.2g} times the largest measured, {high}")
            elif value < low:
                found.append(f"{name} {value} is {value / low:.2g} times the smallest measured, {low}")
        return found
