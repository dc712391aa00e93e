"""How good a fitted surrogate is, as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from qsearch.hardware_tools.fit import FitResult


def fit_table(result: FitResult) -> Table:
    """A row for each metric."""
    request, learned = result.request, result.learned
    failed = f", {len(learned.failed)} gave no cost" if learned.failed else ""
    table = Table(
        title=f"surrogate of {request.target}: {len(learned.rows)} of {result.points} points measured{failed}",
        title_justify="left",
    )
    for column in (
        "metric",
        "samples",
        "median error",
        "90 % interval",
        "90th percentile",
        "coverage of 90 %",
        "source",
    ):
        table.add_column(column, justify="left" if column in ("metric", "source") else "right")
    for metric, model in result.fitted.models.items():
        found = result.judgements.get(metric)
        judged = ["not judged", "", "", ""]
        if found is not None:
            low, high = found.interval
            judged = [
                f"{100 * found.median:.1f} %",
                f"{100 * low:.1f}–{100 * high:.1f} %",
                f"{100 * found.ninetieth:.1f} %",
                f"{100 * found.coverage:.0f} %",
            ]
        used = "" if request.source is None else ("used" if model.source is not None else "not used")
        unit = result.fitted.units[metric]
        table.add_row(f"{metric} [{unit}]".replace("[", "\\["), str(len(learned.rows)), *judged, used)
    return table


def fit_json(result: FitResult) -> dict[str, Any]:
    """The same numbers, for scripts."""
    return {
        "target": result.request.target,
        "surrogate": str(result.path),
        "hardware": {"name": "surrogate", "options": {"path": str(result.path)}},
        "points": result.points,
        "samples": len(result.learned.rows),
        "failed": len(result.learned.failed),
        "metrics": {
            metric: {
                "unit": result.fitted.units[metric],
                "transferred": model.source is not None,
                **(asdict(result.judgements[metric]) if metric in result.judgements else {}),
            }
            for metric, model in result.fitted.models.items()
        },
    }
