"""Bits of one layer in words. Loads no plots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from qsearch.assignment import BitAssignment
from qsearch.layers import Layer
from qsearch.overlay import PATTERNS
from qsearch.report import facts, wording
from qsearch.report.facts import Quantity

_CALLED: Mapping[Quantity, str] = {"activation": "input"}
_SPACE = "\N{NO-BREAK SPACE}"
"""So that a narrow column keeps a number beside its word."""


def role_bits(layer: Layer, assignment: BitAssignment, role: Quantity) -> str:
    """Bits of a layer's sites of one role; of an overlaid weight those of what is kept, and how much that is."""
    overlay = facts.overlay_of(layer, assignment) if role == "weight" else None
    if overlay is not None:
        bits = wording.bits(assignment.get(layer.weight_site))
        return wording.overlay(bits, overlay[0], layer.overlay, PATTERNS[overlay[1]])
    found = [wording.bits(assignment.get(site)) for site in facts.sites_of(layer, role)]
    return " × ".join(found) or wording.bits(None)


def all_bits(layer: Layer, assignment: BitAssignment) -> str:
    """Bits of all sites of a layer: ``weight 4, spikes``, ``weight 4, input 8``, ``leak 6, state 10``, ``threshold 4``."""
    found = [
        f"{_CALLED.get(role, role)}{_SPACE}{role_bits(layer, assignment, role)}"
        for role in get_args(Quantity)
        if any(site in assignment for site in facts.sites_of(layer, role))
    ]
    return ", ".join([*found, *(["spikes"] if layer.reads_spikes else [])])


def named(layer: Layer) -> str:
    """A layer's name, and that it is of neurons where it is."""
    return f"{layer.name} (neurons)" if layer.kind == "neuron" else layer.name
