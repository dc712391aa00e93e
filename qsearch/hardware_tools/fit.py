"""``qsearch hardware fit``: learn a cost model from few measurements of a target.

The pool is every geometry among the workloads' layers at every pair of bits that the target runs it at, within those asked
for. A small pool is shared out: a quarter of it is held out. Held-out points are drawn from it and measured first; none of them is learned from. All measurements are kept in the folder: a run
that was interrupted asks for the same points again, and those measured answer at once.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from qsearch import registry
from qsearch.arguments import plain_name
from qsearch.commands import print_json, print_table
from qsearch.errors import ConfigError, DataError, Interrupted
from qsearch.hardware_tools.check_options import options_of
from qsearch.hardware_tools.fit_pool import Pairs, counts, pairs_of, points_of, split
from qsearch.hardware_tools.fit_progress import FitProgress, fit_progress
from qsearch.hardware_tools.fit_table import fit_json, fit_lines, fit_table
from qsearch.hardware_tools.fit_totals import NetworkTotal, network_totals
from qsearch.measurements import Measurement, Point, geometry
from qsearch.measuring import Bench
from qsearch.setting import layers_of
from qsearch.surrogates.acquire import rule
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.judging import HeldOut, Judgement
from qsearch.surrogates.learner import Costs, Learned, Learner, Plan
from qsearch.surrogates.model import LEAST, LogCost
from qsearch.surrogates.saved import load, save
from qsearch.terminal import set_up_logging


@dataclass(frozen=True)
class FitRequest:
    """What is asked of ``qsearch hardware fit``.

    Attributes:
        target: a target or a cost model, by name or file.py:Class.
        workloads: whose layers.
        samples: measurements to learn from, at most.
        acquire: one of :data:`qsearch.surrogates.acquire.RULES`.
        error: stop at this median relative error on held-out points.
        held_out: points measured to judge by.
        source: a fitted surrogate of another target.
        per_kind: one model for each kind of layers.
        weight_bits, activation_bits: choices; without them all that the target runs at, of more than six 2 to 8.
        seed: of held-out points, start, draws and folds.
        options: of the target, ``key=value``.
        output: folder; ``runs/hardware/NAME`` without it.
    """

    target: str
    workloads: tuple[str, ...]
    samples: int = 50
    acquire: str = "variance"
    error: float | None = None
    held_out: int = 20
    source: Path | None = None
    per_kind: bool = False
    weight_bits: tuple[int, ...] | None = None
    activation_bits: tuple[int, ...] | None = None
    seed: int = 0
    options: tuple[str, ...] = ()
    output: Path | None = None

    @property
    def folder(self) -> Path:
        """Where measurements and the surrogate are kept."""
        return self.output or Path("runs") / "hardware" / plain_name(self.target)


@dataclass(frozen=True)
class FitResult:
    """What it ended in.

    Attributes:
        request: what was asked, with the samples and the held-out points that the pool allowed.
        asked: samples and held-out points before that.
        path: of the surrogate.
        fitted: the surrogate.
        learned: what it was learned from.
        judgements: metric → errors on the held-out points; empty without any.
        points: of the pool.
        judged: held-out points that gave a cost.
        networks: each workload's total at uniform bits.
    """

    request: FitRequest
    asked: tuple[int, int]
    path: Path
    fitted: Fitted
    learned: Learned
    judgements: dict[str, Judgement]
    points: int
    judged: int
    networks: tuple[NetworkTotal, ...]


def run(request: FitRequest, as_json: bool) -> None:
    """Fit, save, and print how good it is.

    Raises:
        ConfigError: an unknown acquisition, ehvi with one metric, or a pool that is too small.
        DataError: too few measurements succeeded, or the source is no surrogate.
        QSearchError: as :class:`qsearch.measuring.Bench`.
    """
    set_up_logging()
    try:
        with fit_progress(request.samples, request.held_out) as progress:
            result = fit(request, progress)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", fix=f"measurements are kept in {request.folder}; start it again to go on"
        ) from None
    if as_json:
        print_json(fit_json(result))
        return
    print_table(fit_table(result))
    for line in fit_lines(result):
        print(line)


def fit(request: FitRequest, progress: FitProgress) -> FitResult:
    """Learn a target; see :func:`run`."""
    _check(request)
    workloads = {name: layers_of(registry.create("workloads", name)) for name in request.workloads}
    sources = {} if request.source is None else dict(load(request.source).models)
    options = options_of([request.target], request.options)[request.target]
    with Bench(request.target, options, request.folder) as bench:
        metrics = tuple(bench.units)
        rule(request.acquire, metrics)
        _check_source(request, sources, metrics)
        layers = [layer for part in workloads.values() for layer in part]
        pool = points_of(bench, layers, request.weight_bits, request.activation_bits)
        samples, held_out = counts(len(pool), request.samples, request.held_out)
        allowed = replace(request, samples=samples, held_out=held_out)
        progress.plan(samples, held_out)
        held, learnable = split(pool, held_out, request.seed)
        asked = Asked(bench, metrics)
        judge = HeldOut.of(_measured(held, asked, progress))
        learner = Learner(learnable, metrics, lambda row: asked(learnable[row]), _plan(allowed), sources)
        try:
            learned = learner.learn(judge.error if judge.points else None, progress.sample)
        except DataError as error:
            raise (asked.zero() or error) from None
        fitted = _fitted(bench, allowed, asked, learned, judge, pairs_of(pool, list(asked.good), asked.failed))
    path = save(fitted, request.folder)
    judgements = judge.judgements(learned, request.seed) if judge.points else {}
    asked_for = (request.samples, request.held_out)
    totals = network_totals(path, workloads)
    return FitResult(allowed, asked_for, path, fitted, learned, judgements, len(pool), len(judge.points), totals)


def _check(request: FitRequest) -> None:
    """What can be refused before anything is measured.

    Raises:
        ConfigError: too few samples, or an error that cannot be reached.
    """
    if request.samples < LEAST:
        raise ConfigError(f"a surrogate needs at least {LEAST} samples", got=request.samples)
    if request.error is not None and not (math.isfinite(request.error) and request.error > 0):
        raise ConfigError("the error to stop at must be a finite number above 0", got=f"--error {request.error}")
    if request.error is not None and not request.held_out:
        raise ConfigError("stopping at an error needs held-out points", got="--held-out 0")


@dataclass
class Asked:
    """A bench's answer as costs to learn from: none where it failed, or where a cost has no logarithm.

    Attributes:
        good: points with costs to learn from, and their measurements.
        failed: points without.
        zeros: how many points cost 0, metric by metric.
    """

    bench: Bench
    metrics: Sequence[str]
    good: dict[Point, Measurement] = field(default_factory=dict)
    failed: list[Point] = field(default_factory=list)
    zeros: Counter[str] = field(default_factory=Counter)

    def __call__(self, point: Point) -> Costs | None:
        found = self.bench.measure(*point)
        costs = {} if found.failure else {metric: found.value(metric) for metric in self.metrics}
        if costs and min(costs.values()) > 0:
            self.good[point] = found
            return costs
        self.failed.append(point)
        self.zeros.update(metric for metric, cost in costs.items() if cost <= 0)
        return None

    def zero(self) -> DataError | None:
        """That costs of 0 are why there is too little to learn from; None where they are not."""
        if not self.zeros:
            return None
        metric, count = self.zeros.most_common(1)[0]
        return DataError(
            "a surrogate learns the logarithm of costs, which must be greater than 0",
            got=f"{metric} of 0 at {count} of {len(self.good) + len(self.failed)} points measured",
        )


def _measured(points: Sequence[Point], asked: Asked, progress: FitProgress) -> list[tuple[Point, Costs]]:
    """Held-out points with their costs.

    Raises:
        DataError: not one of them gave any.
    """
    found = []
    for count, point in enumerate(points, start=1):
        costs = asked(point)
        progress.held(count)
        if costs is not None:
            found.append((point, costs))
    if points and not found:
        raise asked.zero() or DataError(
            "at least one held-out point must be measured",
            got=f"0 of {len(points)}",
            fix="qsearch hardware measure shows why they fail",
        )
    return found


def _plan(request: FitRequest) -> Plan:
    return Plan(
        samples=request.samples,
        acquire=request.acquire,
        error=request.error,
        per_kind=request.per_kind,
        seed=request.seed,
    )


def _check_source(request: FitRequest, sources: dict[str, LogCost], metrics: Sequence[str]) -> None:
    if sources and not set(sources) & set(metrics):
        raise ConfigError(
            f"a source must have a metric of the target, {', '.join(metrics)}",
            got=f"{', '.join(sources)} in {request.source}",
        )


def _fitted(bench: Bench, request: FitRequest, asked: Asked, learned: Learned, judge: HeldOut, pairs: Pairs) -> Fitted:
    facts = {"samples": float(len(learned.rows)), "failed": float(len(asked.failed))}
    if judge.points:
        facts.update(held_out=float(len(judge.points)), median_error=judge.error(learned))
    return Fitted(
        target=request.target,
        units=dict(bench.units),
        definitions=dict(bench.definitions),
        models=learned.models,
        layers=tuple(dict.fromkeys(geometry(layer) for layer, _, _ in asked.good)),
        pairs=pairs,
        maxima=frozenset(bench.maxima),
        facts=facts,
        provenance=_provenance(bench, request, list(asked.good.values())),
    )


def _provenance(bench: Bench, request: FitRequest, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Where a surrogate comes from, as JSON; the target's name and options, and its file's digest, as its store has them."""
    subject, dates = bench.store.subject, sorted(one.date for one in measured)
    versions = [dict(found) for found in dict.fromkeys(tuple(sorted(one.versions.items())) for one in measured)]
    learning = ("samples", "held_out", "acquire", "error", "per_kind", "seed", "weight_bits", "activation_bits")
    found = {
        "target": subject.target,
        "options": dict(subject.options),
        "digest": subject.source,
        "machines": sorted({one.machine for one in measured}),
        "versions": versions,
        "first_measured": dates[0],
        "last_measured": dates[-1],
        "qsearch": metadata.version("qsearch"),
        "workloads": request.workloads,
        "transferred_from": None if request.source is None else str(request.source),
        **{name: getattr(request, name) for name in learning},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it reads back: lists for tuples
    return plain
