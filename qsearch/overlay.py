"""Overlays: a weight as a dense ternary part and a sparse part of higher precision in a regular pattern.

Notation

=======  ====================================================================================
K, n     kernels of a weight, and weights in a kernel
P        period: a kernel's weights are cut into runs of P, the last one shorter where P does not divide n
k        weights kept in high precision in each run of P, 0 … P/2, or all; ⌊k·r/P⌋ in a last run of r < P
b        bits of the kept weights; the others are −s, 0 or s
=======  ====================================================================================

What a pattern says of which k weights of a run are kept:

=========  ========================================  ============================  ==============================
pattern    a run goes                                kept                          index of a run
=========  ========================================  ============================  ==============================
blocks     along input channels, position by         k in a row, the same for      ⌈log2(P − k + 1)⌉ bits for
           position of the kernel                    ``SHARED`` kernels            ``SHARED`` kernels together
positions  along the kernel's positions, channel by  any k                         ⌈log2 C(P, k)⌉ bits
           channel
channels   as of blocks                              any k                         ⌈log2 C(P, k)⌉ bits
free       nowhere: it is the whole kernel           as many as the others keep    ⌈log2 C(n, kept)⌉ bits
=========  ========================================  ============================  ==============================

"channels" is N:M sparsity along input channels, strictly so where P divides them: a run then lies at one position. A
run that is longer than the channels goes on at the next position. In a linear layer, which has one position, and in a
depthwise one, which has one channel, positions and channels are the same. All patterns keep equally many weights. They
are in the order of what they cost, the most regular first, as bits are. The free one, "unstructured", is there to compare
with: it bounds what any pattern can keep.

That most weights be ternary and few of high precision, as a superposition of two layers, is from a project description of
ETH Zürich's Integrated Systems Laboratory; patterns and charges are this project's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import SpaceError, nearest

Pattern = Literal["blocks", "positions", "channels", "unstructured"]

PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
"""The choices of a pattern's site are indices into this."""

REGULAR = PATTERNS[:-1]
"""Those that hardware can count on."""

ALL = FLOAT_BITS
"""The choice of an overlay's site that keeps every weight: the layer is plain, and its pattern of no meaning."""

SHARED = 4
"""Kernels, one after the other, that have the same blocks."""

LONGEST = 128
"""Longest period: 1 of 100 is 1 %."""

FEWEST_BITS = 2
"""Of kept weights: with one bit they would be coarser than the ternary ones."""

PACKED_BITS = 1.6
"""Bits of a ternary weight in storage: five of them in a byte, as 3⁵ = 243."""

UNPACKED_BITS = 2.0
"""The same where each has a field of its own."""


@dataclass(frozen=True)
class Overlay:
    """Which overlays a search may choose from.

    Attributes:
        period: P, 2..128.
        kept: choices of k: from 0, all ternary, to P/2, below 32; and P, which keeps all.
        patterns: choices of the pattern.
        layers: names of the layers that may be overlaid; all that can be without it.

    Raises:
        SpaceError: a number out of range, an unknown pattern, no choice.
    """

    period: int = 32
    kept: tuple[int, ...] = (0, 1, 2, 4, 8)
    patterns: tuple[str, ...] = REGULAR
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.period <= LONGEST:
            raise SpaceError(f"the period of an overlay must be within 2..{LONGEST}", got=self.period)
        if not self.kept or not self.patterns:
            raise SpaceError("an overlay needs a choice of kept weights, and one of patterns", got="none")
        most = min(self.period // 2, ALL - 1)
        for kept in self.kept:
            if not 0 <= kept <= most and kept != self.period:
                raise SpaceError(
                    f"of every {self.period} weights an overlay may keep 0..{most}, or all {self.period}", got=kept
                )
        for pattern in self.patterns:
            if pattern not in PATTERNS:
                raise SpaceError(f"unknown pattern {pattern!r} of an overlay", fix=nearest(pattern, PATTERNS))

    @property
    def kept_choices(self) -> tuple[int, ...]:
        """Choices of an overlay's site, ascending: k, and ``ALL`` for P."""
        return tuple(sorted({ALL if kept == self.period else kept for kept in self.kept}))

    @property
    def pattern_choices(self) -> tuple[int, ...]:
        """Choices of a pattern's site, ascending."""
        return tuple(sorted({PATTERNS.index(pattern) for pattern in PATTERNS if pattern in self.patterns}))


def runs(n: int, period: int, kept: int) -> Iterator[tuple[int, int, int]]:
    """How a kernel of n weights is cut: runs of one kind, weights in each, and kept weights in each."""
    if n >= period:
        yield n // period, period, kept
    if rest := n % period:
        yield 1, rest, kept * rest // period


def kept_weights(n: int, period: int, kept: int) -> int:
    """Kept weights of a kernel of n; n where ``kept`` is ``ALL``."""
    return n if kept == ALL else sum(count * inside for count, _, inside in runs(n, period, kept))


def index_bits(kernels: int, n: int, period: int, kept: int, pattern: int) -> int:
    """Bits that tell which weights of K kernels of n weights are kept; none where all are."""
    if kept == ALL:
        return 0
    if PATTERNS[pattern] == "unstructured":
        return kernels * _bits(math.comb(n, kept_weights(n, period, kept)))
    cut = list(runs(n, period, kept))
    if PATTERNS[pattern] == "blocks":
        return -(-kernels // SHARED) * sum(count * _bits(_starts(length, inside)) for count, length, inside in cut)
    return kernels * sum(count * _bits(math.comb(length, inside)) for count, length, inside in cut)


def stored_bits(kernels: int, n: int, period: int, kept: int, pattern: int, bits: float) -> float:
    """Bits in storage per weight, index included and scales not: log2 3, packed, + ρ·b + index / weights."""
    if kept == ALL:
        return bits
    index = index_bits(kernels, n, period, kept, pattern) / (kernels * n)
    return PACKED_BITS + kept_weights(n, period, kept) / n * bits + index


def _starts(length: int, inside: int) -> int:
    """Places for a block within a run; one where it is empty."""
    return length - inside + 1 if inside else 1


def _bits(choices: int) -> int:
    """⌈log2 choices⌉, exactly."""
    return (choices - 1).bit_length()
