"""Fine-tuned trials in words: what the report, ``qsearch show`` and ``qsearch finetune`` say. Loads no plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from qsearch.finetuned import FineTuned, Judged, Stage, read_all
from qsearch.report import facts, wording
from qsearch.report.document import Table
from qsearch.report.statistics import Interval, paired_difference
from qsearch.run import Run
from qsearch.trial import Quality, Trial

STAGES: tuple[Stage, ...] = get_args(Stage)


def lines(run: Run) -> list[str]:
    """A line for each trial of the run that was fine-tuned in its folder.

    Raises:
        StorageError: what is kept of one is damaged.
    """
    return [f"trial {found.settings.trial}: {sentence(run, found)}" for _, found in read_all(run)]


def sentence(run: Run, found: FineTuned) -> str:
    """What training has gained: ``97.2 % accuracy on test data, post-training 81.0 %, float 98.1 %``."""
    split = _split(found)
    shown = [_text(found.judged[stage].quality(split), run, error=False) for stage in STAGES]
    name = run.info.quality_name
    return f"{shown[2]} {name} on {split} data, post-training {shown[1]}, float {shown[0]}"


def table(run: Run, found: FineTuned) -> Table:
    """The three networks on both splits, and how far each is from float."""
    name, split = run.info.quality_name, _split(found)
    tested = split == "test"
    header = ("network", f"{name}, validation", *((f"{name}, test",) if tested else ()), f"against float, {split}")
    reference = found.judged["float"].quality(split)
    rows = []
    for stage in STAGES:
        judged = found.judged[stage]
        cells = [_text(judged.quality("validation"), run), *([_text(judged.quality("test"), run)] if tested else [])]
        gap = "–" if stage == "float" else _difference(run, judged.quality(split), reference)
        rows.append((stage, *cells, gap))
    note = (
        f"±: standard error over samples. Against float: paired, sample by sample, with its 95 % interval. Fine-tuned is "
        f"the network of {course(found)}, chosen on validation data.{_warning(found)}"
    )
    return Table(header, tuple(rows), note=note)


def _warning(found: FineTuned) -> str:
    """A word where training was for nothing."""
    trained, untrained = (found.judged[stage].validation["metric"] for stage in ("fine-tuned", "post-training"))
    return "" if trained > untrained else " It is no better there than without training: try a lower rate, or another."


def course(found: FineTuned) -> str:
    """How long it was trained: ``epoch 41 of 60``, ``epoch 9 of 60, ended early after 19``."""
    planned = found.settings.options["epochs"]
    early = f", ended early after {found.epochs}" if found.stopped else ""
    return f"epoch {found.best} of {planned}{early}"


def costs(run: Run, trial: Trial) -> str:
    """What the trial costs on the hardware: ``size 3.10 kB (0.312 of uniform-8), latency …``."""
    if trial.cost is None:
        return "unknown"
    parts = []
    for metric, unit in run.info.units.items():
        relative = facts.relative_cost(run, trial, metric)
        behind = "" if relative is None else f" ({wording.ratio(relative)} of uniform-8)"
        parts.append(f"{metric} {wording.amount(trial.value(metric), unit)}{behind}")
    return ", ".join(parts)


def terminal_table(run: Run, trial: Trial, found: FineTuned) -> RichTable:
    """:func:`table` in the terminal, with the costs of the trial below it."""
    content = table(run, found)
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    shown.title, shown.title_justify = Text(f"{run.config.name}, trial {trial.number}", style="bold"), "left"
    for place, name in enumerate(content.header):
        shown.add_column(Text(name), justify="right" if place else "left", overflow="fold")
    for row in content.rows:
        shown.add_row(*(Text(cell.replace(" [", "\n[", 1)) for cell in row))
    shown.caption, shown.caption_justify = Text(f"{content.note}\nCosts: {costs(run, trial)}"), "left"
    return shown


def values(run: Run, trial: Trial, folder: Path, found: FineTuned) -> dict[str, Any]:
    """A fine-tuning as JSON values."""
    return {
        "trial": trial.number,
        "folder": str(folder),
        "epochs": found.epochs,
        "best_epoch": found.best,
        "ended_early": found.stopped,
        "options": found.settings.options,
        "patience": found.settings.patience,
        **{stage.replace("-", "_"): _values(found.judged[stage]) for stage in STAGES},
        "costs": {} if trial.cost is None else dict(trial.cost.totals),
        "units": dict(run.info.units),
    }


def all_values(run: Run) -> list[dict[str, Any]]:
    """:func:`values` of each trial of the run that was fine-tuned in its folder."""
    return [values(run, run.trials[found.settings.trial], folder, found) for folder, found in read_all(run)]


def _values(judged: Judged) -> dict[str, Mapping[str, Any] | None]:
    splits: tuple[Literal["validation", "test"], ...] = ("validation", "test")
    qualities = {split: judged.quality(split) for split in splits}
    return {
        split: None
        if quality is None
        else {**quality.values, "samples": quality.samples, "standard_error": quality.standard_error}
        for split, quality in qualities.items()
    }


def _split(found: FineTuned) -> Literal["validation", "test"]:
    """The data to compare on: test data where there is some."""
    return "validation" if found.judged["fine-tuned"].test is None else "test"


def _text(quality: Quality | None, run: Run, *, error: bool = True) -> str:
    if quality is None:
        return "–"
    percent = facts.percent(run, run.info.quality_name)
    if not error:
        return wording.quality(quality.metric, percent)
    if percent:
        return f"{100 * quality.metric:.1f} ± {100 * quality.standard_error:.1f} %"
    return wording.minus(f"{quality.metric:.4g} ± {quality.standard_error:.2g}")


def _difference(run: Run, quality: Quality | None, reference: Quality | None) -> str:
    if quality is None or reference is None:
        return "–"
    gap = paired_difference([quality], [reference]) or Interval(quality.metric - reference.metric)
    return wording.difference(gap, facts.percent(run, run.info.quality_name))
