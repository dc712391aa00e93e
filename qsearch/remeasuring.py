"""The best assignments of a run, measured layer by layer on a target: what was predicted against what was found.

Notation

=======  ==================================================================================
w, a     bits that an assignment gives a layer; the highest among its kernels
R        pairs of bits at which the target runs the layer
T        cost of the layer on the target: min { measured (w', a') ∈ R : w' ≥ w, a' ≥ a }
=======  ==================================================================================

T takes each metric by itself, as the cost model ``lut`` does by its rule ``wider``; of R only
:func:`qsearch.measuring.holding` is measured. A network is taken to cost the sum of its layers, measured one at a time:
that leaves out what layers save, or lose, beside each other. Layers that the target cannot run are left out of both
sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, Failure
from qsearch.layers import Layer
from qsearch.measured_table import QUARTILES
from qsearch.measurements import Measurement, Point
from qsearch.measuring import Bench, Pair, holding, measure_points
from qsearch.overlay import ALL
from qsearch.problem import minimised
from qsearch.protocols import CostModel
from qsearch.remeasured import FILE, AssignmentRecord, LayerRecord, Remeasured, write
from qsearch.run import Run
from qsearch.sites import idle_sites
from qsearch.space import SPIKE_BITS
from qsearch.trial import Cost, Trial

UNIFORM = 8

Asked = tuple[str, BitAssignment, Cost | None]
"""What an assignment is called, the assignment, and what was predicted of it."""


def remeasure(
    run: Run,
    bench: Bench,
    top: int,
    on_start: Callable[[int], None] = lambda points: None,
    on_point: Callable[[Measurement], None] | None = None,
) -> Remeasured:
    """Measure the best assignments of a run, and 8 bits everywhere; what was found is kept in the bench's folder.

    Args:
        run: the run.
        bench: an open one.
        top: assignments at most.
        on_start: called with the number of points.
        on_point: called after each.

    Raises:
        ConfigError: no feasible trial, one of overlaid weights, or no metric that both target and cost model have.
        Failure: no layer could be measured.
        StorageError: the folder cannot be written.
    """
    hardware = run.info.config["hardware"]
    model: CostModel = registry.create("cost_models", hardware["name"], hardware["options"])
    metrics = shared_metrics(run, bench, model)
    asked = _asked(run, model, top)
    _refuse_overlays(run.info.layers, asked)
    points = _points(bench, run.info.layers, [assignment for _, assignment, _ in asked])
    on_start(len(points))
    taken = measure_points(bench, points, on_point)
    found = _record(run, bench, metrics, asked, taken)
    write(bench.folder / FILE, found)
    return found


def _asked(run: Run, model: CostModel, top: int) -> list[Asked]:
    """The best assignments, and 8 bits everywhere."""
    uniform = _uniform(run.info.layers)
    return [
        *((f"trial {trial.number}", trial.assignment, trial.cost) for trial in best_trials(run, top)),
        (f"{UNIFORM} bits everywhere", uniform, model.estimate(run.info.layers, uniform)),
    ]


def _refuse_overlays(layers: Sequence[Layer], asked: Sequence[Asked]) -> None:
    for name, assignment, _ in asked:
        found = [layer.name for layer in layers if layer.overlay and assignment.highest(layer.overlay_site) != ALL]
        if found:
            raise ConfigError(
                "weights that are measured must be plain, not a ternary part and a sparse one",
                got=f"overlays in {name} at {', '.join(map(repr, found[:3]))}{', …' if len(found) > 3 else ''}",
                fix="measure a run without space.overlay",
            )


def _record(
    run: Run, bench: Bench, metrics: Sequence[str], asked: Sequence[Asked], taken: Sequence[Measurement]
) -> Remeasured:
    """What was asked for, with what the bench knows by now.

    Raises:
        ConfigError, Failure: as :func:`remeasure`.
    """
    layers = run.info.layers
    missing = _missing(bench, layers, [assignment for _, assignment, _ in asked])
    if len(missing) == len(layers):
        raise Failure(f"target {bench.name!r} must measure some layer", got="; ".join(sorted(set(missing.values()))))
    calls = sum(layer.uses for layer in layers if layer.name not in missing)
    return Remeasured(
        target=bench.name,
        options=dict(bench.store.subject.options),
        model=run.info.config["hardware"]["name"],
        units={metric: bench.units[metric] for metric in metrics},
        definitions={metric: text for metric, text in bench.definitions.items() if metric in metrics},
        predicted_units={metric: run.info.units[metric] for metric in metrics},
        predicted_definitions={metric: text for metric, text in run.info.definitions.items() if metric in metrics},
        assignments=tuple(_assignment(bench, layers, missing, metrics, *one) for one in asked),
        missing=missing,
        machine=taken[-1].machine,
        date=max(one.date for one in taken),
        floor={metric: calls * cost for metric, cost in floor_of(bench).items() if metric in metrics},
    )


def floor_of(bench: Bench) -> dict[str, float]:
    """Metric → what a call costs that computes nothing, of a target that has a method ``floor``; empty otherwise."""
    floor: Callable[[], Mapping[str, float]] = getattr(bench.target, "floor", dict)
    return dict(floor())


def shared_metrics(run: Run, bench: Bench, model: CostModel) -> list[str]:
    """Metrics that both the run's cost model and the target have, and that add up over layers.

    Raises:
        ConfigError: none.
    """
    shared = [
        metric for metric in run.info.units if metric in bench.units and metric not in getattr(model, "maxima", ())
    ]
    if not shared:
        raise ConfigError(
            f"target {bench.name!r} and the run's cost model must share a metric",
            got=f"{', '.join(bench.units)} on the target, {', '.join(run.info.units)} in the run",
        )
    return shared


def best_trials(run: Run, top: int) -> list[Trial]:
    """The best trial, then the rest of the front of several objectives, then by the first objective.

    Raises:
        ConfigError: no trial is feasible.
    """
    if run.best is None:
        raise ConfigError("a run without a feasible trial has nothing to measure", got=str(run.folder))
    feasible = [trial for trial in run.trials if trial.feasible]
    feasible.sort(key=lambda trial: (float(minimised(run.objectives, trial)[0]), trial.number))
    front = run.front if len(run.objectives) > 1 else []
    ranked = {trial.number: trial for trial in (run.best, *front, *feasible)}
    return list(ranked.values())[:top]


def _uniform(layers: Sequence[Layer]) -> BitAssignment:
    """8 bits everywhere, but for spikes and leaks of one: those have one bit, whatever else is chosen."""
    kept = {layer.weight_site: UNIFORM for layer in layers}
    given = [layer for layer in layers if layer.kind not in ("embedding", "threshold")]
    inputs = {layer.activation_site: UNIFORM for layer in given}
    return BitAssignment({**kept, **inputs, **dict.fromkeys(idle_sites(layers), SPIKE_BITS)})


def bits_of(layer: Layer, assignment: BitAssignment) -> Pair:
    """(w, a): float where the assignment says nothing."""
    return assignment.highest(layer.weight_site), assignment.highest(layer.activation_site)


def _pairs(bench: Bench, layer: Layer, bits: Pair) -> tuple[Pair, ...]:
    """What to measure of a layer; nothing where no weight is left."""
    return () if bits[0] == 0 else holding(bench.precisions(layer), *bits)


def _points(bench: Bench, layers: Sequence[Layer], assignments: Sequence[BitAssignment]) -> list[Point]:
    """Each point once, in the order of the network."""
    found: dict[Point, None] = {}
    for layer in layers:
        for assignment in assignments:
            for pair in _pairs(bench, layer, bits_of(layer, assignment)):
                found[layer, *pair] = None
    return list(found)


def _missing(bench: Bench, layers: Sequence[Layer], assignments: Sequence[BitAssignment]) -> dict[str, str]:
    """Layers without a measurement at the bits of one of the assignments: they are left out of all."""
    missing: dict[str, str] = {}
    for layer in layers:
        for bits in {bits_of(layer, assignment) for assignment in assignments}:
            taken = [bench.known(layer, *pair) for pair in _pairs(bench, layer, bits)]
            failures = [one.failure for one in taken if one is not None and one.failure]
            if bits[0] and not taken:
                missing[layer.name] = _not_run(layer, bits)
            elif failures and len(failures) == len(taken):
                missing[layer.name] = failures[0]
    return missing


def _not_run(layer: Layer, bits: Pair) -> str:
    if layer.neurons:
        return "the target does not run neurons"
    return f"the target does not run it at W{bits[0]}A{bits[1]} or more"


def _assignment(
    bench: Bench,
    layers: Sequence[Layer],
    missing: Mapping[str, str],
    metrics: Sequence[str],
    name: str,
    assignment: BitAssignment,
    cost: Cost | None,
) -> AssignmentRecord:
    parts = {} if cost is None else cost.layers
    records = tuple(
        _layer(bench, layer, bits_of(layer, assignment), metrics, parts.get(layer.name, {}))
        for layer in layers
        if layer.name not in missing
    )
    return AssignmentRecord(
        name=name,
        predicted={metric: _predicted(cost, missing, metric) for metric in metrics},
        measured={metric: sum(record.measured[metric] for record in records) for metric in metrics},
        deviation={metric: sum(record.deviation[metric] for record in records) for metric in metrics},
        layers=records,
    )


def _predicted(cost: Cost | None, missing: Mapping[str, str], metric: str) -> float:
    """Of the whole network, less the layers that were not measured.

    Raises:
        ConfigError: the cost model does not say what those are of it.
    """
    assert cost is not None  # of a feasible trial
    absent = [cost.layers[name][metric] for name in missing if metric in cost.layers.get(name, {})]
    if len(absent) < len(missing):
        raise ConfigError(
            "layers that a target cannot run can be left out only where the cost model prices each layer",
            got=", ".join(missing),
        )
    return max(0.0, cost.totals[metric] - sum(absent))


def _layer(
    bench: Bench, layer: Layer, bits: Pair, metrics: Sequence[str], predicted: Mapping[str, float]
) -> LayerRecord:
    shown = {metric: predicted[metric] for metric in metrics if metric in predicted}
    zeros = dict.fromkeys(metrics, 0.0)
    if bits[0] == 0:
        return LayerRecord(name=layer.name, bits=bits, predicted=shown, measured=zeros, deviation=zeros)
    known = [bench.store.find(layer, *pair) for pair in _pairs(bench, layer, bits)]
    taken = [one for one in known if one is not None]
    least = {metric: min(taken, key=lambda one: one.value(metric)) for metric in metrics}
    return LayerRecord(
        name=layer.name,
        bits=bits,
        ran_at={metric: (one.weight_bits, one.activation_bits) for metric, one in least.items()},
        predicted=shown,
        measured={metric: one.value(metric) for metric, one in least.items()},
        deviation={metric: one.spread(metric) / QUARTILES for metric, one in least.items()},
    )
