"""An inspection as tables in the terminal, within 100 columns, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from qsearch.anatomy import TIES
from qsearch.layers import Layer
from qsearch.report import neurons, wording
from qsearch.report.statistics import is_share
from qsearch.space import Site

if TYPE_CHECKING:
    from qsearch.inspection import Inspection  # loads torch, which reports do without

_NAME, _WHAT = 30, 24
"""Columns that a name may take; what is longer loses its beginning."""

_MEMBERS, _GROUPS = 4, 12
"""Sites of a group, and groups of a kind of ties, that are shown; JSON has them all."""


def tables(found: Inspection) -> list[Table]:
    """Layers; ties and what stays in float, as far as there are any; the float network's quality."""
    parts = (_layers(found), _ties(found), _left(found), _notes(found))
    return [part for part in parts if part.row_count]


def _notes(found: Inspection) -> Table:
    """What a kind of ties joins, where nothing was found, and the float quality: a fact per row."""
    notes = {kind: TIES.get(kind, "") for kind, groups in found.anatomy.ties.items() if groups} or {"ties": "none"}
    if not found.anatomy.left:
        notes["left in float"] = "nothing"
    if (spikes := _spikes(found)) is not None:
        notes["neurons"] = spikes
    quality = found.float_quality
    value = wording.quality(quality.metric, is_share(quality))
    samples = wording.count(quality.samples, "validation sample")
    notes[f"float {quality.name}"] = f"{value} on {samples}, loss {wording.significant(quality.loss)}"
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in notes.items():
        table.add_row(Text(name), Text(text))
    return table


def _spikes(found: Inspection) -> str | None:
    """How many neurons there are, and how often they spike on calibration and on validation data."""
    layers = [layer for layer in found.anatomy.layers if layer.kind == "neuron"]
    if not layers:
        return None
    count, steps = sum(layer.neurons for layer in layers), max(layer.uses for layer in layers)
    parts = [f"{wording.abridged(count)} that keep a state for {wording.count(steps, 'step')}"]
    if (spikes := neurons.spikes_of(found.float_quality)) is not None:
        parts.append(f"{spikes:,.0f} spikes per validation sample")
    return "; ".join([*parts, "rates are per step, of each neuron or of each input that spikes reach"])


def _layers(found: Inspection) -> Table:
    table = _table(f"Layers of {found.workload}", "layer", "kind")
    table.add_column("shape", overflow="fold")
    table.add_column("sites", no_wrap=True)
    layers = found.anatomy.layers
    counted = ("MACs", "weights", *(("spikes", "rate") if neurons.spiking(layers) else ()))
    for name in counted:
        table.add_column(name, justify="right", no_wrap=True)
    number = 0
    for layer in layers:
        shown = [short(site) for site in found.sites_of(layer.name) if not _constant(layer, site)]
        number, sites = number + len(shown), ", ".join(shown)
        cells = (tail(layer.name, _NAME), layer.kind, shape(layer), sites, *_numbers(layer)[: len(counted)])
        table.add_row(*map(Text, cells))
    table.add_section()
    macs, weights = (sum(values) for values in zip(*((one.macs, one.stored_params) for one in layers), strict=True))
    total = (wording.count(len(layers), "layer"), "", "", wording.count(number, "site"))
    sums = (wording.abridged(macs), wording.abridged(weights), "", "")[: len(counted)]
    table.add_row(*(Text(cell, style="bold") for cell in (*total, *sums)))
    return table


def _numbers(layer: Layer) -> tuple[str, str, str, str]:
    """MACs, weights; spikes per sample and their rate, where there are any."""
    rate = neurons.rate(layer)
    spikes = ("", "") if rate is None else (wording.abridged(round(layer.events or 0)), wording.significant(rate))
    return wording.abridged(layer.macs), wording.abridged(layer.stored_params), *spikes


def _ties(found: Inspection) -> Table:
    """A row per group; sites without what their names begin with alike."""
    table = _table("Sites that may be tied; space.ties names kinds of groups, or sites", "kind")
    table.add_column("sites", overflow="fold")
    for kind, groups in found.anatomy.ties.items():
        for group in groups[:_GROUPS]:
            table.add_row(Text(kind), Text(together(group)))
        if len(groups) > _GROUPS:
            table.add_row(Text(kind), Text(f"and {wording.count(len(groups) - _GROUPS, 'more group')}"))
    return table


def _left(found: Inspection) -> Table:
    table = _table("Left in float", "name", "what")
    table.add_column("weights", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for part in found.anatomy.left:
        weights = wording.abridged(part.numbers)
        table.add_row(*map(Text, (tail(part.name, _NAME), tail(part.what, _WHAT), weights, part.why)))
    return table


def _table(title: str, *columns: str) -> Table:
    """A table that begins with columns of names, which stay in one line."""
    table = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def shape(layer: Layer) -> str:
    """A layer's extents in the words of its kind: ``16→32, 3×3, stride 2, 32×32``."""
    if layer.kind in ("neuron", "threshold"):
        return _neurons_shape(layer)
    if layer.kind == "matmul":
        parts = [f"{layer.positions}×{layer.in_channels} · {layer.in_channels}×{layer.out_channels}"]
    else:
        parts = [f"{layer.in_channels}→{layer.out_channels}", _times(layer.kernel)]
        parts += [f"stride {_stride(layer.stride)}" if set(layer.stride) - {1} else ""]
        parts += ["depthwise" if layer.depthwise else f"{layer.groups} groups" if layer.groups > 1 else ""]
        parts += [_times(layer.input_size) if layer.kind == "conv" else _tokens(layer)]
    parts += [f"×{layer.uses}" if layer.uses > 1 else ""]
    return ", ".join(filter(None, parts))


def _neurons_shape(layer: Layer) -> str:
    """Neurons and steps: ``16×8×8 neurons, 10 steps``; of a threshold, what has one of its own."""
    if layer.kind == "threshold":
        own = {1: "one for all", layer.neurons: "one per neuron"}
        return own.get(layer.constants, "one per channel")
    steps = wording.count(layer.uses, "step")
    return f"{_times((layer.out_channels, *layer.output_size))} neurons, {steps}"


def _times(extents: Sequence[int]) -> str:
    return "×".join(map(str, extents))


def _stride(steps: Sequence[int]) -> str:
    """One number where it is the same along all extents."""
    return _times(steps if len(set(steps)) > 1 else steps[:1])


def _tokens(layer: Layer) -> str:
    return wording.count(layer.positions, "position") if layer.positions > 1 else ""


def short(site: Site) -> str:
    """A site's name without that of its layer: ``weight``; that of a threshold, whose layer it is; that of spikes."""
    if site.role in ("threshold", "spikes"):
        return site.role
    return site.name.removeprefix(f"{site.layer}.")


def _constant(layer: Layer, site: Site) -> bool:
    """Whether a site is the leak of neurons that forget nothing: there is nothing to store."""
    return site.role == "leak" and not layer.constants


def tail(name: str, width: int) -> str:
    """A name in at most so many columns: of a path the end tells more, and whole parts of it if there are any."""
    if len(name) <= width:
        return name
    end = name[-(width - 1) :]
    return f"…{end if name[-width] == '.' else end.partition('.')[2] or end}"


def together(names: Sequence[str]) -> str:
    """Names with what they begin with alike written once: ``block.attention.{query.input, key.input}``."""
    paths = [name.split(".") for name in names]
    alike = 0
    while all(len(path) > alike + 1 and path[: alike + 1] == paths[0][: alike + 1] for path in paths):
        alike += 1
    ends = [".".join(path[alike:]) for path in paths]
    more = f", and {len(ends) - _MEMBERS} more" if len(ends) > _MEMBERS else ""
    listed = ", ".join(ends[:_MEMBERS]) + more
    return f"{'.'.join(paths[0][:alike])}.{{{listed}}}" if alike else listed


def inspection_json(found: Inspection) -> dict[str, Any]:
    """Everything that was found.

    Keys: ``workload``, ``layers`` (geometry of :class:`qsearch.layers.Layer`, ``macs`` per sample, ``weights`` that are
    stored, ``rate`` of spikes where there are any, ``sites`` with ``name``, ``role``, ``operand`` and ``kernels`` that could
    have bits of their own), ``totals``, ``ties`` (kind → groups of sites), ``left`` and ``float_quality``.
    """
    quality, layers = found.float_quality, found.anatomy.layers
    return {
        "workload": found.workload,
        "layers": [_layer_json(found, layer) for layer in layers],
        "totals": {
            "layers": len(layers),
            "macs": sum(layer.macs for layer in layers),
            "weights": sum(layer.stored_params for layer in layers),
            "sites": len(found.sites),
            "left_in_float": sum(part.numbers for part in found.anatomy.left),
        },
        "ties": {kind: [list(group) for group in groups] for kind, groups in found.anatomy.ties.items()},
        "left": [asdict(part) for part in found.anatomy.left],
        "float_quality": {**quality.values, "samples": quality.samples, "standard_error": quality.standard_error},
    }


def _layer_json(found: Inspection, layer: Layer) -> dict[str, Any]:
    sites = [
        {
            "name": site.name,
            "role": site.role,
            "operand": site.operand if site.role == "activation" else None,
            "kernels": layer.kernels if site.role == "weight" else 1,
        }
        for site in found.sites_of(layer.name)
    ]
    rate = {} if layer.events is None else {"rate": neurons.rate(layer)}
    return {**asdict(layer), "macs": layer.macs, "weights": layer.stored_params, **rate, "sites": sites}
