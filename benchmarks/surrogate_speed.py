"""What a surrogate takes: an ``estimate`` with its deviations, many of them, and a fit.

The network is ResNet-20, the surrogate of three metrics is learned from the cost model ``bismo``. Medians with quartiles,
of wall-clock times in one thread; a machine with other work on it is slower. Asked for: an answer within 1 ms. The first
answer for a network takes longer: it works out what the posterior says of all its points together.

Run ``OMP_NUM_THREADS=1 python benchmarks/surrogate_speed.py``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch import registry
from qsearch.measurements import geometry
from qsearch.sites import build_space
from qsearch.surrogates.features import kind_of
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.model import Batch, LogCost
from qsearch.surrogates.saved import save
from qsearch.surrogates.surrogate import Surrogate
from qsearch.testing.networks import resnet20

Floats = NDArray[np.float64]

BITS = (2, 3, 4, 5, 6, 7, 8)
METRICS = ("latency", "energy", "size")
SAMPLES = 100
SIZES = (50, 100, 200)
MANY = 10_000


def taken(action: Callable[[], object], times: int) -> Floats:
    """Quartiles of wall-clock milliseconds, after one call that does not count."""
    action()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(1e3 * (time.perf_counter() - start))
    return np.quantile(found, (0.25, 0.5, 0.75))


def show(name: str, action: Callable[[], object], times: int) -> float:
    """A line with the median and the quartiles; the median."""
    low, middle, high = taken(action, times)
    print(f"  {name:<32}{middle:9.2f} ms [{low:.2f}, {high:.2f}]", flush=True)
    return float(middle)


def learned(samples: int) -> Fitted:
    """Models of the three metrics, from points at random."""
    model = registry.create("cost_models", "bismo", {})
    layers = dict.fromkeys(geometry(layer) for layer in resnet20())
    pool = list(product(layers, BITS, BITS))
    points = [pool[row] for row in np.random.default_rng(0).permutation(len(pool))[:samples]]
    found = [
        model.layer_cost(layer, np.full(layer.kernels, weight), activation) for layer, weight, activation in points
    ]
    models = {
        metric: LogCost.fit(Batch.of(points), np.log([cost[metric] for cost in found]), seed=0).calibrated(0)
        for metric in METRICS
    }
    return Fitted(
        target="bismo",
        units={metric: model.units[metric] for metric in METRICS},
        definitions={metric: text for metric, text in model.definitions.items() if metric in METRICS},
        models=models,
        layers=tuple(layers),
        pairs={kind_of(layer): tuple(product(BITS, BITS)) for layer in layers},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=200, help="answers that are timed")
    arguments = parser.parse_args()
    layers = resnet20()
    space = build_space(layers, weight_bits=BITS, activation_bits=BITS)
    x = space.sample(np.random.default_rng(0), MANY)
    with tempfile.TemporaryDirectory() as folder:
        model = Surrogate(Surrogate.Options(path=save(learned(SAMPLES), Path(folder))))
    assignments = iter([space.decode(row) for row in x[: arguments.times + 2]])
    print(f"{len(layers)} layers, {', '.join(METRICS)}, {SAMPLES} samples")
    start = time.perf_counter()
    model.estimate(layers, next(assignments))
    print(f"  {'the first estimate':<32}{1e3 * (time.perf_counter() - start):9.2f} ms")
    show("estimate, with deviations", lambda: model.estimate(layers, next(assignments)), arguments.times)
    bits = space.bits(x)
    many = show(f"estimate_many of {MANY:,}", lambda: model.estimate_many(layers, bits), 20)
    print(f"  {'':<32}{1e3 * MANY / many:9.2g} assignments/s")
    for size in SIZES:
        known = learned(size).models["latency"].parts["all"]
        fit = partial(LogCost.fit, Batch(known.x, np.full(size, "conv")), known.y, seed=0)
        show(f"fit of {size} samples", fit, 7)
        show("its calibration, at the end", partial(fit().calibrated, 0), 3)


if __name__ == "__main__":
    main()
