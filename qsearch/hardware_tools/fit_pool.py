"""The points that ``qsearch hardware fit`` chooses from, and how many of them it learns from and judges by."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from qsearch.errors import ConfigError
from qsearch.hardware_tools.bits import bits_asked
from qsearch.layers import Layer
from qsearch.measurements import Point, geometry
from qsearch.measuring import Bench
from qsearch.surrogates.features import kind_of

Pairs = dict[str, tuple[tuple[int, int], ...]]
"""Kind of layers → pairs of weight and activation bits."""

USUAL = range(2, 9)
"""Bits that are asked for of a target that runs at many, where none are named."""
LEAST_LEARNED = 6
"""Points below which a pool is too small to learn from."""
JUDGED = 4
"""One in so many points of a small pool is held out."""


def points_of(
    bench: Bench,
    layers: Sequence[Layer],
    weight_bits: Collection[int] | None = None,
    activation_bits: Collection[int] | None = None,
) -> list[Point]:
    """Each geometry once, at each pair of bits that the target runs it at and that was asked for.

    A layer is named as the first of its geometry. An embedding, whose input has no bits, is asked for at one of them.

    Raises:
        ConfigError: there is no such point.
    """
    firsts = {geometry(layer): layer for layer in reversed(layers)}.values()
    runs = [(layer, bench.precisions(layer)) for layer in firsts]
    known = [pair for _, pairs in runs for pair in pairs]
    weights = bits_asked({weight for weight, _ in known}, weight_bits, USUAL)
    activations = bits_asked({activation for _, activation in known}, activation_bits, USUAL)
    found: list[Point] = []
    for layer, every in runs:
        pairs = [
            (weight, activation)
            for weight, activation in every
            if weight in weights and (activation in activations or layer.kind == "embedding")
        ]
        if layer.kind == "embedding":
            pairs = list({weight: (weight, activation) for weight, activation in pairs}.values())
        found.extend((layer, *pair) for pair in dict.fromkeys(pairs))
    if not found:
        shown = ", ".join(f"W{weight}A{activation}" for weight, activation in sorted(set(known))[:8])
        raise ConfigError("the target runs no layer at the bits asked for", fix=f"it does at: {shown or 'none'}")
    return found


def counts(pool: int, samples: int, held_out: int) -> tuple[int, int]:
    """Samples and held-out points that a pool allows: as asked for, or in a smaller pool a quarter held out, the rest learned from.

    Raises:
        ConfigError: too few are left to learn from.
    """
    if samples + held_out <= pool:
        return samples, held_out
    held = min(held_out, pool // JUDGED)
    learned = min(samples, pool - held)
    if learned < min(LEAST_LEARNED, samples):
        raise ConfigError(
            f"a pool must hold at least {LEAST_LEARNED} points to learn from, beside those held out",
            got=f"{pool} points",
            fix="ask for more bits, or for more workloads",
        )
    return learned, held


def split(pool: Sequence[Point], held_out: int, seed: int) -> tuple[list[Point], list[Point]]:
    """Held-out points, drawn at random, and all others."""
    held = set(np.random.default_rng(seed).choice(len(pool), held_out, replace=False).tolist())
    return [pool[row] for row in sorted(held)], [point for row, point in enumerate(pool) if row not in held]


def pairs_of(pool: Sequence[Point], good: Collection[Point], failed: Collection[Point]) -> Pairs:
    """Bits at which each kind of layers has an answer, so that none is where nothing was measured.

    A pair of the pool is one if its weight bits and its activation bits lie between the least and the greatest that any
    measurement succeeded at, and if its kind did not fail wherever it was tried at these weight bits, at these
    activation bits, or at this pair. Between pairs that were measured the posterior may answer: that is what it is for.
    """
    measured = np.asarray([point[1:] for point in good])
    low, high = measured.min(axis=0), measured.max(axis=0)
    found: dict[str, list[set[tuple[int, int]]]] = {}
    for layer in dict.fromkeys(layer for layer, _, _ in pool):
        kind = kind_of(layer)
        refused = _refused(kind, good, failed)
        pairs = {
            (weight, activation)
            for other, weight, activation in pool
            if other == layer
            and low[0] <= weight <= high[0]
            and (layer.kind == "embedding" or low[1] <= activation <= high[1])
            and not {(weight, None), (None, activation), (weight, activation)} & refused
        }
        if pairs:
            found.setdefault(kind, []).append(pairs)
    return {kind: tuple(sorted(set.intersection(*sets) or set.union(*sets))) for kind, sets in found.items()}


def _refused(kind: str, good: Collection[Point], failed: Collection[Point]) -> set[tuple[int | None, int | None]]:
    """Weight bits, activation bits and pairs at which a kind was tried and never succeeded."""

    def tried(points: Collection[Point]) -> set[tuple[int | None, int | None]]:
        pairs = [(weight, activation) for layer, weight, activation in points if kind_of(layer) == kind]
        return {
            key for weight, activation in pairs for key in ((weight, None), (None, activation), (weight, activation))
        }

    return tried(failed) - tried(good)
