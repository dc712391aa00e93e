"""Evaluations per second of several assignments at once, against one after the other, in the same process.

Each round draws, for each A, a new group of random assignments of 2..8 bits, and times the two ways in turn: each assignment by
itself (``PostTraining.evaluate`` with the options that are the default) and the group at once (``Together``), correction of
the shift and scores included. Ratios are taken within a round, then summarised by median and quartiles. Graphs are found,
and compiled where asked for, in a round that is not counted; weights are tabulated before.

With ``--device cuda`` groups pass on the GPU; the last column, against groups of the first A there, tells how much of the gain
is the group's, and not the device's.

Run ``python benchmarks/together.py``; workloads whose data is missing are left out, with the reason.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from markdown_table import show
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import DataError
from qsearch.evaluate.ptq import PostTraining
from qsearch.evaluate.together import Settings, Together
from qsearch.protocols import Workload
from qsearch.quantize.trace import trace_layers
from qsearch.sites import build_space

WORKLOADS = ("digits-resnet", "cifar10-resnet20")


def where(device: str) -> str:
    """What the groups pass on, by name."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"processor ({platform.machine()}, {threads} thread{'s' * (threads > 1)}), torch {torch.__version__}; no GPU was used"


def compiled(graph: Any, arguments: Sequence[torch.Tensor]) -> Any:
    """A graph compiled by torch's inductor; on a GPU, recorded as a whole as well."""
    mode = "reduce-overhead" if arguments[0].is_cuda else "default"
    run: Any = torch.compile(graph, dynamic=False, mode=mode)
    return lambda *tensors: tuple(
        found.clone() for found in run(*tensors)
    )  # a recording writes its outputs anew each time


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call; its answers are numbers of the processor, so that nothing is still under way."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_by_one(ptq: PostTraining, assignments: Sequence[BitAssignment]) -> None:
    """Evaluate a group, one assignment after the other."""
    for assignment in assignments:
        ptq.evaluate(assignment)


def answered(together: Together, assignments: Sequence[BitAssignment]) -> None:
    """Evaluate a group; an assignment that fails ends the benchmark."""
    for answer in together.evaluate_many(assignments):
        if isinstance(answer, Exception):
            raise answer


def measure(workload: Workload, counts: Sequence[int], args: argparse.Namespace) -> NDArray[np.float64]:
    """Evaluations per second one after the other, and at once, shape (rounds, counts, 2)."""
    layers = trace_layers(workload.model(), next(iter(workload.calibration()))[0])
    options: dict[str, Any] = {"samples": args.samples, "batch_size": args.batch_size, "correction": args.correction}
    ptq = PostTraining(workload, layers, PostTraining.Options(calibration_samples=args.calibration, **options))
    calibration = ptq.calibration.inputs if args.correction else None
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9))
    draws = np.random.default_rng(0)
    for bits in range(2, 9):
        ptq.network.apply(space.uniform(bits))
    wanted = [Settings(a, args.batch_size, args.device, compiler=compiled if args.compile else None) for a in counts]
    groups = [Together(ptq.network, ptq.scoring, ptq.validation, calibration, one, ptq.evaluate) for one in wanted]
    found = np.empty((args.rounds + 1, len(counts), 2))
    for number, (column, count) in itertools.product(range(args.rounds + 1), enumerate(counts)):
        group = [space.decode(x) for x in space.sample(draws, count)]
        found[number, column] = [
            count / seconds(partial(one_by_one, ptq, group)),
            count / seconds(partial(answered, groups[column], group)),
        ]
    return found[1:]


def spread(values: NDArray[np.float64]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def table(args: argparse.Namespace) -> Iterator[list[str]]:
    """The table's rows, a workload's at a time."""
    for name in args.workloads:
        try:
            found = measure(registry.create("workloads", name), args.counts, args)
        except DataError as error:
            yield [name, f"left out: {error}"]
            continue
        first = found[:, 0, 1]
        for count, (alone, together) in zip(args.counts, found.transpose(1, 2, 0), strict=True):
            yield [name, str(count), *map(spread, (alone, together, together / alone, together / first))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workloads", nargs="*", default=WORKLOADS)
    parser.add_argument("--counts", nargs="*", type=int, default=(1, 2, 4, 8, 16, 32), help="A")
    parser.add_argument("--device", default="cpu", help="where groups pass: cpu, cuda, cuda:1")
    parser.add_argument("--compile", action="store_true", help="compile the graphs of groups")
    parser.add_argument("--samples", type=int, default=512, help="validation samples")
    parser.add_argument("--calibration", type=int, default=128, help="calibration samples")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--no-correction", dest="correction", action="store_false")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"groups pass on: {where(args.device)}{', compiled' if args.compile else ''}\n")
    header = ["workload", "A", "alone, 1/s", "at once, 1/s", "at once / alone", f"at once / A = {args.counts[0]}"]
    show(header, table(args))


if __name__ == "__main__":
    main()
