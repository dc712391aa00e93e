"""Cost of a training step under quantisers against one of the float network, on the same batches, in the same process.

Every repeat trains the float network and, one after the other, the same network under each family's quantisers for a few
steps, by the same code: data, loss, backward pass and optimiser are part of a step. Ratios are taken within a repeat, then
summarised by their median, with its 95 % bootstrap interval. Assignments are of 4 bits everywhere, once for a layer and once with a bitwidth of
its own, 2 to 6, for each kernel.

Run ``python benchmarks/qat_step.py``; it prints a table in markdown. Workloads whose data is missing are left out, with the
reason.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import DataError
from qsearch.evaluate.data import read
from qsearch.evaluate.ptq import PostTraining
from qsearch.layers import Layer
from qsearch.protocols import Workload
from qsearch.quantize.trace import trace_layers
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.training.families import FAMILIES, family
from qsearch.training.finetuning import FineTuning
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions

Times: TypeAlias = NDArray[np.float64]
"""Seconds of a step, shape (repeats,)."""

WORKLOADS = ("digits-resnet", "cifar10-resnet20", "mnist-cnn", "mnist-mlp")
BITS = 4
RATE = 1e-6
"""So that no network goes anywhere: all steps cost the same."""

RESAMPLES = 2000
"""Of the bootstrap."""


def lessons_for(workload: Workload) -> tuple[Lessons, tuple[Layer, ...]]:
    """A workload's lessons, and its layers."""
    example = read(workload.calibration(), f"calibration loader of {workload.name!r}").head(8).inputs
    layers = trace_layers(workload.model(), example)
    return PostTraining(workload, layers, PostTraining.Options(calibration_samples=128, samples=8)).lessons(), layers


def assignments(layers: tuple[Layer, ...]) -> dict[str, BitAssignment]:
    """Granularity → 4 bits on average everywhere."""
    spread = (BITS - 2, BITS - 1, BITS, BITS + 1, BITS + 2)
    layerwise = build_space(layers, weight_bits=spread, activation_bits=spread, granularity="layer")
    kernelwise = build_space(layers, weight_bits=spread, activation_bits=[BITS], granularity="kernel")
    return {"layer": layerwise.uniform(BITS), "kernel": _any(kernelwise)}


def _any(space: SearchSpace) -> BitAssignment:
    return space.decode(space.sample(np.random.default_rng(0), 1)[0])


def measure(
    lessons: Lessons, layers: tuple[Layer, ...], options: TrainingOptions, repeats: int, families: Sequence[str]
) -> dict[str, Times]:
    """Column → seconds of a step, shape (repeats,); the float network's is "float"."""
    trainings = {"float": _training(lessons, BitAssignment({}), "lsq", options)}
    for granularity, assignment in assignments(layers).items():
        for name in families:
            trainings[f"{name}, {granularity}"] = _training(lessons, assignment, name, options)
    rows = [{column: _step_time(training) for column, training in trainings.items()} for _ in range(repeats + 1)]
    return {column: np.asarray([row[column] for row in rows[1:]]) for column in trainings}


def _training(lessons: Lessons, assignment: BitAssignment, name: str, options: TrainingOptions) -> FineTuning:
    return FineTuning(TrainableNetwork(lessons, assignment, family(name)), lessons, options, seed=0)


def _step_time(training: FineTuning) -> float:
    """Seconds of a step, the mean of an epoch: of the processor's time, which a busy machine does not lengthen by much."""
    clock = time.process_time if training.options.device == "cpu" else time.perf_counter
    start = clock()
    training.epoch()
    return (clock() - start) / training.steps


def row(name: str, times: Mapping[str, Times]) -> str:
    """One workload's row: milliseconds of the float step, then ratios with the intervals of their medians."""
    floating = times["float"]
    cells = [name, f"{1e3 * np.median(floating):.1f}"]
    for column in times:
        if column != "float":
            ratios = times[column] / floating
            low, high = interval(ratios)
            cells.append(f"{np.median(ratios):.2f} ({low:.2f}–{high:.2f})")
    return f"| {' | '.join(cells)} |"


def interval(ratios: Times) -> tuple[float, float]:
    """95 % bootstrap interval of the median of ratios, shape (repeats,)."""
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cost of a training step under quantisers against a float one.")
    parser.add_argument("--workload", action="append", help=f"may be repeated; default: {', '.join(WORKLOADS)}")
    parser.add_argument("--family", action="append", choices=FAMILIES, help="may be repeated; default: all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="steps of a repeat")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = TrainingOptions(
        epochs=arguments.repeats + 1,
        batch_size=arguments.batch_size,
        train_samples=arguments.steps * arguments.batch_size,
        rate=RATE,
        schedule="constant",
        augment=False,
        device=arguments.device,
    )
    families = arguments.family or tuple(FAMILIES)
    columns = [f"{name}, per {granularity}" for granularity in ("layer", "kernel") for name in families]
    print(f"| workload | float step, ms | {' | '.join(columns)} |")
    print(f"|{'---|' * (2 + len(columns))}")
    for name in arguments.workload or WORKLOADS:
        try:
            lessons, layers = lessons_for(registry.create("workloads", name))
        except DataError as error:
            print(f"{name}: left out: {error}")
            continue
        print(row(name, measure(lessons, layers, options, arguments.repeats, families)), flush=True)


if __name__ == "__main__":
    main()
