"""A survey as files: a self-contained page with its heat maps, the maps as images, and the numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.report import sensitivity_plot, wording
from qsearch.report.document import Document, Plot, Table, pairs, section
from qsearch.report.sensitivity_table import columns, cost, grid, labels, sensitivity_csv, sensitivity_json
from qsearch.report.write import Report, write_document
from qsearch.survey import Survey

_PAIRS = 20
"""Interactions that are listed."""


@dataclass(frozen=True)
class Written:
    """The files of a survey."""

    page: Report
    csv: Path
    json: Path


def write_survey(survey: Survey, folder: Path) -> Written:
    """Write ``sensitivity.html``, ``.md``, ``.csv``, ``.json`` and ``plots/sensitivity-*.png`` into a folder.

    Raises:
        StorageError: the folder cannot be written.
    """
    table, numbers = folder / "sensitivity.csv", folder / "sensitivity.json"
    try:
        write_atomically(table, sensitivity_csv(survey).encode())
        write_atomically(numbers, json.dumps(sensitivity_json(survey), indent=2).encode())
    except OSError as error:
        raise StorageError("the folder of a survey must be writable", got=f"{folder}: {error}") from error
    return Written(write_document(document(survey), folder, "sensitivity"), table, numbers)


def document(survey: Survey) -> Document:
    """The page: what was measured, the heat maps, the numbers."""
    name, workload = survey.config.sensitivity.name, survey.workload
    values = np.nan_to_num(grid(survey), nan=-np.inf)
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    worst = f"{labels(survey)[row]} at {columns(survey)[column]} bits"
    lead = f"Most sensitive: {worst}, {wording.significant(float(values[row, column]))} ({survey.quantity})."
    facts = {
        "workload": workload,
        "sensitivity": " ".join(
            [name, *(f"{key}={value}" for key, value in survey.config.sensitivity.options.items())]
        ),
        "damage": survey.quantity,
        "measured on": f"calibration data; evaluator {survey.config.evaluator.name}",
        "cost": cost(survey),
    }
    title = f"{survey.quantity}: {name} sensitivity of {workload}, site by bits"
    heat = Plot("damage", title, sensitivity_plot.damages(survey), _caption(survey))
    sections = [
        section("What was measured", [pairs(facts)]),
        section("Damage of each choice", [heat, _numbers(survey)]),
    ]
    if survey.table.interactions:
        crossed = Plot(
            "interactions",
            f"interactions of pairs of sites of {workload}",
            sensitivity_plot.interactions(survey),
            "Red: two sites at their lowest bits together do more damage than the sum of both; blue: less. "
            "Grey pairs were not measured.",
        )
        sections.append(section("Pairs", [crossed, _pairs(survey)]))
    return Document(f"{name} sensitivity of {workload}", lead, tuple(sections))


def _caption(survey: Survey) -> str:
    several = any(variable.length > 1 for variable in survey.space.variables)
    return (
        "Each cell is one variable at one number of bits, the rest of the network in float; colours are logarithmic, "
        "and what is zero or below looks like the least." + (" Kernels of a layer are summed." if several else "")
    )


def _numbers(survey: Survey) -> Table:
    bits = columns(survey)
    rows = tuple(
        (label, *("–" if np.isnan(value) else wording.minus(wording.significant(value)) for value in values))
        for label, values in zip(labels(survey), grid(survey), strict=True)
    )
    return Table(("site", *(f"{bit} bits" for bit in bits)), rows)


def _pairs(survey: Survey) -> Table:
    """The strongest interactions at the lowest bits."""
    found = sorted(survey.table.interactions.items(), key=lambda item: -abs(float(item[1][0, 0])))[:_PAIRS]
    rows = tuple((first, second, wording.minus(wording.significant(float(v[0, 0])))) for (first, second), v in found)
    return Table(("site", "site", "beyond the sum"), rows, text_columns=2, note="Both at their lowest bits.")
