"""Samples that a surrogate needs to reach a median relative error of 5 % on all points it has not seen.

``active`` starts from a Latin hypercube of 10 and measures next what takes most out of the pool's uncertainty. ``random`` adds
points at random; ``hypercube`` is a fresh Latin hypercube of each size. All three fit the same process. Samples needed are those
at which the median error over seeds comes down to 5 %: the first hit of each seed would favour ``hypercube``, which draws anew at
every size. What is published: 65 % fewer samples (Ghaffari, Asgharian, Savaria, TCAD 2023), on other hardware and data.

Pools: HAQ's latency table of MobileNetV2 (1,984 points: 31 geometries at 1–8 bits each way), and folders of measurements as
``qsearch hardware measure`` or ``fit`` leave them. A point that was read several times is its median.

Run ``OMP_NUM_THREADS=1 python benchmarks/surrogate_samples.py [--data FOLDER] [--store FOLDER]…``; ``--data`` holds
``hw/haq_qmobilenetv2_latency.npy``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.layers import Layer
from qsearch.measurements import MeasurementStore, Point, Subject, geometry
from qsearch.surrogates.design import latin_hypercube
from qsearch.surrogates.judging import relative_errors
from qsearch.surrogates.learner import START, Learned, Learner, Plan
from qsearch.surrogates.model import Batch, LogCost
from qsearch.testing.networks import mobilenet_v2

TARGET = 0.05
PUBLISHED = 65
"""Percent fewer samples."""


@dataclass(frozen=True)
class Pool:
    """Points with one metric's cost, known for all of them."""

    name: str
    points: list[Point]
    costs: NDArray[np.float64]

    @property
    def batch(self) -> Batch:
        """Features."""
        return Batch.of(self.points)


def haq(data: Path) -> Pool:
    """HAQ's table; layers of one geometry have one cost in it."""
    table = np.load(data / "hw" / "haq_qmobilenetv2_latency.npy").astype(float)
    rows: dict[Layer, int] = {}
    for row, layer in enumerate(mobilenet_v2()):
        rows.setdefault(geometry(layer), row)
    points = [(layer, w, a) for layer in rows for w in range(1, 9) for a in range(1, 9)]
    return Pool("HAQ, MobileNetV2", points, np.asarray([table[rows[layer], w - 1, a - 1] for layer, w, a in points]))


def stored(folder: Path) -> Iterator[Pool]:
    """A pool for each metric of a folder of measurements."""
    with (folder / "measurements.jsonl").open(encoding="utf-8") as file:
        header = json.loads(file.readline())
    subject = Subject(header["target"], header["options"], header["units"], header["definitions"])
    found = MeasurementStore(folder, subject).all
    for metric in subject.units:
        costs = np.asarray([measurement.value(metric) for measurement in found])
        yield Pool(f"{subject.target}, {metric}", [m.point for m, cost in zip(found, costs, strict=True) if cost > 0],
                   costs[costs > 0])  # fmt: skip


def grown(pool: Pool, acquire: str, seed: int, most: int) -> list[float]:
    """Errors at 10, 11, … samples, by a learner that adds one at a time."""
    batch, errors = pool.batch, []

    def judge(learned: Learned) -> float:
        errors.append(unseen_error(learned.models["cost"], batch, pool.costs, learned.rows))
        return errors[-1]

    plan = Plan(samples=most, acquire=acquire, seed=seed)
    Learner(pool.points, ("cost",), lambda row: {"cost": float(pool.costs[row])}, plan).learn(judge)
    return errors


def designed(pool: Pool, seed: int, most: int) -> list[float]:
    """Errors at 10, 11, … samples, by a Latin hypercube of each size."""
    batch, errors = pool.batch, []
    for count in range(START, most + 1):
        rows = latin_hypercube(batch.x, count, seed)
        model = LogCost.fit(batch[np.asarray(rows)], np.log(pool.costs[rows]), seed=seed)
        errors.append(unseen_error(model, batch, pool.costs, rows))
    return errors


def unseen_error(model: LogCost, batch: Batch, costs: NDArray[np.float64], rows: object) -> float:
    """Median relative error on all points but those learned from."""
    rest = np.setdiff1d(np.arange(len(costs)), rows)  # type: ignore[call-overload]  # rows are a list or a tuple
    return float(np.median(relative_errors(model, batch[rest], costs[rest])))


def reached(errors: NDArray[np.float64]) -> float:
    """Samples at which the median over seeds comes down to :data:`TARGET`, errors of shape (seeds, sizes); ∞ if it does not."""
    below = np.flatnonzero(np.median(errors, axis=0) <= TARGET)
    return float(below[0] + START) if len(below) else np.inf


def interval(errors: NDArray[np.float64]) -> tuple[float, float]:
    """90 % bootstrap interval of :func:`reached`, over seeds."""
    rng = np.random.default_rng(0)
    drawn = [reached(errors[rng.integers(len(errors), size=len(errors))]) for _ in range(1000)]
    low, high = np.quantile(drawn, (0.05, 0.95), method="nearest")
    return float(low), float(high)


def show(pool: Pool, seeds: int, most: int) -> None:
    """A line for each way to choose samples, with how many fewer ``active`` needs."""
    most = min(most, len(pool.points) // 2)
    ways: dict[str, Callable[[int], list[float]]] = {
        "active": lambda seed: grown(pool, "variance", seed, most),
        "random": lambda seed: grown(pool, "random", seed, most),
        "hypercube": lambda seed: designed(pool, seed, most),
    }
    print(f"{pool.name}: {len(pool.points)} points, {seeds} seeds, at most {most} samples")
    active = np.inf
    for name, way in ways.items():
        errors = np.asarray([way(seed) for seed in range(seeds)])
        needed, (low, high) = reached(errors), interval(errors)
        curve = ", ".join(f"{100 * np.median(errors[:, n - START]):.1f}" for n in range(10, most + 1, 10))
        line = f"  {name:10s} {needed:5.0f} [{low:.0f}, {high:.0f}]   % error at 10, 20, …: {curve}"
        if name == "active":
            active = needed
        elif np.isfinite(needed):
            line += f"   active needs {100 * (1 - active / needed):.0f} % fewer (published: {PUBLISHED} %)"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of published data, for HAQ's table")
    parser.add_argument("--store", type=Path, action="append", default=[], help="folder of measurements")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--most", type=int, default=120, help="samples to give up at")
    arguments = parser.parse_args()
    pools = [haq(arguments.data)] if arguments.data else []
    for pool in [*pools, *(pool for folder in arguments.store for pool in stored(folder))]:
        show(pool, arguments.seeds, arguments.most)


if __name__ == "__main__":
    main()
