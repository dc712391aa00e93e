"""Heat maps of sensitivities: site × bits, and site × site for what pairs do beyond their sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from qsearch.report import style, wording
from qsearch.report.plots import short
from qsearch.report.sensitivity_table import columns, grid, groups, labels, taken
from qsearch.report.style import BLUE, GRID, ORANGE, PAGE, VERMILION, styled
from qsearch.space import Variable
from qsearch.survey import Survey

_DECADES = 6
"""Powers of ten that the colours of damages span at most; what is smaller looks like none."""

_PAIR_DECADES = 3
"""The same for interactions, either side of none."""


@styled
def damages(survey: Survey) -> Figure:
    """Damage of each choice of each variable; weights, inputs and what neurons have side by side, two in a row; log colours."""
    values, bits = grid(survey), columns(survey)
    maps = _maps(survey)
    most = max(len(names) for names, _ in maps.values())
    pitch = _pitch(most)
    across, down = min(len(maps), 2), -(-len(maps) // 2)
    figure, axes = style.new_figure(1.15 + down * (0.6 + pitch * most), rows=down, columns=across)
    norm = _norm(values)
    alike = len({tuple(names) for names, _ in maps.values()}) == 1
    for place in axes[len(maps) :]:
        place.set_visible(False)
    for (title, (names, rows)), place in zip(maps.items(), axes, strict=False):
        shown = taken(survey, rows)
        cells = np.ma.masked_invalid(values[np.ix_(rows, shown)])
        image = place.pcolormesh(
            np.arange(len(shown) + 1) - 0.5, np.arange(len(rows) + 1) - 0.5, np.ma.maximum(cells, float(norm.vmin or 0.0)),
            cmap=_rising(), norm=norm, edgecolors=PAGE, linewidth=0.6,
        )  # fmt: skip
        place.set_xticks(range(len(shown)), [str(bits[column]) for column in shown])
        place.set_xlabel("bits")
        place.set_title(title)
        _rows(place, [] if alike and place not in axes[::across] else names, pitch)
        place.set_ylim(most - 0.5, -0.5)
        _plain(place)
        place.spines.bottom.set_position(("data", len(rows) - 0.5))  # so that ticks stand below the last row there is
    figure.suptitle(_title(survey), fontsize=10, fontweight="bold", x=0.02, ha="left")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=45, pad=0.02, fraction=0.05)
    if isinstance(norm, LogNorm):
        _decades(bar.ax.xaxis)
    bar.set_label(survey.quantity)
    return figure


def _title(survey: Survey) -> str:
    return f"Damage of bits in {survey.workload}, by {survey.config.sensitivity.name}"


def _maps(survey: Survey) -> dict[str, tuple[list[str], list[int]]]:
    """Weights, inputs, and what neurons have: names of the variables without what the title of the map says, and their
    rows in the grid.

    Operands of a product of two activations are told apart by their sites.
    """
    products = {site.layer for site in survey.space.sites if site.operand}
    names = []
    for variable, label in zip(survey.space.variables, labels(survey), strict=True):
        site = survey.space.site(variable.name)
        owner = site.layer.removesuffix(".threshold") if site.role == "threshold" else site.layer
        names.append(label if site.layer in products else label.replace(site.name, owner))
    return {title: ([names[row] for row in rows], rows) for title, rows in groups(survey).items()}


@styled
def interactions(survey: Survey) -> Figure:
    """Interaction of each pair at the lowest bits of both, both ways; blue where they soften each other."""
    taken = [v for v in survey.space.variables if any(v.name in pair for pair in survey.table.interactions)]
    place = {variable.name: position for position, variable in enumerate(taken)}
    values = np.full((len(taken), len(taken)), np.nan)
    for (first, second), found in survey.table.interactions.items():
        values[place[first], place[second]] = values[place[second], place[first]] = found[0, 0]
    pitch = min(_pitch(len(taken)), 4.4 / len(taken))
    figure, (axes,) = style.new_figure(3.2 + pitch * len(taken))
    largest = float(np.nanmax(np.abs(values))) or 1.0
    norm = SymLogNorm(linthresh=largest * 10.0**-_PAIR_DECADES, linscale=0.5, vmin=-largest, vmax=largest)
    edges = np.arange(len(taken) + 1) - 0.5
    colours = LinearSegmentedColormap.from_list("pairs", [BLUE, PAGE, VERMILION]).with_extremes(bad=GRID)
    image = axes.pcolormesh(
        edges, edges, np.ma.masked_invalid(values), cmap=colours, norm=norm, edgecolors=PAGE, linewidth=0.3
    )
    axes.set_aspect("equal")
    names = [short(name) for name in _pair_names(survey, taken)]
    _rows(axes, names, pitch)
    axes.set_ylim(len(taken) - 0.5, -0.5)
    axes.set_xticks(range(0, len(taken), _step(pitch)), names[:: _step(pitch)], rotation=90, fontsize=_size(pitch))
    axes.tick_params(axis="x", length=0)
    _plain(axes)
    title = f"Damage of pairs beyond their sum in {survey.workload}, both at their lowest bits"
    figure.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=45, pad=0.02, fraction=0.04)
    decades = largest * 10.0 ** -np.arange(_PAIR_DECADES)
    bar.set_ticks([*-decades, 0.0, *decades[::-1]])
    bar.ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.minus(f"{value:.1g}")))
    bar.ax.xaxis.set_minor_locator(NullLocator())
    bar.set_label(survey.quantity)
    return figure


def _pair_names(survey: Survey, taken: Sequence[Variable]) -> list[str]:
    """Names of layers where all variables are weights, or all inputs, one a layer; else names of sites."""
    sites = [survey.space.site(variable.name) for variable in taken]
    alike = len({site.role for site in sites}) == 1 and not any(site.operand for site in sites)
    return [site.layer if alike else site.name for site in sites]


def _plain(axes: Axes) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _decades(axis: Axis) -> None:
    """Powers of ten as plain text: the style reads no formulae."""
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"10{f'{np.log10(value):.0f}'.translate(raised)}"))
    axis.set_minor_formatter(NullFormatter())


def _norm(values: NDArray[np.float64]) -> Normalize:
    """Logarithmic over the positive damages, ``_DECADES`` at most; plain where there are none."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return Normalize(0.0, 1.0)
    high = float(positive.max())
    low = max(float(positive.min()), high * 10.0**-_DECADES)
    return LogNorm(min(low, high / 10), high)


def _rising() -> LinearSegmentedColormap:
    """From the page's colour over orange to vermilion and dark: more ink is more damage."""
    return LinearSegmentedColormap.from_list("damage", ["#fbf3e2", ORANGE, VERMILION, "#5b1a00"])


def _rows(axes: Axes, names: Sequence[str], pitch: float) -> None:
    """Names at the left; every second, third, … one where rows are closer than a line of type."""
    step = _step(pitch)
    axes.set_yticks(range(0, len(names), step), [short(name) for name in names[::step]], fontsize=_size(pitch))
    axes.tick_params(axis="y", length=0)


def _pitch(rows: int) -> float:
    """Inches from row to row."""
    return 0.24 if rows <= 24 else 0.17 if rows <= 60 else max(0.05, 10.2 / rows)


def _step(pitch: float) -> int:
    return max(1, int(np.ceil(0.125 / pitch)))


def _size(pitch: float) -> float:
    return 9 if pitch >= 0.2 else 7.5
