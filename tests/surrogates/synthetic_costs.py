"""A small network, costs of it that are known exactly, and surrogates of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import numpy as np

from qsearch.layers import Layer
from qsearch.measurements import Point, geometry
from qsearch.surrogates.features import kind_of
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.model import Batch, LogCost
from qsearch.surrogates.saved import save

BITS = (2, 3, 4, 5, 6, 7, 8)

LAYERS = (
    Layer("stem", "conv", 3, 16, (3, 3), (1, 1), input_size=(16, 16), output_size=(16, 16)),
    Layer("depthwise", "conv", 16, 16, (3, 3), (1, 1), 16, (16, 16), (16, 16)),
    Layer("pointwise", "conv", 16, 32, (1, 1), (1, 1), 1, (16, 16), (16, 16)),
    Layer("wide", "conv", 32, 64, (3, 3), (2, 2), 1, (16, 16), (8, 8)),
    Layer("wider", "conv", 64, 64, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("again", "conv", 64, 64, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("head", "linear", 64, 10),
)

Costs = Callable[[Point], float]


def roofline(point: Point) -> float:
    """Compute or traffic, whichever takes longer; in no unit."""
    layer, weight, activation = point
    traffic = layer.params * weight + (layer.input_elements + layer.output_elements) * activation
    return max(layer.macs * weight * activation / 200.0, float(traffic)) / 1e4


def points(bits: tuple[int, ...] = BITS) -> list[Point]:
    """Every geometry at every pair of bits."""
    layers = dict.fromkeys(geometry(layer) for layer in LAYERS)
    return [(layer, weight, activation) for layer, weight, activation in product(layers, bits, bits)]


def fitted(
    costs: Mapping[str, Costs] | None = None,
    *,
    count: int = 80,
    seed: int = 0,
    per_kind: bool = False,
    bits: tuple[int, ...] = BITS,
    maxima: tuple[str, ...] = (),
) -> Fitted:
    """A surrogate of costs, from points drawn at random."""
    pool, wanted = points(bits), costs or {"latency": roofline}
    rows = np.random.default_rng(seed).permutation(len(pool))[:count]
    chosen = [pool[row] for row in rows]
    batch = Batch.of(chosen)
    models = {
        metric: LogCost.fit(batch, np.log([cost(point) for point in chosen]), seed=seed, per_kind=per_kind)
        for metric, cost in wanted.items()
    }
    pairs = tuple(product(bits, bits))
    return Fitted(
        target="roofline",
        units=dict.fromkeys(wanted, "s"),
        definitions=dict.fromkeys(wanted, "made up for tests"),
        models=models,
        layers=tuple(dict.fromkeys(point[0] for point in pool)),
        pairs={kind_of(layer): pairs for layer in LAYERS},
        maxima=frozenset(maxima),
        facts={"samples": float(count)},
        provenance={"target": "roofline", "seed": seed, "versions": [{"chip": "1"}]},
    )


def saved(folder: Path, **choices: object) -> Path:
    """The same, written into a folder; the path of its JSON."""
    return save(fitted(**choices), folder)  # type: ignore[arg-type]
