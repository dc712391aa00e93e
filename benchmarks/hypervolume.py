"""Hypervolume that each searcher reaches, against the exhaustively known optimum.

    python benchmarks/hypervolume.py                         a coupled problem in closed form, 4,096 assignments
    python benchmarks/hypervolume.py --real table.npz        digits-resnet, 4,096 assignments, evaluated once into the file

Two objectives, accuracy and size of the weights, without bounds. The hypervolume is that of the trials of the first n
evaluations, below the worst accuracy and size of the space, as a share of the hypervolume of all its assignments. Mean
over seeds with a 95 % interval (Student's t); a searcher without chance runs once. A searcher that ends early keeps
what it reached; CMA-ES refuses two objectives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
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
from qsearch.problem import Problem
from qsearch.protocols import CalibrationProbe, Evaluator, Probe
from qsearch.search.optuna import SAMPLERS
from qsearch.space import SearchSpace
from qsearch.testing.problems import ACCURACY_AND_SIZE, coupled
from qsearch.trial import Quality

BUDGETS = (16, 32, 64, 128)
GROUPS, CHOICES = 6, (2, 3, 4, 8)  # 4^6 = 4,096 assignments

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TabulatedEvaluator(Evaluator):
    """Answers from a table of the whole space, and from one of the probes that sensitivities ask for."""

    table: Mapping[BitAssignment, Quality]
    probes: Mapping[BitAssignment, Probe]

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The tabulated quality."""
        return self.table[assignment]

    def probe(self, assignment: BitAssignment) -> Probe:
        """The tabulated probe."""
        return self.probes[assignment]


@dataclass(frozen=True)
class ProbeRecorder:
    """Passes probes on and keeps the answers: the network itself cannot be sent to other processes."""

    source: CalibrationProbe
    probes: dict[BitAssignment, Probe] = field(default_factory=dict)

    def probe(self, assignment: BitAssignment) -> Probe:
        """The source's answer."""
        self.probes[assignment] = self.source.probe(assignment)
        return self.probes[assignment]


@dataclass(frozen=True)
class Case:
    """A problem with what is needed to score searchers on it."""

    problem: Problem
    evaluator: Evaluator
    reference: Floats
    optimum: float

    def share(self, points: Floats) -> float:
        """Hypervolume of the points, shape (A, 2), as a share of the optimum."""
        return hypervolume(points, self.reference) / self.optimum


def case(problem: Problem, evaluator: Evaluator) -> Case:
    """Score a problem's whole space; the reference is just beyond its worst values."""
    oracle = CampaignOracle(problem, evaluator, MemoryRecord(), Budget(evaluations=problem.space.size))
    points = np.stack([problem.minimised(oracle.evaluate(item)) for item in problem.space.enumerate()])
    reference = points.max(axis=0) + 1e-9 * np.ptp(points, axis=0)
    return Case(problem, evaluator, reference, hypervolume(points, reference))


def synthetic() -> Case:
    """The coupled problem of :mod:`qsearch.testing.problems`."""
    return case(*coupled(GROUPS, choices=CHOICES, budget=None, objectives=ACCURACY_AND_SIZE))


def real(cache: Path) -> Case:
    """Weights of digits-resnet in groups of neighbouring layers, activations at 8 bits."""
    from qsearch.quantize.trace import trace_layers

    workload = registry.create("workloads", "digits-resnet", {})
    layers = trace_layers(workload.model(), next(iter(workload.calibration()))[0])
    evaluator = registry.create("evaluators", "ptq", {}, workload, layers)
    space = grouped_space(layers)
    cost = NetworkCost(registry.create("cost_models", "size", {}), tuple(layers), space)
    problem = Problem(space, cost, ACCURACY_AND_SIZE, quality_name=workload.metric)
    recorder = ProbeRecorder(evaluator)
    registry.create("sensitivities", "one-at-a-time").table(space, recorder)
    return case(problem, TabulatedEvaluator(tabulate(space, evaluator, cache), recorder.probes))


def grouped_space(layers: Sequence[Any]) -> SearchSpace:
    """The space of the layers with their weights tied in ``GROUPS`` runs of neighbours."""
    from qsearch.space import build_space

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
        else:
            found[name] = (name, {})
    return found


def shares(judged: Case, entry: tuple[str, dict[str, Any]], seed: int) -> list[float] | None:
    """Share of the optimum after each of ``BUDGETS`` evaluations; None where the searcher refuses the problem."""
    oracle = CampaignOracle(judged.problem, judged.evaluator, MemoryRecord(), Budget(evaluations=max(BUDGETS)), seed)
    try:
        registry.create("searchers", *entry).search(oracle)
    except BudgetExhausted:
        pass
    except UserError:
        return None
    points = np.stack([judged.problem.minimised(trial) for trial in oracle.trials if trial.evaluated])
    return [judged.share(points[:budget]) for budget in BUDGETS]


def row(name: str, results: Sequence[list[float] | None]) -> str:
    """One line of the table."""
    if any(result is None for result in results):
        return f"{name:<16}" + "".join(f"{'refused':>16}" for _ in BUDGETS)
    values = 100 * np.asarray(results, dtype=np.float64)
    cells = [f"{mean:.1f}" for mean in values.mean(axis=0)]
    if len(values) > 1:
        half = student.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / len(values) ** 0.5
        cells = [f"{cell} ± {width:.1f}" for cell, width in zip(cells, half, strict=True)]
    return f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, print."""
    known = entries()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--real", type=Path, metavar="FILE", help="digits-resnet; its table is kept in FILE")
    parser.add_argument("--seeds", type=int, default=10, help="seeds of searchers that use chance (default 10)")
    parser.add_argument(
        "--searchers", nargs="+", choices=known, default=list(known), metavar="NAME", help="default: all"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    judged = real(given.real) if given.real else synthetic()
    print(f"{judged.problem.space.size} assignments; % of the optimal hypervolume, mean ± 95 % interval")
    print(f"{'evaluations':<16}" + "".join(f"{budget:>16}" for budget in BUDGETS))
    with ProcessPoolExecutor(given.jobs) as pool:
        for name in given.searchers:
            stochastic = getattr(registry.load("searchers", known[name][0]), "stochastic", True)
            seeds = range(given.seeds if stochastic else 1)
            results = list(pool.map(shares, [judged] * len(seeds), [known[name]] * len(seeds), seeds))
            print(row(name, results), flush=True)


if __name__ == "__main__":
    main()
