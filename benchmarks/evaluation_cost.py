"""Cost of one evaluation against the best float forward pass over the same data, in the same process.

The float network is given every chance: each layout of its maps, each size of a batch, as it is and compiled (with its
weights frozen, which folds batch norms away), and the fastest of them is what evaluations are compared with. Rounds take turns: the
best float pass; then, each with a new random assignment of 2 to 8 bits, an evaluation without correction and one with it.
Ratios are taken within a round, and summarised by their median and quartiles.

The cost of the correction depends on how many samples it takes against how many are evaluated: both are printed. Validation data are
repeated up to ``--samples``, as time does not depend on what is in them; figures of quality are no business of this script.

Run ``python benchmarks/evaluation_cost.py``; workloads whose data is missing are left out, with the reason.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch import registry
from qsearch.errors import DataError
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.execution import Execution, Plan
from qsearch.evaluate.ptq import PostTraining
from qsearch.protocols import Workload
from qsearch.quantize.trace import forward, trace_layers
from qsearch.sites import build_space
from qsearch.space import Granularity

WORKLOADS = ("cifar10-resnet20", "text-classifier")
SIZES = (16, 32, 64, 128)
COMPILED_SIZES = (16, 32)
ROUNDS_TO_CHOOSE = 3


class Repeated:
    """A workload whose validation data are repeated until there are enough of them."""

    def __init__(self, workload: Workload, samples: int) -> None:
        self._workload, self._samples = workload, samples

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workload, name)

    def validation(self) -> Iterator[tuple[Any, Tensor]]:
        """The batches again and again, up to the number of samples."""
        count = 0
        while count < self._samples:
            for inputs, targets in self._workload.validation():
                yield inputs, targets
                count += len(targets)
                if count >= self._samples:
                    return


@dataclass(frozen=True)
class Timings:
    """One workload's figures.

    Attributes:
        samples, correction_samples: that an evaluation takes, and that its correction takes.
        best: the best float pass, in words.
        floating, plain, corrected: seconds of the best float pass, and of evaluations without and with correction, shape (rounds,).
    """

    samples: int
    correction_samples: int
    best: str
    floating: NDArray[np.float64]
    plain: NDArray[np.float64]
    corrected: NDArray[np.float64]


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def float_passes(model: nn.Module, data: Split) -> dict[str, Callable[[], None]]:
    """All the float passes that are tried: name → one pass over the data. Compiled ones choose their layouts themselves."""
    maps = isinstance(data.inputs, Tensor) and data.inputs.dim() == 4
    last = Plan(channels_last=maps).laid_out(copy.deepcopy(model))
    found = {f"contiguous, batches of {size}": _pass(model, data, size, last=False) for size in SIZES}
    if maps:
        found |= {f"channels last, batches of {size}": _pass(last, data, size, last=True) for size in SIZES}
    for size in COMPILED_SIZES:
        plain = torch.compile(last, dynamic=False)
        frozen = torch.compile(last, dynamic=False, options={"freezing": True})
        found[f"compiled, batches of {size}"] = _pass(plain, data, size, last=maps)
        found[f"compiled and frozen, batches of {size}"] = _pass(frozen, data, size, last=maps)
    return found


def _pass(model: Any, data: Split, size: int, *, last: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            for batch in data.batches(size):
                forward(model, Plan(channels_last=last).arranged(batch.inputs))

    return run


def best_float_pass(model: nn.Module, data: Split) -> tuple[str, Callable[[], None]]:
    """The fastest float pass, by the least of a few rounds that take turns after one that warms up."""
    passes = float_passes(model, data)
    least = dict.fromkeys(passes, float("inf"))
    for number in range(ROUNDS_TO_CHOOSE + 1):
        for name, run in passes.items():
            took = seconds(run)
            least[name] = min(least[name], took) if number else least[name]
    best = min(least, key=lambda name: least[name])
    return best, passes[best]


@dataclass(frozen=True)
class Compared:
    """What is timed against each other.

    Attributes:
        samples: validation samples that each passes.
        best: the best float pass, in words.
        floating: the best float pass.
        plain, corrected: evaluate the next random assignment of 2 to 8 bits, without and with correction.
    """

    samples: int
    best: str
    floating: Callable[[], None]
    plain: Callable[[], None]
    corrected: Callable[[], None]


def prepared(
    workload: Workload, granularity: Granularity, execution: Execution, samples: int, correction: int
) -> Compared:
    """Evaluators with all weights tabulated, and the best float pass."""
    model = workload.model()
    repeated: Any = Repeated(workload, samples)
    validation = read(repeated.validation(), f"validation loader of {workload.name!r}", samples)
    layers = trace_layers(model, validation.head(1).inputs)
    options: dict[str, Any] = {"execution": execution, "samples": samples}
    plain = PostTraining(repeated, layers, PostTraining.Options(correction=False, **options))
    full = PostTraining(repeated, layers, PostTraining.Options(correction_samples=correction, **options))
    space = build_space(layers, weight_bits=range(2, 9), activation_bits=range(2, 9), granularity=granularity)
    for bits in range(2, 9):
        plain.network.apply(space.uniform(bits))
        full.network.apply(space.uniform(bits))
    draws = np.random.default_rng(0)

    def next_of(evaluator: PostTraining) -> Callable[[], None]:
        def evaluate() -> None:
            evaluator.evaluate(space.decode(space.sample(draws, 1)[0]))

        return evaluate

    return Compared(len(validation), *best_float_pass(model, validation), next_of(plain), next_of(full))


def measure(compared: Compared, rounds: int, correction: int) -> Timings:
    """Time so many rounds, after one that warms up."""
    parts = (compared.floating, compared.plain, compared.corrected)
    table = np.asarray([[seconds(part) for part in parts] for _ in range(rounds + 1)])[1:]
    return Timings(compared.samples, correction, compared.best, table[:, 0], table[:, 1], table[:, 2])


def show(name: str, timings: Timings) -> None:
    """Print one workload's table."""
    print(f"{name}: {timings.samples} validation samples; the correction takes {timings.correction_samples}")
    per_sample = 1e3 * np.median(timings.floating) / timings.samples
    print(f"  best float pass: {timings.best}: {per_sample:.3f} ms a sample")
    print(f"  {'evaluation':<22}{'of the float pass: median':>26}{'quartiles':>16}")
    for part, values in (("without correction", timings.plain), ("with correction", timings.corrected)):
        low, middle, high = np.quantile(values / timings.floating, [0.25, 0.5, 0.75])
        print(f"  {part:<22}{middle:26.2f}{f'{low:.2f}..{high:.2f}':>16}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Cost of one evaluation against the best float forward pass.")
    parser.add_argument("--workload", action="append", help=f"may be repeated; default: {', '.join(WORKLOADS)}")
    parser.add_argument("--granularity", choices=["layer", "kernel"], default="layer")
    parser.add_argument("--execution", choices=["eager", "channels-last", "compiled", "fastest"], default="fastest")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--correction-samples", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.workload or WORKLOADS:
        try:
            workload = registry.create("workloads", name)
            compared = prepared(workload, given.granularity, given.execution, given.samples, given.correction_samples)
        except DataError as error:
            print(f"{name}: left out: {error}")
            continue
        show(name, measure(compared, given.rounds, given.correction_samples))


if __name__ == "__main__":
    main()
