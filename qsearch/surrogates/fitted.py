"""``Fitted``: what learning a target ends in, and what is saved of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

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
        pairs: bits at which the target runs each kind of layers.
        facts: for the reader: samples, errors, the seed.
    """

    target: str
    units: Mapping[str, str]
    definitions: Mapping[str, str]
    models: Mapping[str, LogCost]
    layers: tuple[Layer, ...]
    pairs: Mapping[str, tuple[Pair, ...]]
    facts: Mapping[str, float | str] = field(default_factory=dict)

    @cached_property
    def ranges(self) -> Ranges:
        """Of the layers measured."""
        return Ranges.of(self.layers)
