"""Memory of a spiking network, weights and states, against its error on recordings of an event camera.

    QSEARCH_DATA=folder python benchmarks/spiking_memory.py                    N-MNIST; searches, a few minutes
    QSEARCH_DATA=folder python benchmarks/spiking_memory.py --part ternary     with training, longer

Memory is the cost model ``neuromorphic``'s: weights as they are stored, without the zeros of pruned kernels, constants of the
neurons, and one state per neuron; shares are of 32 bits everywhere. Parts:

float     accuracy on each split, by width of the bins
uniform   one bitwidth for all weights, one for all states, the rest in float: which of the two needs more bits
search    the least error that a search finds within a share of the memory, per layer and per kernel; and the least memory that
          bisection finds within a point of the float network's validation accuracy
ternary   ternary weights after quantisation and after training, with and without pruning

Searches see calibration and validation recordings; errors are of test recordings, less the float network's on the same
ones, with a paired 95 % interval. All recordings are of the camera's training set, on which the network was trained: what
it would do on new ones is not what is asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from markdown_table import show
from records import Records

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.hardware.sparsity import storage
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.overlay import Overlay
from qsearch.problem import Bound, Objective, Problem
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space, overlaid
from qsearch.space import Granularity, SearchSpace
from qsearch.trial import Quality

WEIGHT_BITS = (1, 2, 3, 4, 5, 6, 8)
STATE_BITS = (2, 3, 4, 5, 6, 8, 10)
SHARES = (0.08, 0.10, 0.13, 0.18)
PERIOD = 32
RATE = 0.01
"""Of training."""
Row = Sequence[str]


@dataclass(frozen=True)
class Bench:
    """A spiking workload and what judges its assignments.

    Attributes:
        name, options: of the workload.
        evaluator: name and options of the evaluator.
        overlay: lets weights be ternary.
        kept: share of the weights that pruning keeps, over the network, where it is below 1; each layer's are stored with
            indices (:mod:`qsearch.hardware.sparsity`), as a matrix of kernels, or dense where that takes less.
    """

    name: str
    options: dict[str, Any]
    evaluator: tuple[str, dict[str, Any]] = ("ptq", {"threads": 1})
    overlay: Overlay | None = None
    kept: float = 1.0

    @cached_property
    def workload(self) -> Any:
        return registry.create("workloads", self.name, self.options)

    @cached_property
    def plain(self) -> tuple[Layer, ...]:
        return layers_of(self.workload)

    def space(self, granularity: Granularity = "layer") -> SearchSpace:
        """Weights and states; thresholds and leaks at 8 bits."""
        return build_space(
            self.plain,
            weight_bits=WEIGHT_BITS if self.overlay is None else (8,),
            activation_bits=(8,),
            state_bits=STATE_BITS,
            fixed={"thresholds": 8, "leaks": 8},
            granularity=granularity,
            overlay=self.overlay,
        )

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return overlaid(self.plain, self.space(), self.overlay)

    @cached_property
    def judge(self) -> Any:
        name, options = self.evaluator
        return registry.create("evaluators", name, options, self.workload, self.layers)

    def cost(self, space: SearchSpace) -> NetworkCost:
        return NetworkCost(registry.create("cost_models", "neuromorphic"), self.layers, space)

    def memory(self, assignment: BitAssignment) -> float:
        """Bytes."""
        found = self.cost(self.space()).estimate(assignment).totals["memory"]
        left = self.judge.kept(assignment) if self.kept < 1 else {}
        for layer in self.plain:
            if layer.weight_site in left:
                bits = assignment.mean_bits(layer.weight_site)
                stored = storage(layer.kernels, layer.kernel_params, left[layer.weight_site], bits).total
                found += (stored - bits * layer.params) / 8
        return found

    @cached_property
    def whole(self) -> float:
        """Bytes at 32 bits everywhere, nothing pruned."""
        dense = replace(self, kept=1.0, evaluator=("ptq", {}))
        return dense.memory(dense.space().reference(FLOAT_BITS))

    @cached_property
    def floating(self) -> Quality:
        found: Quality = self.judge.test(self.space().reference(FLOAT_BITS))
        return found

    def judged(self, assignment: BitAssignment) -> Row:
        """Memory in KiB and as a share, error on test recordings, and what it is more than in float."""
        memory, quality = self.memory(assignment), self.judge.test(assignment)
        difference = paired_difference([self.floating], [quality])
        assert difference is not None  # both have outcomes
        low, high = (100 * (end or 0.0) for end in (difference.low, difference.high))
        return (
            f"{memory / 1024:.1f}",
            f"{100 * memory / self.whole:.1f}",
            f"{100 * (1 - quality.metric):.2f}",
            f"{100 * difference.mean:+.2f} [{low:+.2f}, {high:+.2f}]",
        )


JUDGED = ("memory KiB", "of 32 bits %", "test error %", "more than float, points")


def mean_bits(bench: Bench, assignment: BitAssignment) -> Row:
    """Mean bits of weights, by their number, and of states, by the number of neurons."""
    weights = [(layer.params, assignment.mean_bits(layer.weight_site)) for layer in bench.plain if layer.weighted]
    states = [
        (layer.neurons, assignment.mean_bits(layer.activation_site)) for layer in bench.plain if layer.kind == "neuron"
    ]
    return tuple(f"{sum(n * b for n, b in part) / sum(n for n, _ in part):.2f}" for part in (weights, states))


def floats(bench: Bench, records: Records) -> Iterator[Row]:
    for width in (10, 5, 3):
        job = {"part": "float", "workload": bench.name, "width": width}

        def run(width: int = width) -> Row:
            other = Bench(bench.name, {**bench.options, "bin_ms": width})
            model, right, count = other.workload.model(), 0.0, 0
            cells = []
            for split in ("train", "validation", "test"):
                hits = n = 0.0
                for inputs, targets in getattr(other.workload, split)():
                    with torch.inference_mode():
                        hits += float((model(inputs).argmax(1) == targets).sum())
                    n += len(targets)
                cells.append(f"{100 * hits / n:.2f}")
                right, count = right + hits, count + int(n)
            return (f"{width} ms", *cells, f"{100 * right / count:.2f} of {count:,}")

        yield remembered(records, job, run)


def uniform(bench: Bench, records: Records) -> Iterator[Row]:
    for role in ("weight", "state"):
        for bits in (2, 3, 4, 5, 6, 8):

            def run(role: str = role, bits: int = bits) -> Row:
                space = bench.space()
                roles = {site.name: site.role for site in space.sites}
                free = space.reference(FLOAT_BITS)
                chosen = free.replace({name: bits for name in free if roles[name] == role})
                return (f"{role}s", str(bits), *bench.judged(chosen))

            yield remembered(records, {"part": "uniform", "workload": bench.name, "role": role, "bits": bits}, run)


def searches(bench: Bench, records: Records, budget: int) -> Iterator[Row]:
    jobs: list[tuple[str, Granularity, float]] = [("bisection", "layer", 0.01)]
    jobs += [("auto", granularity, share) for granularity in ("layer", "kernel") for share in SHARES]
    for searcher, granularity, limit in jobs:
        job = {"part": "search", "workload": bench.name, "searcher": searcher, "by": granularity, "limit": limit}
        run = partial(found, bench, searcher, granularity, limit, budget)
        yield remembered(records, job | {"budget": budget}, run)


def found(bench: Bench, searcher: str, granularity: Granularity, limit: float, budget: int) -> Row:
    """What one search finds: within a share of the memory, or of the accuracy where it bisects."""
    space = bench.space(granularity)
    floating = bench.judge.evaluate(space.reference(FLOAT_BITS))
    if searcher == "bisection":
        bound = Bound("accuracy", floating.metric - limit, True, f"accuracy ≥ float − {100 * limit:g} points")
        objective = Objective("memory", "minimize")
    else:
        bound = Bound("memory", limit * bench.whole, False, f"memory ≤ {100 * limit:g} %")
        objective = Objective("loss", "minimize")
    problem = Problem(
        space, bench.cost(space), (objective,), (bound,), floating.name, dict(floating.values), floating.outcomes
    )
    oracle = CampaignOracle(problem, bench.judge, MemoryRecord(), Budget(evaluations=budget))
    with suppress(BudgetExhausted):
        registry.create("searchers", searcher).search(oracle)
    best = problem.best(oracle.trials)
    if best is None:
        return (searcher, granularity, bound.label, "none", *["–"] * (len(JUDGED) + 1))
    return (searcher, granularity, bound.label, *mean_bits(bench, best.assignment), *bench.judged(best.assignment))


def ternary(bench: Bench, records: Records, epochs: int) -> Iterator[Row]:
    overlay = Overlay(PERIOD, (0, PERIOD))
    training = {"threads": 1, "epochs": epochs, "rate": RATE}
    untrained = ("ptq", {"threads": 1})
    pruned = [(f"{bits} bits, {kept:.0%} kept, trained", bits, kept) for bits in (8, 2) for kept in (0.5, 0.2)]
    settings: list[tuple[str, tuple[str, dict[str, Any]], Overlay | None, int, float]] = [
        ("float", untrained, None, FLOAT_BITS, 1.0),
        ("8 bits", untrained, None, 8, 1.0),
        ("2 bits", untrained, None, 2, 1.0),
        ("2 bits, trained", ("qat", training), None, 2, 1.0),
        ("ternary", untrained, overlay, 0, 1.0),
        ("ternary, trained", ("qat", training), overlay, 0, 1.0),
        *((label, ("admm", {**training, "compression": 1 / kept}), None, bits, kept) for label, bits, kept in pruned),
    ]
    for label, evaluator, chosen, bits, kept in settings:

        def run(
            evaluator: Any = evaluator, chosen: Any = chosen, bits: int = bits, label: str = label, kept: float = kept
        ) -> Row:
            other = Bench(bench.name, bench.options, evaluator, chosen, kept)
            assignment = other.space().reference(FLOAT_BITS)
            roles = {site.name: site.role for site in other.space().sites}
            role = "weight" if chosen is None else "overlay"
            values = {name: bits for name in assignment if roles[name] == role}
            values |= {name: 8 for name in assignment if roles[name] == "state"}
            return (label, *other.judged(assignment.replace(values)))

        yield remembered(records, {"part": "ternary", "workload": bench.name, "label": label, "epochs": epochs}, run)


def remembered(records: Records, job: dict[str, Any], run: Callable[[], Row]) -> Row:
    """A row, from the records where it is known."""
    if job not in records:
        records.add(job, list(run()))
    row: Row = records[job]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="nmnist")
    parser.add_argument(
        "--part", choices=["float", "uniform", "search", "ternary"], nargs="+", default=["float", "uniform", "search"]
    )
    parser.add_argument("--budget", type=int, default=100, help="evaluations of each search")
    parser.add_argument("--epochs", type=int, default=6, help="of each training")
    parser.add_argument("--records", type=Path, default=Path("runs/benchmarks/spiking-memory.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench, records = Bench(arguments.workload, {}), Records(arguments.records)
    if "float" in arguments.part:
        show(("bins", "train %", "validation %", "test %", "all %"), floats(bench, records))
    if "uniform" in arguments.part:
        show(("bits of", "bits", *JUDGED), uniform(bench, records))
    if "search" in arguments.part:
        header = ("searcher", "bits per", "limit", "weights", "states", *JUDGED)
        show(header, searches(bench, records, arguments.budget))
    if "ternary" in arguments.part:
        show(("weights, states at 8 bits", *JUDGED), ternary(bench, records, arguments.epochs))


if __name__ == "__main__":
    main()
