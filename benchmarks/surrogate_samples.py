"""Samples that a surrogate needs to reach a median relative error of 5 % on all points it has not seen.

=============  =====================================================================================================
``active``     starts from a Latin hypercube of 10 and measures next what takes most out of the pool's uncertainty
``random``     points at random, the same process
``hypercube``  a fresh Latin hypercube of each size, the same process
``plain``      points at random, and what a user would write first: scikit-learn's process with a Matérn 5/2 kernel
               of a length per feature, noise, a constant mean, the likeliest parameters, and the logs of a layer's
               extents and bits as they are
=============  =====================================================================================================

From ``plain`` to ``random`` is what features, line and priors bring; from ``random`` to ``active``, what choosing brings.

Samples needed are those at which the median error over seeds first comes down to 5 %: the first hit of each seed
would favour ``hypercube``, which draws anew at every size. Intervals are bootstraps over the seeds, 90 %; in those of a
reduction each of its two arms is drawn by itself. An arm that does not come down counts with the samples it was given: the
reduction is then a bound, and marked as such. What is published: 65 % fewer samples (Ghaffari, Asgharian, Savaria, TCAD 2023),
on other hardware and data.

Pools: HAQ's latency table of MobileNetV2 (1,984 points: 31 geometries at 1–8 bits each way), and folders of measurements as
``qsearch hardware measure`` or ``fit`` leave them; ours are made by ``measured_pool.py``. A point that was read several times
is its median. Features and priors were chosen on HAQ's table: pools that were measured are the test of them.

Run ``OMP_NUM_THREADS=1 python benchmarks/surrogate_samples.py [--data FOLDER] [--store FOLDER]… [--plot FILE]``; ``--data``
holds ``hw/haq_qmobilenetv2_latency.npy``.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from qsearch.layers import Layer
from qsearch.measurements import MeasurementStore, Point, Subject, geometry
from qsearch.report.style import FAINT, INK, PALETTE, new_figure, png, style
from qsearch.surrogates.design import latin_hypercube
from qsearch.surrogates.judging import relative_errors
from qsearch.surrogates.learner import GROWTH, START, Learned, Learner, Plan
from qsearch.surrogates.model import Batch, LogCost
from qsearch.testing.networks import mobilenet_v2

Floats = NDArray[np.float64]

PUBLISHED = 65
"""Percent fewer samples."""
DRAWS = 2000
"""Bootstrap samples of seeds."""


@dataclass(frozen=True)
class Pool:
    """Points with one metric's cost, known for all of them."""

    name: str
    points: list[Point]
    costs: Floats

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
    points = [(geometry(measured.layer), measured.weight_bits, measured.activation_bits) for measured in found]
    for metric in subject.units:
        costs = np.asarray([measured.value(metric) for measured in found])
        kept = [point for point, cost in zip(points, costs, strict=True) if cost > 0]
        yield Pool(f"{subject.target}, {metric}", kept, costs[costs > 0])


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


def unseen_error(model: LogCost, batch: Batch, costs: Floats, rows: object) -> float:
    """Median relative error on all points but those learned from."""
    rest = np.setdiff1d(np.arange(len(costs)), rows)  # type: ignore[call-overload]  # rows are a list or a tuple
    return float(np.median(relative_errors(model, batch[rest], costs[rest])))


def raw_features(points: Sequence[Point]) -> Floats:
    """Logs of a layer's extents and bits, standardised; shape (A, 8)."""
    rows = [
        (
            layer.in_channels,
            layer.out_channels,
            math.prod(layer.kernel),
            math.prod(layer.stride),
            layer.groups,
            math.prod(layer.input_size),
            weight,
            activation,
        )
        for layer, weight, activation in points
    ]
    x = np.log(np.asarray(rows, dtype=float))
    return np.asarray((x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0))


def plain(pool: Pool, seed: int, most: int) -> list[float]:
    """Errors at 10, 11, … samples; the likeliest parameters are sought as often as the learner does."""
    x, y = raw_features(pool.points), np.log(pool.costs)
    order, tuned, errors = np.random.default_rng(seed).permutation(len(y)), 0, []
    first = ConstantKernel() * Matern(np.ones(x.shape[1]), nu=2.5) + WhiteKernel()
    found = first
    for count in range(START, most + 1):
        rows, rest = order[:count], order[count:]
        due = (
            count >= GROWTH * tuned
        )  # from the same start each time: from the last optimum it stays where all is noise
        process = GaussianProcessRegressor(
            first if due else found, optimizer="fmin_l_bfgs_b" if due else None, normalize_y=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(x[rows], y[rows])
        found, tuned = process.kernel_, count if due else tuned
        errors.append(float(np.median(np.abs(np.exp(process.predict(x[rest]) - y[rest]) - 1.0))))
    return errors


ARMS: dict[str, Callable[[Pool, int, int], list[float]]] = {
    "active": lambda pool, seed, most: grown(pool, "variance", seed, most),
    "random": lambda pool, seed, most: grown(pool, "random", seed, most),
    "hypercube": designed,
    "plain": plain,
}


def reached(errors: Floats, wanted: float) -> float:
    """Samples at which the median over seeds comes down to ``wanted``, errors of shape (seeds, sizes); ∞ if it does not."""
    below = np.flatnonzero(np.median(errors, axis=0) <= wanted)
    return float(below[0] + START) if len(below) else np.inf


def resampled(errors: Floats, wanted: float, seed: int) -> Floats:
    """:func:`reached` of seeds drawn with replacement, shape (DRAWS,)."""
    rng = np.random.default_rng(seed)
    return np.asarray([reached(errors[rng.integers(len(errors), size=len(errors))], wanted) for _ in range(DRAWS)])


def ends(values: Floats) -> tuple[float, float]:
    """The 5th and the 95th percentile, ∞ among the values."""
    low, high = np.quantile(values, (0.05, 0.95), method="nearest")
    return float(low), float(high)


def show(pool: Pool, curves: dict[str, Floats], wanted: float) -> None:
    """A line for each arm: samples needed, how many fewer ``active`` needs, and the errors on the way."""
    seeds, sizes = curves["active"].shape
    most = START + sizes - 1
    print(
        f"{pool.name}: {len(pool.points)} points, {seeds} seeds, at most {most} samples,"
        f" to a median error of {100 * wanted:g} %"
    )
    needed = {name: reached(errors, wanted) for name, errors in curves.items()}
    drawn = {name: resampled(errors, wanted, number) for number, (name, errors) in enumerate(curves.items())}
    for name, errors in curves.items():
        low, high = ends(drawn[name])
        curve = ", ".join(f"{100 * np.median(errors[:, n - START]):.1f}" for n in range(10, most + 1, 10))
        print(f"  {name:10s} {needed[name]:5.0f} [{low:.0f}, {high:.0f}]   % error at 10, 20, …: {curve}")
    for name in [name for name in curves if name != "active"]:
        print(f"  active against {name:10s} {reduction(needed, drawn, name, most)}")
    print(f"  published                 {PUBLISHED} %", flush=True)


def reduction(needed: dict[str, float], drawn: dict[str, Floats], name: str, most: int) -> str:
    """How many fewer samples ``active`` needs than another arm, in words."""
    if not np.isfinite(needed["active"]):
        return f"unknown: active needs more than {most}"

    def fewer(mine: Floats, other: Floats) -> Floats:
        return 100 * (1 - np.minimum(mine, most) / np.minimum(other, most))

    point = float(fewer(np.asarray(needed["active"]), np.asarray(needed[name])))
    low, high = ends(fewer(drawn["active"], drawn[name]))
    bound = "" if np.isfinite(needed[name]) else "at least "
    return f"{bound}{abs(point):.0f} % {'fewer' if point >= 0 else 'more'}, fewer by [{low:.0f}, {high:.0f}] %"


def plot(found: list[tuple[Pool, dict[str, Floats]]], wanted: float, path: Path) -> None:
    """Median error over seeds against samples with the quartiles, a panel for each pool."""
    columns = 2 if len(found) > 1 else 1
    rows = -(-len(found) // columns)
    with style():
        figure, panels = new_figure(0.6 + 2.7 * rows, rows, columns)
        for panel in panels[len(found) :]:
            panel.set_axis_off()
        for panel, (pool, curves) in zip(panels, found, strict=False):
            for colour, (name, errors) in zip(PALETTE, curves.items(), strict=False):
                count = np.arange(START, START + errors.shape[1])
                low, middle, high = 100 * np.quantile(errors, (0.25, 0.5, 0.75), axis=0)
                panel.fill_between(count, low, high, color=colour, alpha=0.15, linewidth=0)
                panel.plot(count, middle, color=colour, label=name, linewidth=2.0 if name == "active" else 1.2)
            panel.axhline(100 * wanted, color=INK, linewidth=0.8, linestyle=":")
            panel.set_yscale("log")
            panel.set_yticks([2, 5, 10, 20, 50, 100], [f"{tick} %" for tick in (2, 5, 10, 20, 50, 100)])
            panel.minorticks_off()
            panel.set_xlim(START, count[-1])
            panel.set_title(pool.name)
            panel.set_xlabel("samples", color=FAINT)
        for panel in panels[: len(found) : columns]:
            panel.set_ylabel("median relative error")
        panels[0].legend(loc="upper right")
        path.write_bytes(png(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of published data, for HAQ's table")
    parser.add_argument("--store", type=Path, action="append", default=[], help="folder of measurements")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--most", type=int, default=120, help="samples to give up at; never more than 3/4 of a pool")
    parser.add_argument("--error", type=float, default=0.05, help="median relative error to come down to")
    parser.add_argument("--plot", type=Path, help="PNG to draw the curves into")
    arguments = parser.parse_args()
    pools = [haq(arguments.data)] if arguments.data else []
    found = []
    for pool in [*pools, *(pool for folder in arguments.store for pool in stored(folder))]:
        most = min(arguments.most, 3 * len(pool.points) // 4)
        curves = {
            name: np.asarray([arm(pool, seed, most) for seed in range(arguments.seeds)]) for name, arm in ARMS.items()
        }
        show(pool, curves, arguments.error)
        found.append((pool, curves))
    if arguments.plot is not None:
        plot(found, arguments.error, arguments.plot)


if __name__ == "__main__":
    main()
