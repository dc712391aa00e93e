"""Cells of a comparison in words; the page and the terminal share them."""

from __future__ import annotations

from qsearch.report import wording
from qsearch.report.comparison import ComparisonRow
from qsearch.report.statistics import Interval


def objective_text(row: ComparisonRow, interval: bool = True) -> str:
    """Mean of the first objective, with its interval over seeds if wanted."""
    if row.objective is None:
        return "nothing found"
    shown = row.objective if interval else Interval(row.objective.mean)
    if row.metric in row.units:
        unit = row.units[row.metric]
        text = wording.amount(shown.mean, unit)
        if shown.low is None or shown.high is None:
            return text
        return f"{text} [{wording.amount(max(0.0, shown.low), unit)}, {wording.amount(shown.high, unit)}]"
    return wording.quality_range(shown, row.percent, 2)


def cost_metrics(row: ComparisonRow) -> tuple[str, ...]:
    """Costs worth a column: those with a limit, or all if none has one."""
    return row.limited or tuple(row.units)


def cost_text(row: ComparisonRow, metric: str) -> str:
    """A cost of the best assignment, relative to uniform 8 bits, and its share of the limit."""
    if metric not in row.costs:
        return "–"
    relative = row.relative_costs.get(metric)
    text = wording.amount(row.costs[metric], row.units[metric]) if relative is None else f"{wording.ratio(relative)}×"
    share = row.limit_shares.get(metric)
    return text if share is None else f"{text} ({wording.share(share)})"


def hypervolume_text(row: ComparisonRow) -> str:
    """Mean hypervolume with its interval over seeds, within 0..1."""
    found = row.hypervolume
    if found is None:
        return "–"
    if found.low is None or found.high is None:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} [{max(0.0, found.low):.3f}, {min(1.0, found.high):.3f}]"


def runs_text(row: ComparisonRow) -> str:
    """Number of runs; how many of them found anything, where some did not."""
    return str(row.runs) if row.feasible_runs == row.runs else f"{row.feasible_runs} of {row.runs}"


def lines(cell: str) -> str:
    """A cell in two lines: what stands in brackets, an interval or a share, goes to the second."""
    return cell.replace(" [", "\n[", 1).replace(" (", "\n(", 1)
