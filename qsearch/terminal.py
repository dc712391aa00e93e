"""What a person sees while something runs: errors in one line, logs, and progress on long work."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from qsearch.config import CampaignConfig
from qsearch.finetuned import Epoch, best_of
from qsearch.oracle import CampaignOracle
from qsearch.problem import minimised
from qsearch.trial import Trial

stderr = Console(stderr=True)


def set_up_logging() -> None:
    """Warnings to standard error; on a terminal also what takes its time, such as training a workload."""
    handler: logging.Handler = RichHandler(console=stderr, show_time=False, show_path=False)
    if not stderr.is_terminal:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = logging.getLogger("qsearch")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if stderr.is_terminal else logging.WARNING)


class SearchProgress:
    """A bar per campaign: evaluations, best so far, what the searcher notes (episode, reward), time left."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._best: dict[str, float] = {}

    def start(self, config: CampaignConfig) -> None:
        """Show a campaign before its first trial: sensitivities may take a while."""
        total = config.budget.evaluations
        self._tasks[config.name] = self._bars.add_task(config.name, total=total, best="no trial yet")

    def __call__(self, config: CampaignConfig, oracle: CampaignOracle, trial: Trial | None) -> None:
        objective = oracle.problem.objectives[0]
        if trial is not None and trial.feasible:
            value = float(minimised([objective], trial)[0])
            self._best[config.name] = min(value, self._best.get(config.name, math.inf))
        best = self._best.get(config.name)
        shown = "none feasible yet" if best is None else f"best {objective.metric} {objective.sign * best:.4g}"
        notes = [f"{name} {value:.4g}" for name, value in oracle.notes.items()]
        self._bars.update(self._tasks[config.name], completed=oracle.spent, best=", ".join([shown, *notes]))

    def finish(self, name: str) -> None:
        """Mark a campaign as done, whatever it spent."""
        task = self._tasks[name]
        self._bars.update(task, total=self._bars.tasks[task].completed)


@contextmanager
def progress_bars(note: str) -> Iterator[Progress]:
    """Bars on a terminal, silence elsewhere: how many are done, the field ``note`` of each task, time taken and left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[{note}]}}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=not stderr.is_terminal) as bars:
        yield bars


@contextmanager
def search_progress() -> Iterator[SearchProgress]:
    """Bars of campaigns."""
    with progress_bars("best") as bars:
        yield SearchProgress(bars)


class EpochProgress:
    """A bar for a training: epochs, loss, quality on validation data, the best so far; elsewhere a line per epoch.

    Args:
        metric: what the quality is called.
        total: epochs.
        speaks: whether there are lines where there is no terminal.
    """

    def __init__(self, bars: Progress, name: str, metric: str, total: int, speaks: bool) -> None:
        self._bars, self._metric, self._total = bars, metric, total
        self._speaks = speaks and not stderr.is_terminal
        self._task = bars.add_task(name, total=total, note="no epoch yet")

    def __call__(self, history: Sequence[Epoch]) -> None:
        """Show the epochs so far, of which there is at least one."""
        last, best = history[-1], best_of(history)
        assert best is not None
        note = f"loss {last.loss:.4g}, {self._metric} {last.metric:.4g}, best {best.metric:.4g} in epoch {best.number}"
        self._bars.update(self._task, completed=last.number, note=note)
        if self._speaks:
            print(f"epoch {last.number}/{self._total}: {note}", flush=True)


@contextmanager
def epoch_progress(name: str, metric: str, total: int, speaks: bool) -> Iterator[EpochProgress]:
    """The bar of a training; arguments as of :class:`EpochProgress`."""
    with progress_bars("note") as bars:
        yield EpochProgress(bars, name, metric, total, speaks)
