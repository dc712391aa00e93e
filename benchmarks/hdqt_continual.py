"""Learning task by task on few bits: ``hdqt`` beside float training, with and without the Hadamard transform.

Each row learns the tasks of a continual workload from the same random weights, in the same order of samples, over
several seeds; "4/8" is 4-bit operands in 8-bit accumulators. Judged on test images, after the last task. Intervals are 95 %,
over seeds: Student's, of means and of differences from float on the same seed. The clamp rates are shares of tiles' sums, over all
layers and steps of training, for the product of the forward pass, of the gradient by the inputs, and of that by the weights;
evaluation is not counted.

    python benchmarks/hdqt_continual.py
    QSEARCH_DATA=folder python benchmarks/hdqt_continual.py --case mnist --train 10000
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch

from qsearch.registry import create
from qsearch.report.statistics import Interval, mean_interval
from qsearch.training.continual import Learned, learn_continually
from qsearch.training.hadamard_products import HdqtOptions, Pass
from qsearch.training.hdqt import clamp_counts, hdqt
from qsearch.workloads.continual import ContinualWorkload

WORKLOADS = {
    "digits": "qsearch.workloads.continual:ContinualDigits",
    "mnist": "qsearch.workloads.continual:ContinualMnist",
}

ROWS: Mapping[str, HdqtOptions | None] = {
    "float": None,
    "4/12 Hadamard": HdqtOptions(forward_accumulator=12, backward_accumulator=12),
    "4/12": HdqtOptions(forward_accumulator=12, backward_accumulator=12, hadamard=False),
    "4/8 Hadamard": HdqtOptions(),
    "4/8": HdqtOptions(hadamard=False),
    "4/8 Hadamard unbounded": HdqtOptions(block=1 << 30, pad=False),
}
"""What can be compared; None is float training."""

USUAL = tuple(ROWS)[:5]
"""What is compared unless rows are named: about three minutes on digits, on one quiet core."""

HEADINGS = ("training", "accuracy %", "minus float", "forgetting %", "clamped: forward", "by input", "by weight", "s")


@dataclass(frozen=True)
class Run:
    """One seed: what was learned, clamp rates per product (empty in float), seconds of the processor."""

    learned: Learned
    clamped: Mapping[Pass, float]
    seconds: float


def run(workload: ContinualWorkload, options: HdqtOptions | None, epochs: int, seed: int) -> Run:
    """Learn the tasks with one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = workload.build()
    if options is not None:
        network = hdqt(network, options, seed)
    start = time.process_time()
    learned = learn_continually(network, workload.tasks(), replace(workload.schooling(), epochs=epochs), seed)
    return Run(learned, clamp_counts(network).rates(), time.process_time() - start)


def table(workload: ContinualWorkload, rows: Sequence[str], epochs: int, seeds: Sequence[int]) -> Iterator[str]:
    """Lines of a markdown table, each as soon as it is known."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"|---{'|--:' * (len(HEADINGS) - 1)}|"
    floats = [run(workload, None, epochs, seed) for seed in seeds]
    for name in rows:
        runs = floats if ROWS[name] is None else [run(workload, ROWS[name], epochs, seed) for seed in seeds]
        yield f"| {name} | {' | '.join(cells(runs, floats))} |"


def cells(runs: Sequence[Run], floats: Sequence[Run]) -> Iterator[str]:
    """What a row says behind its name."""
    accuracy = [one.learned.average for one in runs]
    differences = [one - other.learned.average for one, other in zip(accuracy, floats, strict=True)]
    yield interval(mean_interval(accuracy))
    yield interval(mean_interval(differences), "+") if runs is not floats else "–"
    yield interval(mean_interval([one.learned.forgetting for one in runs]))
    for what in get_args(Pass):
        rates = [one.clamped[what] for one in runs if what in one.clamped]
        yield f"{100 * sum(rates) / len(rates):.3f} %" if rates else "–"
    yield f"{sum(one.seconds for one in runs) / len(runs):.0f}"


def interval(found: Interval, sign: str = "") -> str:
    """In points: mean and ends."""
    mean = f"{100 * found.mean:{sign}.1f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{100 * found.low:{sign}.1f}, {100 * found.high:{sign}.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=WORKLOADS, default="digits")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=USUAL, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each row")
    parser.add_argument("--epochs", type=int, default=None, help="per task; default 10 (digits) or 1 (mnist)")
    parser.add_argument("--train", type=int, default=10_000, help="training images of mnist")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    options = {"train": arguments.train} if arguments.case == "mnist" else {}
    workload = create("workloads", WORKLOADS[arguments.case], options)
    epochs = arguments.epochs or (10 if arguments.case == "digits" else 1)
    for line in table(workload, arguments.rows, epochs, range(arguments.seeds)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
