"""Costs at uniform bits as a page with its plots."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.arguments import plain_name
from qsearch.hardware_tools.show_costs import Axis, UniformCosts
from qsearch.hardware_tools.show_table import constant_rows, notes, rows, title, unit_of
from qsearch.report import cost_plot, wording
from qsearch.report.document import Document, Paragraph, Plot, Section, Table, section


def document(workload: str, found: Sequence[UniformCosts], shown: Sequence[Axis], constants: bool) -> Document:
    """The page: a section with plot and table for each metric, and the numbers of the models if they are asked for."""
    names = ", ".join(plain_name(costs.model) for costs in found)
    sections = [_section(place, workload, axis) for place, axis in enumerate(shown)]
    if constants:
        sections += [_constants(costs) for costs in found]
    return Document(f"What {workload} costs on {names}", _lead(shown), tuple(sections))


def _lead(shown: Sequence[Axis]) -> str:
    """The first metric in a sentence."""
    axis = shown[0]
    return "; ".join(_totals(axis, costs) for costs in axis.models) + "."


def _totals(axis: Axis, costs: UniformCosts) -> str:
    totals = costs.totals(axis.metric)
    few, many = (wording.amount(float(totals[place]), axis.unit) for place in (0, costs.bits.index(costs.reference)))
    name = f"{axis.metric} on {plain_name(costs.model)}"
    return f"{name}: {many} at {costs.reference} bits everywhere, {few} at {costs.bits[0]}"


def _section(place: int, workload: str, axis: Axis) -> Section:
    header, body = rows(axis)
    factor, unit = unit_of(axis)
    panels = {
        plain_name(costs.model): costs.by_layer(axis.metric) / factor
        for costs in axis.models
        if costs.by_layer(axis.metric).size
    }
    heading = title(axis)
    drawn = None
    if panels:
        label = f"{axis.metric}, {unit}" if unit else axis.metric
        figure = cost_plot.by_layer(f"{axis.metric} of {workload} by layer", axis.models[0].layers, axis.models[0].bits, panels, label)  # fmt: skip
        drawn = Plot(f"{axis.metric}-{place}", f"{heading}, of each layer of {workload} at uniform bits", figure)
    table = Table(tuple(name.replace("\n", " ") for name in header), tuple(tuple(row) for row in body))
    return section(heading, [*(Paragraph(note) for note in notes(axis)), drawn, table])


def _constants(costs: UniformCosts) -> Section:
    table = Table(("name", "value", "unit", "source"), constant_rows(costs.constants), text_columns=4)
    none = Paragraph("The model does not say which it uses.")
    return section(f"Numbers of {plain_name(costs.model)}", [table if costs.constants else none])
