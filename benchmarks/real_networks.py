"""Accuracy against mean bits of real networks, post-training: each searcher, layer-wise and kernel-wise, on two chips.

    QSEARCH_DATA=folder python benchmarks/real_networks.py                      ResNet-20 on CIFAR-10: hours; resumable
    QSEARCH_DATA=folder python benchmarks/real_networks.py --case text          MiniLM on TREC, tensor cores
    python benchmarks/real_networks.py --tables --figure docs/real-networks.png    only what is there already

A search asks for the least loss within a share of what 8 bits cost on the chip: latency on ``bismo``, energy on
``bitfusion``, whose latency on so small a network is that of its memory. ``bisection`` asks for the least cost at an
accuracy to keep, so its points stand where they fall. A search sees training images only (``split: training``), and what it
finds is judged once on all test images, beside the float network on the same ones.

Each run is a line of the ``--records`` file; those that are there are not run again. Rows are ordered such that what
matters most is there first. Seconds are those of the process, on one thread, sensitivities and agents included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted
from qsearch.layers import Layer
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Constraint, Objective, Problem, resolve
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import Granularity
from qsearch.trial import Quality


@dataclass(frozen=True)
class Chip:
    """A cost model, the metric of it that is bounded, and bounds as shares of what 8 bits cost."""

    name: str
    metric: str
    weights_only: tuple[float, ...]
    everything: tuple[float, ...]


@dataclass(frozen=True)
class Case:
    """A network, the chips it is searched for, and the searchers.

    Attributes:
        workload, options, evaluator: plug-ins as a campaign names them.
        keep: what bisection keeps of the float accuracy.
        bits: choices of weights and of activations.
        searchers: those that take part, with their options.
    """

    workload: str
    options: Mapping[str, Any]
    evaluator: Mapping[str, Any]
    chips: tuple[Chip, ...]
    keep: tuple[float, ...]
    bits: tuple[int, ...]
    searchers: Mapping[str, Mapping[str, Any]]

    def chip(self, name: str) -> Chip:
        """The chip of that name."""
        return next(chip for chip in self.chips if chip.name == name)


RESNET = Case(
    "cifar10-resnet20",
    {"split": "training"},
    {"samples": 256, "calibration_samples": 256, "threads": 1},
    (
        Chip("bismo", "latency", (0.5, 0.375, 0.3), (0.25, 0.18, 0.14)),
        Chip("bitfusion", "energy", (0.64, 0.56, 0.5), (0.5, 0.4, 0.33)),
    ),
    (0.99, 0.96, 0.92),
    (2, 3, 4, 5, 6, 7, 8),
    {name: {} for name in ("auto", "bisection", "ilp", "optuna", "ddpg", "hierarchical-ddpg")},
)
TEXT = Case(
    "text-classifier",
    {"task": "trec"},
    {"samples": 256, "calibration_samples": 128, "threads": 1},
    (Chip("tensorcore", "latency", (), (0.9, 0.8, 0.7)),),
    (0.99, 0.96, 0.92),
    (4, 8),
    # Hessian traces, bisection's default, differentiate twice: minutes for 22 million weights
    {"auto": {}, "bisection": {"sensitivity": "fisher"}},
)
CASES = {"resnet": RESNET, "text": TEXT}


@dataclass(frozen=True)
class Job:
    """One search. ``bound`` is a share of the cost of 8 bits, or of the float accuracy for bisection."""

    case: str
    chip: str
    scope: str
    granularity: Granularity
    searcher: str
    bound: float
    seed: int


@dataclass(frozen=True)
class Record:
    """What a search found; accuracies in shares, ``low`` and ``high`` the paired 95 % interval less float."""

    job: Job
    weight_bits: float
    activation_bits: float
    cost: float
    accuracy: float
    loss: float
    difference: float
    low: float
    high: float
    evaluations: int
    samples: int
    seconds: float


def jobs(case: str, seeds: int) -> list[Job]:
    """All searches: first seeds first, layers before kernels, middle bounds before others; slow ones on kernels late."""
    given, found = CASES[case], list[tuple[tuple[int, ...], Job]]()
    for chip in given.chips:
        for scope, bounds in (("weights", chip.weights_only), ("weights and activations", chip.everything)):
            for granularity in ("layer", "kernel") if len(given.searchers) > 2 else ("layer",):
                for searcher in given.searchers:
                    if (searcher == "hierarchical-ddpg" and granularity == "layer") or not bounds:
                        continue
                    if searcher in {"bisection", "ilp"} and granularity == "kernel":
                        continue  # one moves all kernels of a layer together, the other needs costs that add up over kernels
                    for place, bound in enumerate(given.keep if searcher == "bisection" else bounds):
                        for seed in range(1 if searcher in {"bisection", "ilp"} else seeds):
                            slow = searcher != "auto" and granularity == "kernel"
                            rank = 2 * seed + (1 if place == 1 else 3) if slow else 2 * seed
                            order = (rank, int(granularity == "kernel"), abs(place - 1))
                            found.append((order, Job(case, chip.name, scope, granularity, searcher, bound, seed)))
    return [job for _, job in sorted(found, key=lambda pair: pair[0])]


class Bench:
    """A case, prepared: the network with its evaluator, and its quality in float on the test data."""

    def __init__(self, case: str) -> None:
        self.case = CASES[case]
        workload = registry.create("workloads", self.case.workload, self.case.options)
        self.layers: tuple[Layer, ...] = layers_of(workload)
        self.evaluator = registry.create("evaluators", "ptq", self.case.evaluator, workload, self.layers)
        everything = build_space(self.layers, weight_bits=[8], activation_bits=[8]).reference(FLOAT_BITS)
        self.validation: Quality = self.evaluator.evaluate(everything)
        self.reference: Quality = self.evaluator.test(everything)
        self.samples = self.evaluator.probe(everything).samples + self.validation.samples

    def problem(self, job: Job) -> Problem:
        """Least loss within the bound on cost; for bisection, least cost at the accuracy to keep."""
        chip = self.case.chip(job.chip)
        only_weights = job.scope == "weights"
        space = build_space(
            self.layers,
            weight_bits=self.case.bits,
            activation_bits=[8] if only_weights else self.case.bits,
            granularity=job.granularity,
            fixed={"activations": 8} if only_weights else {},
        )
        cost = NetworkCost(registry.create("cost_models", chip.name, {}), self.layers, space)
        if job.searcher == "bisection":
            objective, text = Objective(chip.metric, "minimize"), f"accuracy>={job.bound:g}*float"
        else:
            objective, text = Objective("loss", "minimize"), f"{chip.metric}<={job.bound:g}"
        bound = resolve(Constraint.parse(text), cost, self.validation.values)
        return Problem(
            space,
            cost,
            (objective,),
            (bound,),
            self.validation.name,
            dict(self.validation.values),
            self.validation.outcomes,
        )

    def run(self, job: Job, evaluations: int) -> Record:
        """Search, and judge the best trial on the test data."""
        problem = self.problem(job)
        oracle = CampaignOracle(problem, self.evaluator, MemoryRecord(), Budget(evaluations=evaluations), job.seed)
        start = time.process_time()
        with suppress(BudgetExhausted):
            options = dict(self.case.searchers[job.searcher])
            registry.create("searchers", job.searcher, options).search(oracle)
        seconds = time.process_time() - start
        best = problem.best(oracle.trials)
        assert best is not None, job
        assert best.cost is not None
        chip = self.case.chip(job.chip)
        reference = problem.cost.estimate(problem.space.reference(8)).totals[chip.metric]
        quality = self.evaluator.test(best.assignment)
        difference = paired_difference([quality], [self.reference])
        assert difference is not None
        weights, activations = mean_bits(self.layers, best.assignment)
        return Record(
            job,
            weights,
            activations,
            best.cost.totals[chip.metric] / reference,
            quality.metric,
            quality.loss,
            difference.mean,
            difference.low or 0.0,
            difference.high or 0.0,
            int(oracle.spent),
            oracle.sensitivity_samples + self.samples * oracle.spent,
            seconds,
        )


def mean_bits(layers: Sequence[Layer], assignment: BitAssignment) -> tuple[float, float]:
    """Mean bits of a weight, and of a number that a layer takes in."""
    weights = [(assignment.mean_bits(layer.weight_site), layer.stored_params) for layer in layers]
    inputs = [
        (assignment.mean_bits(layer.activation_site), layer.input_elements)
        for layer in layers
        if layer.kind != "embedding"
    ]
    first, second = (
        float(np.average([b for b, _ in part], weights=[n for _, n in part])) for part in (weights, inputs)
    )
    return first, second


def read(path: Path) -> list[Record]:
    """The records of a file; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return [Record(**{**row, "job": Job(**row["job"])}) for row in rows]


def run(case: str, path: Path, seeds: int, evaluations: int) -> None:
    """Run what the file does not hold yet."""
    done = {record.job for record in read(path)}
    left = [job for job in jobs(case, seeds) if job not in done]
    bench = Bench(case) if left else None
    console = Console(stderr=True)
    for number, job in enumerate(left, start=1):
        assert bench is not None
        record = bench.run(job, evaluations)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        console.print(f"{number}/{len(left)} {job} {100 * record.accuracy:.1f} % {record.seconds:.0f} s")


def tables(records: Sequence[Record]) -> Iterator[Table]:
    """A table per case, chip and scope: a row per searcher and granularity, a column per bound."""
    for case, chip, scope in dict.fromkeys((r.job.case, r.job.chip, r.job.scope) for r in records):
        here = [r for r in records if (r.job.case, r.job.chip, r.job.scope) == (case, chip, scope)]
        table = Table(title=f"{CASES[case].workload}, {scope}, {chip}: accuracy % at mean weight / input bits")
        table.add_column("searcher")
        for column in ("loosest", "middle", "tightest"):
            table.add_column(column, justify="right")
        table.add_column("seconds", justify="right")
        for searcher, granularity in dict.fromkeys((r.job.searcher, r.job.granularity) for r in here):
            mine = [r for r in here if (r.job.searcher, r.job.granularity) == (searcher, granularity)]
            bounds = sorted({r.job.bound for r in here if (r.job.searcher == "bisection") == (searcher == "bisection")})
            cells = [cell([r for r in mine if r.job.bound == bound]) for bound in reversed(bounds)]
            table.add_row(f"{searcher}, {granularity}", *cells, f"{np.mean([r.seconds for r in mine]):.0f}")
        yield table


def cell(found: Sequence[Record]) -> str:
    """Accuracy, its difference from float with the interval, bits and share of the cost; means over seeds."""
    if not found:
        return "–"
    mean = {key: float(np.mean([getattr(r, key) for r in found])) for key in ("accuracy", "difference", "cost")}
    ends = [float(np.mean([getattr(r, key) for r in found])) for key in ("low", "high")]
    bits = [float(np.mean([getattr(r, key) for r in found])) for key in ("weight_bits", "activation_bits")]
    return (
        f"{100 * mean['accuracy']:.1f}, {100 * mean['difference']:+.1f} [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]\n"
        f"{bits[0]:.2f} / {bits[1]:.2f}, {mean['cost']:.3f}×" + (f", {len(found)} seeds" if len(found) > 1 else "")
    )


def figure(records: Sequence[Record], path: Path) -> None:
    """Accuracy less float against mean bits, a panel per chip and scope; kernel-wise searches dashed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((r.job.chip, r.job.scope) for r in records))
    drawing, grid = pyplot.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.4), sharey=True, squeeze=False, layout="constrained"
    )
    palette = matplotlib.colormaps["tab10"]
    colours = {name: palette(index) for index, name in enumerate(dict.fromkeys(r.job.searcher for r in records))}
    for axes, (chip, scope) in zip(grid[0], panels, strict=True):
        here = [r for r in records if (r.job.chip, r.job.scope) == (chip, scope)]
        for searcher, granularity in dict.fromkeys((r.job.searcher, r.job.granularity) for r in here):
            mine = [r for r in here if (r.job.searcher, r.job.granularity) == (searcher, granularity)]
            points = sorted(
                (
                    float(np.mean([bits_of(r) for r in mine if r.job.bound == bound])),
                    100 * float(np.mean([r.difference for r in mine if r.job.bound == bound])),
                )
                for bound in {r.job.bound for r in mine}
            )
            axes.plot(
                *zip(*points, strict=True),
                color=colours[searcher],
                linestyle="-" if granularity == "layer" else "--",
                marker="o" if granularity == "layer" else "s",
                markersize=4,
                label=f"{searcher}, {granularity}",
            )
        axes.axhline(0, color="0.6", linewidth=0.8)
        axes.set(title=f"{chip}, {scope}", xlabel="mean bits" if scope != "weights" else "mean bits of a weight")
        axes.grid(alpha=0.25)
    grid[0][0].set_ylabel("test accuracy less float, points")
    handles = {
        label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    drawing.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    drawing.savefig(path, dpi=110)


def bits_of(record: Record) -> float:
    """Mean bits: of a weight, or of weights and inputs halfway where both are searched."""
    if record.job.scope == "weights":
        return record.weight_bits
    return (record.weight_bits + record.activation_bits) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), default="resnet")
    parser.add_argument("--records", type=Path, default=Path("runs/real_networks.jsonl"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=40, help="budget of each search")
    parser.add_argument("--tables", action="store_true", help="run nothing, print what the records say")
    parser.add_argument("--figure", type=Path, help="draw the records of the case into this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.tables:
        given.records.parent.mkdir(parents=True, exist_ok=True)
        run(given.case, given.records, given.seeds, given.evaluations)
    records = [record for record in read(given.records) if record.job.case == given.case]
    console = Console()
    console.width = max(console.width, 130)
    for table in tables(records):
        console.print(table)
    if given.figure is not None:
        figure(records, given.figure)


if __name__ == "__main__":
    main()
