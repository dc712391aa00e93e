"""Measurements until the best setting is found: expected improvement against random search. Published: within 50.

The design space is that of a bit-serial accelerator, priced by the cost model ``bismo``: rows, depth and columns of its
array, and a pair of bitwidths whose product is at least 16 (lower ones would always be best). What is minimised is the
energy-delay product of MobileNetV2, batch 1. Larger arrays are faster until layers no longer fill them, then waste energy: the best
one lies inside. It is known by exhaustion, and is the only one within 2 %.

EI starts from a Latin hypercube of 10 and takes the process of :mod:`qsearch.surrogates.process` over the logs of the settings.

Run ``OMP_NUM_THREADS=1 python benchmarks/surrogate_best_setting.py``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product

import numpy as np
from numpy.typing import NDArray

from qsearch import registry
from qsearch.measurements import geometry
from qsearch.search.acquisition import expected_improvement
from qsearch.surrogates.design import latin_hypercube
from qsearch.surrogates.process import Process
from qsearch.testing.networks import mobilenet_v2

Floats = NDArray[np.float64]

START = 10
PUBLISHED = 50
ROWS = COLUMNS = (1, 2, 4, 8, 16, 32, 64)
DEPTHS = (8, 16, 32, 64, 128, 256, 512)
BITS = ((2, 8), (3, 6), (4, 4), (4, 6), (6, 3), (8, 2))
"""Weight and activation bits whose product is at least 16."""


def space() -> tuple[Floats, Floats]:
    """Logs of the settings, shape (S, 5), and log of the energy-delay product, shape (S,)."""
    layers = Counter(geometry(layer) for layer in mobilenet_v2())
    settings, values = [], []
    for rows, depth, columns in product(ROWS, DEPTHS, COLUMNS):
        model = registry.create("cost_models", "bismo", {"rows": rows, "depth": depth, "columns": columns})
        for weight, activation in BITS:
            energy = delay = 0.0
            for layer, count in layers.items():
                cost = model.layer_cost(layer, np.full(layer.kernels, weight), activation)
                energy, delay = energy + count * cost["energy"], delay + count * cost["latency"]
            settings.append([rows, depth, columns, weight, activation])
            values.append(energy * delay)
    return np.log2(np.asarray(settings, dtype=float)), np.log(values)


def by_improvement(x: Floats, y: Floats, seed: int, most: int) -> int:
    """Measurements until the best is among them; ``most`` + 1 where it is not."""
    best = y.min()
    rows = latin_hypercube(x, START, seed)
    for index, row in enumerate(rows):
        if y[row] <= best:
            return index + 1
    while len(rows) < most:
        process = Process.fit(x[rows], y[rows], seed=seed)
        mean, variance = process.predict(x)
        worth = expected_improvement(mean, np.sqrt(variance), float(y[rows].min()))
        worth[rows] = -1.0
        rows.append(int(worth.argmax()))
        if y[rows[-1]] <= best:
            return len(rows)
    return most + 1


def at_random(y: Floats, seed: int) -> int:
    """The same, of settings in random order."""
    order = np.random.default_rng(seed).permutation(len(y))
    return int(np.flatnonzero(y[order] <= y.min())[0]) + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--most", type=int, default=150, help="measurements to give up at")
    arguments = parser.parse_args()
    x, y = space()
    print(f"{len(y)} settings, {arguments.seeds} seeds; published: within {PUBLISHED}")
    found = {
        "ei": [by_improvement(x, y, seed, arguments.most) for seed in range(arguments.seeds)],
        "random": [at_random(y, seed) for seed in range(arguments.seeds)],
    }
    for name, counts in found.items():
        within = sum(value <= PUBLISHED for value in counts)
        low, high = np.quantile(counts, (0.05, 0.95))
        print(
            f"  {name:7s} median {np.median(counts):6.1f}   5th to 95th percentile {low:.0f}–{high:.0f}"
            f"   within {PUBLISHED}: {within} of {len(counts)}"
        )


if __name__ == "__main__":
    main()
