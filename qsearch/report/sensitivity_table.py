"""The sensitivities of a survey as rows: for a terminal, a CSV file, JSON.

A row is a variable, a column a number of bits that any variable of its kind may take. Kernel-wise variables are summed over
kernels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.report import wording
from qsearch.space import Role
from qsearch.survey import Survey

PASS = 1000
"""Samples that a float pass stands for in what is printed."""

_COLUMNS = 8
"""Numbers that a row of a terminal has room for beside a name, at 100 columns; what is more goes into a further table."""

_NAME = 24
"""Columns that a name takes at least, if it is as long."""

_TITLES: Mapping[Role, str] = {"weight": "weights", "state": "states", "leak": "leaks", "threshold": "thresholds"}
"""Role of a site → what the sites of that role are called; the others are inputs of layers."""


def columns(survey: Survey) -> list[int]:
    """Bits that some variable may take, ascending."""
    return sorted({bits for variable in survey.space.variables for bits in variable.choices})


def grid(survey: Survey) -> NDArray[np.float64]:
    """Damages, shape (variables, bits): summed over kernels, NaN where a variable cannot take the bits."""
    bits = columns(survey)
    found = np.full((len(survey.space.variables), len(bits)), np.nan)
    for row, variable in enumerate(survey.space.variables):
        found[row, np.searchsorted(bits, variable.choices)] = survey.table.damage[variable.name].sum(0)
    return found


def groups(survey: Survey) -> dict[str, list[int]]:
    """Rows of the grid by kind: weights, inputs of layers, and what neurons have. Both operands of a product are inputs."""
    found: dict[str, list[int]] = {}
    for row, variable in enumerate(survey.space.variables):
        role = survey.space.site(variable.name).role
        found.setdefault(_TITLES.get(role, "inputs of layers"), []).append(row)
    return found


def taken(survey: Survey, rows: Sequence[int]) -> list[int]:
    """Places in :func:`columns` of bits that some variable of these rows may take."""
    found: list[int] = np.flatnonzero(np.isfinite(grid(survey)[rows]).any(axis=0)).tolist()
    return found


def labels(survey: Survey) -> list[str]:
    """Names of the variables; how many sites a tie has beside its first, and how many kernels were summed."""
    found = []
    for variable in survey.space.variables:
        tied = f" +{len(variable.sites) - 1} tied" if len(variable.sites) > 1 else ""
        found.append(f"{variable.name}{tied}{f' ×{variable.length}' if variable.length > 1 else ''}")
    return found


def cost(survey: Survey) -> str:
    """What it took: "2.6 float passes over 1,000 samples, 3.1 s"."""
    passes = wording.significant(survey.table.samples / PASS)
    return f"{passes} float passes over {PASS:,} samples, {wording.times(survey.seconds)}"


def sensitivity_table(survey: Survey) -> Table:
    """A table for a terminal: one within it for each kind of sites."""
    title = f"{survey.config.sensitivity.name} sensitivity of {survey.workload}"
    found = Table(title=title, title_justify="left", box=None, show_header=False, padding=0, pad_edge=False)
    found.add_column(min_width=len(title))
    width = max(map(len, [*labels(survey), *groups(survey)]), default=0)
    for kind, rows in groups(survey).items():
        for part in _parts(survey, kind, rows, width):
            found.add_row(part)
    return found


def _parts(survey: Survey, kind: str, rows: Sequence[int], width: int) -> Iterator[Table]:
    """Tables of one kind of sites, as wide as a terminal has room for; names take ``width`` in all, where that leaves it."""
    places, names, values, bits = taken(survey, rows), labels(survey), grid(survey), columns(survey)
    for start in range(0, len(places), _COLUMNS):
        shown = places[start : start + _COLUMNS]
        part = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        part.add_column(kind, overflow="fold", min_width=min(width, _NAME))
        for place in shown:
            part.add_column(
                f"{bits[place]} bits" if place == shown[0] else str(bits[place]), justify="right", no_wrap=True
            )
        for row in rows:
            cells = ["" if np.isnan(values[row, place]) else _number(values[row, place]) for place in shown]
            part.add_row(Text(names[row]), *map(Text, cells))
        yield part


def notes(survey: Survey) -> dict[str, str]:
    """What stands below the table: what a damage is, and what it took."""
    kernels = "summed over kernels" if any(variable.length > 1 for variable in survey.space.variables) else ""
    pairs = f"{len(survey.table.interactions)} interactions besides" if survey.table.interactions else ""
    return {"damage": "; ".join(filter(None, [survey.quantity, kernels, pairs])), "cost": cost(survey)}


def _number(value: float) -> str:
    """Two significant digits, in as few characters as serve: 0.012, 3.4e-5."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    plain = 0.001 <= abs(value) < 1000
    return wording.minus(f"{value:.2g}" if plain else f"{mantissa}e{int(exponent)}")


def sensitivity_csv(survey: Survey) -> str:
    """One line per variable, kernel and choice: variable, kernel, bits, damage; kernel is empty for layer-wise bits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variable", "kernel", "bits", "damage"])
    for variable in survey.space.variables:
        for kernel, row in enumerate(survey.table.damage[variable.name]):
            for bits, value in zip(variable.choices, row, strict=True):
                writer.writerow([variable.name, kernel if variable.length > 1 else "", bits, repr(float(value))])
    return text.getvalue()


def sensitivity_json(survey: Survey) -> dict[str, Any]:
    """Everything that was found; damages per variable have shape (kernels, choices)."""
    choices = {variable.name: list(variable.choices) for variable in survey.space.variables}
    return {
        "workload": survey.workload,
        "sensitivity": survey.config.sensitivity.model_dump(mode="json"),
        "quantity": survey.quantity,
        "samples": survey.table.samples,
        "seconds": survey.seconds,
        "damage": {
            name: {"bits": choices[name], "damage": np.asarray(value).tolist()}
            for name, value in survey.table.damage.items()
        },
        "interactions": [
            {"variables": list(pair), "damage": np.asarray(value).tolist()}
            for pair, value in survey.table.interactions.items()
        ],
    }
