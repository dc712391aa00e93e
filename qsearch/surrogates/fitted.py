"""``Fitted``: what learning a target ends in, and what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qsearch.layers import Layer
from qsearch.surrogates.features import Ranges
from qsearch.surrogates.model import LogCost

Pair = tuple[int, int]
"""Weight bits and activation bits."""


@dataclass(frozen=True)
class Fitted:
    """A surrogate's knowledge.

    Attributes:
        target: what was measured.
        units, definitions: see :class:`qsearch.protocols.CostModel`.
        models: metric → posterior over log cost.
        layers: geometries measured.
        pairs: bits at which each kind of layers has an answer.
        maxima: see :class:`qsearch.protocols.CostModel`.
        facts: numbers for the reader: samples, errors.
        provenance: where it comes from, as JSON: the target's options, machines, versions, dates, how it was learned.
    """

    target: str
    units: Mapping[str, str]
    definitions: Mapping[str, str]
    models: Mapping[str, LogCost]
    layers: tuple[Layer, ...]
    pairs: Mapping[str, tuple[Pair, ...]]
    maxima: frozenset[str] = frozenset()
    facts: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def ranges(self) -> Ranges:
        """Of the layers measured."""
        return Ranges.of(self.layers)
