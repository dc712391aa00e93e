"""Which cheap quality ranks assignments as a long training under them does, and from which bits on?

    OMP_NUM_THREADS=1 python benchmarks/qat_proxies.py                            digits-resnet, half an hour; resumable
    QSEARCH_DATA=folder python benchmarks/qat_proxies.py --case cifar10           ResNet-20, hours
    python benchmarks/qat_proxies.py --tables                                     only what is there already, as Markdown

Assignments are drawn at random, as many in each band of mean bits per weight: 1–8 bits for each layer's weights around a mean
within 2–6, 2–8 for its input around the same; the first and the last layer stay at 8 and count. Each is judged on validation
data as it is, and after trainings; how well two judgements agree is told by the rank correlations of Spearman and of
Kendall (τ_b), with bootstraps over the assignments, 95 %.

==========================  ======================================================================================
``post-training``           quality without training
``divergence``              of the outputs from the float network's, on calibration data, without training
``k epochs``                a training of its own, its schedule in k epochs, by another seed
``long, after k epochs``    the long training on its way, which is what a pruner sees
``long, other seed``        the long training once more: no proxy can be expected to do better
==========================  ======================================================================================

All are held against the long training of seed 0. Losses tell more than accuracies where these are near the float network's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import Records
from scipy.stats import rankdata
from weight_bits import mean_weight_bits

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.setting import layers_of
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.trial import Quality

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Correlation = Callable[[Floats, Floats, Rows], Floats]

BANDS = ((2.0, 3.0), (3.0, 4.0), (4.0, 6.0))
SPREAD = 1.5
"""Standard deviation of a layer's bits around the mean, before rounding."""
TOLERANCE = 0.1
"""Of mean bits per weight."""
SHORT, PROXY_SEED, OTHER_SEED = (1, 2), 2, 1
DRAWS = 1000
"""Bootstrap samples."""


@dataclass(frozen=True)
class Case:
    """A network, how it is trained, and the epochs of the long training."""

    workload: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    epochs: int
    watched: tuple[int, ...]
    per_band: int


CASES = {
    "digits": Case("digits-resnet", {}, {"rate": 0.01}, 30, (1, 2, 5, 10), 20),
    "cifar10": Case(
        "cifar10-resnet20",
        {"split": "all"},
        {"rate": 0.01, "distillation": 1.0, "temperature": 1.0, "augment": True, "train_samples": 2500},
        6,
        (1, 2, 3),
        14,
    ),
}


@dataclass(frozen=True)
class Row:
    """A judgement of every assignment, higher is better."""

    name: str
    values: Floats


def space_of(layers: Sequence[Layer]) -> SearchSpace:
    """What is chosen from."""
    return build_space(layers, weight_bits=range(1, 9), activation_bits=range(2, 9), fixed={"first": 8, "last": 8})


def drawn(layers: Sequence[Layer], per_band: int) -> list[BitAssignment]:
    """Assignments with mean bits spread evenly over each band, the bands in turns."""
    rng = np.random.default_rng(0)
    space = space_of(layers)
    targets = [[low + (high - low) * (i + rng.random()) / per_band for i in range(per_band)] for low, high in BANDS]
    for band in targets:
        rng.shuffle(band)
    return [_around(mean, layers, space, rng) for turn in zip(*targets, strict=True) for mean in turn]


def _around(mean: float, layers: Sequence[Layer], space: SearchSpace, rng: np.random.Generator) -> BitAssignment:
    """Bits around a mean, then moved by ones at random layers until the weights have it."""
    choices = {variable.name: variable.choices for variable in space.variables}
    bits = {name: int(np.clip(round(rng.normal(mean, SPREAD)), own[0], own[-1])) for name, own in choices.items()}
    free = [layer.weight_site for layer in layers if layer.weight_site in choices]
    while True:
        found = space.reference(8).replace({**bits, **{s: 8 for s in space.reference(8) if s not in choices}})
        over = mean_weight_bits(layers, found) - mean
        if abs(over) <= TOLERANCE:
            return found
        site = str(rng.choice(free))
        moved = bits[site] - int(np.sign(over))
        bits[site] = moved if moved in choices[site] else bits[site]


def judged(quality: Quality) -> dict[str, float]:
    """What is kept of a quality."""
    return {"accuracy": quality.metric, "loss": quality.loss}


class Bench:
    """A case with its evaluators, and what is recorded of it."""

    def __init__(self, name: str, case: Case, records: Records) -> None:
        self.name, self.case, self.records = name, case, records
        workload = registry.create("workloads", case.workload, dict(case.options))
        self.layers = layers_of(workload)
        self.assignments = drawn(self.layers, case.per_band)
        training = {**case.training, "epochs": case.epochs}
        self.trained = registry.create("evaluators", "qat", training, workload, self.layers)
        self.untrained = registry.create("evaluators", "ptq", {}, workload, self.layers)

    def job(self, assignment: BitAssignment, what: str) -> dict[str, Any]:
        """What a result is recorded under."""
        case = self.case
        return {"case": self.name, "epochs": case.epochs, **case.training, "bits": assignment.digest, "what": what}

    def run(self) -> None:
        """Judge every assignment in every way that is not recorded yet."""
        ways: dict[str, Callable[[BitAssignment], Any]] = {
            "untrained": self._untrained,
            "long": self._long,
            **{f"short {epochs}": self._short(epochs) for epochs in SHORT},
            "again": lambda assignment: judged(self.trained.evaluate(assignment, seed=OTHER_SEED)),
        }
        for what, way in ways.items():  # so that one that is stopped has judged all assignments in the first ways
            for number, assignment in enumerate(self.assignments, 1):
                if (job := self.job(assignment, what)) in self.records:
                    continue
                start = time.perf_counter()
                self.records.add(job, way(assignment))
                print(f"{what} {number}/{len(self.assignments)}  {time.perf_counter() - start:.0f} s", flush=True)

    def rows(self, metric: str) -> tuple[Floats, Floats, list[Row]]:
        """Mean bits of the assignments that were trained long, their judgement, and the proxies', NaN where there is none."""
        sign = -1 if metric == "loss" else 1
        done = [a for a in self.assignments if self.job(a, "long") in self.records]

        def column(what: str, pick: Callable[[Any], float]) -> Floats:
            jobs = [self.job(assignment, what) for assignment in done]
            return np.asarray([pick(self.records[job]) if job in self.records else np.nan for job in jobs])

        bits = np.asarray([mean_weight_bits(self.layers, assignment) for assignment in done])
        truth = sign * column("long", lambda found: found[-1][metric])
        rows = [
            Row("post-training", sign * column("untrained", lambda found: found[metric])),
            Row("divergence", -column("untrained", lambda found: found["divergence"])),
            Row("mean bits per weight", bits),
        ]
        rows += [Row(f"{k} epochs", sign * column(f"short {k}", lambda found: found[metric])) for k in SHORT]
        rows += [Row(f"long, after {k} epochs", sign * column("long", _at(k, metric))) for k in self.case.watched]
        return bits, truth, [*rows, Row("long, other seed", sign * column("again", lambda found: found[metric]))]

    def _untrained(self, assignment: BitAssignment) -> dict[str, float]:
        divergence = self.untrained.probe(assignment).divergence
        return {**judged(self.untrained.evaluate(assignment)), "divergence": divergence}

    def _short(self, epochs: int) -> Callable[[BitAssignment], dict[str, float]]:
        share = epochs / self.case.epochs
        return lambda assignment: judged(self.trained.evaluate(assignment, fidelity=share, seed=PROXY_SEED))

    def _long(self, assignment: BitAssignment) -> list[dict[str, float]]:
        return [judged(quality) for _, quality in self.trained.progress(assignment, seed=0)]


def _at(epochs: int, metric: str) -> Callable[[Any], float]:
    return lambda found: float(found[epochs - 1][metric])


def spearman(x: Floats, y: Floats, rows: Rows) -> Floats:
    """Spearman's ρ of each sample of assignments, shape (draws,); NaN where one of the two does not vary."""
    a, b = (rankdata(values[rows], axis=1) for values in (x, y))
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (a, b))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)))


def kendall(x: Floats, y: Floats, rows: Rows) -> Floats:
    """Kendall's τ_b of each sample of assignments, shape (draws,); NaN where one of the two does not vary."""
    a, b = (np.sign(values[:, None] - values) for values in (x, y))
    times = np.stack([np.bincount(row, minlength=len(x)) for row in rows]).astype(np.float64)
    pairs = [np.einsum("di,ij,dj->d", times, signs, times, optimize=True) for signs in (a * b, a * a, b * b)]
    with np.errstate(invalid="ignore"):
        return np.asarray(pairs[0] / np.sqrt(pairs[1] * pairs[2]))


def cell(correlation: Correlation, x: Floats, y: Floats) -> str:
    """A correlation with its 95 % bootstrap, over the assignments that have both."""
    x, y = x[both := np.isfinite(x)], y[both]
    if len(x) < 5:
        return "–"
    value = correlation(x, y, np.arange(len(x))[None])[0]
    draws = correlation(x, y, np.random.default_rng(0).integers(0, len(x), (DRAWS, len(x))))
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def tables(bench: Bench) -> Iterator[str]:
    """Lines of Markdown: for each metric and each correlation, proxies by bands."""
    for metric in ("loss", "accuracy"):
        bits, truth, rows = bench.rows(metric)
        inside = [np.ones(len(bits), bool), *((bits >= low) & (bits < high) for low, high in BANDS)]
        heads = ["all", *(f"{low:g}–{high:g} bits" for low, high in BANDS)]
        spread = [f"{_range(truth[mask], metric)} (n = {mask.sum()})" for mask in inside]
        for name, correlation in (("Spearman's ρ", spearman), ("Kendall's τ", kendall)):
            yield f"\n{bench.case.workload}: {name} with {metric} after {bench.case.epochs} epochs\n"
            yield f"| proxy | {' | '.join(heads)} |"
            yield f"|---|{'---:|' * len(heads)}"
            for row in rows:
                cells = [cell(correlation, row.values[mask], truth[mask]) for mask in inside]
                yield f"| {row.name} | {' | '.join(cells)} |"
            yield f"| ({metric} after {bench.case.epochs} epochs: range) | {' | '.join(spread)} |"


def _range(values: Floats, metric: str) -> str:
    if not len(values):
        return "–"
    ends = sorted(abs(values))
    return f"{ends[0]:.3f}–{ends[-1]:.3f}" if metric == "loss" else f"{100 * ends[0]:.1f}–{100 * ends[-1]:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=sorted(CASES), default="digits")
    parser.add_argument("--records", type=Path, default=Path("runs/qat_proxies.jsonl"))
    parser.add_argument("--tables", action="store_true", help="only print what is recorded")
    parser.add_argument("--epochs", type=int, help="of the long training")
    parser.add_argument("--per-band", type=int, help="assignments in each band")
    parser.add_argument("--train-samples", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    case = CASES[arguments.case]
    training = {**case.training}
    if arguments.train_samples is not None:
        training["train_samples"] = arguments.train_samples
    if arguments.device != "cpu":
        training["device"] = arguments.device
    epochs = arguments.epochs or case.epochs
    watched = tuple(k for k in case.watched if k < epochs)
    case = Case(case.workload, case.options, training, epochs, watched, arguments.per_band or case.per_band)
    bench = Bench(arguments.case, case, Records(arguments.records))
    if not arguments.tables:
        bench.run()
    print("\n".join(tables(bench)))


if __name__ == "__main__":
    main()
