"""How plots look, and how they become files: one palette, one size of type, the same bytes every time.

Colours are those of Okabe and Ito (2008), which people of every colour vision can tell apart.
In an SVG, ink, lines of the grid and the page take the colours of the page around it, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
GREY = "#8c8c8c"
PALETTE = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY)
DASHES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))  # type: ignore[assignment]  # half points are fine
INK, FAINT, GRID, PAGE = "#1f2329", "#5c636b", "#d9dce1", "#fefefd"
_LIVE = {INK: "currentColor", FAINT: "var(--faint)", GRID: "var(--grid)", PAGE: "var(--page)"}

WIDTH = 7.0
"""Inches; 700 pixels at 100 per inch."""

_PARAMETERS: dict[str, Any] = {
    "font.size": 10,
    "font.family": ["DejaVu Sans"],
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "figure.dpi": 100,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.06,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "qsearch",
}

P = ParamSpec("P")


@contextmanager
def style() -> Iterator[None]:
    """The report's settings, whatever matplotlibrc says; the caller's own return afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, _PARAMETERS))
        yield


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """A function that draws a figure, under :func:`style`."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return inner


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure of the report's width with its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.ravel())


def svg(figure: Figure, name: str, title: str) -> str:
    """A figure as an ``<svg>`` element to stand within a page.

    Args:
        name: unique within the page; ids in the element begin with it.
        title: what the figure shows, for readers who cannot see it. Plain text.
    """
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for colour, live in _LIVE.items():
        text = text.replace(colour, live)
    return _labelled(_own_ids(text, name), title)


def _own_ids(text: str, name: str) -> str:
    """Drop ids that nothing refers to; put ``name`` before the others, as ids must be unique in a page."""
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    text = re.sub(r'(id="|url\(#|href="#)(?=[^"])', rf"\g<1>{name}-", text)
    return re.sub(r"\n\s+", "\n", text)


def _labelled(text: str, title: str) -> str:
    """An image to assistive software, as wide as the column it stands in."""
    opening, rest = text.split(">", 1)
    opening = re.sub(r' (?:width|height)="[^"]*"', "", opening)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return f'{opening} role="img" aria-label="{label}">{rest}'.strip()


def png(figure: Figure) -> bytes:
    """A figure as a PNG image of twice the report's width in pixels, on white."""
    buffer = io.BytesIO()
    with style():
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
