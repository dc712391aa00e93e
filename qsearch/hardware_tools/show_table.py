"""Costs at uniform bits as tables in the terminal, within 80 columns, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qsearch.arguments import plain_name
from qsearch.hardware.constants import Constant
from qsearch.hardware_tools.show_costs import Axis, UniformCosts
from qsearch.report import wording

_COLUMNS = 8
"""Numbers beside each other in a terminal of 80 columns."""


def rows(axis: Axis) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: layers, total, and totals relative to the reference bits.

    Columns are the bits of each model, and its layers' shares in the total where one model is shown. Where there are
    several, a header has two lines: the model, its bits.
    """
    alone = len(axis.models) == 1
    factor, _ = unit_of(axis)
    header, body = ["layer"], [[name] for name in axis.models[0].layers if axis.models[0].by_layer(axis.metric).size]
    total, relative = [total_name(axis)], [f"÷ {axis.models[0].reference} bits"]
    for costs in axis.models:
        found = costs.by_layer(axis.metric)
        name = "" if alone else f"{plain_name(costs.model)}\n"
        header += [f"{name}{bits} bits" for bits in costs.bits]
        for row, values in zip(
            body, found if found.size else np.full((len(body), len(costs.bits)), np.nan), strict=True
        ):
            row += ["–" if np.isnan(value) else wording.significant(value / factor) for value in values]
        total += [
            _sure(value / factor, None if deviation is None else deviation / factor)
            for value, deviation in zip(costs.totals(axis.metric), costs.deviations(axis.metric), strict=True)
        ]
        relative += ["–" if np.isnan(value) else wording.ratio(value) for value in costs.relative(axis.metric)]
    if alone and body:
        header.append("share")
        for row, share in zip(body, axis.models[0].shares(axis.metric), strict=True):
            row.append("–" if np.isnan(share) else wording.share(share))
        total, relative = [*total, ""], [*relative, ""]
    return header, [*body, total, relative]


def parts(axis: Axis) -> list[Axis]:
    """The same in pieces that are narrow enough for a table in the terminal: models whole, in their order."""
    most = max(1, _COLUMNS // len(axis.models[0].bits))
    starts = range(0, len(axis.models), most)
    return [replace(axis, models=axis.models[start : start + most]) for start in starts]


def table(axis: Axis) -> Table:
    """One metric in the terminal."""
    header, body = rows(axis)
    found = Table(
        title=Text(title(axis), style="bold"),
        title_justify="left",
        min_width=min(len(title(axis)), 80),  # a title is folded at the table's edge
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    found.add_column(header[0], overflow="fold", min_width=8)
    said: list[str] = []
    for name in header[1:]:
        model, line, bits = name.rpartition("\n")
        shown = (
            f"{line}{bits.removesuffix(' bits')}" if model in said else name
        )  # the rest of a line goes without saying
        found.add_column(Text(shown), justify="right", no_wrap=True)
        said.append(model)
    for place, row in enumerate(body):
        found.add_row(*(Text(cell) for cell in row), end_section=place == len(body) - 3)
    return found


def title(axis: Axis) -> str:
    """``latency in ms: bismo``."""
    return f"{axis.metric} in {unit_of(axis)[1] or '1'}: {', '.join(plain_name(costs.model) for costs in axis.models)}"


def notes(axis: Axis) -> list[str]:
    """What stands below a table."""
    share = f"share: of the {total_name(axis)} at {axis.models[0].reference} bits" if len(axis.models) == 1 else ""
    counted = f"{axis.metric}: {axis.definition}" if axis.definition else ""
    return [text for text in (share, counted, axis.note) if text]


def unit_of(axis: Axis) -> tuple[float, str]:
    """Factor and unit that bring the greatest total at the reference bits within 1..1000."""
    greatest = max(float(costs.totals(axis.metric)[costs.bits.index(costs.reference)]) for costs in axis.models)
    return wording.prefix(greatest, axis.unit)


def total_name(axis: Axis) -> str:
    """``total``, or ``greatest`` of a metric that does not add up."""
    return "greatest" if axis.metric in axis.models[0].maxima else "total"


def _sure(value: float, deviation: float | None) -> str:
    return wording.significant(value) if deviation is None else f"{wording.significant(value)} ± {deviation:.2g}"


def constants_table(name: str, constants: Mapping[str, Constant]) -> Table:
    """Every number of hardware that a model uses."""
    found = Table(title=Text(f"Numbers of {plain_name(name)}", style="bold"), title_justify="left", box=SIMPLE_HEAD)
    found.pad_edge = False
    found.add_column("name", overflow="fold", min_width=8)
    found.add_column("value", justify="right", no_wrap=True)
    found.add_column("unit", overflow="fold", max_width=14)
    found.add_column("source", overflow="fold")
    above = ""
    for *cells, source in constant_rows(constants):
        found.add_row(*map(Text, cells), Text("as above", style="dim") if source == above else Text(source))
        above = source
    if not constants:
        found.caption = "the model does not say which it uses"
    return found


def constant_rows(constants: Mapping[str, Constant]) -> tuple[tuple[str, str, str, str], ...]:
    """Name, value, unit, source."""
    return tuple((key, f"{item.value:.6g}", item.unit, item.source) for key, item in constants.items())


def as_json(workload: str, found: Sequence[UniformCosts], shown: Sequence[Axis], constants: bool) -> dict[str, Any]:
    """All numbers, in the units of the models."""
    metrics = {axis.metric for axis in shown}
    return {
        "workload": workload,
        "models": {costs.model: _model_json(costs, metrics, constants) for costs in found},
        "side_by_side": [
            {"metric": axis.metric, "models": [costs.model for costs in axis.models], "note": axis.note}
            for axis in shown
        ],
    }


def _model_json(costs: UniformCosts, metrics: set[str], constants: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "bits": list(costs.bits),
        "relative_to": costs.reference,
        "metrics": {
            metric: {
                "unit": unit,
                "definition": costs.definitions.get(metric, ""),
                "totals": costs.totals(metric).tolist(),
                "deviations": costs.deviations(metric),
                "relative": _known(costs.relative(metric)),
                "layers": dict(zip(costs.layers, costs.by_layer(metric).tolist(), strict=False)),
            }
            for metric, unit in costs.units.items()
            if metric in metrics
        },
    }
    if constants:
        found["constants"] = {key: vars(item) for key, item in costs.constants.items()}
    return found


def _known(values: Any) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def print_narrow(found: Table, below: Sequence[str] = ()) -> None:
    """A table on standard output with notes below, 80 columns wide where it is no terminal."""
    console = Console(highlight=False)
    console.print(found)
    for note in below:
        console.print(Text(note, style="dim"))
    if below:
        console.print()
