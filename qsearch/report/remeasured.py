"""Predicted beside measured: a section for each target that assignments of the run were measured on."""

from __future__ import annotations

from qsearch.assignment import FLOAT_BITS
from qsearch.measuring import Pair
from qsearch.remeasured import AssignmentRecord, Remeasured, read
from qsearch.report import wording
from qsearch.report.document import Block, Paragraph, Section, Table, section
from qsearch.run import Run

FLOAT: Pair = (FLOAT_BITS, FLOAT_BITS)
_NOT_THE_NETWORK = (
    "The layers were measured one at a time: their sum is not the time of the network, in which layers share caches and "
    "pass numbers on in the form that the next one wants. Each layer ran at the cheapest bits that the target has and "
    "that hold the layer's own."
)


def sections(run: Run) -> list[Section]:
    """One for each target.

    Raises:
        StorageError: a file of measurements is damaged.
    """
    return [remeasured_section(found) for found in read(run)]


def remeasured_section(found: Remeasured) -> Section:
    """Totals of each assignment, layers of the best, and what the numbers do not say."""
    blocks: list[Block] = []
    for metric in found.units:
        blocks += [Paragraph(_verdict(found, metric)), _totals(found, metric), _layers(found, metric)]
    certain = not any(any(one.deviation.values()) for one in found.assignments)
    spread = "" if certain else " ±: standard deviation of a reading; of a sum, as if all rose and fell together."
    where = f"Measured on {found.machine}, {found.date[:10]}."
    blocks.append(Paragraph(f"{_NOT_THE_NETWORK}{spread} {where}"))
    if found.missing:
        reasons = "; ".join(f"{layer} ({reason})" for layer, reason in found.missing.items())
        blocks.append(Paragraph(f"Left out of all sums, as they could not be measured: {reasons}.", strong=True))
    target = {"name": found.target, "options": {key: one for key, one in found.options.items() if one is not None}}
    names = f"{wording.plugin({'name': found.model})} and {wording.plugin(target)}"
    return section(f"Predicted and measured: {names}", blocks)


def _verdict(found: Remeasured, metric: str) -> str:
    """The best assignment in a sentence; whether fewer bits gain anything there; what the calls alone cost."""
    best, uniform = found.assignments[0], found.assignments[-1]
    predicted = _ratio(best.predicted[metric], uniform.predicted[metric])
    measured = _ratio(best.measured[metric], uniform.measured[metric])
    said = [
        f"{best.name.capitalize()}, against {uniform.name}: {_shown(predicted)} of the {metric} predicted, "
        f"{_shown(measured)} measured."
    ]
    if _ran_at(found, metric) == {FLOAT}:
        said.append(f"Every layer has its lowest {metric} there in float: on this target fewer bits gain nothing.")
    if metric in found.floor:
        calls = wording.amount(found.floor[metric], found.units[metric])
        said.append(
            f"Of each sum, calls that compute nothing would take {calls}, {_share(found.floor[metric], best.measured[metric])} "
            f"of that of {best.name}."
        )
    return " ".join(said)


def _ran_at(found: Remeasured, metric: str) -> set[Pair]:
    """Pairs of bits at which some layer ran."""
    return {layer.ran_at[metric] for one in found.assignments for layer in one.layers if metric in layer.ran_at}


def _totals(found: Remeasured, metric: str) -> Table:
    """Assignments, predicted beside measured: as they are where both are the same quantity, always against uniform-8."""
    absolute = found.comparable(metric)
    amounts = (f"predicted {metric}", f"measured {metric}", "measured / predicted") if absolute else ()
    header = ("assignment", *amounts, "predicted, of uniform-8", "measured, of uniform-8", "ratio of the two")
    uniform = found.assignments[-1]
    rows = []
    for one in found.assignments:
        shown = _amounts(found, one, metric) if absolute else ()
        predicted = _ratio(one.predicted[metric], uniform.predicted[metric])
        measured = _ratio(one.measured[metric], uniform.measured[metric])
        both = None if predicted is None or measured is None else _ratio(measured, predicted)
        rows.append((one.name, *shown, _shown(predicted), _shown(measured), _shown(both)))
    return Table(header, tuple(rows), note=_note(found, metric))


def _amounts(found: Remeasured, one: AssignmentRecord, metric: str) -> tuple[str, str, str]:
    unit, deviation = found.units[metric], one.deviation[metric]
    return (
        wording.amount(one.predicted[metric], unit),
        wording.uncertain(one.measured[metric], unit, deviation or None),
        _shown(_ratio(one.measured[metric], one.predicted[metric])),
    )


def _note(found: Remeasured, metric: str) -> str:
    same, pairs = found.agreement(metric)
    order = f"Measured in the predicted order: {same} of {wording.count(pairs, 'pair')} of assignments."
    if len({one.measured[metric] for one in found.assignments}) == 1:
        order = "All assignments measure the same: each layer ran at the same bits in all of them."
    if found.comparable(metric):
        return order
    here, there = (
        f"{unit}{f' ({text})' if text else ''}"
        for unit, text in (
            (found.predicted_units[metric], found.predicted_definitions.get(metric)),
            (found.units[metric], found.definitions.get(metric)),
        )
    )
    return (
        f"{metric.capitalize()} is predicted in {here} and measured in {there}: the two do not share an axis, so both are "
        f"given relative to 8 bits everywhere. {order}"
    )


def _layers(found: Remeasured, metric: str) -> Table:
    """The best assignment, layer by layer."""
    best, unit, absolute = found.assignments[0], found.units[metric], found.comparable(metric)
    header = (
        f"layer of {best.name}",
        "bits",
        "ran at",
        f"predicted {metric}",
        f"measured {metric}",
        *(("measured / predicted",) if absolute else ()),
        "share predicted",
        "share measured",
    )
    rows = []
    for layer in best.layers:
        predicted, measured = layer.predicted.get(metric), layer.measured[metric]
        rows.append(
            (
                layer.name,
                f"W{layer.bits[0]}A{layer.bits[1]}",
                "W{}A{}".format(*layer.ran_at[metric]) if metric in layer.ran_at else "–",
                "–" if predicted is None else wording.amount(predicted, found.predicted_units[metric]),
                wording.uncertain(measured, unit, layer.deviation[metric] or None),
                *((_shown(None if predicted is None else _ratio(measured, predicted)),) if absolute else ()),
                _share(predicted, best.predicted[metric]),
                _share(measured, best.measured[metric]),
            )
        )
    return Table(header, tuple(rows), text_columns=3)


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference > 0 else None


def _shown(ratio: float | None) -> str:
    return "–" if ratio is None else wording.ratio(ratio)


def _share(part: float | None, total: float) -> str:
    return "–" if part is None or total <= 0 else wording.share(part / total)
