"""What a person sees while a surrogate is fitted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from qsearch.terminal import progress_bars


class FitProgress:
    """Two bars: held-out points, and samples with the error reached."""

    def __init__(self, bars: Progress, samples: int, held_out: int) -> None:
        self._bars = bars
        self._held = bars.add_task("held-out points", total=held_out, note="")
        self._samples = bars.add_task("samples", total=samples, note="")

    def plan(self, samples: int, held_out: int) -> None:
        """So many of each there will be: fewer than were asked for, where the pool is small."""
        self._bars.update(self._held, total=held_out)
        self._bars.update(self._samples, total=samples)

    def held(self, count: int) -> None:
        """So many held-out points are measured."""
        self._bars.update(self._held, completed=count)

    def sample(self, count: int, error: float | None) -> None:
        """So many samples are measured; the median relative error with them, where it is known."""
        note = "" if error is None else f"median error {100 * error:.1f} %"
        self._bars.update(self._samples, completed=count, note=note)


@contextmanager
def fit_progress(samples: int, held_out: int) -> Iterator[FitProgress]:
    """The bars, while they are needed."""
    with progress_bars("note") as bars:
        yield FitProgress(bars, samples, held_out)
