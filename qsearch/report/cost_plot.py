"""Bars of what each layer costs, those of fewer bits within those of more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qsearch.report import style
from qsearch.report.plots import short
from qsearch.report.style import BLUE, styled

_SIDE_BY_SIDE = 3
"""Panels in a row, at most."""
_ALIKE = 20
"""Ratio of costs that one axis still shows."""


@styled
def by_layer(
    title: str, layers: Sequence[str], bits: Sequence[int], panels: Mapping[str, NDArray[np.float64]], label: str
) -> Figure:
    """Cost of each layer at each of the bits, a panel for each cost model; they share an axis if their costs are alike.

    Args:
        title: of the figure.
        layers: names, from top to bottom.
        bits: ascending.
        panels: name of a cost model → costs, shape (layers, bits).
        label: of the axis, with the unit.
    """
    pitch = 0.24 if len(layers) <= 24 else 0.17 if len(layers) <= 60 else max(0.05, 10.2 / len(layers))
    columns = min(len(panels), _SIDE_BY_SIDE)
    rows = -(-len(panels) // columns)
    alike = _alike(panels)
    figure, axes = style.new_figure(0.6 + rows * (0.9 + pitch * len(layers)), rows, columns, sharex=alike, sharey=True)
    for spare in axes[len(panels) :]:
        spare.remove()
    for place, (name, costs) in zip(axes, panels.items(), strict=False):
        _bars(place, bits, costs)
        place.set_xlabel(label)
        place.tick_params(labelbottom=True)
        if len(panels) > 1:
            place.set_title(name)
    for place in axes[: len(panels)]:
        place.set_xlim(left=0)  # fixes the right end too, so all bars are there
    step = max(1, int(np.ceil(0.125 / pitch)))
    names = [short(name) for name in layers[::step]]
    axes[0].set_yticks(range(0, len(layers), step), names, fontsize=9 if pitch >= 0.2 else 7.5)
    axes[0].set_ylim(len(layers) - 0.5, -0.5)
    handles, labels = axes[0].get_legend_handles_labels()
    lines = -(-len(bits) // 7)
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=-(-len(bits) // lines))
    figure.suptitle(title if alike else f"{title}; the axes differ", fontsize=10, fontweight="bold", x=0.02, ha="left")
    return figure


def _alike(panels: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether the greatest cost of each panel can be seen beside that of the others."""
    greatest = [float(costs.max(initial=0.0)) for costs in panels.values()]
    return max(greatest) <= _ALIKE * min(greatest)


def _bars(axes: Axes, bits: Sequence[int], costs: NDArray[np.float64]) -> None:
    """Wide and pale for many bits, narrow and dark for few: each is seen, whichever is longer."""
    colours = LinearSegmentedColormap.from_list("bits", ["#0b2540", BLUE, "#b5d4ea"])
    for place in reversed(range(len(bits))):
        rank = place / max(1, len(bits) - 1)
        axes.barh(
            np.arange(len(costs)),
            costs[:, place],
            height=0.3 + 0.5 * rank,
            color=colours(rank),
            label=f"{bits[place]} bits",
        )
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
