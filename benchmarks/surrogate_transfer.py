"""Samples that a surrogate needs with a source to transfer from, against without: what it gains, and what it may cost.

The source is a surrogate of f, HAQ's latency table of MobileNetV2 in units of its median, fitted to 300 points at random.
Targets: 2·f + 1, for which transfer is to halve the samples; and, with the same points, a cost that has nothing to do
with the source: the source's costs are shuffled over the points before it is fitted. That source is to cost no more than 5 %.
Learning stops at a median relative error of 5 % on all points not measured.

Run ``OMP_NUM_THREADS=1 python benchmarks/surrogate_transfer.py --data FOLDER``; the folder holds ``hw/haq_qmobilenetv2_latency.npy``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from surrogate_samples import Pool, haq, unseen_error

from qsearch.surrogates.learner import Learned, Learner, Plan
from qsearch.surrogates.model import LogCost

TARGET = 0.05
SOURCE_POINTS = 300


def source_of(pool: Pool, costs: NDArray[np.float64], seed: int) -> LogCost:
    """A surrogate of these costs, from points at random."""
    rows = np.random.default_rng(seed + 1000).choice(len(costs), SOURCE_POINTS, replace=False)
    return LogCost.fit(pool.batch[rows], np.log(costs[rows]), seed=seed)


def samples(pool: Pool, sources: Mapping[str, LogCost], seed: int, most: int, start: int = 10) -> tuple[int, bool]:
    """Samples to the error wanted, ``most`` + 1 where they do not do; and whether the source is used in the end."""
    batch = pool.batch

    def judge(learned: Learned) -> float:
        return unseen_error(learned.models["cost"], batch, pool.costs, learned.rows)

    plan = Plan(samples=most, error=TARGET, seed=seed, start=start)
    learner = Learner(pool.points, ("cost",), lambda row: {"cost": float(pool.costs[row])}, plan, sources)
    learned = learner.learn(judge)
    used = learned.models["cost"].source is not None
    return (len(learned.rows) if judge(learned) <= TARGET else most + 1), used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of published data")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--most", type=int, default=120, help="samples to give up at")
    arguments = parser.parse_args()
    table = haq(arguments.data)
    f = table.costs / np.median(table.costs)
    target = Pool("2f + 1", table.points, 2 * f + 1)
    counts: dict[str, list[int]] = {"alone": [], "source f": [], "unrelated source": []}
    used = dict.fromkeys(counts, 0)
    for seed in range(arguments.seeds):
        shuffled = np.random.default_rng(seed).permutation(f)
        sources = {"source f": source_of(table, f, seed), "unrelated source": source_of(table, shuffled, seed)}
        for name in counts:
            given = {"cost": sources[name]} if name in sources else {}
            count, transferred = samples(target, given, seed, arguments.most)
            counts[name].append(count)
            used[name] += transferred
    print(f"target 2f + 1: {len(target.points)} points, {arguments.seeds} seeds")
    for name, found in counts.items():
        low, high = np.quantile(found, (0.05, 0.95))
        fewer = 100 * (1 - np.median(found) / np.median(counts["alone"]))
        mean = 100 * (1 - np.mean(found) / np.mean(counts["alone"]))
        print(
            f"  {name:17s} median {np.median(found):5.1f}   5th to 95th percentile {low:.0f}–{high:.0f}   fewer than alone: {fewer:.0f} %"
            f" (of means {mean:.0f} %)   source used by {used[name]}"
        )


if __name__ == "__main__":
    main()
