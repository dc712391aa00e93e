"""How far LeNet-5 on MNIST can be compressed at float accuracy: pruning and quantisation by ADMM.

    QSEARCH_DATA=folder python benchmarks/admm_lenet5.py              hours on one core; resumable
    QSEARCH_DATA=folder python benchmarks/admm_lenet5.py --device cuda
    python benchmarks/admm_lenet5.py --tables                         only what is there already

The 430,500 weights are pruned to so many times fewer, by ADMM or, for comparison, at once by magnitude with as many epochs
of retraining; how many of each layer is the rule of ``qsearch.evaluate.keeping``. What is left is then quantised by ADMM, or
at once, to 3 bits in convolutions and 2 in linear layers; inputs stay in float, as in what is published. The test images were
not seen in any training; each network stands beside the float one on the same 5,000 of them: the difference with its paired
95 % interval, and McNemar's exact test. Networks of several seeds are judged on the same images beside the same float network,
so each has its own interval and its own test: counts added over seeds would pass for more images than there are.

Size is told twice: bits of the numbers that are kept, which is how the published figures count, and with indices, in the
best of the formats of ``qsearch.hardware.sparsity``, and scales.

The recipe was chosen on the last 5,000 training images, held back from compression, though not from the training of the
float network, and on no test image: 85 times fewer weights at once by magnitude, three epochs of retraining, one seed, at a
standard error of 0.15 points.

    98.48, 98.68, 98.74, 98.82 %    κ ∝ √n, κ ∝ ∛n, shares after what is published, the rule of scores; Adam at 1e-3
    98.82, 99.04, 99.22 %           Adam at 1e-3, 3e-3, 8e-3, by the rule of scores
    98.68, 98.76 %                  without and with distillation, κ ∝ ∛n, at a third more time: left out

The rate of 5e-3 lies between two that were tried; the numbers of ADMM were not tried beside others.

Published: 85 times fewer weights without loss (Ren et al., ASPLOS 2019); 1,910 times less data, which goes with 167 times
fewer weights (Ye et al., arXiv:1811.01907); both from a float network at 99.2 %.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import Records
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from qsearch import registry
from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.evaluate.keeping import kept_by_compression
from qsearch.hardware.sparsity import weight_storage
from qsearch.layers import Layer
from qsearch.quantize.modules import Inputs
from qsearch.report.statistics import paired_difference
from qsearch.setting import layers_of
from qsearch.training.admm import AdmmOptions
from qsearch.training.compression import Compression
from qsearch.training.options import TrainingOptions
from qsearch.trial import Quality

BITS: Mapping[str, int] = {"conv": 3, "linear": 2}
SCALE_BITS = 32
ADMM: Mapping[str, Any] = {"rho": 1e-3, "growth": 10.0, "every": 1, "iterations": 4, "rate": 1e-3}
TRAINING: Mapping[str, Any] = {
    "batch_size": 128,
    "optimiser": "adam",
    "rate": 5e-3,
    "weight_decay": 0.0,
    "explosion": 1e4,
    "augment": True,  # as in the training of the float network
}
COLUMNS = ("fewer weights", "method", "stage", "seed", "size, data", "size, stored", "accuracy %", "less float", "p")
PUBLISHED = {85.0: "85× pruned without loss (ASPLOS 2019)", 167.0: "1,910× less data (arXiv:1811.01907)"}


@dataclass(frozen=True)
class Job:
    """One network: "admm" or "magnitude", how many times fewer weights, the seed, and how large and where trainings are."""

    method: str
    compression: float
    seed: int
    samples: int
    epochs: int
    precision: str = "float32"
    device: str = "cpu"

    @property
    def admm(self) -> AdmmOptions:
        """None of it by magnitude but the projection."""
        return AdmmOptions(**{**ADMM, "iterations": ADMM["iterations"] if self.method == "admm" else 0})

    @property
    def training(self) -> TrainingOptions:
        """By magnitude, what ADMM would train for is spent on retraining."""
        epochs = self.epochs + ADMM["iterations"] - self.admm.iterations
        size = {"epochs": epochs, "train_samples": self.samples, "device": self.device, "precision": self.precision}
        return TrainingOptions(**{**TRAINING, **size})

    @property
    def key(self) -> dict[str, Any]:
        """All that its result is of, the recipe included: a record of another one is not a record of this job."""
        admm, training = (options.model_dump(mode="json") for options in (self.admm, self.training))
        return {**asdict(self), "bits": dict(BITS), "admm": admm, "training": training}


@dataclass(frozen=True)
class Point:
    """A network after a stage, on the test images.

    Attributes:
        stage: "pruned" or "quantised".
        kept: weights.
        data: weights' bits in float over the bits of the numbers kept.
        stored: the same over all bits, with indices and scales.
        accuracy, floating: of the network, and of the float one on the same images.
        low, high: ends of the paired 95 % interval of their difference.
        lost, gained: images that only the float network, and only this one, gets right.
        residual: of ADMM at the end of the stage.
        seconds: of the process so far, on this network.
    """

    stage: str
    kept: int
    data: float
    stored: float
    accuracy: float
    floating: float
    low: float
    high: float
    lost: int
    gained: int
    residual: float
    seconds: float

    @property
    def p(self) -> float:
        """McNemar's exact test of no difference, two-sided."""
        return mcnemar(self.lost, self.gained)


def mcnemar(lost: int, gained: int) -> float:
    """How probable so uneven a split of the images that differ is if either network is as good; two-sided."""
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def jobs(
    seeds: int,
    compressions: Sequence[float],
    samples: int,
    epochs: int,
    precision: str = "float32",
    device: str = "cpu",
) -> list[Job]:
    """All networks: the published pruning first, the comparison by magnitude for the first seed before other seeds."""
    found = [
        Job(method, float(compression), seed, samples, epochs, precision, device)
        for seed in range(seeds)
        for method in ("admm", "magnitude")
        for compression in compressions
    ]
    return sorted(found, key=lambda job: (job.seed, job.compression != 85, job.method))


class Bench:
    """The network, its float quality, and how it is compressed."""

    def __init__(self) -> None:
        workload = registry.create("workloads", "mnist-lenet5", {})
        self.layers: tuple[Layer, ...] = layers_of(workload)
        self.evaluator = registry.create("evaluators", "ptq", {"calibration_samples": 100}, workload, self.layers)
        self.lessons = self.evaluator.lessons()
        weights = {layer.weight_site: BITS[layer.kind] for layer in self.layers}
        self.assignment = BitAssignment(weights | {layer.activation_site: FLOAT_BITS for layer in self.layers})
        self.reference: Quality = self.evaluator.test(BitAssignment({}))

    def run(self, job: Job) -> list[Point]:
        """The network pruned, and then quantised."""
        start = time.process_time()
        work = self._work(job)
        keep = kept_by_compression(self._squares(), job.compression)
        found = []
        for stage in ("pruned", "quantised"):
            residual = work.prune(keep) if stage == "pruned" else work.quantise()
            quality = self._quality(work, job.device)
            found.append(self._point(work, quality, stage, residual, time.process_time() - start))
        return found

    def _squares(self) -> dict[str, NDArray[np.float64]]:
        """Weight site → squares of its weights in the float network, shape (n,)."""
        state = self.lessons.model().state_dict()
        sites = [layer.weight_site for layer in self.layers]
        return {site: state[site].double().square().flatten().numpy() for site in sites}

    def _work(self, job: Job) -> Compression:
        work = Compression(self.lessons, self.assignment, job.admm, 1, job.training, job.seed)
        work.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
        return work

    def _point(self, work: Compression, quality: Quality, stage: str, residual: float, seconds: float) -> Point:
        difference = paired_difference([quality], [self.reference])
        assert difference is not None
        assert quality.outcomes is not None
        assert self.reference.outcomes is not None
        right, expected = quality.outcomes > 0, self.reference.outcomes > 0
        kept, data, stored = sizes(self.layers, work, quantised=stage == "quantised")
        return Point(
            stage,
            kept,
            data,
            stored,
            quality.metric,
            self.reference.metric,
            difference.low or 0.0,
            difference.high or 0.0,
            int(np.sum(expected & ~right)),
            int(np.sum(right & ~expected)),
            residual,
            seconds,
        )

    def _quality(self, work: Compression, device: str) -> Quality:
        def outputs(inputs: Inputs) -> torch.Tensor:
            assert isinstance(inputs, torch.Tensor)
            output: torch.Tensor = work.network(inputs.to(device))
            return output.cpu()

        found: Quality = self.evaluator.scoring.quality(outputs, self.evaluator.held_out())
        return found


def sizes(layers: Sequence[Layer], work: Compression, *, quantised: bool) -> tuple[int, float, float]:
    """Weights that are kept, and how much smaller the network is: data only, and with indices and scales."""
    data = stored = 0.0
    for layer in layers:
        kept = work.kept[layer.weight_site].numpy()
        bits = np.full(layer.kernels, BITS[layer.kind] if quantised else FLOAT_BITS)
        data += float(kept @ bits)
        stored += weight_storage(layer.kernel_params, kept, bits) + SCALE_BITS * quantised
    total = FLOAT_BITS * sum(layer.params for layer in layers)
    return sum(int(kept.sum()) for kept in work.kept.values()), total / data, total / stored


def run(wanted: Sequence[Job], records: Records) -> None:
    """Run what the file does not hold yet."""
    left = [job for job in wanted if job.key not in records]
    bench = Bench() if left else None
    console = Console(stderr=True)
    for number, job in enumerate(left, start=1):
        assert bench is not None
        points = bench.run(job)
        records.add(job.key, [asdict(point) for point in points])
        shown = ", ".join(f"{point.stage} {100 * point.accuracy:.2f} %" for point in points)
        console.print(f"{number}/{len(left)} {job}: {shown}")


def table(wanted: Sequence[Job], records: Records) -> Table:
    """Two rows for each network, as pruned and as quantised; and their means where there are several seeds."""
    found = Table(title="LeNet-5 on MNIST: 5,000 test images, beside the float network on the same")
    for name in COLUMNS:
        found.add_column(name, justify="right")
    found.add_column("published")
    here = [job for job in wanted if job.key in records]
    for compression, method in dict.fromkeys((job.compression, job.method) for job in sorted(here, key=_order)):
        mine = [job for job in here if (job.compression, job.method) == (compression, method)]
        note = PUBLISHED.get(compression, "") if method == "admm" else ""
        for place, stage in enumerate(("pruned", "quantised")):
            points = {job.seed: Point(**records[job.key][place]) for job in mine}
            for seed, point in points.items():
                found.add_row(f"{compression:g}×", method, stage, str(seed), *cells(point), note)
            if len(points) > 1:
                found.add_row(f"{compression:g}×", method, stage, "mean", *means(list(points.values())), "", note)
    return found


def cells(point: Point) -> list[str]:
    """Sizes, accuracy, its difference from float in points with the interval, and p."""
    *first, apart = means([point])
    return [*first, f"{apart} [{100 * point.low:+.2f}, {100 * point.high:+.2f}]", f"{point.p:.2g}"]


def means(points: Sequence[Point]) -> list[str]:
    """Sizes, accuracy, and its difference from float in points, over seeds."""
    rows = [(point.data, point.stored, 100 * point.accuracy, 100 * point.floating) for point in points]
    data, stored, accuracy, floating = np.mean(rows, axis=0)
    return [f"{data:.0f}×", f"{stored:.0f}×", f"{accuracy:.2f}", f"{accuracy - floating:+.2f}"]


def _order(job: Job) -> tuple[Any, ...]:
    return job.compression, job.method, job.seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=Path("runs/admm_lenet5.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--compressions", type=float, nargs="+", default=[20, 40, 85, 167])
    parser.add_argument("--samples", type=int, default=60_000, help="training images of an epoch")
    parser.add_argument("--epochs", type=int, default=6, help="of each retraining")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--precision", default="float32", help="bfloat16 is faster on a GPU, and on processors that have it"
    )
    parser.add_argument("--tables", action="store_true", help="run nothing, print what the records say")
    given = parser.parse_args()
    torch.set_num_threads(1)
    records = Records(given.records)
    wanted = jobs(given.seeds, given.compressions, given.samples, given.epochs, given.precision, given.device)
    if not given.tables:
        run(wanted, records)
    console = Console()
    console.width = max(console.width, 170)
    console.print(table(wanted, records))


if __name__ == "__main__":
    main()
