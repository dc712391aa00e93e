"""Latency at a quality to keep: bisection and greedy search by Hessian, by interaction and at random.

    python benchmarks/bisection.py                                                      digits-resnet, half a minute
    QSEARCH_DATA=folder python benchmarks/bisection.py --workload cifar10-resnet20 --pairs 60 --calibration 128

Weight and input activation of a layer share one of 4, 8 and 16 bits, as a tensor core asks. Latencies are those of a bit-serial
array (bismo) and of tensor cores under a memory roof (roofline, platform t4: 65, 130 and 260 TOPS at 16, 8 and 4 bits,
320 GB/s), as reductions against 16 and 8 bits everywhere. Neither searcher looks at the cost, so one search serves both.

The accuracy to keep is a share of the float network's on the validation data, by its point estimate. Test accuracy is read
once per result, less the float network's on the same samples, with a paired 95 % interval (Tango's). Evaluations are those of
the search; calibration samples are what its order took besides, in float forward passes. Random orders: means over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import Evaluator, HeldOutEvaluator, SensitivityTable
from qsearch.search.paired import difference_interval
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

BITS = (4, 8, 16)
BATCH = 64
"""Samples in a pass on the tensor cores; on one they would wait for memory and fill."""
HARDWARE: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "bismo": ("bismo", {}),
    "t4": ("roofline", {"platform": "t4", "batch": BATCH}),
}
COLUMNS = (
    "keep",
    "searcher",
    "order",
    "evaluations",
    "calibration",
    "bismo −%/16",
    "−%/8",
    "t4 −%/16",
    "−%/8",
    "validation %",
    "test %",
    "minus float, points",
)


@dataclass
class Remembering(Evaluator):
    """An evaluator whose answers are kept, since searches ask for many of the same assignments."""

    source: Evaluator
    known: dict[BitAssignment, Quality] = field(default_factory=dict)

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The source's answer, asked once."""
        if assignment not in self.known:
            self.known[assignment] = self.source.evaluate(assignment, seed=seed)
        return self.known[assignment]

    def test(self, assignment: BitAssignment) -> Quality:
        """The source's answer on test data."""
        assert isinstance(self.source, HeldOutEvaluator)
        return self.source.test(assignment)


@dataclass(frozen=True)
class Bench:
    """One network: the problem without its limit, its evaluator, and the tables that orders come from."""

    problem: Problem
    costs: Mapping[str, NetworkCost]
    evaluator: Remembering
    tables: dict[str, SensitivityTable]
    pairs: int | None

    @property
    def space(self) -> SearchSpace:
        return self.problem.space

    def options(self, searcher: str, order: str, seed: int) -> dict[str, object]:
        """Options of a searcher that goes by an order; greedy search by a random one gets a random table."""
        if order == "interaction":
            chosen: dict[str, object] = {"sensitivity": "pairwise", "sensitivity_options": {"evaluations": self.pairs}}
        else:
            chosen = {"sensitivity": "hessian" if order == "hessian" else f"random-{seed}"}
        if searcher == "greedy":
            return chosen
        return {"order": "sensitivity" if order == "hessian" else order, **chosen}

    def search(self, searcher: str, order: str, keep: float, seed: int) -> Found:
        """The cheapest assignment that a searcher finds at a share of the float accuracy."""
        limit = keep * self.problem.float_quality["accuracy"]
        problem = replace(self.problem, bounds=(Bound("accuracy", limit, True, f"accuracy >= {keep:g} x float"),))
        self.tables.setdefault(f"random-{seed} {{}}", random_table(self.space, seed))
        oracle = CampaignOracle(
            problem, self.evaluator, MemoryRecord(), Budget(evaluations=1000), seed=seed, tables=self.tables
        )
        options = self.options(searcher, order, seed)
        registry.create("searchers", searcher, options).search(oracle)
        best = problem.best(oracle.trials)
        name = options["sensitivity"]
        samples = max((table.samples for key, table in self.tables.items() if key.startswith(f"{name} ")), default=0)
        return Found(self.space.uniform(BITS[-1]) if best is None else best.assignment, int(oracle.spent), samples)

    def latency(self, hardware: str, assignment: BitAssignment) -> float:
        return self.costs[hardware].estimate(assignment).totals["latency"]

    def reduction(self, hardware: str, assignment: BitAssignment, bits: int) -> float:
        """Latency saved against one bitwidth everywhere, in per cent; negative where it is slower."""
        return 100 * (1 - self.latency(hardware, assignment) / self.latency(hardware, self.space.uniform(bits)))


@dataclass(frozen=True)
class Found:
    """What a search found and spent."""

    assignment: BitAssignment
    evaluations: int
    samples: int


def random_table(space: SearchSpace, seed: int) -> SensitivityTable:
    """Damages without meaning: their order is a random one."""
    rng = np.random.default_rng(seed)
    damage = {v.name: np.repeat(rng.random((v.length, 1)), len(v.choices), axis=1) for v in space.variables}
    return SensitivityTable(damage, 0)


def make_bench(workload_name: str, swap: bool, calibration: int, pairs: int | None) -> Bench:
    workload = registry.create("workloads", workload_name, {"split": "swapped"} if swap else {})
    layers: tuple[Layer, ...] = layers_of(workload)
    ties = [(layer.weight_site, layer.activation_site) for layer in layers]
    space = build_space(layers, weight_bits=BITS, activation_bits=BITS, ties=ties)
    source = registry.create("evaluators", "ptq", {"calibration_samples": calibration}, workload, layers)
    evaluator = Remembering(source)
    reference = evaluator.evaluate(space.reference(FLOAT_BITS))
    costs = {
        name: NetworkCost(registry.create("cost_models", model, options), layers, space)
        for name, (model, options) in HARDWARE.items()
    }
    problem = Problem(
        space=space,
        cost=costs["bismo"],
        objectives=(Objective("latency", "minimize"),),
        float_quality=dict(reference.values),
        float_outcomes=reference.outcomes,
    )
    tables: dict[str, SensitivityTable] = {}
    oracle = CampaignOracle(problem, source, MemoryRecord(), Budget(evaluations=1), tables=tables)
    oracle.sensitivity("hessian", {})
    oracle.sensitivity("pairwise", {"evaluations": pairs})
    return Bench(problem, costs, evaluator, tables, pairs)


def rows(bench: Bench, seeds: int) -> Iterator[Sequence[str]]:
    """Uniform bits, then every searcher and order at every quality to keep."""
    for bits in (16, 8, 4):
        yield row(bench, "–", "uniform", str(bits), [Found(bench.space.uniform(bits), 1, 0)])
    for keep in (0.9999, 0.99):
        for searcher in ("bisection", "greedy"):
            for order in ("hessian", "interaction", "random"):
                runs = range(seeds if order == "random" else 1)
                found = [bench.search(searcher, order, keep, seed) for seed in runs]
                yield row(bench, f"{100 * keep:g} %", searcher, order, found)


def row(bench: Bench, keep: str, searcher: str, order: str, found: Sequence[Found]) -> Sequence[str]:
    """One line; means over runs, the interval of the test difference of their mean outcomes only for a single run."""
    saved = [
        np.mean([bench.reduction(hardware, one.assignment, bits) for one in found])
        for hardware in HARDWARE
        for bits in (16, 8)
    ]
    validation = np.mean([bench.evaluator.evaluate(one.assignment).metric for one in found])
    tested = [bench.evaluator.test(one.assignment) for one in found]
    return (
        keep,
        searcher,
        order if len(found) == 1 else f"{order} ×{len(found)}",
        f"{np.mean([one.evaluations for one in found]):.1f}",
        f"{found[0].samples:,}",
        *(f"{value:.1f}" for value in saved),
        f"{100 * validation:.2f}",
        f"{100 * np.mean([quality.metric for quality in tested]):.2f}",
        difference(bench, tested),
    )


def difference(bench: Bench, tested: Sequence[Quality]) -> str:
    """Test accuracy less the float network's, in points; with its interval for a single run."""
    reference = bench.evaluator.test(bench.space.reference(FLOAT_BITS))
    mean = round(100 * float(np.mean([quality.metric for quality in tested]) - reference.metric), 9) + 0.0
    if len(tested) > 1 or tested[0].outcomes is None or reference.outcomes is None:
        return f"{mean:+.2f}"
    ends = difference_interval(tested[0].outcomes, reference.outcomes, 0.95)
    assert ends is not None  # right or wrong always has one
    return f"{mean:+.2f} [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default="digits-resnet")
    parser.add_argument("--swap", action="store_true", help="exchange validation and test images (CIFAR-10)")
    parser.add_argument("--calibration", type=int, default=512, help="calibration samples")
    parser.add_argument("--pairs", type=int, default=None, help="probes that interactions may take; all if not given")
    parser.add_argument("--seeds", type=int, default=5, help="random orders")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    start = time.perf_counter()
    bench = make_bench(arguments.workload, arguments.swap, arguments.calibration, arguments.pairs)
    reference = bench.evaluator.test(bench.space.reference(FLOAT_BITS))
    accuracy = bench.problem.float_quality["accuracy"]
    title = (
        f"{arguments.workload}: {len(bench.space.variables)} layers at 4, 8 or 16 bits; float {100 * accuracy:.2f} % of "
        f"validation, {100 * reference.metric:.2f} % of {reference.samples:,} test samples"
    )
    table = Table(title=title)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in COLUMNS[:3] else "right")
    for cells in rows(bench, arguments.seeds):
        table.add_row(*cells)
    console = Console()
    console.width = max(console.width, 170)
    console.print(table)
    console.print(f"{time.perf_counter() - start:.0f} s, {len(bench.evaluator.known)} assignments evaluated")


if __name__ == "__main__":
    main()
