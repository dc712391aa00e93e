"""``qsearch report RUN --measure TARGET``: the best assignments of a run, measured."""

from __future__ import annotations

from collections.abc import Sequence

from qsearch.arguments import plain_name
from qsearch.hardware_tools.check_options import options_of
from qsearch.hardware_tools.measure import watched
from qsearch.measuring import Bench
from qsearch.remeasured import Remeasured, folder_of
from qsearch.remeasuring import remeasure
from qsearch.run import Run
from qsearch.terminal import set_up_logging


def measure_again(runs: Sequence[Run], target: str, top: int, set_: Sequence[str]) -> list[Remeasured]:
    """Measure the best assignments of runs on a target; their reports show it from then on.

    Args:
        runs: the runs.
        target: a target or a cost model, by name or file.py:Class.
        top: assignments of each run, at most.
        set_: options, ``key=value``.

    Raises:
        UserError: an unknown target, an option, a run without a feasible trial, no metric in common.
        Failure: the target fails.
        Interrupted: by the user; what was measured is kept.
    """
    set_up_logging()
    options = options_of([target], set_)[target]
    return [_measure(run, target, options, top) for run in runs]


def _measure(run: Run, target: str, options: dict[str, object], top: int) -> Remeasured:
    bench = Bench(target, options, folder_of(run, target, options))
    with watched(bench, f"{run.config.name} on {plain_name(target)}") as bar:
        return remeasure(run, bench, top, bar.start, bar.advance)
