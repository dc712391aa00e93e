"""Throughput of what many processes share: the driver of a Ray cluster, its object store, and ledgers.

    python benchmarks/cluster.py driver                     evaluations/s that cost nothing, by workers
    python benchmarks/cluster.py messages                   bytes of an assignment and of a quality
    python benchmarks/cluster.py store                      an evaluator, pickled, put, fetched
    python benchmarks/cluster.py ledger --storage URL       trials/s of 1, 2 and 4 campaigns at once, in processes

``ledger`` takes sqlite, journal, or the URL of a database that holds nothing yet, such as
``postgresql+psycopg://user@host/database``; it may be given several times. Numbers are medians of repetitions, with
their quartiles in brackets.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
from markdown_table import show

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.ledger import Ledger
from qsearch.problem import Problem
from qsearch.protocols import Evaluator
from qsearch.setting import layers_of
from qsearch.testing.problems import kernels, separable
from qsearch.trial import Quality, Trial

KERNELS = [200] * 50
"""Of a network with bits per kernel: 10^4 in 50 layers."""
SAMPLES = 1000
READY_SECONDS = 120.0
"""For processes to start."""


class Free(Evaluator):
    """An evaluator that costs nothing: the same quality, with outcomes, for every assignment."""

    def __init__(self, samples: int = SAMPLES) -> None:
        self._quality = Quality.from_outcomes(np.ones(samples, np.float32), 0.1)

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Nothing is looked at."""
        return self._quality


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """Median and quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return f"{middle:{form}} [{low:{form}}, {high:{form}}]"


def assignments(problem: Problem, count: int) -> list[BitAssignment]:
    """Random assignments of a problem's space."""
    drawn = problem.space.sample(np.random.default_rng(0), count)
    return [problem.space.decode(x) for x in drawn]


def problems() -> dict[str, Problem]:
    """A space of 20 sites, and one of 10^4 kernels."""
    return {"20 sites": separable(20)[0], "10^4 kernels": kernels(KERNELS)[0]}


def driver(repetitions: int) -> None:
    """Evaluations per second through a pool of workers whose evaluator costs nothing."""
    header = ["space", "workers", "together", "evaluations/s", "µs each, driver's processor"]
    rows = []
    for name, problem in problems().items():
        asked = assignments(problem, 500 if "kernels" in name else 2000)
        for actors, together in ((1, 1), (2, 1), (2, 32)):
            workers = registry.create("workers", "ray", {"actors": actors, "together": together})
            with workers.start(Free()) as pool:
                list(pool.evaluate_many(asked[:100]))
                rates, processor = [], []
                for _ in range(repetitions):
                    before, start = time.process_time(), time.perf_counter()
                    answers = list(pool.evaluate_many(asked))
                    rates.append(len(answers) / (time.perf_counter() - start))
                    processor.append(1e6 * (time.process_time() - before) / len(answers))
            rows.append([name, str(actors), str(together), spread(rates), spread(processor)])
    show(header, rows)


def messages(repetitions: int) -> None:
    """Bytes on the wire of what goes to a worker for one evaluation, and of what comes back."""
    from qsearch.workers.shipping import packed

    rows = [[f"assignment, {name}", f"{len(packed(assignments(p, 1))):,}"] for name, p in problems().items()]
    for samples in (0, SAMPLES, 10_000):
        quality = Free(samples or 1)._quality
        content = len(packed([quality if samples else replace(quality, outcomes=None)]))
        rows.append([f"quality, {samples:,} outcomes", f"{content:,}"])
    show(["message", "bytes"], rows)


def store(repetitions: int) -> None:
    """How long an evaluator takes into the object store and out of it again, in this process."""
    import ray

    from qsearch.workers.session import session
    from qsearch.workers.shipping import packed, unpacked

    rows = []
    with session(None):
        for name in ("digits-resnet", "cifar10-resnet20"):
            workload = registry.create("workloads", name)
            evaluator = registry.create("evaluators", "ptq", {"threads": 1}, workload, layers_of(workload))
            times: dict[str, list[float]] = {"pickle": [], "put": [], "get": [], "load": []}
            for _ in range(repetitions):
                start = time.perf_counter()
                content = packed(evaluator)
                stages = [time.perf_counter()]
                reference = ray.put(content)
                stages.append(time.perf_counter())
                fetched = ray.get(reference)
                stages.append(time.perf_counter())
                unpacked(fetched)
                stages.append(time.perf_counter())
                for key, duration in zip(times, np.diff([start, *stages]), strict=True):
                    times[key].append(1e3 * float(duration))
            rows.append([name, f"{len(content) / 1e6:.1f}", *(spread(values, ".1f") for values in times.values())])
    show(["workload, ptq", "MB", "pickle, ms", "put, ms", "get, ms", "unpickle, ms"], rows)


def write_trials(url: str, name: str, trials: Sequence[Trial], problem: Problem, begin: Any, ended: Any) -> None:
    """Append trials to a ledger of its own as fast as it takes them, when all others are ready; tell when it is done."""
    ledger = Ledger(url, name, problem.objectives, problem.space)
    begin.wait(READY_SECONDS)
    for trial in trials:
        ledger.append(trial)
    ended.put(time.monotonic())


def trials_of(problem: Problem, count: int) -> list[Trial]:
    """Trials with costs and outcomes."""
    quality = Free().evaluate(BitAssignment({}))
    made = []
    for number, assignment in enumerate(assignments(problem, count)):
        cost = problem.cost.estimate(assignment)
        violations = problem.violations(cost, quality)
        made.append(Trial(number, assignment, "complete", cost, quality, violations, "", 0.1))
    return made


def rate(url: str, problem: Problem, campaigns: int, count: int) -> float:
    """Trials per second of several campaigns together, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    begin, ended = context.Barrier(campaigns + 1), context.Queue()
    trials = trials_of(problem, count)
    names = [uuid.uuid4().hex for _ in range(campaigns)]
    processes = [
        context.Process(target=write_trials, args=(url, name, trials, problem, begin, ended)) for name in names
    ]
    for process in processes:
        process.start()
    begin.wait(READY_SECONDS)
    start = time.monotonic()  # one clock for all processes
    taken: float = max(ended.get() for _ in processes) - start
    for process in processes:
        process.join()
    for name in names:
        assert len(Ledger(url, name, problem.objectives, problem.space).trials()) == count
    return campaigns * count / taken


def ledger(repetitions: int, storages: Sequence[str], count: int) -> None:
    """Trials per second that storages take."""
    show(["storage", "space", "campaigns", "trials/s, all together"], ledger_rows(repetitions, storages, count))


def ledger_rows(repetitions: int, storages: Sequence[str], count: int) -> Iterator[list[str]]:
    """A row for each storage, space and number of campaigns."""
    for storage in storages:
        for name, problem in problems().items():
            for campaigns in (1, 2, 4):
                rates = []
                for _ in range(repetitions):
                    with tempfile.TemporaryDirectory() as folder:
                        url = located(storage, Path(folder))
                        Ledger(url, "first", problem.objectives, problem.space)  # the tables
                        rates.append(rate(url, problem, campaigns, count))
                yield [storage.partition(":")[0], name, str(campaigns), spread(rates)]


def located(storage: str, folder: Path) -> str:
    """The URL of a file in a folder for sqlite and journal; any other as it is."""
    files = {"sqlite": f"sqlite:///{folder}/study.db", "journal": f"journal:{folder}/study.log"}
    return files.get(storage, storage)


def main() -> None:
    """Measure what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["driver", "messages", "store", "ledger"])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--storage", action="append", default=[], help="of ledger; sqlite and journal if none is given")
    parser.add_argument("--trials", type=int, default=100, help="of ledger: that each campaign writes")
    given = parser.parse_args()
    if given.what == "ledger":
        ledger(given.repetitions, given.storage or ["sqlite", "journal"], given.trials)
    else:
        {"driver": driver, "messages": messages, "store": store}[given.what](given.repetitions)


if __name__ == "__main__":
    main()
