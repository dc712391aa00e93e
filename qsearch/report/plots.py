"""Plots of one run, as figures: fronts, bits per layer, the best so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.layers import Layer
from qsearch.problem import Objective
from qsearch.report import facts, style, wording
from qsearch.report.curves import Plane, as_array, best_so_far, plane_front, quality_objective, spending
from qsearch.report.quality_axis import QualityAxis
from qsearch.report.style import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PAGE, PURPLE, SKY, VERMILION, styled
from qsearch.run import Run
from qsearch.trial import Trial

_RASTER = 1500
"""Points above which a cloud is drawn as an image, so that a page stays small."""

_NAME_LENGTH = 30

_MARGIN = 0.08
"""Share of an axis that stays free beside the outermost points; a label of two digits takes half of it."""


@styled
def pareto(run: Run, metric: str) -> Figure:
    """Quality against one cost: every evaluated trial, the front, the limits, uniform bitwidths, the float network."""
    objective = quality_objective(run)
    plane = Plane((objective, Objective(metric, "minimize")))
    evaluated = [
        trial for trial in run.trials if np.isfinite([trial.value(metric), trial.value(objective.metric)]).all()
    ]
    factor, unit = wording.prefix(run.info.reference.get(metric) or _largest(evaluated, metric), run.info.units[metric])
    front = plane_front(run.trials, plane)
    view = QualityAxis(run, objective, front or run.trials)
    figure, (axes,) = style.new_figure(3.9)
    for trials, colour, marker, label in (
        ([trial for trial in evaluated if trial.state == "pruned"], ORANGE, "+", "pruned"),
        (
            [trial for trial in evaluated if trial.state == "complete" and not trial.feasible],
            VERMILION,
            "x",
            "over a limit",
        ),
        ([trial for trial in evaluated if trial.feasible], GREY, "o", "tried"),
    ):
        x = np.asarray([trial.value(metric) / factor for trial in trials])
        y = view.scale * np.asarray([trial.value(objective.metric) for trial in trials])
        _cloud(axes, x, y, view, colour, marker, label)
    _draw_front(axes, front, view, metric, factor)
    _draw_uniform(axes, run, view, metric, factor)
    _draw_limits(axes, run, metric, factor)
    _draw_float(axes, run, view)
    _mark_best(axes, run, view, metric, factor)
    view.apply(axes)
    axes.set_xlabel(f"{metric} ({unit})" if unit else metric)
    limits = [bound.limit for bound in run.info.bounds if bound.metric == metric]
    axes.set_xlim(cost_range([value / factor for value in (*(trial.value(metric) for trial in evaluated), *limits)]))
    _relative_axis(axes, run, metric, factor)
    legend(axes)
    return figure


def cost_range(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis of costs: from 0, unless that pressed them into its far half; with room for labels at the right."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high <= 0:
        return 0.0, 1.0
    start = low - _MARGIN * (high - low) if 0.5 * high < low < high else 0.0
    return start, high + _MARGIN * (high - start)


def _largest(trials: Sequence[Trial], metric: str) -> float:
    return max((trial.value(metric) for trial in trials), default=1.0)


def _cloud(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], view: QualityAxis, colour: str, marker: str, label: str
) -> None:
    """Faint points; those beyond the range as marks at its edge."""
    if not len(x):
        return
    beyond = view.outside(y)
    size, alpha = (16, 0.45) if marker == "o" else (18, 0.55)
    width = 0 if marker == "o" else 1.0
    axes.scatter(
        x[~beyond], y[~beyond], s=size, c=colour, marker=marker, alpha=alpha, linewidths=width, label=label,
        rasterized=len(x) > _RASTER, zorder=2,
    )  # fmt: skip
    edge = view.low if view.objective.sign < 0 else view.high
    if beyond.any():
        arrow = "v" if view.objective.sign < 0 else "^"
        axes.scatter(
            x[beyond], np.full(int(beyond.sum()), edge), s=20, c=colour, marker=arrow, alpha=0.5, linewidths=0,
            clip_on=False, label=f"{label}, beyond this range ({int(beyond.sum()):,})", rasterized=len(x) > _RASTER,
            zorder=2,
        )  # fmt: skip


def _draw_front(axes: Axes, front: Sequence[Trial], view: QualityAxis, metric: str, factor: float) -> None:
    """The front as steps: the best quality to be had at each cost."""
    if not front:
        return
    x = np.asarray([trial.value(metric) / factor for trial in front])[::-1]
    y = view.scale * np.asarray([trial.value(view.objective.metric) for trial in front])[::-1]
    axes.step(x, y, where="post", color=BLUE, linewidth=1.6, zorder=3)
    axes.plot(x, y, "o", color=BLUE, markersize=4.5, label="best at its cost", zorder=4)


def _draw_uniform(axes: Axes, run: Run, view: QualityAxis, metric: str, factor: float) -> None:
    labelled = False
    for bits, trial in facts.uniform_trials(run).items():
        x, y = trial.value(metric) / factor, view.scale * trial.value(view.objective.metric)
        if bool(view.outside(np.asarray(y))):
            continue
        label = None if labelled else "every site at the same bits"
        axes.plot(x, y, "D", color=ORANGE, markersize=5.5, markeredgecolor=PAGE, label=label, zorder=5)
        axes.annotate(str(bits), (x, y), xytext=(5, -10), textcoords="offset points", fontsize=8.5, color=INK, zorder=6)
        labelled = True


def _draw_limits(axes: Axes, run: Run, metric: str, factor: float) -> None:
    for bound in run.info.bounds:
        if bound.metric == metric:
            axes.axvline(bound.limit / factor, color=VERMILION, linewidth=1.2, linestyle=(0, (4, 2)), label="limit")


def _draw_float(axes: Axes, run: Run, view: QualityAxis) -> None:
    value = run.float_quality.values.get(view.objective.metric, float("nan"))
    if np.isfinite(value):
        axes.axhline(view.scale * value, color=FAINT, linewidth=1.0, linestyle=(0, (1, 2)), label="float network")


def _mark_best(axes: Axes, run: Run, view: QualityAxis, metric: str, factor: float) -> None:
    if run.best is None:
        return
    x, y = run.best.value(metric) / factor, view.scale * run.best.value(view.objective.metric)
    if np.isfinite([x, y]).all():
        axes.plot(x, y, "*", color=GREEN, markersize=14, markeredgecolor=PAGE, label="chosen", zorder=7)


def _relative_axis(axes: Axes, run: Run, metric: str, factor: float) -> None:
    """A second scale on top: the cost as a multiple of uniform 8 bits."""
    reference = run.info.reference.get(metric, 0.0) / factor
    if reference > 0:
        top = axes.secondary_xaxis(
            "top", functions=(partial(np.multiply, 1 / reference), partial(np.multiply, reference))
        )
        top.set_xlabel("relative to uniform 8 bits", fontsize=9, color=FAINT)
        top.tick_params(labelsize=8.5)


def legend(axes: Axes, columns: int = 3) -> None:
    """Each label once, below the plot, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    entries = dict(zip(reversed(labels), reversed(handles), strict=True))
    figure = axes.get_figure(root=True)
    if entries and figure is not None:
        names = list(dict.fromkeys(labels))
        figure.legend(
            [entries[name] for name in names],
            names,
            loc="outside lower left",
            ncols=columns,
            handlelength=1.6,
            columnspacing=1.4,
        )


@styled
def progress(run: Run) -> Figure:
    """The best so far, and every evaluation, against evaluations spent."""
    objective = run.objectives[0]
    spent = spending(run)
    all_shown = run.best is None or objective.metric in run.info.units
    view = QualityAxis(run, objective, [trial for _, trial in spent] if all_shown else run.front[:1])
    curve = view.scale * as_array(best_so_far(run))
    known = curve[np.isfinite(curve)]
    if known.size:
        view.reach(known[min(known.size - 1, max(1, known.size // 10)) :])
    figure, (axes,) = style.new_figure(3.2)
    for state, feasible, colour, marker, label in (
        ("pruned", False, ORANGE, "+", "pruned"),
        ("complete", False, VERMILION, "x", "over a limit"),
        ("complete", True, GREY, "o", "tried"),
    ):
        chosen = [(k, trial) for k, trial in spent if (trial.state, trial.feasible) == (state, feasible)]
        values = np.asarray([(k, trial.value(objective.metric)) for k, trial in chosen]).reshape(-1, 2)
        values = values[np.isfinite(values).all(axis=1)]
        _cloud(axes, values[:, 0], view.scale * values[:, 1], view, colour, marker, label)
    if known.size:
        axes.step(
            np.arange(1, len(curve) + 1), curve, where="post", color=BLUE, linewidth=1.8, label="best so far", zorder=3
        )
    _draw_float(axes, run, view)
    view.apply(axes)
    if not view.percent and objective.metric in run.info.units:
        _cost_axis(axes, run, objective.metric)
    axes.set_xlabel("evaluations")
    axes.set_xlim(0, max(len(curve), 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(axes)
    return figure


def _cost_axis(axes: Axes, run: Run, metric: str) -> None:
    """Label an axis of costs in a unit with a prefix."""
    factor, unit = wording.prefix(max(abs(value) for value in axes.get_ylim()), run.info.units[metric])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.minus(f"{value / factor:.4g}")))
    axes.set_ylabel(f"{metric} ({unit})" if unit else metric)


@styled
def bits_per_layer(layers: Sequence[Layer], assignment: BitAssignment) -> Figure:
    """Bits of weights and activations, a row per layer; kernel-wise bits as mean with their range."""
    pitch = row_pitch(len(layers))
    figure, (axes,) = style.new_figure(0.85 + pitch * len(layers))
    draw_bits(axes, layers, assignment)
    layer_names(axes, layers, pitch)
    axes.set_xlabel("bits")
    legend(axes)
    return figure


def row_pitch(rows: int) -> float:
    """Inches per row: roomy for few layers, dense for many, never a figure beyond 20 inches."""
    return min(0.3 if rows <= 24 else 0.2, 19.0 / max(rows, 1))


def draw_bits(axes: Axes, layers: Sequence[Layer], assignment: BitAssignment) -> None:
    """Two bars per layer, weights above inputs; a whisker from the fewest to the most bits of any kernel.

    The other operand of a product of two activations stands where weights do, in a colour of its own; so do leaks, above
    the states of their neurons. A threshold has one bar. Inputs that are spikes are told in a word.
    """
    whisker = 5 if len(layers) <= 24 else 3
    quantised = [max(np.ravel(bits)) for bits in assignment.values() if bits != FLOAT_BITS]
    beyond = max(quantised, default=7) + 1
    for row, (site, colour, label) in _bars(layers):
        bits = assignment.get(site)
        if bits == FLOAT_BITS:
            axes.barh(row, beyond, height=0.36, color=colour, alpha=0.3)
            axes.text(float(beyond), row, " float", va="center", fontsize=7.5)
        elif bits is not None:
            axes.barh(row, assignment.mean_bits(site), height=0.36, color=colour, label=label)
        if isinstance(bits, tuple):
            ends = ([min(bits), max(bits)], [row] * 2)
            axes.plot(*ends, color=INK, linewidth=0.2 * whisker, marker="|", markersize=whisker)
    for row, layer in enumerate(layers):
        if layer.reads_spikes:
            axes.annotate(
                "spikes",
                (0.0, row + 0.19),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=FAINT,
            )
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    axes.grid(axis="y", visible=False)


def _bars(layers: Sequence[Layer]) -> Iterator[tuple[float, tuple[str, str, str]]]:
    """Where each bar stands, with its site, its colour and what the legend calls it; those of one kind together."""
    above, below = -0.19, 0.19
    for row, layer in enumerate(layers):
        if layer.weighted:
            yield row + above, (layer.weight_site, BLUE, "weights")
    for row, layer in enumerate(layers):
        if (layer.weighted and not layer.reads_spikes) or layer.kind == "matmul":
            yield row + below, (layer.activation_site, ORANGE, "input activations")
    for row, layer in enumerate(layers):
        if layer.kind == "matmul":
            yield row + above, (layer.weight_site, GREEN, "other operands of products")
    for row, layer in enumerate(layers):
        if layer.kind == "neuron" and layer.constants:
            yield row + above, (layer.weight_site, SKY, "leaks")
    for row, layer in enumerate(layers):
        if layer.kind == "neuron":
            yield row + below, (layer.activation_site, PURPLE, "states")
    for row, layer in enumerate(layers):
        if layer.kind == "threshold":
            yield row, (layer.weight_site, VERMILION, "thresholds")


def layer_names(axes: Axes, layers: Sequence[Layer], pitch: float) -> None:
    """Names at the left; every second, third, … one where rows are closer than a line of type."""
    step = max(1, int(np.ceil(0.125 / pitch)))
    shown = list(range(0, len(layers), step))
    axes.set_yticks(shown, [short(layers[index].name) for index in shown], fontsize=9 if pitch >= 0.2 else 7.5)
    axes.tick_params(axis="y", length=0)


def short(name: str) -> str:
    """A layer's name with its middle left out where it is long."""
    return name if len(name) <= _NAME_LENGTH else f"{name[:12]}…{name[-(_NAME_LENGTH - 13) :]}"


@styled
def kernel_bits(layers: Sequence[Layer], assignment: BitAssignment) -> Figure:
    """Which share of each layer's kernels has how many bits, as a heat map."""
    chosen = [layer for layer in layers if layer.weight_site in assignment and layer.weighted]
    vectors = [assignment.vector(layer.weight_site, layer.kernels) for layer in chosen]
    low, high = min(int(bits.min()) for bits in vectors), max(int(bits.max()) for bits in vectors)
    shares = np.asarray([np.bincount(bits - low, minlength=high - low + 1) / len(bits) for bits in vectors])
    pitch = row_pitch(len(chosen))
    figure, (axes,) = style.new_figure(1.0 + pitch * len(chosen))
    colours = LinearSegmentedColormap.from_list("share", [(*_rgb(BLUE), 0.0), (*_rgb(BLUE), 1.0)])
    image = axes.pcolormesh(
        np.arange(low, high + 2) - 0.5, np.arange(len(chosen) + 1) - 0.5, 100 * shares, cmap=colours, vmin=0, vmax=100,
        edgecolors=style.GRID, linewidth=0.4,
    )  # fmt: skip
    axes.set_ylim(len(chosen) - 0.5, -0.5)
    axes.set_xticks(range(low, high + 1))
    axes.grid(visible=False)
    axes.set_xlabel("bits of a kernel's weights")
    layer_names(axes, chosen, pitch)
    bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 2.4 / (pitch * len(chosen))), pad=0.02)
    bar.set_label("% of the layer's kernels")
    return figure


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return red, green, blue


@styled
def objective_plane(run: Run, plane: Plane) -> Figure:
    """The first two objectives against each other, where neither plot of quality against cost shows them."""
    second, first = plane.objectives[1], plane.objectives[0]
    feasible = [trial for trial in run.trials if trial.feasible]
    figure, (axes,) = style.new_figure(3.6)
    x = np.asarray([trial.value(first.metric) for trial in feasible])
    y = np.asarray([trial.value(second.metric) for trial in feasible])
    axes.scatter(x, y, s=16, c=GREY, alpha=0.45, linewidths=0, label="tried", rasterized=len(x) > _RASTER)
    front = plane_front(run.trials, Plane((first, second)))
    axes.plot(
        [trial.value(first.metric) for trial in front],
        [trial.value(second.metric) for trial in front],
        "o-", color=BLUE, markersize=4.5, label="not beaten in both",
    )  # fmt: skip
    for axis, objective in ((axes.xaxis, first), (axes.yaxis, second)):
        top = max((trial.value(objective.metric) for trial in feasible), default=1.0)
        factor, unit = wording.prefix(top, run.info.units.get(objective.metric, ""))
        axis.set_major_formatter(FuncFormatter(lambda value, _, factor=factor: wording.minus(f"{value / factor:.4g}")))
        axis.set_label_text(f"{objective.metric} ({unit})" if unit else objective.metric)
    legend(axes)
    return figure
