"""Measurements of a network as tables, lines and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.arguments import plain_name
from qsearch.assignment import FLOAT_BITS
from qsearch.layers import Layer
from qsearch.measurements import Measurement, alike
from qsearch.measuring import Bench, Pair
from qsearch.remeasuring import floor_of
from qsearch.report import wording

FLOAT = (FLOAT_BITS, FLOAT_BITS)
_FAILURES = 8
"""Failures that are listed."""


def tables(bench: Bench, name: str, layers: Sequence[Layer], pairs: Sequence[Pair]) -> list[tuple[Table, list[str]]]:
    """For each metric a table, layer by pair of bits, and what stands below it. Layers of one geometry share a row."""
    shown, every = chosen(pairs, _most(bench, pairs)), set(pairs)
    below = [_legend(bench, shown, len(alike(layers, bench.geometry)) < len(layers))]
    if len(shown) < len(every):
        below.append(f"in the table's file: {wording.count(len(every) - len(shown), 'more pair')} of bits")
    return [
        (
            _table(bench, f"{plain_name(name)} on {plain_name(bench.name)}", layers, shown, metric),
            [*below, *gain_lines(bench, layers, shown, metric), *floor_lines(bench, layers, pairs, metric)],
        )
        for metric in bench.units
    ]


def chosen(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """The pairs to show, ascending: all if they fit, else those of equal bits, evenly spread, the widest among them."""
    every = sorted(set(pairs))
    if len(every) <= most:
        return every
    equal = [pair for pair in every if pair[0] == pair[1]]
    rest = equal if len(equal) > 2 else every
    step = -(-len(rest) // most)
    return rest[::-1][::step][::-1]


def _most(bench: Bench, pairs: Sequence[Pair]) -> int:
    """Pairs of bits that fit beside each other in 80 columns; a spread takes room, and so does a ratio to float."""
    return 3 if not bench.deterministic else 4 if FLOAT in pairs else 6


def _legend(bench: Bench, shown: Sequence[Pair], shared: bool) -> str:
    parts = ["one reading each" if bench.deterministic else "median ± interquartile range of the readings, rounded up"]
    if FLOAT in shown and len(shown) > 1:
        parts.append("×: of what float takes")
    if shared:
        parts.append("#: layers of this geometry")
    return "; ".join(parts)


def _table(bench: Bench, title: str, layers: Sequence[Layer], shown: Sequence[Pair], metric: str) -> Table:
    found = [one for layer, pair in product(layers, shown) if (one := bench.store.find(layer, *pair)) is not None]
    factor, unit = wording.prefix(max((one.value(metric) for one in found), default=0.0), bench.units[metric])
    heading = f"{metric} in {unit or '1'}: {title}"
    table = Table(
        title=Text(heading, style="bold"),
        title_justify="left",
        min_width=min(len(heading), 80),  # a title is folded at the table's edge
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    rows = alike(layers, bench.geometry)
    table.add_column("layer", overflow="fold", min_width=8)
    table.add_column("#", justify="right")
    columns = [_column(bench, list(rows), pair, metric, factor, pair != FLOAT and FLOAT in shown) for pair in shown]
    for header, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)
    for place, (layer, number) in enumerate(rows.items()):
        table.add_row(Text(layer.name), str(number), *(cells[place] for _, cells in columns))
    return table


def _column(
    bench: Bench, layers: Sequence[Layer], pair: Pair, metric: str, factor: float, relative: bool
) -> tuple[str, list[str]]:
    """Header and cells of a pair of bits, each followed by its ratio to float where there is one."""
    name = "W{}A{}".format(*pair)
    cells = [_cell(bench, layer, pair, metric, factor) for layer in layers]
    if not relative:
        return name, cells
    ratios = [_relative(bench, layer, pair, metric) for layer in layers]
    width = max(map(len, ratios))
    return f"{name} {'×':>{width}}", [f"{cell} {ratio:>{width}}" for cell, ratio in zip(cells, ratios, strict=True)]


def _cell(bench: Bench, layer: Layer, pair: Pair, metric: str, factor: float) -> str:
    found = bench.store.find(layer, *pair)
    if found is None:
        return "–"
    text = wording.significant(found.value(metric) / factor)
    return text if bench.deterministic else f"{text} ± {spread_text(text, found.spread(metric) / factor)}"


def spread_text(value: str, spread: float) -> str:
    """A spread with as many decimals as its value is shown with, rounded up."""
    if "e" in value or value == "0":
        return f"{spread:.1g}"
    decimals = len(value.partition(".")[2])
    steps = math.ceil(spread * 10**decimals - 1e-9)
    return f"{steps / 10**decimals:.{decimals}f}"


def _relative(bench: Bench, layer: Layer, pair: Pair, metric: str) -> str:
    found, reference = bench.store.find(layer, *pair), bench.store.find(layer, *FLOAT)
    if found is None or reference is None or reference.value(metric) <= 0:
        return ""
    return multiple(found.value(metric) / reference.value(metric))


def multiple(ratio: float) -> str:
    """A ratio in as few digits as serve: 1.73×, 0.016×."""
    if 0 < ratio < 0.001:
        return "<0.001×"
    return f"{ratio:.3f}×" if ratio < 0.1 else f"{ratio:.2f}×" if ratio < 10 else f"{ratio:.3g}×"


def gain_lines(bench: Bench, layers: Sequence[Layer], pairs: Sequence[Pair], metric: str) -> list[str]:
    """Where fewer bits gain little against float: the pairs at which less than half of the layers cost less."""
    one, many = ("runs faster", "run faster") if metric == "latency" else ("costs less", "cost less")
    counts = {pair: _gains(bench, layers, pair, metric) for pair in pairs if pair != FLOAT}
    compared = {"W{}A{}".format(*pair): gains for pair, gains in counts.items() if gains}
    if compared and not any(map(any, compared.values())):
        return [f"no layer {one} than float here"]
    return [
        f"at {name} {sum(gains)} of {len(gains)} layers {many} than float"
        if any(gains)
        else f"at {name} no layer {one} than float"
        for name, gains in compared.items()
        if 2 * sum(gains) < len(gains)
    ]


def _gains(bench: Bench, layers: Sequence[Layer], pair: Pair, metric: str) -> list[bool]:
    """For each layer that was measured at both: whether it costs less than float, by more than readings differ."""
    gains = []
    for layer in layers:
        found, reference = bench.store.find(layer, *pair), bench.store.find(layer, *FLOAT)
        if found is not None and reference is not None:
            spread = max(found.spread(metric), reference.spread(metric))
            gains.append(found.value(metric) < reference.value(metric) - spread)
    return gains


def floor_lines(bench: Bench, layers: Sequence[Layer], pairs: Sequence[Pair], metric: str) -> list[str]:
    """What a call costs that computes nothing, where the target knows, and how many readings are mostly that."""
    floor = floor_of(bench).get(metric)
    if floor is None:
        return []
    known = [
        bench.store.find(layer, *pair) for layer, pair in product(alike(layers, bench.geometry), sorted(set(pairs)))
    ]
    found = [one for one in known if one is not None]
    most = sum(one.value(metric) / one.layer.uses <= 2 * floor for one in found)
    start = f"a call that computes nothing takes {wording.amount(floor, bench.units[metric])} of each reading"
    if not most:
        return [f"{start}, less than half of any"]
    which = "every one" if most == len(found) else f"{most} of the {len(found)}"
    return [f"{start}: half or more of {which}, which tells little of the layer"]


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
        "floor": floor_of(bench),
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
