"""The course of a fine-tuning as a figure, and its section of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from qsearch.errors import StorageError
from qsearch.files import write_atomically
from qsearch.finetuned import CURVE, RESULT, Epoch, FineTuned, Stage, read_all, read_history
from qsearch.report import facts, finetuned, style, wording
from qsearch.report.document import Paragraph, Plot, Section, section
from qsearch.report.style import BLUE, FAINT, GREEN, GREY, ORANGE, PAGE, PURPLE, styled
from qsearch.run import Run

_NEAR = 2.0
"""How far below the worst epoch another network may be to be in range, in distances between the worst and the best."""

_OTHERS: tuple[tuple[Stage, str, tuple[int, int]], ...] = (
    ("float", FAINT, (1, 2)),
    ("post-training", ORANGE, (4, 2)),
)


def sections(run: Run) -> list[Section]:
    """One for each trial that was fine-tuned in the run's folder.

    Raises:
        StorageError: what is kept of one is damaged.
    """
    return [fine_tuned_section(run, found, read_history(folder)) for folder, found in read_all(run)]


def fine_tuned_section(run: Run, found: FineTuned, history: Sequence[Epoch]) -> Section:
    """What was gained, against what, and how it went."""
    number = found.settings.trial
    options = ", ".join(f"{key}: {value}" for key, value in found.settings.options.items() if value is not None)
    caption = "Above: quality on validation data after each epoch; below: the losses. The marked epoch is the one kept."
    plot = Plot(f"fine-tuned-{number}", f"Training of trial {number}", learning_curve(run, found, history), caption)
    blocks = (
        Paragraph(f"Trial {number}, fine-tuned: {finetuned.sentence(run, found)}."),
        finetuned.table(run, found),
        plot,
        Paragraph(f"Costs as before: {finetuned.costs(run, run.trials[number])}. Trained with {options}."),
    )
    return section(f"Fine-tuned: trial {number}", blocks)


@styled
def learning_curve(run: Run, found: FineTuned, history: Sequence[Epoch]) -> Figure:
    """Quality on validation data, and the losses, after each epoch; the best one is marked."""
    figure, (above, below) = style.new_figure(4.4, rows=2, sharex=True)
    percent = facts.percent(run, run.info.quality_name)
    number = [epoch.number for epoch in history]
    _draw_quality(above, number, [epoch.metric for epoch in history], found, percent)
    above.set_ylabel(f"{run.info.quality_name} (%)" if percent else run.info.quality_name)
    below.plot(number, [epoch.loss for epoch in history], color=GREY, linewidth=1.4, label="training loss")
    below.plot(
        number, [epoch.validation_loss for epoch in history], color=PURPLE, linewidth=1.4, label="validation loss"
    )
    below.set_ylabel("loss")
    below.set_xlabel("epoch")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = [above.get_legend_handles_labels(), below.get_legend_handles_labels()]
    handles, labels = ([*one, *other] for one, other in zip(*drawn, strict=True))
    figure.legend(handles, labels, loc="outside lower left", ncols=3, handlelength=1.6, columnspacing=1.4)
    return figure


def _draw_quality(axes: Axes, number: Sequence[int], metric: Sequence[float], found: FineTuned, percent: bool) -> None:
    """The metric after each epoch beside that of the other networks, as far as they are near."""
    scale = 100.0 if percent else 1.0
    value = scale * np.asarray(metric)
    axes.plot(number, value, color=BLUE, linewidth=1.6, label="fine-tuned")
    kept = value[found.best - 1]
    axes.plot(found.best, kept, "*", color=GREEN, markersize=13, markeredgecolor=PAGE, label="kept", zorder=5)
    low, high = float(value.min()), float(value.max())
    for stage, colour, dashes in _OTHERS:
        other = float(found.judged[stage].validation["metric"])
        axes.axhline(
            scale * other,
            color=colour,
            linewidth=1.2,
            linestyle=(0, dashes),
            label=f"{stage} {wording.quality(other, percent)}",
        )
        if scale * other >= low - _NEAR * (high - low):
            low, high = min(low, scale * other), max(high, scale * other)
    margin = 0.12 * (high - low) or 0.01 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def write_curve(run: Run, found: FineTuned, folder: Path) -> None:
    """Draw the course of the training that is kept in a folder, into it; nothing is done where it is drawn already.

    Raises:
        StorageError: the folder cannot be written, or its history is damaged.
    """
    drawn, kept = folder / CURVE, folder / RESULT
    if drawn.is_file() and drawn.stat().st_mtime_ns >= kept.stat().st_mtime_ns:
        return
    figure = learning_curve(run, found, read_history(folder))
    try:
        write_atomically(drawn, style.png(figure))
    except OSError as error:
        raise StorageError("the folder of a training must be writable", got=f"{folder}: {error}") from error
