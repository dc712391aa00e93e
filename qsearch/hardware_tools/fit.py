"""``qsearch hardware fit``: learn a cost model from few measurements of a target.

The pool is every geometry among the workloads' layers at every pair of bits that the target runs it at, within those asked
for. Held-out points are drawn from it and measured first; none of them is learned from. All measurements are kept in the folder: a run
that was interrupted asks for the same points again, and those measured answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qsearch import registry
from qsearch.arguments import plain_name
from qsearch.campaign import layers_of
from qsearch.commands import print_json, print_table
from qsearch.errors import ConfigError, DataError, Interrupted
from qsearch.hardware_tools.check_options import options_of
from qsearch.hardware_tools.fit_progress import FitProgress, fit_progress
from qsearch.hardware_tools.fit_table import fit_json, fit_table
from qsearch.layers import Layer
from qsearch.measurements import Point, geometry
from qsearch.measuring import Bench
from qsearch.surrogates.acquire import rule
from qsearch.surrogates.features import kind_of
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.judging import HeldOut, Judgement
from qsearch.surrogates.learner import Costs, Learned, Learner, Plan
from qsearch.surrogates.model import LogCost
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
        weight_bits, activation_bits: choices.
        seed: of the held-out points, the start and the draws.
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
    weight_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    activation_bits: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
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
        request: what was asked.
        path: of the surrogate.
        fitted: the surrogate.
        learned: what it was learned from.
        judgements: metric → errors on the held-out points; empty without any.
        points: of the pool.
    """

    request: FitRequest
    path: Path
    fitted: Fitted
    learned: Learned
    judgements: dict[str, Judgement]
    points: int


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
    print(f"surrogate  {result.path}")
    print(f"hardware: {{name: surrogate, options: {{path: {result.path}}}}}")


def fit(request: FitRequest, progress: FitProgress) -> FitResult:
    """Learn a target; see :func:`run`."""
    layers = [layer for name in request.workloads for layer in layers_of(registry.create("workloads", name))]
    sources = {} if request.source is None else dict(load(request.source).models)
    options = options_of([request.target], request.options)[request.target]
    with Bench(request.target, options, request.folder) as bench:
        metrics = tuple(bench.units)
        rule(request.acquire, metrics)
        _check_source(request, sources, metrics)
        pool = points_of(bench, layers, request.weight_bits, request.activation_bits)
        held, learnable = _split(pool, request)
        asked = Asked(bench, metrics)
        judge = HeldOut.of(_measured(held, asked, progress))
        learner = Learner(learnable, metrics, lambda row: asked(learnable[row]), _plan(request), sources)
        learned = learner.learn(judge.error if held else None, progress.sample)
        fitted = Fitted(
            target=request.target,
            units=dict(bench.units),
            definitions=dict(bench.definitions),
            models=learned.models,
            layers=tuple(dict.fromkeys(geometry(learnable[row][0]) for row in learned.rows)),
            pairs=_pairs(pool),
            facts=_facts(request, learned, judge),
        )
    path = save(fitted, request.folder)
    judgements = judge.judgements(learned, request.seed) if held else {}
    return FitResult(request, path, fitted, learned, judgements, len(pool))


@dataclass(frozen=True)
class Asked:
    """A bench's answer as costs to learn from: none where it failed, or where a cost has no logarithm."""

    bench: Bench
    metrics: Sequence[str]

    def __call__(self, point: Point) -> Costs | None:
        found = self.bench.measure(*point)
        if found.failure:
            return None
        costs = {metric: found.value(metric) for metric in self.metrics}
        return costs if min(costs.values()) > 0 else None


def points_of(
    bench: Bench, layers: Sequence[Layer], weight_bits: Sequence[int], activation_bits: Sequence[int]
) -> list[Point]:
    """Each geometry once, at each pair of bits that the target runs it at and that was asked for.

    A layer is named as the first of its geometry. An embedding, whose input has no bits, is asked for at one of them.

    Raises:
        ConfigError: there is no such point.
    """
    found: list[Point] = []
    for layer in {geometry(layer): layer for layer in reversed(layers)}.values():
        pairs = [
            (weight, activation)
            for weight, activation in bench.precisions(layer)
            if weight in weight_bits and (activation in activation_bits or layer.kind == "embedding")
        ]
        if layer.kind == "embedding":
            pairs = list({weight: (weight, activation) for weight, activation in pairs}.values())
        found.extend((layer, *pair) for pair in dict.fromkeys(pairs))
    if not found:
        pairs = sorted({pair for layer in layers for pair in bench.precisions(layer)})
        shown = ", ".join(f"W{weight}A{activation}" for weight, activation in pairs[:8])
        raise ConfigError("the target runs no layer at the bits asked for", fix=f"it does at: {shown or 'none'}")
    return found


def _split(pool: list[Point], request: FitRequest) -> tuple[list[Point], list[Point]]:
    """Held-out points, drawn at random, and all others.

    Raises:
        ConfigError: too few are left to learn from.
    """
    needed = request.samples + request.held_out
    if needed > len(pool):
        raise ConfigError(
            f"the pool must hold {request.samples} samples and {request.held_out} held-out points",
            got=f"{len(pool)} points",
            fix="ask for fewer, for more bits, or for more workloads",
        )
    if request.error is not None and not request.held_out:
        raise ConfigError("stopping at an error needs held-out points", got="--held-out 0")
    held = set(np.random.default_rng(request.seed).choice(len(pool), request.held_out, replace=False).tolist())
    return [pool[row] for row in sorted(held)], [point for row, point in enumerate(pool) if row not in held]


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
        raise DataError(
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


def _pairs(pool: Sequence[Point]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Bits at which each kind of layers runs: at those where all of its layers do, if there are any."""
    found: dict[str, list[set[tuple[int, int]]]] = {}
    by_layer: dict[Layer, set[tuple[int, int]]] = {}
    for layer, weight, activation in pool:
        by_layer.setdefault(layer, set()).add((weight, activation))
    for layer, pairs in by_layer.items():
        found.setdefault(kind_of(layer), []).append(pairs)
    return {kind: tuple(sorted(set.intersection(*sets) or set.union(*sets))) for kind, sets in found.items()}


def _facts(request: FitRequest, learned: Learned, judge: HeldOut) -> dict[str, float | str]:
    facts: dict[str, Any] = {"samples": float(len(learned.rows)), "failed": float(len(learned.failed))}
    if judge.points:
        facts.update(held_out=float(len(judge.points)), median_error=judge.error(learned))
    asked = {key: value for key, value in asdict(request).items() if key in ("acquire", "seed", "per_kind")}
    return {**facts, **{key: str(value) for key, value in asked.items()}, "workloads": ", ".join(request.workloads)}
