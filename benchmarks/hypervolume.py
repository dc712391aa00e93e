"""Hypervolume that each searcher reaches, against the exhaustively known optimum.

    python benchmarks/hypervolume.py                         a coupled problem in closed form, 4,096 assignments
    python benchmarks/hypervolume.py --real table.npz        digits-resnet, 4,096 assignments, evaluated once into the file
    python benchmarks/hypervolume.py --plot curves.png       also draws the curves, with their intervals

Two objectives, accuracy (or loss) and size of the weights, without bounds. The hypervolume is that of the trials of the first n
evaluations, below the worst accuracy and size of the space, as a share of the hypervolume of all its assignments. Mean
over seeds with a 95 % interval (Student's t); a searcher without chance runs once. A searcher that ends early keeps
what it reached. CMA-ES refuses two objectives, bisection what has no bound on quality.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, DataError, UserError
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.pareto import hypervolume
from qsearch.problem import Objective, Problem
from qsearch.protocols import Evaluator, SensitivityTable
from qsearch.search.optuna import SAMPLERS
from qsearch.setting import Choosy
from qsearch.space import SearchSpace
from qsearch.testing.problems import ACCURACY_AND_SIZE, coupled
from qsearch.trial import Quality

BUDGETS = (8, 16, 32, 64, 128)
SENSITIVITIES = ("fisher", "hessian", "one-at-a-time", "pairwise")
"""What searchers ask for; measured once for all of them."""
OBJECTIVES = {"accuracy": Objective("accuracy", "maximize"), "loss": Objective("loss", "minimize")}
GROUPS, CHOICES = 6, (2, 3, 4, 8)  # 4^6 = 4,096 assignments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TabulatedEvaluator(Evaluator):
    """Answers from a table of the whole space: the network itself cannot be sent to other processes."""

    table: Mapping[BitAssignment, Quality]

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The tabulated quality."""
        return self.table[assignment]


@dataclass(frozen=True)
class Case:
    """A problem with what is needed to score searchers on it."""

    problem: Problem
    evaluator: Evaluator
    reference: Floats
    optimum: float
    tables: Mapping[str, SensitivityTable]

    def share(self, points: Floats) -> float:
        """Hypervolume of the points, shape (A, 2), as a share of the optimum."""
        return hypervolume(points, self.reference) / self.optimum


def case(problem: Problem, evaluator: Evaluator, measured: Mapping[str, SensitivityTable] | None = None) -> Case:
    """Score a problem's whole space; the reference is just beyond its worst values."""
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=problem.space.size))
    points = np.stack([problem.minimised(oracle.evaluate(item)) for item in problem.space.enumerate()])
    reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
    return Case(problem, evaluator, reference, hypervolume(points, reference), measured or {})


def synthetic() -> Case:
    """The coupled problem of :mod:`qsearch.testing.problems`."""
    return case(*coupled(GROUPS, choices=CHOICES, budget=None, objectives=ACCURACY_AND_SIZE))


def real(cache: Path, metric: str) -> Case:
    """Weights of digits-resnet in groups of neighbouring layers, activations at 8 bits; accuracy or loss against size."""
    from qsearch.quantize.trace import trace_layers

    workload = registry.create("workloads", "digits-resnet", {})
    layers = trace_layers(workload.model(), next(iter(workload.calibration()))[0])
    evaluator = registry.create("evaluators", "ptq", {}, workload, layers)
    space = grouped_space(layers)
    cost = NetworkCost(registry.create("cost_models", "size", {}), tuple(layers), space)
    objectives = (OBJECTIVES[metric], Objective("size", "minimize"))
    problem = Problem(space, cost, objectives, quality_name=workload.metric)
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=1))
    for name in SENSITIVITIES:
        oracle.sensitivity(name)
    return case(problem, TabulatedEvaluator(tabulate(space, evaluator, cache)), oracle.tables)


def grouped_space(layers: Sequence[Any]) -> SearchSpace:
    """The space of the layers with their weights tied in ``GROUPS`` runs of neighbours."""
    from qsearch.sites import build_space

    groups = [[layer.weight_site for layer in part] for part in np.array_split(np.asarray(layers, object), GROUPS)]
    ties = [group for group in groups if len(group) > 1]
    return build_space(layers, weight_bits=CHOICES, activation_bits=[8], ties=ties, fixed={"activations": 8})


def tabulate(space: SearchSpace, evaluator: Evaluator, cache: Path) -> dict[BitAssignment, Quality]:
    """Quality of every assignment of the space, from the file if it is of this space, else evaluated into it."""
    assignments = list(space.enumerate())
    text = json.dumps([item.digest for item in assignments])
    digest = hashlib.sha256(text.encode()).hexdigest()
    if not cache.exists():
        rows = []
        start = time.perf_counter()
        for number, item in enumerate(assignments, 1):
            quality = evaluator.evaluate(item)
            rows.append((quality.metric, quality.loss, quality.samples, quality.standard_error))
            if number % 256 == 0:
                print(f"{number} of {len(assignments)} evaluated, {time.perf_counter() - start:.0f} s", flush=True)
        part = cache.with_name(cache.name + ".part.npz")
        np.savez(part, rows=np.asarray(rows), digest=digest)
        part.replace(cache)
    with np.load(cache) as found:
        if str(found["digest"]) != digest:
            raise DataError("the table must be of this space", got=str(cache), fix="name another file, or remove it")
        return {
            item: Quality(float(metric), float(loss), int(samples), float(error))
            for item, (metric, loss, samples, error) in zip(assignments, found["rows"], strict=True)
        }


def entries() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every installed searcher; Optuna with each of its samplers."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in registry.names("searchers"):
        if name == "optuna":
            found.update({f"optuna {sampler}": (name, {"sampler": sampler}) for sampler in SAMPLERS})
            found["optuna tpe, warm"] = (name, {"warm_start": "one-at-a-time"})
        else:
            found[name] = (name, {})
    return found


def shares(judged: Case, entry: tuple[str, dict[str, Any]], seed: int) -> list[float] | None:
    """Share of the optimum after 1, 2, … evaluations; None where the searcher refuses the problem."""
    budget, tables = Budget(evaluations=max(BUDGETS)), dict(judged.tables)
    oracle = CampaignOracle(judged.problem, judged.evaluator, MemoryRecord(), budget, seed, tables=tables)
    searcher = registry.create("searchers", *entry)
    try:
        if isinstance(searcher, Choosy):
            searcher.check(judged.problem)
        searcher.search(oracle)
    except BudgetExhausted:
        pass
    except UserError:
        return None
    points = np.stack([judged.problem.minimised(trial) for trial in oracle.trials if trial.evaluated])
    return [judged.share(points[:count]) for count in range(1, max(BUDGETS) + 1)]


def row(name: str, results: Sequence[list[float] | None]) -> str:
    """One line of the table."""
    if any(result is None for result in results):
        return f"{name:<16}" + "".join(f"{'refused':>16}" for _ in BUDGETS)
    values = 100 * np.asarray(results, dtype=np.float64)[:, np.asarray(BUDGETS) - 1]
    cells = [f"{mean:.1f}" for mean in values.mean(axis=0)]
    if len(values) > 1:
        half = half_width(values)
        cells = [f"{cell} ± {width:.1f}" for cell, width in zip(cells, half, strict=True)]
    return f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells)


def half_width(values: Floats) -> Floats:
    """Half the 95 % interval of the mean over seeds, shape (seeds, …) → (…)."""
    return np.asarray(student.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / len(values) ** 0.5)


def plot(path: Path, curves: Mapping[str, Floats]) -> None:
    """What is still missing from the optimum against evaluations, shape (seeds, evaluations) for each searcher."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, (name, values) in enumerate(curves.items()):
        count, mean = np.arange(1, values.shape[1] + 1), values.mean(axis=0)
        style = "-" if number < len(plt.rcParams["axes.prop_cycle"]) else "--"  # colours come round again
        (line,) = axes.plot(count, 100 * mean, style, label=name, linewidth=2.5 if name == "auto" else 1.3)
        if len(values) > 1:
            half = half_width(values)
            axes.fill_between(count, 100 * (mean - half), 100 * (mean + half), color=line.get_color(), alpha=0.15)
    axes.axhline(99, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="evaluations", ylabel="% of the optimal hypervolume", ylim=(60, 100.5))
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    figure.savefig(path, dpi=150)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    known = entries()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", type=Path, metavar="FILE", help="digits-resnet; its table is kept in FILE")
    parser.add_argument(
        "--metric", choices=OBJECTIVES, default="accuracy", help="quality with --real (default accuracy)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the curves into a file")
    parser.add_argument("--seeds", type=int, default=20, help="seeds of searchers that use chance (default 20)")
    parser.add_argument(
        "--searchers", nargs="+", choices=known, default=list(known), metavar="NAME", help="default: all"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    judged = real(given.real, given.metric) if given.real else synthetic()
    print(f"{judged.problem.space.size} assignments; % of the optimal hypervolume, mean ± 95 % interval")
    print(f"{'evaluations':<16}" + "".join(f"{budget:>16}" for budget in BUDGETS))
    curves: dict[str, Floats] = {}
    with ProcessPoolExecutor(given.jobs) as pool:
        for name in given.searchers:
            stochastic = getattr(registry.load("searchers", known[name][0]), "stochastic", True)
            seeds = range(given.seeds if stochastic else 1)
            results = list(pool.map(shares, [judged] * len(seeds), [known[name]] * len(seeds), seeds))
            print(row(name, results), flush=True)
            if None not in results:
                curves[name] = np.asarray(results, dtype=np.float64)
    if given.plot:
        plot(given.plot, curves)


if __name__ == "__main__":
    main()
