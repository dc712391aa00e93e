"""What a search costs beside its evaluations: milliseconds per evaluation by part, and bytes that a trial leaves in memory.

A made-up network of 50 linear layers with 200 kernels each, bits per kernel (10,050 decisions, 100 variables), under a
budget of half the cost of 8 bits everywhere; the evaluator answers at once, with 1,000 outcomes. Parts are timed in
processor time of the one thread, each call on its own, and given as median and quartiles over the evaluations; the
wait for the disk is the wall time of an append less its processor time, so that it shows what the disk adds.

Memory is the slope of the resident set over each of the last three quarters of a search: equal ones say that it is linear.

Run ``OMP_NUM_THREADS=1 python benchmarks/overheads.py``; ``--trials 10000 --parts memory`` is the issue's scale.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import wraps
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import markdown_table
import numpy as np
import psutil  # type: ignore[import-untyped]  # it ships no types
from numpy.typing import NDArray

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import BudgetExhausted, QSearchError
from qsearch.layers import Layer
from qsearch.ledger import Ledger
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord, Record
from qsearch.problem import Bound, Objective, Problem
from qsearch.protocols import CostModel, Evaluator
from qsearch.registry import create
from qsearch.sites import build_space
from qsearch.space import Granularity, SearchSpace
from qsearch.trial import Quality

BITS = range(2, 9)
MODELS = ("size", "bops", "lut")
STORAGES = ("memory", "sqlite", "journal")
WARM = 3
"""First evaluations that are not counted."""


class Instant(Evaluator):
    """Answers at once, with the outcomes of a thousand samples."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._answers = [
            Quality.from_outcomes((rng.random(1000) < share).astype(np.float32), float(1 - share))
            for share in np.linspace(0.5, 0.95, 64)
        ]
        self._calls = 0

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """The next of 64 answers, its outcomes an array of its own."""
        self._calls += 1
        found = self._answers[self._calls % len(self._answers)]
        assert found.outcomes is not None
        return Quality.from_outcomes(found.outcomes.copy(), found.loss)


def network(layers: int, kernels: int) -> tuple[Layer, ...]:
    """Linear layers, 64 inputs to a kernel."""
    return tuple(Layer(f"stage{i // 10}.{i % 10}.conv", "linear", 64, kernels) for i in range(layers))


def cost_model(name: str, layers: Sequence[Layer], folder: Path) -> CostModel:
    """By name; ``lut`` with a table of bit operations."""
    if name != "lut":
        model: CostModel = create("cost_models", name)
        return model
    path, bits = folder / "table.npy", list(BITS)
    np.save(path, np.multiply.outer([float(layer.macs) for layer in layers], np.multiply.outer(bits, bits)))
    names = [layer.name for layer in layers]
    axes = {"weight_bits": bits, "activation_bits": bits}
    options = {"path": str(path), "metric": "latency", "unit": "cycle", "layers": names, **axes}
    table: CostModel = create("cost_models", "lut", options)
    return table


def problem(model: str, granularity: Granularity, folder: Path) -> Problem:
    """Half the cost of the highest bits, at most."""
    layers = network(50, 200)
    space = build_space(layers, weight_bits=BITS, activation_bits=BITS, granularity=granularity)
    cost = NetworkCost(cost_model(model, layers, folder), layers, space)
    metric = next(iter(cost.units))
    limit = 0.5 * float(cost.estimate_many(space.highest[None])[metric][0])
    return Problem(
        space, cost, (Objective("accuracy", "maximize"),), (Bound(metric, limit, False, f"{metric} <= half"),)
    )


def record(storage: str, asked: Problem, folder: Path) -> Record:
    """A new one."""
    if storage == "memory":
        return MemoryRecord()
    scheme = "sqlite:///" if storage == "sqlite" else "journal:"
    return Ledger(f"{scheme}{folder / f'study.{storage}'}", "overheads", asked.objectives, asked.space)


class Parts:
    """Seconds of processor time, and waiting, by part: one number per evaluation, what a part calls counted once."""

    def __init__(self) -> None:
        self.evaluations: list[dict[str, float]] = [defaultdict(float)]
        self._within: list[float] = []

    def timed(self, part: str, call: Callable[..., Any], waits: bool = False) -> Callable[..., Any]:
        """The same call, its time noted."""

        @wraps(call)
        def noted(*arguments: Any, **options: Any) -> Any:
            begun, wall = time.thread_time(), time.perf_counter()
            self._within.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                took, inner = time.thread_time() - begun, self._within.pop()
                if self._within:
                    self._within[-1] += took
                self.evaluations[-1][part] += took - inner
                if waits:
                    self.evaluations[-1]["waiting for the disk"] += time.perf_counter() - wall - took

        return noted

    def next(self) -> None:
        """An evaluation has ended."""
        self.evaluations.append(defaultdict(float))

    def quartiles(self, part: str) -> str:
        """Median and quartiles in milliseconds, the first two evaluations and the last left out."""
        values = [found.get(part, 0.0) for found in self.evaluations[2:-1]]
        low, middle, high = np.percentile(1e3 * np.asarray(values), [25, 50, 75])
        return f"{middle:.2f} ({low:.2f}–{high:.2f})"


@contextmanager
def watched(parts: Parts, oracle: CampaignOracle) -> Iterator[None]:
    """Times every part of an evaluation while the context lasts."""
    methods: list[tuple[Any, str, str]] = [
        (SearchSpace, "decode", "decoding"),
        (SearchSpace, "check", "membership"),
        (NetworkCost, "estimate", "cost"),
        (BitAssignment, "__hash__", "memory of trials"),
        (BitAssignment, "__eq__", "memory of trials"),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in methods]
    for owner, name, part in methods:
        setattr(owner, name, parts.timed(part, getattr(owner, name)))
    oracle.record.append = parts.timed("ledger", oracle.record.append, waits=True)  # type: ignore[method-assign]
    oracle.evaluator.evaluate = parts.timed("evaluator", oracle.evaluator.evaluate)  # type: ignore[method-assign]
    oracle.evaluate = parts.timed("oracle", oracle.evaluate)  # type: ignore[method-assign]
    oracle.on_trial = lambda trial: parts.next()
    try:
        yield
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)


PARTS = ("searcher", "decoding", "membership", "cost", "memory of trials", "oracle", "ledger", "waiting for the disk")


def search(
    asked: Problem, searcher: str, options: dict[str, Any], storage: str, trials: int
) -> tuple[Parts, float, float]:
    """One search: its parts, and means of its processor time and wall time per evaluation, in milliseconds."""
    parts = Parts()
    with TemporaryDirectory() as folder:
        oracle = CampaignOracle(asked, Instant(), record(storage, asked, Path(folder)), Budget(trials))
        _ = asked.cost.kernel_table, asked.cost.layer_prices  # made once a campaign
        begun, wall = time.process_time(), time.perf_counter()
        with watched(parts, oracle), suppress(BudgetExhausted):
            parts.timed("searcher", create("searchers", searcher, options).search)(oracle)
        took, lasted = time.process_time() - begun, time.perf_counter() - wall
    count = max(1, len(parts.evaluations) - 1)
    return parts, 1e3 * took / count, 1e3 * lasted / count


def per_evaluation(trials: int, folder: Path) -> None:
    """The table of parts, for the searcher ``random``. What it draws in batches is spread over the evaluations."""
    rows = []
    for model in MODELS:
        asked = problem(model, "kernel", folder)
        for storage in STORAGES:
            gc.collect()
            parts, took, lasted = search(asked, "random", {}, storage, trials)
            shown = [parts.quartiles(part) for part in PARTS[3:]]
            rows.append([model, storage, f"{took:.2f}", f"{lasted:.2f}", parts.quartiles("membership"), *shown])
    header = ["cost model", "record", "processor, mean", "wall, mean", "membership", *PARTS[3:]]
    print("ms per evaluation: median (quartiles); the means include the searcher's draws and projections\n")
    markdown_table.show(header, rows)


def milliseconds(storage: str, model: str, trials: int) -> NDArray[np.float64]:
    """Processor time of each evaluation by ``random``, its draws and projections included: ms, shape (trials,).

    It draws one at a time, so that none pays for a batch.

    Args:
        storage: "memory", "sqlite" or "journal".
        model: "size", "bops" or "lut".
    """
    with TemporaryDirectory() as folder:
        asked = problem(model, "kernel", Path(folder))
        oracle = CampaignOracle(asked, Instant(), record(storage, asked, Path(folder)), Budget(trials + WARM))
        _ = asked.cost.kernel_table, asked.cost.layer_prices  # made once a campaign
        moments: list[float] = []
        oracle.on_trial = lambda trial: moments.append(time.thread_time())
        with suppress(BudgetExhausted):
            create("searchers", "random", {"batch": 1}).search(oracle)
    return 1e3 * np.diff(moments)[WARM - 1 :]


SEARCHERS: tuple[tuple[str, dict[str, Any], Granularity, int], ...] = (
    ("random", {}, "kernel", 100),
    ("random", {}, "layer", 100),
    ("optuna", {}, "layer", 60),
    ("gp", {"sensitivity": None}, "layer", 40),
    ("auto", {}, "layer", 8),
    ("ddpg", {"warmup_episodes": 5}, "layer", 15),
)
"""Searcher, its options, granularity, evaluations."""


def per_proposal(folder: Path) -> None:
    """What searchers think, per evaluation: all processor time less the record's and the evaluator's."""
    rows = []
    for searcher, options, granularity, trials in SEARCHERS:
        asked = problem("size", granularity, folder)
        try:
            parts, took, _ = search(asked, searcher, options, "memory", trials)
        except QSearchError as error:  # one that needs what is not here must not hide the others
            rows.append([searcher, granularity, "0", str(error)[:80]])
            continue
        rows.append([searcher, granularity, str(len(parts.evaluations) - 1), f"{took:.1f}"])
    print("ms of processor time per evaluation in memory, made-up evaluations included\n")
    markdown_table.show(["searcher", "bits per", "evaluations", "ms"], rows)


def remembered(storage: str, trials: int) -> tuple[list[float], float]:
    """Bytes per trial of a search by ``random``: slopes of the resident set over the last three quarters, and the files' size."""
    with TemporaryDirectory() as place:
        asked = problem("bops", "kernel", Path(place))
        oracle = CampaignOracle(asked, Instant(), record(storage, asked, Path(place)), Budget(trials))
        resident: list[int] = []
        oracle.on_trial = lambda trial: resident.append(psutil.Process().memory_info().rss)
        with suppress(BudgetExhausted):
            create("searchers", "random").search(oracle)
        quarters = np.array_split(np.asarray(resident), 4)[1:]
        slopes = [float(np.polyfit(np.arange(len(part)), part, 1)[0]) for part in quarters]
        return slopes, sum(file.stat().st_size for file in Path(place).glob("study.*")) / trials


def memory(trials: int) -> None:
    """The table of bytes per trial, each kind of record in a process of its own."""
    rows = []
    for storage in STORAGES:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            slopes, size = alone.submit(remembered, storage, trials).result()
        rows.append([storage, str(trials), ", ".join(f"{slope / 1024:.1f}" for slope in slopes), f"{size / 1024:.1f}"])
    print("KiB per trial: resident memory of the driver, in the second, third and last quarter; and on disk\n")
    markdown_table.show(["record", "trials", "memory", "disk"], rows)


def main() -> None:
    """Print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument(
        "--parts",
        nargs="*",
        choices=["evaluation", "searchers", "memory"],
        default=["evaluation", "searchers", "memory"],
    )
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        if "evaluation" in arguments.parts:
            per_evaluation(arguments.trials, Path(folder))
        if "searchers" in arguments.parts:
            per_proposal(Path(folder))
        if "memory" in arguments.parts:
            memory(arguments.trials)


if __name__ == "__main__":
    main()
