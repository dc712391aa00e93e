"""Bits as text, a line per layer, and as a picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qsearch.problem import Problem
from qsearch.space import SearchSpace

WIDTH, ROW, GAP, SIDE = 384, 12, 2, 48
"""Pixels: width of the kernels' cells, height of a layer, distance between cells, width of the activation's cell."""
SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Colours, RGB, from no bits to the most of the space: brighter throughout, also to colour-blind eyes (viridis)."""
UNDECIDED = (226, 226, 226)
"""Colour of what is not decided yet."""


def ansi(problem: Problem, x: NDArray[np.int64], decided: NDArray[np.bool_]) -> str:
    """A line per layer: bits of its weight and its input, "·" where they are not decided yet; "=" marks fixed ones.

    A product of two activations has no weight, but an other operand; neurons have a leak and a state, or a threshold.
    """
    known = _decided_sites(problem.space, decided)
    bits = {name: value[0] for name, value in problem.space.bits(x[None]).items()}

    def cell(site: str) -> str:
        if site not in bits:
            return ""
        mark = "=" if site in (problem.space.fixed or {}) else " "
        return f"{site.rpartition('.')[2]} {mark}{_shown(bits[site]) if known[site] else '·'}"

    rows = [(layer.name, cell(layer.weight_site), cell(layer.activation_site)) for layer in problem.layers]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def picture(problem: Problem, x: NDArray[np.int64], decided: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A row per layer: a cell for its input, then its kernels from left to right. Dark is few bits, bright is many.

    The other operand of a product of two activations stands where kernels do, and so do leaks and thresholds; states stand
    where inputs do.

    Returns:
        Pixels, shape (layers · (ROW + GAP) + GAP, SIDE + WIDTH + 3·GAP, 3).
    """
    known = _decided_sites(problem.space, decided)
    bits = {name: value[0] for name, value in problem.space.bits(x[None]).items()}
    most = max(max(variable.choices) for variable in problem.space.variables)
    image = np.full((len(problem.layers) * (ROW + GAP) + GAP, SIDE + WIDTH + 3 * GAP, 3), 255, dtype=np.uint8)
    for row, layer in enumerate(problem.layers):
        top = GAP + row * (ROW + GAP)
        for site, left, width in (
            (layer.activation_site, GAP, SIDE),
            (layer.weight_site, SIDE + 2 * GAP, WIDTH),
        ):
            if site in bits:
                colours = _colours(bits[site], most) if known[site] else np.asarray([UNDECIDED], dtype=np.uint8)
                image[top : top + ROW, left : left + width] = colours[np.arange(width) * len(colours) // width]
    return image


def _decided_sites(space: SearchSpace, decided: NDArray[np.bool_]) -> dict[str, bool]:
    """Site → whether all of its decisions are taken; fixed sites are."""
    found = dict.fromkeys((site.name for site in space.sites), True)
    for variable in space.variables:
        found.update(dict.fromkeys(variable.sites, bool(decided[variable.slice].all())))
    return found


def _shown(bits: NDArray[np.int64]) -> str:
    """One number, or the mean and how many kernels have which bits."""
    values, counts = np.unique(bits, return_counts=True)
    if len(values) == 1:
        return str(values[0])
    return f"{bits.mean():.2f} ({' '.join(f'{value}:{count}' for value, count in zip(values, counts, strict=True))})"


def _colours(bits: NDArray[np.int64], most: int) -> NDArray[np.uint8]:
    """Colour of each kernel, shape (K, 3)."""
    share, ends = bits / max(most, 1), np.linspace(0, 1, len(SCALE))
    return np.stack([np.rint(np.interp(share, ends, channel)) for channel in zip(*SCALE, strict=True)], 1).astype(
        np.uint8
    )
