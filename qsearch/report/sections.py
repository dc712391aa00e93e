"""The report of one run as a :class:`Document`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from qsearch.assignment import BitAssignment
from qsearch.config import PluginConfig
from qsearch.layers import Layer
from qsearch.report import certification, facts, finetuning_plot, neurons, plots, remeasured, wording
from qsearch.report.curves import Plane, cost_planes, main_plane, plane_front
from qsearch.report.document import Block, Code, Document, Paragraph, Plot, Section, Table, pairs, section
from qsearch.report.layer_bits import all_bits, named, role_bits
from qsearch.report.statistics import Interval
from qsearch.run import Run
from qsearch.trial import Trial

_FRONT_ROWS = 15
_REASONS = 8


def report(run: Run) -> Document:
    """Everything the report says about a run."""
    best = run.best
    found = (
        [_quality(run, best), _limits(run, best), _assignment(run, best)] if best is not None else [_nearest_miss(run)]
    )
    beside = [*finetuning_plot.sections(run), *remeasured.sections(run)]
    sections = [*found, *beside, _fronts(run), _progress(run), _spent(run), _provenance(run)]
    title = f"{run.config.name}: bits for {wording.plugin(run.info.config['workload'])}"
    return Document(title, facts.headline(run), tuple(part for part in sections if part is not None))


def _quality(run: Run, best: Trial) -> Section:
    """Test and validation quality beside the float network's."""
    name, shown = run.info.quality_name, facts.percent(run)
    header = ("data", "quantised", "float network", "difference", "samples")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    result = facts.tested(run)
    if result is not None:
        rows.append(
            (
                "test",
                wording.quality_range(result.found_interval, shown),
                wording.quality_range(result.float_interval, shown),
                "unknown" if result.difference is None else wording.difference(result.difference, shown),
                f"{result.found.samples:,}",
            )
        )
        notes.append(
            "Test data was not used by the search. In brackets: 95 % intervals; the difference is paired, "
            "sample by sample, so its interval is the one to judge by."
        )
    else:
        notes.append(
            "There is no result on test data: the search chose on the validation data, so its quality is optimistic."
        )
    if best.quality is not None:
        rows.append(_validation_row(run, best, shown))
    return section(f"How good it is: {name}", [Table(header, tuple(rows), note=" ".join(notes))])


def _validation_row(run: Run, best: Trial, shown: bool) -> tuple[str, ...]:
    reference = run.float_quality
    assert best.quality is not None
    gap = Interval(best.quality.metric - reference.metric)
    return (
        "validation",
        wording.quality(best.quality.metric, shown),
        wording.quality(reference.metric, shown),
        wording.difference(gap, shown),
        f"{best.quality.samples:,}",
    )


def _limits(run: Run, best: Trial) -> Section:
    """What each constraint allowed, what the best assignment uses, and what the data certify."""
    header = ("what", "allowed", "used", "allowed, of uniform-8", "used, of uniform-8", "share of the limit")
    rows = []
    for row in facts.usage(run, best):
        shown = facts.percent(run, row.metric)
        used = facts.used(run, row)
        rows.append(
            (
                row.metric,
                "no limit" if row.bound is None else wording.limit(row.bound, row.unit, shown),
                used,
                "–" if row.allowed_relative is None else wording.ratio(row.allowed_relative),
                "–" if row.relative is None else wording.ratio(row.relative),
                "–" if row.share is None else wording.share(row.share),
            )
        )
    written = "; ".join(f"“{bound.label}”" for bound in run.info.bounds)
    asked = f"Asked for: {written}. " if written else "No limit was asked for. "
    aside = ", but for spikes" if neurons.spiking(run.info.layers) else ""
    note = f"{asked}Costs are per forward pass; uniform-8 is the same network with 8 bits everywhere{aside}."
    if any(row.deviation is not None for row in facts.usage(run, best)):
        note += " ± is one standard deviation of the cost model's own error."
    counted = pairs(run.info.definitions, ("cost", "what is counted")) if run.info.definitions else None
    spikes = _spikes(run, best)
    return section(
        "What it costs", [Table(header, tuple(rows), note=note), counted, spikes, *certification.blocks(run)]
    )


def _spikes(run: Run, best: Trial) -> Paragraph | None:
    """How often neurons spike, which energy follows; nothing where there are none."""
    found = neurons.spikes_sentence(run, best)
    return None if found is None else Paragraph(f"Spikes that leave neurons, on validation data: {found}.")


def _assignment(run: Run, best: Trial) -> Section:
    """The best assignment as a table and as plots."""
    assignment = best.assignment
    blocks: list[Block | None] = [
        Plot("bits", "Bits of each layer", plots.bits_per_layer(run.info.layers, assignment), _bits_caption(assignment))
    ]
    if any(not isinstance(bits, int) for bits in assignment.values()):
        figure = plots.kernel_bits(run.info.layers, assignment)
        caption = "Each row is a layer; the stronger the colour, the more of the layer's kernels have that many bits."
        blocks.append(Plot("kernels", "Share of kernels at each bitwidth", figure, caption))
    blocks += [_layer_table(run, best), _other_sites(run, assignment)]
    return section(f"Which bits each layer got (trial {best.number})", blocks)


def _bits_caption(assignment: BitAssignment) -> str:
    kernel_wise = any(not isinstance(bits, int) for bits in assignment.values())
    more = " Bars are means over kernels, whiskers go from the fewest to the most bits." if kernel_wise else ""
    return f"Layers in the order of the network.{more}"


def _layer_table(run: Run, best: Trial) -> Table:
    """Layer, bits, size, and its share of each cost; in a spiking network how many spikes there are, too."""
    cost, layers = best.cost, run.info.layers
    split = [
        metric for metric in run.info.units if cost is not None and any(metric in part for part in cost.layers.values())
    ]
    whole = "" if split else " This hardware model gives costs of the whole network only."
    columns = _spiking_columns(layers, best) if neurons.spiking(layers) else _bits_columns(layers, best)
    columns |= {
        "MACs": [f"{layer.macs:,}" for layer in layers],
        "parameters": [f"{layer.stored_params:,}" for layer in layers],
        **{f"share of {metric}": [_share_of(best, layer.name, metric) for layer in layers] for metric in split},
    }
    note = f"{_layers_note(layers)} MACs are multiply-accumulates per sample.{whole}"
    text_columns = 2 if neurons.spiking(layers) else 1
    return Table(tuple(columns), tuple(zip(*columns.values(), strict=True)), text_columns=text_columns, note=note)


def _bits_columns(layers: Sequence[Layer], best: Trial) -> dict[str, list[str]]:
    return {
        "layer": [layer.name for layer in layers],
        "weight bits": [role_bits(layer, best.assignment, "weight") for layer in layers],
        "activation bits": [role_bits(layer, best.assignment, "activation") for layer in layers],
    }


def _spiking_columns(layers: Sequence[Layer], best: Trial) -> dict[str, list[str]]:
    return {
        "layer": [named(layer) for layer in layers],
        "bits": [all_bits(layer, best.assignment) for layer in layers],
        "spikes": [neurons.spikes_text(layer) for layer in layers],
    }


def _layers_note(layers: Sequence[Layer]) -> str:
    if neurons.spiking(layers):
        return (
            "Spikes are those that reach a layer, or leave its neurons, per sample in all steps, in float on calibration "
            "data; in brackets, for each input or neuron and step. Inputs that are spikes take one bit, which is not searched."
        )
    products = any(layer.kind == "matmul" for layer in layers)
    both = "; of a product of two activations, of its input × of its other operand" if products else ""
    return f"Activation bits are those of the layer's input{both}."


def _share_of(trial: Trial, layer: str, metric: str) -> str:
    assert trial.cost is not None
    total, part = trial.cost.totals.get(metric, 0.0), trial.cost.layers.get(layer, {}).get(metric)
    return "–" if part is None or total <= 0 else wording.share(part / total)


def _other_sites(run: Run, assignment: BitAssignment) -> Table | None:
    """Sites that are neither the weight nor the input of a layer, such as the state of a spiking neuron."""
    known = {
        site
        for layer in run.info.layers
        for site in (layer.weight_site, layer.activation_site, layer.overlay_site, layer.pattern_site)
    }
    rows = tuple((site, wording.bits(bits)) for site, bits in assignment.items() if site not in known)
    return Table(("other tensor", "bits"), rows) if rows else None


def _nearest_miss(run: Run) -> Section:
    """How close the search came, where nothing was usable."""
    closest = facts.nearest(run)
    if closest is None:
        return section("Nothing usable was found", [_reasons(run) or Paragraph("No trial has been recorded.")])
    rows = []
    for bound in run.info.bounds:
        if bound.label in closest.violations:
            unit, shown = run.info.units.get(bound.metric, ""), facts.percent(run, bound.metric)
            value, miss = closest.value(bound.metric), closest.violations[bound.label]
            used = wording.amount(value, unit) if unit else wording.quality(value, shown)
            verdict = "met" if miss <= 0 else f"missed by {100 * miss:.3g} %"
            rows.append((bound.label, wording.limit(bound, unit, shown), used, verdict))
    note = "Raise the limit, allow fewer bits, or spend more evaluations. Trials over a cost limit are not evaluated."
    table = Table(("limit", "allowed", "used", "verdict"), tuple(rows), note=note)
    figure = plots.bits_per_layer(run.info.layers, closest.assignment)
    plot = Plot(
        "bits", "Bits of each layer, nearest miss", figure, f"Bits of trial {closest.number}, the nearest miss."
    )
    return section(f"Nothing usable was found; the nearest is trial {closest.number}", [table, plot])


def _fronts(run: Run) -> Section | None:
    """Quality against each cost, and the choices on the front."""
    if not any(trial.quality is not None for trial in run.trials):
        return None
    blocks: list[Block | None] = [_front_plot(run, plane) for plane in cost_planes(run)]
    blocks += [_objective_plot(run), _front_table(run)]
    return section("What more or less hardware would buy", blocks)


def _front_plot(run: Run, plane: Plane) -> Plot:
    quality, cost = plane.objectives
    where = "Up" if quality.sign < 0 else "Down"
    caption = (
        f"{where} and to the left is better. Each point is one assignment; the line joins those within the limits that "
        f"no other beats in both {quality.metric} and {cost.metric}."
    )
    title = f"{plane.label}: trials and their front"
    return Plot(f"front-{file_part(cost.metric)}", title, plots.pareto(run, cost.metric), caption)


def file_part(metric: str) -> str:
    """A metric as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in metric)


def _objective_plot(run: Run) -> Plot | None:
    """The first two objectives, if both are costs: quality against cost does not show their front."""
    objectives = run.objectives[:2]
    if len(objectives) < 2 or any(objective.metric not in run.info.units for objective in objectives):
        return None
    plane = Plane(objectives)
    return Plot("front-objectives", f"{plane.label}: trials and their front", plots.objective_plane(run, plane))


def _front_table(run: Run) -> Table | None:
    """The assignments that no other beats in all objectives, or in quality and the first cost."""
    plane = main_plane(run)
    front = run.front if len(run.objectives) > 1 else plane_front(run.trials, plane) if plane is not None else []
    if plane is None or not front:
        return None
    shown = front[:: max(1, -(-len(front) // _FRONT_ROWS))]
    metrics = [objective.metric for objective in plane.objectives]
    rows = []
    roles = [role for role in facts.AVERAGED if role in facts.quantities(run.info.layers)]
    for trial in shown:
        means = (facts.mean_bits(run.info.layers, trial.assignment, role) for role in roles)
        rows.append(
            (
                str(trial.number),
                *(metric_text(run, trial, metric) for metric in metrics),
                *("–" if mean is None else f"{mean:.2f}" for mean in means),
            )
        )
    more = f" {len(front)} in all, every {-(-len(front) // _FRONT_ROWS)}th shown." if len(shown) < len(front) else ""
    note = f"Assignments within the limits that no other beats in all of {', '.join(metrics)}.{more}"
    return Table(("trial", *metrics, *(f"mean {role} bits" for role in roles)), tuple(rows), note=note)


def metric_text(run: Run, trial: Trial, metric: str) -> str:
    """A metric of a trial with its unit."""
    value = trial.value(metric)
    if metric in run.info.units:
        return wording.amount(value, run.info.units[metric])
    return wording.quality(value, facts.percent(run, metric), digits=2)


def _progress(run: Run) -> Section | None:
    """The best so far against evaluations."""
    if not any(trial.quality is not None for trial in run.trials):
        return None
    first = run.objectives[0]
    caption = f"After how many evaluations which {first.metric} was reached, on validation data, within the limits."
    return section("How the search went", [Plot("progress", "Best so far", plots.progress(run), caption)])


def _spent(run: Run) -> Section:
    """Evaluations, time, failures."""
    info = run.info
    budget = run.config.budget
    allowed = [f"{budget.evaluations:,} evaluations"] if budget.evaluations is not None else []
    allowed += [f"{budget.minutes:g} minutes"] if budget.minutes is not None else []
    infeasible = sum(trial.state == "infeasible" for trial in run.trials)
    failed = sum(trial.state == "failed" for trial in run.trials)
    rows = {
        "evaluations": f"{wording.number(facts.spent_evaluations(run))} (budget: {' or '.join(allowed)})",
        **_pruned_row(run),
        **_samples_row(run),
        "proposals over a limit": f"{infeasible:,}, refused by their cost alone at no evaluation",
        "failed evaluations": f"{failed:,}",
        "time": wording.times(info.seconds or sum(trial.seconds for trial in run.trials)),
        "sensitivity": f"{info.sensitivity_samples:,} calibration samples in {wording.times(info.sensitivity_seconds)}"
        if info.sensitivity_samples
        else "not used",
        **_training_row(run),
    }
    running = Paragraph("This run has not ended; its numbers may still change.", strong=True)
    return section("What was spent", [running if info.status == "running" else None, pairs(rows), _reasons(run)])


def _training_row(run: Run) -> dict[str, str]:
    """What the searcher trained itself, as those do that learn bits by gradient; nothing where it did not."""
    info = run.info
    if not info.training_samples:
        return {}
    took = wording.times(info.training_seconds)
    return {"training": f"{info.training_samples:,} training samples, forwards and backwards, in {took}"}


def _samples_row(run: Run) -> dict[str, str]:
    """What deciding evaluations by their first samples has saved; nothing where all were whole."""
    found = facts.samples_used(run)
    if found is None:
        return {}
    used, whole = found
    return {
        "validation samples": f"{used:,} of {whole:,} ({wording.share(used / whole)}); the rest could decide nothing"
    }


def _pruned_row(run: Run) -> dict[str, str]:
    """How many evaluations were ended early, and what they took; nothing in a run that prunes none."""
    if run.config.pruner == PluginConfig(name="none"):
        return {}
    ended = facts.pruned(run)
    spent = wording.number(sum(trial.effort for trial in ended))
    if facts.samples_used(run) is not None:
        return {"pruned evaluations": f"{len(ended):,}, decided by their first samples; each counts as a whole one"}
    return {"pruned evaluations": f"{len(ended):,}, ended early as hopeless; {spent} spent on them"}


def _reasons(run: Run) -> Table | None:
    found = facts.failure_reasons(run)
    if not found:
        return None
    rows = tuple((reason, f"{times:,}") for reason, times in found[:_REASONS])
    more = f"{len(found) - _REASONS} more reasons are in the ledger." if len(found) > _REASONS else ""
    return Table(("reason of failure", "times"), rows, note=more)


def _provenance(run: Run) -> Section:
    """What is needed to do it again."""
    where = run.info.provenance
    versions = where.get("versions", {})
    rows = {
        **problem_rows(run),
        "searcher": wording.plugin(run.info.config["searcher"]),
        "pruner": wording.plugin(run.config.pruner.model_dump(mode="json")),
        "seed": str(run.config.seed),
        "started": str(where.get("started", "unknown")),
        "machine": str(where.get("machine", "unknown")),
        "git commit": str(where.get("git") or "none"),
        "versions": ", ".join(
            [f"Python {where.get('python', '?')}", *(f"{name} {text}" for name, text in versions.items())]
        ),
    }
    return section("Where this comes from", [pairs(rows), Code("campaign.yaml", yaml_text(run.info.config))])


def problem_rows(run: Run) -> dict[str, str]:
    """What was asked: network, hardware, evaluator, space, objectives, limits."""
    config, info = run.info.config, run.info
    objectives = ", ".join(f"{objective.direction} {objective.metric}" for objective in run.objectives)
    exponent = info.space_log10
    size = f"{10**exponent:,.0f}" if exponent < 6 else f"10^{exponent:.1f}"
    choices = sorted({bits for allowed in info.variables.values() for bits in allowed})
    return {
        "network": wording.plugin(config["workload"]),
        "hardware": wording.plugin(config["hardware"]),
        "evaluator": wording.plugin(config["evaluator"]),
        "objective": objectives,
        "limits": "; ".join(bound.label for bound in info.bounds) or "none",
        "search space": f"{size} assignments: {wording.count(len(info.variables), 'choice')} "
        f"among {', '.join(map(str, choices))} bits",
    }


def yaml_text(value: Mapping[str, Any]) -> str:
    """Settings as YAML, those that are not set left out."""
    yaml, stream = YAML(), io.StringIO()
    yaml.default_flow_style = None
    yaml.dump(_given(value), stream)
    return stream.getvalue()


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list | tuple) else value
