"""What is promised about speed, measured: each target as a ratio within one process, with its spread.

    make benchmark                         all of them, about a quarter of an hour on a quiet machine
    make benchmark PYTEST_ARGS='-k table'  some

Benchmarks of pytest-benchmark: the columns it prints are the seconds of the work, the table at the end holds the ratios. A target
that is missed is told, not hidden, and fails nothing: how loaded a machine is is no property of the code. Data are
found through QSEARCH_DATA; what needs data, or a GPU, that is not there is skipped with the reason.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import early_stopping
import evaluation_cost
import numpy as np
import overheads
import pytest
import reuse
import torch
from numpy.typing import NDArray

from qsearch import registry
from qsearch.errors import DataError
from qsearch.protocols import Workload

pytestmark = pytest.mark.filterwarnings("default")  # of compilers, whose warnings are nobody's failure here


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def told(benchmark: Any, target: str, limit: float, values: NDArray[np.float64]) -> None:
    """Note a target with what was measured."""
    benchmark.extra_info.update(
        target=target, limit=limit, quartiles=[float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])]
    )


def in_turn(
    benchmark: Any, work: Callable[[], object], against: Callable[[], object], rounds: int
) -> NDArray[np.float64]:
    """Ratios of the times of two pieces of work that take turns, shape (rounds,); the benchmark's own seconds are the first's."""
    ours: list[float] = []
    theirs: list[float] = []

    def before() -> None:
        theirs.append(evaluation_cost.seconds(against))

    def timed() -> None:
        start = time.perf_counter()
        work()
        ours.append(time.perf_counter() - start)

    benchmark.pedantic(timed, setup=before, rounds=rounds, warmup_rounds=1)
    ratios: NDArray[np.float64] = np.asarray(ours[1:]) / np.asarray(theirs[1:])
    return ratios


def found(name: str) -> Workload:
    """A workload with its data; the test is skipped where they are missing."""
    workload: Workload = registry.create("workloads", name)
    try:
        workload.model()
        next(iter(workload.validation()))
    except DataError as error:
        pytest.skip(str(error))
    return workload


@pytest.mark.parametrize("name", evaluation_cost.WORKLOADS)
@pytest.mark.parametrize("corrected", [False, True], ids=["plain", "corrected"])
def test_an_evaluation(benchmark: Any, name: str, corrected: bool) -> None:
    compared = evaluation_cost.prepared(found(name), "layer", "fastest", samples=1024, correction=64)
    evaluate = compared.corrected if corrected else compared.plain
    ratios = in_turn(benchmark, evaluate, compared.floating, rounds=11)
    told(
        benchmark,
        f"evaluation {'with' if corrected else 'without'} correction / best float pass, {name}",
        1.3 if corrected else 1.15,
        ratios,
    )


@pytest.mark.parametrize(
    ("name", "bits", "samples"),
    [("digits-resnet", (2, 4, 8), 256), ("cifar10-resnet20", (2, 4, 8), 128), ("text-classifier", (4,), 64)],
)
def test_a_table_one_at_a_time(benchmark: Any, name: str, bits: tuple[int, ...], samples: int) -> None:
    """The table's numbers are seen to be the same to the last bit with reuse and without."""
    found(name)
    of = reuse.setting(name, list(bits), samples, 64)
    tables: list[NDArray[np.float64]] = []
    benchmark.pedantic(lambda: tables.append(reuse.table(of, None)), rounds=3)
    ratios = np.asarray([table[:, 2].sum() / table[:, 0].sum() for table in tables])
    told(benchmark, f"float passes per entry of a table of sensitivities, {name}", 0.55, ratios)


@pytest.mark.parametrize(("storage", "limit"), [("memory", 2.0), ("sqlite", 5.0)])
@pytest.mark.parametrize("model", ["bops", "size"])
def test_overheads(benchmark: Any, storage: str, limit: float, model: str, tmp_path: Path) -> None:
    measured: list[NDArray[np.float64]] = []
    benchmark.pedantic(lambda: measured.append(overheads.milliseconds(storage, model, 100)), rounds=3)
    told(benchmark, f"ms beside an evaluation, 10,000 kernels, {model}, {storage}", limit, np.concatenate(measured))


@pytest.mark.parametrize(
    ("searcher", "kind"), [("auto", "latency:min"), ("auto", "accuracy:max"), ("ddpg-verdict", "latency:min")]
)
def test_evaluations_that_end_early(benchmark: Any, searcher: str, kind: str) -> None:
    """The target is the same result for 95 of 100 seeds: ``early_stopping.py`` has a number of them that can tell."""
    found("mnist-cnn")
    seeds = 3
    ended: list[tuple[NDArray[np.float64], int]] = []
    benchmark.pedantic(lambda: ended.append(early_stopping.shares("mnist-cnn", searcher, kind, seeds)), rounds=1)
    ((shares, same),) = ended
    told(benchmark, f"samples taken, {searcher}, {kind}, {same} of {seeds} seeds end the same", 1 / 3, shares)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_many_assignments_at_once(benchmark: Any) -> None:
    """Against one assignment a call, on the same GPU."""
    import together

    asked = Namespace(
        device="cuda", compile=False, samples=512, calibration=128, batch_size=256, rounds=5, threads=8, correction=True
    )
    measured: list[NDArray[np.float64]] = []
    workload = found("cifar10-resnet20")
    benchmark.pedantic(lambda: measured.append(together.measure(workload, (1, 16), asked)), rounds=1)
    rates = measured[0][:, :, 1]
    told(benchmark, "evaluations per second, one a call / sixteen, ResNet-20", 1 / 3, rates[:, 0] / rates[:, 1])
