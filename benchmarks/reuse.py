"""Sensitivities one at a time with and without reuse of what is upstream, in float passes.

For every site and bitwidth in turn, in one process: the float network over the calibration data; a probe by an evaluator that reuses
nothing; the same by one that does. Both probes must give the same numbers, to the last bit. A table's figure is the time of all its
probes by that of all the float passes beside them: so many float passes does a probe take. Weights and activations
are tabulated beforehand, which searches do once. ``downstream`` is the share of a float pass's layers, by their multiplications,
that probes run on average: what reuse would take if nothing else cost anything. Figures are medians over repeats, with quartiles; each
repeat has evaluators of its own.

Then random assignments, which have nothing in common, by both evaluators in turn: what reuse costs whom it is of no use.

    QSEARCH_DATA=folder python benchmarks/reuse.py
    QSEARCH_DATA=folder python benchmarks/reuse.py --workload text-classifier --bits 2 8 --samples 64 --repeats 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import DataError
from qsearch.evaluate.data import read
from qsearch.evaluate.ptq import PostTraining
from qsearch.layers import Layer
from qsearch.protocols import Workload
from qsearch.quantize.modules import forward
from qsearch.quantize.trace import examine
from qsearch.sites import build_space
from qsearch.space import SearchSpace

WORKLOADS = ("digits-resnet", "cifar10-resnet20", "text-classifier")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Setting:
    """What is measured: a network, its layers and space, and how much of its calibration data."""

    workload: Workload
    layers: tuple[Layer, ...]
    space: SearchSpace
    samples: int
    batch_size: int

    def evaluator(self, memory: int | None) -> PostTraining:
        """An evaluator with all its grids tabulated."""
        options = PostTraining.Options(
            calibration_samples=self.samples, samples=self.samples, batch_size=self.batch_size, reuse=memory
        )
        made = PostTraining(self.workload, self.layers, options)
        for assignment in (self.space.uniform(bits) for bits in self.space.variables[0].choices):
            made.probe(assignment)
        return made

    @property
    def downstream(self) -> float:
        """Share of the multiplications that a probe runs on average."""
        macs = np.asarray([layer.macs for layer in self.layers], dtype=float)
        behind = {layer.name: macs[i:].sum() / macs.sum() for i, layer in enumerate(self.layers)}
        owners = {site: layer.name for layer in self.layers for site in (layer.weight_site, layer.activation_site)}
        return float(np.mean([behind[owners[variable.sites[0]]] for variable in self.space.variables]))


def setting(name: str, bits: list[int], samples: int, batch_size: int) -> Setting:
    """A workload by its name."""
    workload = registry.create("workloads", name)
    calibration = read(workload.calibration(), f"calibration loader of {name!r}", samples)
    layers = examine(workload.model(), calibration.head(1).inputs).layers
    space = build_space(layers, weight_bits=bits, activation_bits=bits)
    return Setting(workload, layers, space, len(calibration), batch_size)


def timed(work: Callable[..., Result], *arguments: object) -> tuple[float, Result]:
    """Processor time of one call on one thread, which neighbours on the machine change less than the clock's; its result."""
    start = time.process_time()
    result = work(*arguments)
    return time.process_time() - start, result


def table(of: Setting, memory: int | None) -> NDArray[np.float64]:
    """Seconds of float passes, of probes without reuse and of probes with it, (sites · bits, 3).

    Raises:
        AssertionError: the two evaluators differ in a bit.
    """
    plain, reusing, model = of.evaluator(0), of.evaluator(memory), of.workload.model()
    for each in (plain, reusing):
        each.probe(BitAssignment({}))  # with which every table begins
    rows = []
    for variable in of.space.variables:
        for bits in variable.choices:
            assignment = BitAssignment(dict.fromkeys(variable.sites, bits))
            base, _ = timed(floating, model, plain, of.batch_size)
            (without, expected), (with_it, found) = (timed(each.probe, assignment) for each in (plain, reusing))
            assert found == expected, (variable.name, bits)
            rows.append((base, without, with_it))
    return np.asarray(rows)


def at_random(of: Setting, memory: int | None, count: int) -> NDArray[np.float64]:
    """Ratios of the times of random evaluations with reuse and without, (count,)."""
    pair = [of.evaluator(0), of.evaluator(memory)]
    drawn = [of.space.decode(x) for x in of.space.sample(np.random.default_rng(0), count + 1)]
    ratios = []
    for position, assignment in enumerate(drawn):
        order = pair if position % 2 else pair[::-1]
        took = {id(each): timed(each.evaluate, assignment)[0] for each in order}
        ratios.append(took[id(pair[1])] / took[id(pair[0])])
    return np.asarray(ratios[1:])


def floating(model: torch.nn.Module, evaluator: PostTraining, batch_size: int) -> None:
    """The float network over the calibration data."""
    with torch.inference_mode():
        for batch in evaluator.calibration.batches(batch_size):
            forward(model, batch.inputs)


def spread(values: NDArray[np.float64] | list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Sensitivities one at a time, in float passes per probe.")
    parser.add_argument("--workload", action="append", help=f"may be repeated; default: {', '.join(WORKLOADS)}")
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 5, 6, 7, 8])
    parser.add_argument("--samples", type=int, default=512, help="calibration samples")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--memory", type=int, help="MiB to reuse; the evaluator's default without it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--random", type=int, default=20, help="random assignments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assert FLOAT_BITS not in arguments.bits
    for name in arguments.workload or WORKLOADS:
        try:
            of = setting(name, arguments.bits, arguments.samples, arguments.batch_size)
        except DataError as error:
            print(f"{name}: left out: {error}")
            continue
        totals = np.asarray([table(of, arguments.memory).sum(0) for _ in range(arguments.repeats)])
        probes = len(of.space.variables) * len(arguments.bits)
        print(f"{name}: {probes} probes of {of.samples} samples; downstream {of.downstream:.3f}")
        print(f"  float passes per probe without reuse {spread(totals[:, 1] / totals[:, 0])}", flush=True)
        print(f"  float passes per probe with reuse    {spread(totals[:, 2] / totals[:, 0])}", flush=True)
        if arguments.random:
            found = at_random(of, arguments.memory, arguments.random)
            print(f"  random evaluations, with by without  {spread(found)}", flush=True)


if __name__ == "__main__":
    main()
