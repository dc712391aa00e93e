"""Measurements of a network as tables, lines and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from qsearch.arguments import plain_name
from qsearch.assignment import FLOAT_BITS
from qsearch.layers import Layer
from qsearch.measurements import Measurement
from qsearch.measuring import Bench, Pair
from qsearch.report import wording

_COLUMNS = 4
"""Pairs of bits that fit beside each other."""
_FAILURES = 8
"""Failures that are listed."""


def tables(bench: Bench, name: str, layers: Sequence[Layer], pairs: Sequence[Pair]) -> list[Table]:
    """One for each metric: layer by pair of bits, the median and the interquartile range of the readings."""
    shown, all_pairs = chosen(pairs), set(pairs)
    more = f"; {len(all_pairs) - len(shown)} more pairs of bits are in the table" if len(shown) < len(all_pairs) else ""
    found = []
    for metric, unit in bench.units.items():
        what = "one reading each" if bench.deterministic else "median ± interquartile range"
        float_too = " (× float)" if (FLOAT_BITS, FLOAT_BITS) in shown and len(shown) > 1 else ""
        table = Table(
            title=f"{metric} of {plain_name(name)} on {plain_name(bench.name)}: {what}{float_too}{more}",
            title_justify="left",
        )
        table.add_column("layer")
        for weight, activation in shown:
            table.add_column(f"W{weight}A{activation}", justify="right")
        for layer in layers:
            table.add_row(layer.name, *(_cell(bench, layer, pair, metric, unit) for pair in shown))
        found.append(table)
    return found


def chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs to show, ascending: all if they fit, else those of equal bits, evenly spread, the widest among them."""
    every = sorted(set(pairs))
    if len(every) <= _COLUMNS:
        return every
    equal = [pair for pair in every if pair[0] == pair[1]]
    rest = equal if len(equal) >= _COLUMNS else every
    step = -(-len(rest) // _COLUMNS)
    return rest[::-1][::step][::-1]


def _cell(bench: Bench, layer: Layer, pair: Pair, metric: str, unit: str) -> str:
    found = bench.store.find(layer, *pair)
    if found is None:
        return "–"
    spread = None if bench.deterministic else found.spread(metric)
    text = wording.uncertain(found.value(metric), unit, spread)
    reference = bench.store.find(layer, FLOAT_BITS, FLOAT_BITS)
    if reference is None or pair == (FLOAT_BITS, FLOAT_BITS) or reference.value(metric) <= 0:
        return text
    return f"{text} ({wording.ratio(found.value(metric) / reference.value(metric))})"


def failure_lines(found: Sequence[Measurement]) -> list[str]:
    """Points without readings, and why."""
    failed = [one for one in found if one.failure]
    lines = [
        f"failed     {one.layer.name} at W{one.weight_bits}A{one.activation_bits}: {one.failure}"
        for one in failed[:_FAILURES]
    ]
    if len(failed) > _FAILURES:
        lines.append(f"failed     {len(failed) - _FAILURES} more")
    return lines + (["           the same command tries them again"] if failed else [])


def to_json(bench: Bench, networks: Mapping[str, Sequence[Layer]], found: Sequence[Measurement]) -> dict[str, Any]:
    """Everything that was asked for: medians and spreads by network, layer and pair, and failures."""
    pairs = sorted({(one.weight_bits, one.activation_bits) for one in found})
    return {
        "target": bench.name,
        "options": dict(bench.store.subject.options),
        "units": dict(bench.units),
        "definitions": dict(bench.definitions),
        "folder": str(bench.folder),
        "measurements": [
            {
                "workload": name,
                "layer": layer.name,
                "weight_bits": pair[0],
                "activation_bits": pair[1],
                **{metric: one.value(metric) for metric in bench.units},
                "spread": {metric: one.spread(metric) for metric in bench.units},
            }
            for name, layers in networks.items()
            for layer in layers
            for pair in pairs
            if (one := bench.store.find(layer, *pair)) is not None
        ],
        "failures": [
            {
                "layer": one.layer.name,
                "weight_bits": one.weight_bits,
                "activation_bits": one.activation_bits,
                "failure": one.failure,
            }
            for one in found
            if one.failure
        ],
    }
