"""Cost of one evaluation against the float forward pass over the same data, in the same process.

Each repeat takes a new random assignment and times, one after the other: the float network over the validation data;
setting weights and activations (apply); correcting the shift on the calibration data (correction); the quantised
network over the validation data, scores included (forward). Ratios are taken within a repeat, then summarised by median
and quartiles. Weights are tabulated beforehand, once for all assignments, which is timed on its own.

Run ``python benchmarks/evaluation_cost.py``; workloads whose data is missing are left out, with the reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import DataError
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.ptq import PostTraining
from qsearch.protocols import Workload
from qsearch.quantize.trace import forward, trace_layers
from qsearch.sites import build_space
from qsearch.space import Granularity, SearchSpace

WORKLOADS = ("digits-resnet", "cifar10-resnet20")
PARTS = ("apply", "correction", "forward", "evaluation")


@dataclass(frozen=True)
class Timings:
    """One workload's figures.

    Attributes:
        samples, calibration: validation and calibration samples.
        floating: seconds of the float forward pass, shape (repeats,).
        parts: part → seconds, shape (repeats,).
        tabulation: seconds to tabulate all weights.
    """

    samples: int
    calibration: int
    floating: NDArray[np.float64]
    parts: dict[str, NDArray[np.float64]]
    tabulation: float


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(workload: Workload, granularity: Granularity, repeats: int, batch_size: int) -> Timings:
    """Time ``repeats`` random assignments of 2..8 bits, after one that warms up."""
    model = workload.model()
    validation = read(workload.validation(), f"validation loader of {workload.name!r}")
    layers = trace_layers(model, validation.head(1).inputs)
    full = PostTraining(workload, layers, PostTraining.Options(batch_size=batch_size))
    plain = PostTraining(workload, layers, PostTraining.Options(batch_size=batch_size, correction=False))
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9), granularity=granularity)
    tabulation = seconds(lambda: full.network.apply(space.uniform(8)))
    plain.network.apply(space.uniform(8))
    rows = [
        _repeat(full, plain, lambda: _pass(model, validation, batch_size), assignment)
        for assignment in _assignments(space, repeats + 1)
    ]
    table = np.asarray(rows[1:])
    apply, corrected, after = table[:, 1], table[:, 2], table[:, 3]
    found = (apply, corrected - apply, after, corrected + after)
    calibration = full.probe(space.uniform(8)).samples
    return Timings(len(validation), calibration, table[:, 0], dict(zip(PARTS, found, strict=True)), tabulation)


def _repeat(
    full: PostTraining, plain: PostTraining, floating: Callable[[], None], assignment: BitAssignment
) -> tuple[float, float, float, float]:
    """Seconds of: float pass; apply; apply with correction; evaluation of what is applied."""
    return (
        seconds(floating),
        seconds(lambda: plain.network.apply(assignment)),
        seconds(lambda: full.network.apply(assignment)),
        seconds(lambda: full.evaluate(assignment)),
    )


def _pass(model: torch.nn.Module, data: Split, batch_size: int) -> None:
    with torch.inference_mode():
        for batch in data.batches(batch_size):
            forward(model, batch.inputs)


def _assignments(space: SearchSpace, count: int) -> list[BitAssignment]:
    return [space.decode(x) for x in space.sample(np.random.default_rng(0), count)]


def show(name: str, timings: Timings) -> None:
    """Print one workload's table."""
    floating = timings.floating
    print(f"{name}: {timings.samples} validation samples, {timings.calibration} calibration samples")
    print(f"  float pass {1e3 * np.median(floating):8.1f} ms; all weights tabulated once {timings.tabulation:.2f} s")
    print(f"  {'part':<12}{'ms':>9}{'of the float pass: median':>28}{'quartiles':>16}")
    for part, values in timings.parts.items():
        low, middle, high = np.quantile(values / floating, [0.25, 0.5, 0.75])
        print(f"  {part:<12}{1e3 * np.median(values):9.2f}{middle:28.2f}{f'{low:.2f}..{high:.2f}':>16}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cost of one evaluation against the float forward pass.")
    parser.add_argument("--workload", action="append", help=f"may be repeated; default: {', '.join(WORKLOADS)}")
    parser.add_argument("--granularity", choices=["layer", "kernel"], default="layer")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.workload or WORKLOADS:
        try:
            workload = registry.create("workloads", name)
            timings = measure(workload, arguments.granularity, arguments.repeats, arguments.batch_size)
        except DataError as error:
            print(f"{name}: left out: {error}")
            continue
        show(name, timings)


if __name__ == "__main__":
    main()
