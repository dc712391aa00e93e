"""A run, or a comparison, as tables in the terminal: within 100 columns. Loads neither plots nor templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.assignment import FLOAT_BITS, BitAssignment, Bits
from qsearch.layers import Layer, LayerKind
from qsearch.report import certification, facts, finetuned, neurons, wording
from qsearch.report.comparison import ComparisonRow
from qsearch.report.facts import Quantity
from qsearch.report.phrases import cost_metrics, cost_text, lines, objective_text, runs_text
from qsearch.run import Run

_COMPUTING: tuple[LayerKind, ...] = ("conv", "linear", "embedding", "matmul")
_ROWS: Mapping[Quantity, tuple[LayerKind, ...]] = {
    "leak": ("neuron",),
    "state": ("neuron",),
    "threshold": ("threshold",),
}
"""Layers that a row of bits is of, by what the bits are of; of :data:`_COMPUTING` otherwise."""


def run_table(run: Run) -> Table:
    """What a run found and spent: a fact per row."""
    table = Table(
        box=None, show_header=False, title=Text(run.config.name, style="bold"), title_justify="left", pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(run).items():
        table.add_row(Text(name), value)
    return table


def comparison_table(rows: Sequence[ComparisonRow]) -> Table:
    """One row per searcher."""
    metrics = cost_metrics(rows[0]) if rows else ()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.caption = "calib.: calibration samples spent on sensitivities, besides the evaluations"
    table.caption_justify = "left"
    table.add_column("searcher", overflow="fold", min_width=8)
    metric = rows[0].metric if rows else "objective"
    for name in ("runs", f"best {metric}", "test", "test − float", *metrics, "evals", "calib.", "time"):
        table.add_column(Text(name), justify="right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in _cells(row, metrics)))
    return table


def _cells(row: ComparisonRow, metrics: Sequence[str]) -> list[str]:
    return [
        row.searcher,
        runs_text(row),
        lines(objective_text(row)),
        "–" if row.test is None else wording.quality(row.test.mean, row.test_percent, 2),
        "–" if row.test_difference is None else lines(wording.difference(row.test_difference, row.test_percent)),
        *(lines(cost_text(row, metric)) for metric in metrics),
        wording.number(row.evaluations),
        f"{row.sensitivity_samples:,.0f}",
        wording.times(row.seconds),
    ]


def _facts(run: Run) -> dict[str, Text]:
    best, result, shown = run.best, facts.tested(run), facts.percent(run)
    found = {"result": Text(facts.headline(run), style="bold" if best is not None else "bold red")}
    if result is not None and result.difference is not None:
        found["against float"] = Text(f"{wording.difference(result.difference, shown)}, paired, 95 % interval")
    if best is not None:
        found["limits"] = Text("\n".join(_limit_lines(run)) or "none")
        if certified := certification.sentences(run):
            found["certified"] = Text("\n".join(certified))
        for role in facts.quantities(run.info.layers):
            found[f"{role} bits"] = Text(bits_line(run, best.assignment, role))
        if (spikes := neurons.spikes_sentence(run, best)) is not None:
            found["spikes"] = Text(spikes)
    if tuned := finetuned.lines(run):
        found["fine-tuned"] = Text("\n".join(tuned))
    failed = sum(trial.state == "failed" for trial in run.trials)
    ended = f" ({wording.number(len(facts.pruned(run)))} pruned)" if facts.pruned(run) else ""
    failures = f", {wording.count(failed, 'failure')}" if failed else ""
    spent = wording.count(facts.spent_evaluations(run), "evaluation")
    if (samples := facts.samples_used(run)) is not None:
        ended += f" on {wording.share(samples[0] / samples[1])} of their samples"
    found["spent"] = Text(f"{spent}{ended}{failures}, {wording.times(run.info.seconds)}")
    if run.info.status == "running":
        found["status"] = Text("has not ended", style="yellow")
    return found


def _limit_lines(run: Run) -> list[str]:
    assert run.best is not None
    lines = []
    for row in facts.usage(run, run.best):
        if row.bound is None:
            continue
        shown = facts.percent(run, row.metric)
        used = facts.used(run, row)
        share = "" if row.share is None else f" ({wording.share(row.share)} used)"
        lines.append(f"{row.bound.label}: {used} {wording.limit(row.bound, row.unit, shown)}{share}")
    return lines


def bits_line(run: Run, assignment: BitAssignment, role: Quantity) -> str:
    """Bits of all layers in a row, in the order of the network; means with one decimal where kernels differ.

    A product of two activations has those of both operands, ``8×4``, and none of a weight. An overlaid weight is ternary,
    ``t``, with 2 of 32 weights at 8 bits: ``t+8·2/32``. An input that is spikes is ``s``. States, leaks and thresholds
    are in a row of neurons, without other layers.
    """
    layers = [layer for layer in run.info.layers if layer.kind in _ROWS.get(role, _COMPUTING)]
    cells = ["×".join(_cell(assignment.get(site)) for site in facts.sites_of(layer, role)) for layer in layers]
    if role == "weight":
        cells = [_overlaid(layer, assignment, cell) for layer, cell in zip(layers, cells, strict=True)]
    if role == "activation":
        cells = ["s" if layer.reads_spikes else cell for layer, cell in zip(layers, cells, strict=True)]
    return " ".join(cell or "–" for cell in cells)


def _overlaid(layer: Layer, assignment: BitAssignment, cell: str) -> str:
    """A weight's cell, with its overlay if it has one."""
    found = facts.overlay_of(layer, assignment)
    if found is None:
        return cell
    return f"t+{cell}·{found[0]}/{layer.overlay}" if found[0] else "t"


def _cell(bits: Bits | None) -> str:
    if bits is None:
        return "–"
    if isinstance(bits, int):
        return "f" if bits == FLOAT_BITS else str(bits)
    return f"{sum(bits) / len(bits):.1f}"
