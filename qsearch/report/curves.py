"""Progress of a search: the best so far, and the hypervolume, after each evaluation.

Notation

=====  ====================================================================================
k      evaluations spent, 1..K; proposals that cost no evaluation do not count, pruned ones by the effort spent on them
r      reference point: the worst of each objective over all trials compared, and a tenth of the range beyond it
u      ideal point: the best of each objective over all trials compared
=====  ====================================================================================

All objectives are minimised here. Hypervolumes are divided by the volume of the box between u and r, so that they lie
within 0..1. The tenth keeps the two ends of a front from counting nothing (Ishibuchi et al., Evolutionary
Computation 26, 2018, discuss the choice of r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.oracle import ROUNDING
from qsearch.pareto import Points, hypervolume, non_dominated
from qsearch.problem import Objective, minimised
from qsearch.report.statistics import Interval, mean_interval
from qsearch.run import Run
from qsearch.trial import Trial

_MARGIN = 0.1


@dataclass(frozen=True)
class Plane:
    """Objectives that are traded against each other: those of a campaign, or quality and one cost."""

    objectives: tuple[Objective, ...]

    @property
    def label(self) -> str:
        return " × ".join(objective.metric for objective in self.objectives)


@dataclass(frozen=True)
class Box:
    """What a hypervolume is measured in: ``reference`` and ``ideal``, each of shape (M,), minimised."""

    reference: Points
    ideal: Points

    @property
    def volume(self) -> float:
        return float(np.prod(self.reference - self.ideal))


def quality_objective(run: Run) -> Objective:
    """The first objective that is a quality; the workload's metric, maximised, if all are costs."""
    qualities = [objective for objective in run.objectives if objective.metric not in run.info.units]
    return qualities[0] if qualities else Objective(run.info.quality_name, "maximize")


def cost_planes(run: Run, *others: Run) -> list[Plane]:
    """Quality against each cost; costs with a limit first, and none that is the same whatever any of the runs has tried."""
    limited = _limited(run)
    tried = {trial.assignment: trial for one in (run, *others) for trial in one.trials if trial.cost is not None}
    metrics = [
        metric
        for metric in dict.fromkeys([*limited, *run.info.units])
        if metric in limited or len(tried) < 2 or not _alike([trial.value(metric) for trial in tried.values()])
    ]
    return [_against(run, metric) for metric in metrics]


def _limited(run: Run) -> list[str]:
    """Costs with a limit."""
    return [bound.metric for bound in run.info.bounds if bound.metric in run.info.units]


def _against(run: Run, metric: str) -> Plane:
    return Plane((quality_objective(run), Objective(metric, "minimize")))


def _alike(values: Sequence[float]) -> bool:
    """Whether they are one number, but for rounding."""
    return max(values) - min(values) <= ROUNDING * max(map(abs, values))


def main_plane(run: Run) -> Plane | None:
    """The campaign's objectives if there are several, else quality against the first cost; None without a cost."""
    if len(run.objectives) > 1:
        return Plane(run.objectives)
    metrics = [*_limited(run), *run.info.units]
    return _against(run, metrics[0]) if metrics else None


def points(trials: Sequence[Trial], plane: Plane) -> Points:
    """Feasible trials with finite values as minimised points, shape (A, M)."""
    rows = [minimised(plane.objectives, trial) for trial in trials if trial.feasible]
    array = np.asarray(rows, dtype=np.float64).reshape(-1, len(plane.objectives))
    return array[np.isfinite(array).all(axis=1)]


def plane_front(trials: Sequence[Trial], plane: Plane) -> list[Trial]:
    """Feasible trials that none dominates in a plane, best in its first objective first; equal points once."""
    feasible = [trial for trial in trials if trial.feasible and np.isfinite(minimised(plane.objectives, trial)).all()]
    if not feasible:
        return []
    keep = non_dominated(points(feasible, plane))
    ordered = sorted(
        (trial for trial, kept in zip(feasible, keep, strict=True) if kept),
        key=lambda trial: (*minimised(plane.objectives, trial), trial.number),
    )
    seen: dict[tuple[float, ...], Trial] = {}
    for trial in ordered:
        seen.setdefault(tuple(minimised(plane.objectives, trial)), trial)
    return list(seen.values())


def spending(run: Run) -> list[tuple[float, Trial]]:
    """Evaluated trials in order, each behind the evaluations that were spent by its end."""
    found: list[tuple[float, Trial]] = []
    spent = 0.0
    for trial in run.trials:
        if trial.evaluated:
            spent += trial.effort
            found.append((spent, trial))
    return found


def _by_evaluation(run: Run) -> list[list[Trial]]:
    """The trials that ended within each evaluation: just one, unless some were pruned."""
    found: list[list[Trial]] = []
    for spent, trial in spending(run):
        while not found or len(found) < spent - ROUNDING:
            found.append([])
        found[-1].append(trial)
    return found


def best_so_far(run: Run) -> list[float | None]:
    """Best feasible first objective after each evaluation, in its own sign; None before the first feasible."""
    first = run.objectives[0]
    curve: list[float | None] = []
    best: float | None = None
    for ended in _by_evaluation(run):
        for trial in ended:
            value = trial.value(first.metric)
            if trial.feasible and np.isfinite(value) and (best is None or first.sign * value < first.sign * best):
                best = value
        curve.append(best)
    return curve


def common_box(runs: Sequence[Run], plane: Plane) -> Box | None:
    """The box that is common to all runs compared; None if no trial of theirs is feasible."""
    found = np.concatenate([points(run.trials, plane) for run in runs])
    if not len(found):
        return None
    worst, ideal = found.max(axis=0), found.min(axis=0)
    spread = worst - ideal
    margin = np.where(spread > 0, _MARGIN * spread, _MARGIN * np.maximum(np.abs(worst), 1e-12))
    return Box(worst + margin, ideal)


def hypervolume_curve(run: Run, plane: Plane, box: Box) -> list[float | None]:
    """Hypervolume after each evaluation, as a share of the box; 0 before the first feasible trial."""
    curve: list[float | None] = []
    front = np.empty((0, len(plane.objectives)))
    share = 0.0
    for ended in _by_evaluation(run):
        for point in points(ended, plane)[:, None]:
            if not np.any(np.all(front <= point, axis=1)):
                front = np.concatenate([front, point])
                front = front[non_dominated(front)]
                share = hypervolume(front, box.reference) / box.volume
        curve.append(share)
    return curve


def final_hypervolume(run: Run, plane: Plane, box: Box) -> float:
    """Hypervolume of all feasible trials of a run, as a share of the box."""
    return hypervolume(points(run.trials, plane), box.reference) / box.volume


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[Interval | None]:
    """Mean over seeds after each evaluation, with 95 % intervals; None until every seed has a value.

    A run that ended early keeps its last value: what it found stays found.
    """
    length = max((len(curve) for curve in curves), default=0)
    means: list[Interval | None] = []
    for k in range(length):
        values = [curve[min(k, len(curve) - 1)] if curve else None for curve in curves]
        known = [value for value in values if value is not None]
        means.append(mean_interval(known) if len(known) == len(values) else None)
    return means


def as_array(curve: Sequence[float | None]) -> NDArray[np.float64]:
    """A curve as an array of shape (K,), NaN for None."""
    return np.asarray([np.nan if value is None else value for value in curve], dtype=np.float64)
