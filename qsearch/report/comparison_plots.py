"""Plots of several runs: progress over seeds, fronts, and the assignments that were found. One colour per searcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qsearch.problem import Objective
from qsearch.report import facts, plots, style, wording
from qsearch.report.comparison import Group
from qsearch.report.curves import (
    Box,
    Plane,
    best_so_far,
    hypervolume_curve,
    mean_curve,
    plane_front,
    quality_objective,
)
from qsearch.report.quality_axis import QualityAxis
from qsearch.report.statistics import Interval
from qsearch.report.style import FAINT, GREY, PALETTE, styled
from qsearch.run import Run

_PANELS = 4
_LEGEND_LENGTH = 36


def looks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Line colour and dashes of each searcher; grey is kept for ``uniform``, the baseline."""
    found: list[dict[str, Any]] = []
    number = 0
    for group in groups:
        if group.searcher["name"] == "uniform":
            found.append({"color": GREY, "linestyle": "solid"})
            continue
        dashes = style.DASHES[number // len(PALETTE) % len(style.DASHES)]
        found.append({"color": PALETTE[number % len(PALETTE)], "linestyle": dashes})
        number += 1
    return found


@styled
def progress(groups: Sequence[Group]) -> Figure:
    """Best feasible first objective against evaluations: mean over seeds, 95 % band."""
    run = groups[0].runs[0]
    objective = run.objectives[0]
    percent = facts.percent(run, objective.metric)
    factor, unit = 1.0, ""
    if objective.metric in run.info.units:
        factor, unit = wording.prefix(run.info.reference.get(objective.metric, 1.0), run.info.units[objective.metric])
    scale = 100.0 if percent else 1 / factor
    figure, (axes,) = style.new_figure(3.7)
    ends = _draw_curves(axes, groups, best_so_far, scale)
    reference = run.float_quality.values.get(objective.metric)
    if reference is not None:
        axes.axhline(scale * reference, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), label="float network")
    unit = "%" if percent else unit
    axes.set_ylabel(f"best {objective.metric} ({unit})" if unit else f"best {objective.metric}")
    _focus(axes, ends, scale * reference if reference is not None else None, objective.sign < 0)
    if percent:
        axes.set_ylim(top=min(axes.get_ylim()[1], 100.6))
    plots.legend(axes, columns=2)
    return figure


@styled
def volume(groups: Sequence[Group], plane: Plane, box: Box) -> Figure:
    """Hypervolume against evaluations: mean over seeds, 95 % band."""
    figure, (axes,) = style.new_figure(3.7)
    ends = _draw_curves(axes, groups, lambda run: hypervolume_curve(run, plane, box), 1.0)
    axes.set_ylabel(f"hypervolume of {plane.label}")
    _focus(axes, ends, None, True)
    axes.set_ylim(top=min(axes.get_ylim()[1], 1.02))
    plots.legend(axes, columns=2)
    return figure


def _draw_curves(
    axes: Axes, groups: Sequence[Group], curve: Callable[[Run], list[float | None]], scale: float
) -> list[list[Interval]]:
    """One line per searcher, thin where it has stopped; its known means are returned."""
    longest = max((facts.spent_evaluations(run) for group in groups for run in group.runs), default=1)
    drawn = []
    for group, look in zip(groups, looks(groups), strict=True):
        means = mean_curve([curve(run) for run in group.runs])
        known = [(k, mean) for k, mean in enumerate(means, 1) if mean is not None]
        drawn.append([Interval(scale * mean.mean) for _, mean in known])
        label = f"{legend_name(group)}, {wording.count(len(group.runs), 'run')}"
        if not known:
            axes.plot([], [], linewidth=1.9, label=f"{label}: nothing found", **look)
            continue
        x = np.asarray([k for k, _ in known])
        y = scale * np.asarray([mean.mean for _, mean in known])
        axes.step(x, y, where="post", linewidth=1.9, label=label, zorder=3, **look)
        if x[-1] < longest:
            axes.plot(x[-1], y[-1], "o", color=look["color"], markersize=4.5, zorder=4)
            axes.plot(
                [x[-1], longest], [y[-1], y[-1]], color=look["color"], linewidth=0.9, linestyle=(0, (1, 2)), zorder=2
            )
        if known[-1][1].low is not None:
            low = scale * np.asarray([np.nan if mean.low is None else mean.low for _, mean in known])
            high = scale * np.asarray([np.nan if mean.high is None else mean.high for _, mean in known])
            axes.fill_between(x, low, high, step="post", color=look["color"], alpha=0.14, linewidth=0, zorder=1)
    axes.set_xlabel("evaluations")
    axes.set_xlim(0, longest * 1.01 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _focus(axes: Axes, curves: Sequence[Sequence[Interval]], reference: float | None, up: bool) -> None:
    """A range where the ends of the curves can be told apart; a poor start may leave it."""
    if not any(curves):
        return
    ends = [curve[-1].mean for curve in curves if curve] + ([reference] if reference is not None else [])
    starts = [curve[min(len(curve) - 1, max(1, len(curve) // 8))].mean for curve in curves if curve]
    worst = min(ends + starts) if up else max(ends + starts)
    best = max(ends) if up else min(ends)
    span = max(abs(best - worst), 1e-3 * abs(best), 1e-9)
    low, high = (worst, best) if up else (best, worst)
    axes.set_ylim(low - 0.12 * span, high + 0.12 * span)


def legend_name(group: Group) -> str:
    """A label short enough for two columns of a legend."""
    label = group.label.lstrip("_") or group.label
    return label if len(label) <= _LEGEND_LENGTH else f"{label[: _LEGEND_LENGTH - 1]}…"


@styled
def fronts(groups: Sequence[Group], metric: str) -> Figure:
    """Quality against one cost: what each searcher's runs found together, within the limits."""
    run = groups[0].runs[0]
    objective = quality_objective(run)
    plane = Plane((objective, Objective(metric, "minimize")))
    trials = [trial for group in groups for one in group.runs for trial in one.trials if trial.feasible]
    view = QualityAxis(run, objective, plane_front(trials, plane))
    largest = max((trial.value(metric) for trial in trials), default=1.0)
    factor, unit = wording.prefix(run.info.reference.get(metric) or largest, run.info.units[metric])
    figure, (axes,) = style.new_figure(3.7)
    for group, look in zip(groups, looks(groups), strict=True):
        front = plane_front([trial for one in group.runs for trial in one.trials], plane)[::-1]
        x = [trial.value(metric) / factor for trial in front]
        y = [view.scale * trial.value(objective.metric) for trial in front]
        axes.step(x, y, where="post", linewidth=1.5, marker="o", markersize=3.8, label=legend_name(group), **look)
    reference = run.float_quality.values.get(objective.metric)
    if reference is not None:
        axes.axhline(view.scale * reference, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), label="float network")
    for bound in run.info.bounds:
        if bound.metric == metric:
            axes.axvline(bound.limit / factor, color=FAINT, linewidth=1.2, linestyle=(0, (4, 2)), label="limit")
    axes.set_xlabel(f"{metric} ({unit})" if unit else metric)
    view.apply(axes)
    axes.set_xlim(left=0)
    plots.legend(axes, columns=3)
    return figure


@styled
def assignments(groups: Sequence[Group]) -> Figure:
    """Bits per layer of each searcher's best run, side by side; rows are the layers."""
    shown = [(group, run) for group in groups if (run := group.best_run) is not None]
    layers = groups[0].runs[0].info.layers
    columns = min(_PANELS, len(shown))
    rows = -(-len(shown) // columns)
    pitch = plots.row_pitch(len(layers)) * 0.85
    figure, all_axes = style.new_figure(
        (0.8 + pitch * len(layers)) * rows + 0.3, rows, columns, sharex=True, sharey=True
    )
    for axes, (group, run) in zip(all_axes, shown, strict=False):
        assert run.best is not None
        plots.draw_bits(axes, layers, run.best.assignment)
        axes.set_title("\n".join(wrap(group.label, 60 // columns)[:3]), fontsize=9)
        axes.set_xlabel("bits")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for axes in all_axes[len(shown) :]:
        axes.set_visible(False)
    plots.layer_names(all_axes[0], layers, pitch)
    plots.legend(all_axes[0], columns=2)
    return figure
