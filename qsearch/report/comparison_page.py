"""The comparison of several runs as a :class:`Document`."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.report import comparison_plots, facts, wording
from qsearch.report.comparison import ComparisonRow, Group, comparison_rows, grouped
from qsearch.report.curves import Box, Plane, common_box, cost_planes, main_plane
from qsearch.report.document import Block, Document, Paragraph, Plot, Section, Table, pairs, section
from qsearch.report.phrases import cost_metrics, cost_text, hypervolume_text, lines, objective_text, runs_text
from qsearch.report.sections import file_part, metric_text, problem_rows
from qsearch.run import Run

_ENOUGH_SEEDS = 5


def comparison(runs: Sequence[Run]) -> Document:
    """Everything the comparison says.

    Raises:
        ConfigError: as :func:`qsearch.report.comparison.comparison_rows`.
    """
    rows, groups = comparison_rows(runs), grouped(runs)
    first = runs[0]
    hardware, network = (wording.plugin(first.info.config[key]) for key in ("hardware", "workload"))
    sections = [
        _table(rows, groups),
        _progress(groups, runs),
        _fronts(groups),
        _found(groups),
        _runs(groups),
        _problem(runs),
    ]
    return Document(
        f"{wording.count(len(groups), 'searcher')} on {network} and {hardware}",
        _lead(rows),
        tuple(part for part in sections if part is not None),
    )


def _lead(rows: Sequence[ComparisonRow]) -> str:
    """Who found the best, in a sentence."""
    found = [row for row in rows if row.objective is not None]
    runs = wording.count(sum(row.runs for row in rows), "run")
    if not found:
        return f"None of {runs} found an assignment within the limits."
    sign = -1.0 if found[0].direction == "maximize" else 1.0
    ordered = sorted(found, key=lambda row: sign * row.objective.mean if row.objective is not None else 0.0)
    best = ordered[0]
    assert best.objective is not None
    equal = [row for row in ordered if row.objective is not None and row.objective.mean == best.objective.mean]
    names = " and ".join(row.searcher for row in equal)
    text = f"Best {best.metric} within the limits on validation data: {objective_text(best, interval=False)}, found by {names}"
    if best.test is not None and len(equal) == 1:
        text += f" ({wording.quality(best.test.mean, best.test_percent, 2)} on test data)"
    return f"{text}. {wording.count(len(rows), 'searcher')}, {runs}."


def _table(rows: Sequence[ComparisonRow], groups: Sequence[Group]) -> Section:
    """One row per searcher."""
    first = rows[0]
    costs = cost_metrics(first)
    header = (
        "searcher",
        "runs",
        f"best {first.metric}, validation",
        "test",
        "test − float",
        *costs,
        "hypervolume",
        "evaluations",
        "time",
        "calibration samples",
    )
    cells = tuple(_cells(row, costs) for row in rows)
    return section("Result", [Table(header, cells, note=_table_note(first)), *_warnings(rows, groups)])


def _cells(row: ComparisonRow, costs: Sequence[str]) -> tuple[str, ...]:
    return (
        row.searcher,
        runs_text(row),
        lines(objective_text(row)),
        "–" if row.test is None else wording.quality(row.test.mean, row.test_percent, 2),
        "–" if row.test_difference is None else lines(wording.difference(row.test_difference, row.test_percent)),
        *(lines(cost_text(row, metric)) for metric in costs),
        lines(hypervolume_text(row)),
        wording.number(row.evaluations),
        wording.times(row.seconds),
        f"{row.sensitivity_samples:,.0f}",
    )


def _table_note(row: ComparisonRow) -> str:
    limits = " and, in brackets, as the largest share of the limit used by any run" if row.limited else ""
    return (
        "Means over runs. Brackets after a mean: 95 % interval over seeds (Student's t); one run has none. "
        "Test − float: paired difference to the float network, 95 % interval over test samples. "
        f"Costs are of the best assignment, as multiples of uniform 8 bits{limits}. "
        "Calibration samples are what sensitivities looked at beside the evaluations."
    )


def _warnings(rows: Sequence[ComparisonRow], groups: Sequence[Group]) -> list[Block]:
    """What the numbers cannot show."""
    notes: list[str] = []
    budgets = {
        (config.evaluations, config.minutes) for group in groups for run in group.runs for config in [run.config.budget]
    }
    if len(budgets) > 1:
        shown = ", ".join(sorted(_budget(*budget) for budget in budgets))
        notes.append(
            f"The runs had different budgets ({shown}): compare the curves at equal evaluations, not the table."
        )
    if any(row.pruned for row in rows):
        notes.append(
            "Pruned evaluations were ended early; each counts as the share of an evaluation that was spent on it, "
            "or as a whole one where its first samples decided it."
        )
    if any(run.info.status == "running" for group in groups for run in group.runs):
        notes.append("Some runs have not ended; their numbers may still change.")
    few = [row.searcher for row in rows if 1 < row.runs < _ENOUGH_SEEDS]
    if few:
        notes.append(
            f"Fewer than {_ENOUGH_SEEDS} seeds for {', '.join(few)}: the intervals are wide, small differences may be luck."
        )
    if all(row.name != "uniform" for row in rows):
        notes.append("No uniform run is among these: with one, it would show what the search itself gains.")
    evaluator = wording.plugin(groups[0].runs[0].info.config["evaluator"])
    notes.append(
        f"Every searcher was judged by the same evaluator, {evaluator}: what differs is the choice of bits alone."
    )
    return [Paragraph(note) for note in notes]


def _budget(evaluations: int | None, minutes: float | None) -> str:
    parts = [f"{evaluations} evaluations"] if evaluations is not None else []
    return " or ".join([*parts, *([f"{minutes:g} minutes"] if minutes is not None else [])])


def _progress(groups: Sequence[Group], runs: Sequence[Run]) -> Section:
    """Best feasible objective and hypervolume against evaluations."""
    metric = runs[0].objectives[0].metric
    band = "Means over seeds; the bands are 95 % intervals. A dot ends a search that had nothing left to try."
    blocks: list[Block | None] = [
        Plot(
            "best",
            f"Best {metric} against evaluations",
            comparison_plots.progress(groups),
            f"The best {metric} within the limits, on validation data. {band}",
        )
    ]
    plane = main_plane(runs[0])
    box = common_box(runs, plane) if plane is not None else None
    if plane is not None and box is not None:
        caption = (
            f"Hypervolume: how much of {plane.label} a front dominates, as a share of the box from {_corner(runs[0], plane, box)} "
            "to the best of each that any run found. It rewards whole fronts: a search that aims at one point finds few of them."
        )
        figure = comparison_plots.volume(groups, plane, box)
        blocks.append(Plot("hypervolume", "Hypervolume against evaluations", figure, caption))
    return section("Progress", blocks)


def _corner(run: Run, plane: Plane, box: Box) -> str:
    """The reference point in words."""
    parts = []
    for objective, value in zip(plane.objectives, box.reference, strict=True):
        own = objective.sign * float(value)
        unit = run.info.units.get(objective.metric)
        text = wording.quality(own, facts.percent(run, objective.metric)) if unit is None else wording.amount(own, unit)
        parts.append(f"{objective.metric} {text}")
    return ", ".join(parts)


def _fronts(groups: Sequence[Group]) -> Section | None:
    """Fronts of all searchers, per cost."""
    if not any(trial.feasible for group in groups for one in group.runs for trial in one.trials):
        return None
    blocks: list[Block | None] = []
    for plane in cost_planes(*(one for group in groups for one in group.runs)):
        metric = plane.objectives[1].metric
        caption = (
            "Assignments within the limits that no other of the same searcher beats in both; its runs taken together."
        )
        figure = comparison_plots.fronts(groups, metric)
        blocks.append(Plot(f"front-{file_part(metric)}", f"Fronts of {plane.label}", figure, caption))
    return section("Fronts", blocks)


def _found(groups: Sequence[Group]) -> Section | None:
    """The assignments that were found."""
    if all(group.best_run is None for group in groups):
        return None
    caption = "Bits of each layer in the best run of each searcher. Layers in the order of the network."
    plot = Plot("assignments", "Bits of each layer, by searcher", comparison_plots.assignments(groups), caption)
    return section("Which bits were chosen", [plot])


def _runs(groups: Sequence[Group]) -> Section:
    """One row per run."""
    rows = []
    for group in groups:
        for run in group.runs:
            best, result = run.best, facts.tested(run)
            shown = facts.percent(run)
            metric = run.objectives[0].metric
            value = "nothing found" if best is None else metric_text(run, best, metric)
            rows.append(
                (
                    run.config.name,
                    group.label,
                    str(run.config.seed),
                    value,
                    "–" if result is None else wording.quality_range(result.found_interval, shown),
                    wording.number(facts.spent_evaluations(run)),
                    f"{len(facts.pruned(run)):,}",
                    f"{sum(trial.state == 'failed' for trial in run.trials):,}",
                    wording.times(run.info.seconds),
                )
            )
    header = (
        "run",
        "searcher",
        "seed",
        f"best {groups[0].runs[0].objectives[0].metric}",
        "test",
        "evaluations",
        "pruned",
        "failed",
        "time",
    )
    return section("Every run", [Table(header, tuple(rows), text_columns=2)])


def _problem(runs: Sequence[Run]) -> Section:
    """What all were asked, and the versions that ran."""
    first = runs[0]
    where = first.info.provenance
    machines = sorted({str(run.info.provenance.get("machine", "unknown")) for run in runs})
    commits = sorted({str(run.info.provenance.get("git") or "none") for run in runs})
    versions = ", ".join(f"{name} {text}" for name, text in where.get("versions", {}).items())
    rows = {
        **problem_rows(first),
        "machines": "; ".join(machines),
        "git commits": "; ".join(commits),
        "versions": versions,
    }
    return section("What was asked of all", [pairs(rows)])
