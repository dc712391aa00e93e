"""Which assignments make the same network, where weights may be overlaid (:mod:`qsearch.overlay`).

Notation: a kernel of n weights, k of every P of them kept, at b bits.

=========================  =======================================================================================
the same                   where
=========================  =======================================================================================
k                          all runs keep as many: kernels shorter than P keep ⌊k·n/P⌋
b                          kernels keep nothing, or one weight, whose scale makes it exact at any bits
pattern                    kernels keep nothing, or everything
"positions", "channels"    kernels have one channel or one position, or are one run; weights of equal gain apart
=========================  =======================================================================================

Of such choices the lowest stands for all: it costs the least. A tied site is left as it is, as another one may need it so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.layers import Layer
from qsearch.overlay import ALL, PATTERNS, kept_weights, runs
from qsearch.space import SearchSpace, Variable

X = NDArray[np.int64]

POSITIONS, CHANNELS = PATTERNS.index("positions"), PATTERNS.index("channels")


def canonical(space: SearchSpace, layers: Sequence[Layer], x: X) -> X:
    """The assignment that stands for all that make the same network; ``x``, shape (D,), stays.

    Args:
        layers: of the network, with the periods of their overlays.
    """
    owner = space.owners
    x = x.copy()
    for layer in layers:
        if layer.overlay:
            _settle(space, owner, layer, x)
    return x


def _settle(space: SearchSpace, owner: Mapping[str, Variable], layer: Layer, x: X) -> None:
    """Bring the choices for one layer down, in place."""
    n, kept = layer.kernel_params, _value(space, owner, layer.overlay_site, x)
    cut = _cut(layer, kept)
    _lower(owner, layer.overlay_site, x, lambda other: _cut(layer, other) == cut)
    inside = kept_weights(n, layer.overlay, kept)
    if kept != ALL and inside <= 1:
        _lower(owner, layer.weight_site, x, lambda _: True)
    if kept == ALL or inside == 0:
        _lower(owner, layer.pattern_site, x, lambda _: True)
    elif _one_order(layer) and _value(space, owner, layer.pattern_site, x) in (POSITIONS, CHANNELS):
        _lower(owner, layer.pattern_site, x, lambda other: other in (POSITIONS, CHANNELS))


def _lower(owner: Mapping[str, Variable], site: str, x: X, same: Callable[[int], bool]) -> None:
    """Give a site the lowest of the choices that are the same as its own, unless it is fixed or tied."""
    if site in owner and owner[site].sites == (site,):
        x[owner[site].start] = next(index for index, choice in enumerate(owner[site].choices) if same(choice))


def _cut(layer: Layer, kept: int) -> tuple[tuple[int, int, int], ...] | None:
    """How its kernels are cut; None where they are whole."""
    return None if kept == ALL else tuple(runs(layer.kernel_params, layer.overlay, kept))


def _one_order(layer: Layer) -> bool:
    """Whether runs along positions hold the same weights as those along channels."""
    positions = math.prod(layer.kernel)
    return positions in (1, layer.kernel_params) or layer.kernel_params <= layer.overlay


def _value(space: SearchSpace, owner: Mapping[str, Variable], name: str, x: X) -> int:
    """What a site of one decision has."""
    if name in owner:
        return owner[name].choices[int(x[owner[name].start])]
    return (space.fixed or {})[name]
