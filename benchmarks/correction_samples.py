"""How many calibration samples the correction needs: quality on test data against that of the correction on all of them.

Random assignments of 2 to 8 bits, and uniform ones; for each number of samples the mean change of accuracy (points) and of loss,
paired by assignment, with a 95 % interval over the assignments.

Run ``python benchmarks/correction_samples.py [--workload NAME]``.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from scipy.stats import t

from qsearch import registry
from qsearch.evaluate.ptq import PostTraining
from qsearch.setting import anatomy_of
from qsearch.sites import build_space

SAMPLES = (16, 32, 64, 128, 256)


def interval(changes: np.ndarray) -> str:
    """Mean and 95 % interval of paired changes."""
    half = t.ppf(0.975, len(changes) - 1) * changes.std(ddof=1) / len(changes) ** 0.5
    return f"{changes.mean():+.3f} [{changes.mean() - half:+.3f}, {changes.mean() + half:+.3f}]"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Quality by how many samples the correction takes.")
    parser.add_argument("--workload", default="cifar10-resnet20")
    parser.add_argument("--assignments", type=int, default=20)
    parser.add_argument("--lowest", type=int, default=2, help="lowest bits that are drawn")
    given = parser.parse_args()
    torch.set_num_threads(1)
    workload = registry.create("workloads", given.workload)
    layers = anatomy_of(workload).layers
    bits = range(given.lowest, 9)
    space = build_space(layers, weight_bits=bits, activation_bits=bits)
    drawn = [space.decode(x) for x in space.sample(np.random.default_rng(0), given.assignments)]

    def found(samples: int | None) -> np.ndarray:
        evaluator = PostTraining(workload, layers, PostTraining.Options(correction_samples=samples))
        qualities = [evaluator.test(assignment) for assignment in drawn]
        return np.asarray([(100 * quality.metric, quality.loss) for quality in qualities])

    whole = found(None)
    print(f"{given.workload}, {len(drawn)} random assignments of {bits[0]} to {bits[-1]} bits, on test data")
    print(f"all 512 calibration samples: accuracy {whole[:, 0].mean():.2f} %, loss {whole[:, 1].mean():.3f}")
    for samples in SAMPLES:
        change = found(samples) - whole
        print(f"{samples:4} samples: accuracy {interval(change[:, 0])} points, loss {interval(change[:, 1])}")


if __name__ == "__main__":
    main()
