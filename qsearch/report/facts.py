"""What a report says about a run, worked out once: the sentence, averages, limits, the nearest miss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.overlay import ALL, stored_bits
from qsearch.problem import Bound
from qsearch.report import wording
from qsearch.report.statistics import Interval, is_share, paired_difference, quality_interval
from qsearch.run import Run
from qsearch.trial import Quality, Trial

Quantity: TypeAlias = Literal["weight", "activation", "leak", "state", "threshold"]
"""What takes bits, by the role of its site; neurons alone have the last three."""

AVERAGED: tuple[Quantity, ...] = ("weight", "activation", "state")
"""Those that are so many that their mean bits say something."""


@dataclass(frozen=True)
class TestResult:
    """Quality of the best assignment on test data, the float network's, and the paired difference where known."""

    found: Quality
    float_network: Quality
    found_interval: Interval
    float_interval: Interval
    difference: Interval | None

    __test__ = False  # the name is the subject's, not pytest's


@dataclass(frozen=True)
class Usage:
    """One cost, or one limit on a quality: what was allowed, and what the best assignment uses.

    Attributes:
        metric, unit: unit is "" for a quality.
        bound: None where the cost is not limited.
        used: value of the best assignment.
        relative: used as a multiple of uniform 8 bits; None for a quality.
        allowed_relative: the limit, likewise.
        share: used / limit, for an upper limit on a cost.
        deviation: standard deviation of ``used``, where the cost model says how sure it is.
    """

    metric: str
    unit: str
    bound: Bound | None
    used: float
    relative: float | None
    allowed_relative: float | None
    share: float | None
    deviation: float | None = None


def percent(run: Run, metric: str | None = None) -> bool:
    """Whether a metric is a share of correct samples and best shown as per cent."""
    if metric is not None and metric != run.info.quality_name:
        return False
    known = [trial.quality for trial in run.trials if trial.quality is not None]
    sample = [quality for quality in (run.float_quality, run.tested("float"), *known[:1]) if quality is not None]
    if any(quality.outcomes is not None for quality in sample):
        return all(is_share(quality) for quality in sample if quality.outcomes is not None)
    return run.info.quality_name == "accuracy" and all(0 <= quality.metric <= 1 for quality in sample)


def mean_bits(layers: Sequence[Layer], assignment: BitAssignment, role: Quantity) -> float | None:
    """Mean bits over all weights, leaks or thresholds (by number of parameters), activations (by number of elements) or
    states (by number of neurons); None where there are none.

    An overlaid weight counts with the bits that it takes in storage, index included. Spikes are no activations here: their
    one bit is nobody's choice.
    """
    tensors = [(layer, *tensor) for layer in layers for tensor in _tensors(layer, role) if tensor[0] in assignment]
    values = [_mean_bits(layer, site, assignment) for layer, site, _ in tensors]
    return float(np.average(values, weights=[size for *_, size in tensors])) if values else None


def _mean_bits(layer: Layer, site: str, assignment: BitAssignment) -> float:
    found, bits = overlay_of(layer, assignment), assignment.mean_bits(site)
    if found is None or site != layer.weight_site:
        return bits
    return stored_bits(layer.kernels, layer.kernel_params, layer.overlay, *found, bits)


def overlay_of(layer: Layer, assignment: BitAssignment) -> tuple[int, int] | None:
    """Weights kept of each period, and the pattern, of a layer whose weight is overlaid; None where it is plain."""
    kept = assignment.highest(layer.overlay_site)
    return None if kept == ALL else (kept, assignment.highest(layer.pattern_site))


def sites_of(layer: Layer, role: Quantity) -> tuple[str, ...]:
    """Names of a layer's sites of one role: a product of two activations has two of those, and no weight."""
    return tuple(site for site, _ in _tensors(layer, role))


def _tensors(layer: Layer, role: Quantity) -> list[tuple[str, int]]:
    """Sites of one role, and how many numbers each has."""
    kept, given = (layer.weight_site, layer.params), (layer.activation_site, layer.input_elements)
    found: dict[Quantity, list[tuple[str, int]]]
    if layer.kind == "matmul":
        found = {"activation": [given, (layer.weight_site, layer.uses * layer.params)]}
    elif layer.kind == "neuron":
        found = {"leak": [kept] if layer.constants else [], "state": [(layer.activation_site, layer.neurons)]}
    elif layer.kind == "threshold":
        found = {"threshold": [kept]}
    else:
        found = {"weight": [kept], "activation": [given] if layer.events is None else []}
    return found.get(role, [])


def quantities(layers: Sequence[Layer]) -> tuple[Quantity, ...]:
    """What a network has that takes bits: weights and activations; in a spiking network what is there of all kinds."""
    if not any(layer.kind == "neuron" for layer in layers):
        return ("weight", "activation")
    return tuple(role for role in get_args(Quantity) if any(sites_of(layer, role) for layer in layers))


def uniform_bits(run: Run, assignment: BitAssignment) -> int | None:
    """The bitwidth that every searched site has, if they all agree; neurons' sites may have the nearest that they can.

    Where only those are searched, it is the greatest of their bits that all others are nearest to.
    """
    layers = run.info.layers
    if any(overlay_of(layer, assignment) is not None for layer in layers):
        return None
    beside = {name for layer in layers for name in (layer.overlay_site, layer.pattern_site)}
    searched = [name for name in run.info.variables if name in assignment and name not in beside]
    neurons = {name for layer in layers if layer.neurons for name in (layer.weight_site, layer.activation_site)}
    found = {assignment[name] for name in searched if name not in neurons}
    if len(found) > 1:
        return None
    kept = {name: assignment[name] for name in searched if name in neurons}
    candidates = [bits for bits in found or set(kept.values()) if isinstance(bits, int)]
    alike = (
        bits
        for bits in sorted(candidates, reverse=True)
        if all(own == _nearest(run.info.variables[name], bits) for name, own in kept.items())
    )
    return next(alike, None)


def _nearest(choices: Sequence[int], bits: int) -> int:
    """The nearest choice, the lower one on a tie, as :meth:`qsearch.space.SearchSpace.uniform` takes it."""
    return min(choices, key=lambda choice: abs(choice - bits))


def uniform_trials(run: Run) -> dict[int, Trial]:
    """Trials of one bitwidth everywhere whose evaluation came to its end: bits → trial."""
    found: dict[int, Trial] = {}
    for trial in run.trials:
        if trial.state == "complete" and (bits := uniform_bits(run, trial.assignment)) is not None:
            found.setdefault(bits, trial)
    return dict(sorted(found.items()))


def relative_cost(run: Run, trial: Trial, metric: str) -> float | None:
    """A cost as a multiple of uniform 8 bits; None where that costs nothing."""
    reference = run.info.reference.get(metric, 0.0)
    return trial.value(metric) / reference if reference > 0 else None


def usage(run: Run, trial: Trial) -> list[Usage]:
    """Every limit, then every cost without one."""
    rows = [_usage(run, trial, bound.metric, bound) for bound in run.info.bounds]
    limited = {bound.metric for bound in run.info.bounds}
    return rows + [_usage(run, trial, metric, None) for metric in run.info.units if metric not in limited]


def _usage(run: Run, trial: Trial, metric: str, bound: Bound | None) -> Usage:
    unit, used = run.info.units.get(metric, ""), trial.value(metric)
    reference = run.info.reference.get(metric, 0.0) if metric in run.info.units else 0.0
    upper = bound is not None and not bound.at_least and bound.limit > 0
    return Usage(
        metric=metric,
        unit=unit,
        bound=bound,
        used=used,
        relative=used / reference if reference > 0 else None,
        allowed_relative=bound.limit / reference if bound is not None and reference > 0 else None,
        share=used / bound.limit if upper and bound is not None and metric in run.info.units else None,
        deviation=None if trial.cost is None else trial.cost.deviations.get(metric),
    )


def used(run: Run, row: Usage) -> str:
    """What the best assignment uses, in words, with its standard deviation where that is known."""
    if row.metric in run.info.units:
        return wording.uncertain(row.used, row.unit, row.deviation)
    return wording.quality(row.used, percent(run, row.metric))


def tested(run: Run) -> TestResult | None:
    """The best assignment on test data; None if there is none, or it was not tested."""
    if run.best is None:
        return None
    found, reference = run.tested(str(run.best.number)), run.tested("float")
    if found is None or reference is None:
        return None
    return TestResult(
        found,
        reference,
        quality_interval(found),
        quality_interval(reference),
        paired_difference([found], [reference]),
    )


def nearest(run: Run) -> Trial | None:
    """The trial that misses the limits by least; None if nothing is known of any."""
    known = [trial for trial in run.trials if trial.state != "failed" and trial.violations]

    def miss(trial: Trial) -> tuple[bool, float, int]:
        return trial.state == "pruned", max(trial.violations.values()), trial.number  # one that came to its end, if any

    return min(known, key=miss, default=None)


def failure_reasons(run: Run) -> list[tuple[str, int]]:
    """Reasons of failed trials with how often each occurred, most frequent first."""
    return Counter(trial.reason or "no reason given" for trial in run.trials if trial.state == "failed").most_common()


def spent_evaluations(run: Run) -> float:
    """Evaluations in the ledger; of pruned ones the share that was spent."""
    return sum(trial.effort for trial in run.trials)


def samples_used(run: Run) -> tuple[int, int] | None:
    """Validation samples that evaluations took, and those of as many whole ones; None where all were whole.

    Evaluations that failed are left out: nobody knows how far they came.
    """
    known = [trial.quality.samples for trial in run.trials if trial.quality is not None]
    whole = max([*known, *([] if run.float_quality is None else [run.float_quality.samples])], default=0)
    return (sum(known), whole * len(known)) if sum(known) < whole * len(known) else None


def pruned(run: Run) -> list[Trial]:
    """Trials whose evaluation was ended early."""
    return [trial for trial in run.trials if trial.state == "pruned"]


def headline(run: Run) -> str:
    """The result in one sentence."""
    best = run.best
    if best is None:
        return _nothing_found(run)
    text = f"{_bits_phrase(run, best)}: {_quality_phrase(run, best)}"
    costs = []
    for metric in dict.fromkeys([*(bound.metric for bound in run.info.bounds), *run.info.units]):
        relative = relative_cost(run, best, metric) if metric in run.info.units else None
        if relative is not None:
            costs.append(f"{metric} {relative:.2f}")
    return f"{text}; {', '.join(costs)} of uniform-8." if costs else f"{text}."


def _bits_phrase(run: Run, trial: Trial) -> str:
    means = {role: mean_bits(run.info.layers, trial.assignment, role) for role in AVERAGED}
    parts = [f"{role}s at {value:.1f}" for role, value in means.items() if value is not None]
    return f"{wording.listed(parts)} bits on average".capitalize() if parts else "The best assignment"


def _quality_phrase(run: Run, trial: Trial) -> str:
    shown, result = percent(run, run.info.quality_name), tested(run)
    if result is not None:
        found = wording.quality_range(result.found_interval, shown)
        return (
            f"{found} {run.info.quality_name} on test data, float {wording.quality(result.float_network.metric, shown)}"
        )
    found = wording.quality(trial.value(run.info.quality_name), shown)
    reference = wording.quality(run.float_quality.metric, shown)
    return f"{found} {run.info.quality_name} on validation data, float {reference}"


def _nothing_found(run: Run) -> str:
    spent = wording.count(spent_evaluations(run), "evaluation")
    if not run.trials:
        return "Nothing has been tried yet."
    closest = nearest(run)
    if closest is None:
        return f"No usable assignment was found in {spent}: every one of them failed."
    label, value = max(closest.violations.items(), key=lambda item: item[1])
    if value <= 0:
        return f"No usable assignment was found in {spent}."
    return (
        f"No assignment within the limits was found in {spent}. "
        f"The nearest, trial {closest.number}, misses “{label}” by {100 * value:.3g} %."
    )
