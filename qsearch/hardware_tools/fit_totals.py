"""What a fitted surrogate says of whole networks, at uniform bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsearch import registry
from qsearch.errors import QSearchError
from qsearch.layers import Layer
from qsearch.sites import build_space
from qsearch.surrogates.judging import LEVEL

USUAL = 8
"""Uniform bits shown, where the surrogate answers there; else the highest at which it does."""


@dataclass(frozen=True)
class NetworkTotal:
    """A network at uniform bits.

    Attributes:
        workload: by name.
        bits: of all weights and activations.
        totals: metric → cost.
        intervals: metric → interval at :data:`qsearch.surrogates.judging.LEVEL`.
        refusal: why there are none; empty otherwise.
    """

    workload: str
    bits: int
    totals: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    refusal: str = ""


def network_totals(path: Path, workloads: Mapping[str, Sequence[Layer]]) -> tuple[NetworkTotal, ...]:
    """Each workload's total with its interval, as the surrogate in this file gives them."""
    model = registry.create("cost_models", "surrogate", {"path": path})
    _, weights, activations = model.domain()
    common = sorted(set(weights) & set(activations)) or [USUAL]
    bits = USUAL if USUAL in common else common[-1]
    return tuple(_total(model, name, layers, bits) for name, layers in workloads.items())


def _total(model: Any, workload: str, layers: Sequence[Layer], bits: int) -> NetworkTotal:
    assignment = build_space(layers, weight_bits=(bits,), activation_bits=(bits,)).reference(bits)
    try:
        totals = model.estimate(layers, assignment).totals
        return NetworkTotal(workload, bits, totals, model.interval(layers, assignment, LEVEL))
    except (
        QSearchError
    ) as error:  # of a layer that the target does not run there is no cost, which is no failure to fit
        return NetworkTotal(workload, bits, refusal=str(error))
