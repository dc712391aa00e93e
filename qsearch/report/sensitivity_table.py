"""The sensitivities of a survey as rows: for a terminal, a CSV file, JSON.

A row is a variable, a column a number of bits that any variable may take. Kernel-wise variables are summed over kernels.
"""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.report import wording
from qsearch.survey import Survey

PASS = 1000
"""Samples that a float pass stands for in what is printed."""


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
    """A table for a terminal."""
    title = f"{survey.config.sensitivity.name} sensitivity of {survey.workload}"
    found = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    found.add_column("site", overflow="fold", min_width=12)
    for bits in columns(survey):
        found.add_column(f"{bits} bits" if bits == columns(survey)[0] else str(bits), justify="right")
    for label, values in zip(labels(survey), grid(survey), strict=True):
        found.add_row(Text(label), *(Text("" if np.isnan(value) else _number(value)) for value in values))
    return found


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
