"""How good a fitted surrogate is, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.arguments import plain_name
from qsearch.report import wording
from qsearch.surrogates.judging import LEVEL, Judgement

if TYPE_CHECKING:
    from qsearch.hardware_tools.fit import FitResult
    from qsearch.hardware_tools.fit_totals import NetworkTotal


def fit_table(result: FitResult) -> Table:
    """A row for each metric; fits 80 columns."""
    request, learned = result.request, result.learned
    failed = f", {len(learned.failed)} gave no cost" if learned.failed else ""
    samples = wording.count(len(learned.rows), "sample")
    table = Table(
        title=f"surrogate of {request.target}: {samples} from {result.points} points{failed}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    table.add_column("metric")
    if result.judgements:
        for column in ("median error", "9 in 10 below", "intervals hold"):
            table.add_column(column, justify="right")
    if request.source is not None:
        table.add_column("source")
    for metric, model in result.fitted.models.items():
        cells = _cells(result.judgements[metric], result.judged) if metric in result.judgements else []
        used = [] if request.source is None else ["used" if model.source is not None else "of no use"]
        table.add_row(Text(f"{metric} [{result.fitted.units[metric]}]"), *cells, *used)
    return table


def _cells(found: Judgement, points: int) -> list[str]:
    low, high = (f"{100 * end:.1f}" for end in found.interval)
    return [
        f"{100 * found.median:.1f} % ({low} to {high})",
        f"{100 * found.ninetieth:.1f} %",
        f"{found.coverage * points:.0f} of {points}",
    ]


def fit_lines(result: FitResult) -> list[str]:
    """What stands below the table: what its numbers are, whether the error was reached, and how to use the surrogate."""
    level = f"{100 * LEVEL:.0f} %"
    lines = []
    if result.judgements:
        lines += [
            f"errors     relative, on {wording.count(result.judged, 'point')} held out; the median with its {level} interval",
            f"intervals  {level} ones that the surrogate gives, and how many held the measurement",
        ]
    else:
        lines.append("errors     unknown: no points were held out")
    peaks = sorted(result.fitted.maxima)
    wanted = result.request.error
    if wanted is not None:
        error = max(found.median for found in result.judgements.values())
        reached = "reached" if error <= wanted else f"not reached, the samples are spent at {100 * error:.1f} %"
        lines.append(f"asked for  {100 * wanted:g} %: {reached}")
        if error <= wanted:
            lines.append("           the points that stopped it are those it is judged by: somewhat flattering")
    return [
        *_pool_lines(result),
        *lines,
        *(line for network in result.networks for line in _network_lines(network, result.fitted.units)),
        *(f"left out   of {metric}: what branches keep alive, which a surrogate does not see" for metric in peaks),
        f"saved      {result.path}",
        "to use it in a campaign's file:",
        f"hardware: {{name: surrogate, options: {{path: {result.path}}}}}",
    ]


def _pool_lines(result: FitResult) -> list[str]:
    """That the pool was too small for what was asked; nothing where it was not."""
    request = result.request
    if result.asked == (request.samples, request.held_out):
        return []
    held, learned = request.held_out, request.samples
    return [
        f"pool       {result.points} points only: {held} held out, {learned} learned from,"
        f" not {result.asked[1]} and {result.asked[0]}"
    ]


def _network_lines(network: NetworkTotal, units: Mapping[str, str]) -> list[str]:
    """A network's totals with their intervals, or why there are none."""
    head = f"network    {plain_name(network.workload)} at {network.bits} bits"
    if network.refusal:
        return [f"{head}: no cost, as {network.refusal}"]
    level = f"{100 * LEVEL:.0f} %"
    return [f"{head}, with {level} intervals:"] + [
        f"           {metric} {wording.amount(total, units[metric])} ({wording.amount(low, units[metric])} to {wording.amount(high, units[metric])})"
        for metric, total in network.totals.items()
        for low, high in [network.intervals[metric]]
    ]


def fit_json(result: FitResult) -> dict[str, Any]:
    """The same numbers, for scripts."""
    return {
        "target": result.request.target,
        "surrogate": str(result.path),
        "hardware": {"name": "surrogate", "options": {"path": str(result.path)}},
        "points": result.points,
        "samples": len(result.learned.rows),
        "failed": len(result.learned.failed),
        "held_out": result.judged,
        "networks": [asdict(network) for network in result.networks],
        "metrics": {
            metric: {
                "unit": result.fitted.units[metric],
                "transferred": model.source is not None,
                "widening": dict(model.widenings),
                **(asdict(result.judgements[metric]) if metric in result.judgements else {}),
            }
            for metric, model in result.fitted.models.items()
        },
    }
