"""Which bits of a target a command asks for."""

from __future__ import annotations

from collections.abc import Collection

FEW = 6
"""Bitwidths, of weights or of activations, that are all asked for where none are named."""


def bits_asked(known: set[int], named: Collection[int] | None, usual: Collection[int]) -> set[int]:
    """Those named; without any all that are known, or of more than a few the usual ones among them."""
    if named is not None:
        return set(named)
    return known & set(usual) or known if len(known) > FEW else known
