"""Seconds that the integer programs take, on one thread: the knapsack, its next-best solutions, the quadratic program.

Damages are h·4^(−b) with h log-normal, costs those of layers of random sizes. Each figure is the median over repeats, each
on an instance of its own, without the evaluations that a search would spend.

Run ``OMP_NUM_THREADS=1 python benchmarks/ilp_scale.py``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np

from qsearch.problem import Bound
from qsearch.protocols import SensitivityTable
from qsearch.search.damage import Damage
from qsearch.search.program import Program, X
from qsearch.search.quadratic import PairedProgram
from qsearch.search.units import Unit, additive_units
from qsearch.testing.problems import coupled


def program(units: int, weight: int, activation: int, rows: int, seed: int) -> Program:
    """A random program: units of weight × activation choices, with rows of size, and of bit operations."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(units):
        w, a = (
            grid.ravel() for grid in np.meshgrid(2.0 + np.arange(weight), 2.0 + np.arange(activation), indexing="ij")
        )
        h, g = np.exp(rng.normal(0, 1.5, size=2))
        params, macs = int(rng.integers(27, 4608)), int(rng.integers(27, 4608)) * 1024
        damage = h * 4.0**-w + (g * 4.0**-a if activation > 1 else 0.0)
        choices = np.asarray(list(np.ndindex(weight, activation)), dtype=np.int64)[:, : 1 + (activation > 1)]
        decisions = index * choices.shape[1] + np.arange(choices.shape[1])
        found.append(Unit(decisions, choices, damage, {"size": params * w, "bops": macs * w * a}))
    metrics = ("size", "bops")[2 - rows :] if activation > 1 else ("size",)
    bounds = []
    for metric in metrics:
        least, most = (sum(float(pick(unit.costs[metric])) for unit in found) for pick in (np.min, np.max))
        bounds.append(Bound(metric, least + 0.3 * (most - least), False, metric))
    return Program(tuple(found), {"size": 0.0, "bops": 0.0}, tuple(bounds))


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(instance: Program, wanted: int) -> list[X]:
    """The first solutions of a program."""
    return list(islice(instance.ranked({}), wanted))


def show(name: str, times: list[float]) -> None:
    """One line of the table."""
    print(f"{name:44s} median {np.median(times):8.3f} s   worst {np.max(times):8.3f} s")


CASES = (
    ("10,000 kernels x 7, one row", (10_000, 7, 1, 1), 1),
    ("200 layers x 49, one row", (200, 7, 7, 1), 1),
    ("50 layers x 7, one row, 64 best", (50, 7, 1, 1), 64),
    ("50 layers x 49, one row, 64 best", (50, 7, 7, 1), 64),
    ("50 layers x 49, two rows", (50, 7, 7, 2), 1),
)
"""What is timed: a name; units, weight and activation choices, rows; solutions."""


QUADRATIC = ((8, 4), (12, 3), (20, 3), (20, 7), (50, 7))
"""Layers and choices of the quadratic programs, in which all layers interact."""


def paired(layers: int, choices: int, seed: int) -> PairedProgram:
    """A coupled problem, with its exact interactions."""
    problem, evaluator = coupled(layers, choices=range(2, 2 + choices), seed=seed)
    assert evaluator.interaction is not None
    errors = 2.0 ** -np.arange(2.0, 2.0 + choices)
    outer = np.outer(errors, errors)
    pairs = {(i, j): evaluator.interaction[i, j] * outer for i in range(layers) for j in range(i + 1, layers)}
    single = [curvature * errors**2 for curvature in evaluator.curvature]
    table = SensitivityTable({v.name: d[None] for v, d in zip(problem.space.variables, single, strict=True)}, 0)
    units, constant = additive_units(problem.cost, table, ("size",))
    return PairedProgram(Program(tuple(units), constant, problem.cost_bounds), Damage(tuple(single), pairs), 1000)


def show_quadratic(layers: int, choices: int, repeats: int) -> None:
    """Seconds to the first solution, and the damage of those of sums and of pairs, with the bound."""
    instances = [paired(layers, choices, seed) for seed in range(repeats)]
    found: list[X] = []
    times = [seconds(lambda p=p: found.extend(islice(p.ranked({}), 1))) for p in instances]  # type: ignore[misc]  # a lambda with a default has no type
    show(f"quadratic, {layers} layers x {choices}", times)
    for instance, x in zip(instances, found, strict=True):
        sums = instance.program.solve({})
        assert sums is not None
        damage, bound = instance.damage(x), min(instance.damage(x), instance.bound)
        print(
            f"    damage {damage:.4g}   proven at least {bound:.4g}   of the sums' solution {instance.damage(sums):.4g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    for name, sizes, wanted in CASES:
        instances = [program(*sizes, seed) for seed in range(repeats)]
        show(name, [seconds(partial(best, instance, wanted)) for instance in instances])
    for layers, choices in QUADRATIC:
        show_quadratic(layers, choices, repeats)


if __name__ == "__main__":
    main()
