"""Several runs of one problem side by side: one row per searcher, its seeds taken together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qsearch.errors import ConfigError
from qsearch.report import facts, wording
from qsearch.report.curves import common_box, final_hypervolume, main_plane
from qsearch.report.statistics import Interval, mean_interval, paired_difference
from qsearch.run import Run
from qsearch.trial import Quality, Trial

_SAME = ("workload", "hardware", "space", "objectives", "constraints", "evaluator")
_LABEL_LENGTH = 44


@dataclass(frozen=True)
class Group:
    """Runs of one searcher with the same options, and the same pruner, by seed."""

    label: str
    searcher: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def best_run(self) -> Run | None:
        """The run with the best first objective; None if none of them found anything."""
        found = [run for run in self.runs if run.best is not None]
        return min(found, key=_first_objective, default=None)


@dataclass(frozen=True)
class ComparisonRow:
    """What one searcher found and spent. Means are over its runs.

    Attributes:
        searcher: label, options included.
        name, options: of the plug-in.
        seeds: of its runs.
        feasible_runs: runs that found anything within the limits; the numbers below are theirs.
        evaluations, seconds, sensitivity_samples: spent, mean over runs.
        pruned: evaluations that were ended early, mean over runs.
        objective: best feasible first objective on validation data, interval over runs.
        metric, direction: of that objective.
        percent: whether ``objective`` is a share of correct samples, from 0 to 1.
        test: quality on test data, interval over runs.
        test_difference: to the float network, paired, interval over test samples.
        test_percent: whether ``test`` is a share.
        costs: of the best assignment: metric → value in ``units``.
        relative_costs: the same as a multiple of uniform 8 bits.
        limited: cost metrics that have a limit.
        limit_shares: limited metric → highest use / limit of any run.
        hypervolume: share of the box common to all runs compared, 0..1, interval over runs.
    """

    searcher: str
    name: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    feasible_runs: int
    evaluations: float
    pruned: float
    seconds: float
    sensitivity_samples: float
    objective: Interval | None
    metric: str
    direction: str
    percent: bool
    test: Interval | None
    test_difference: Interval | None
    test_percent: bool
    costs: Mapping[str, float]
    relative_costs: Mapping[str, float]
    units: Mapping[str, str]
    limited: tuple[str, ...]
    limit_shares: Mapping[str, float]
    hypervolume: Interval | None

    @property
    def runs(self) -> int:
        return len(self.seeds)


def comparison_rows(runs: Sequence[Run]) -> list[ComparisonRow]:
    """One row per searcher, in the order of ``runs``.

    Raises:
        ConfigError: no runs, a run twice, or runs of different problems.
    """
    groups = grouped(runs)
    plane = main_plane(runs[0])
    box = common_box(runs, plane) if plane is not None else None
    rows = []
    for group in groups:
        shares = None
        if plane is not None and box is not None:
            shares = mean_interval([final_hypervolume(run, plane, box) for run in group.runs])
        rows.append(_row(group, shares))
    return rows


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs by searcher, pruner and options, in the order in which they first come; seeds ascending.

    Raises:
        ConfigError: as :func:`comparison_rows`.
    """
    check_same_problem(runs)
    found: dict[str, list[Run]] = {}
    for run in runs:
        ways = [plugin.model_dump(mode="json") for plugin in (run.config.searcher, run.config.pruner)]
        found.setdefault(json.dumps(ways, sort_keys=True), []).append(run)
    groups = []
    for members in found.values():
        searcher = members[0].config.searcher.model_dump(mode="json")
        ordered = tuple(sorted(members, key=lambda run: (run.config.seed, run.config.name)))
        groups.append(Group(_label(searcher, members[0].config.pruner.model_dump(mode="json")), searcher, ordered))
    return groups


def check_same_problem(runs: Sequence[Run]) -> None:
    """Raise unless all runs were asked the same; budgets may differ.

    Raises:
        ConfigError: names the first difference.
    """
    if not runs:
        raise ConfigError("a comparison needs at least one run", fix="name the folders of the runs")
    folders = [run.folder.resolve() for run in runs]
    for folder in folders:
        if folders.count(folder) > 1:
            raise ConfigError("each run may be named once in a comparison", got=str(folder))
    first = runs[0]
    for run in runs[1:]:
        for key in _SAME:
            ours, theirs = first.info.config.get(key), run.info.config.get(key)
            if ours != theirs:
                raise _different(key, first, ours, run, theirs)
        if first.info.layers != run.info.layers:
            raise _different("layers", first, f"{len(first.info.layers)} layers", run, f"{len(run.info.layers)} layers")
        if not _same_bounds(first, run):
            raise _different("limits", first, _limits(first), run, _limits(run))


def _different(key: str, first: Run, ours: object, run: Run, theirs: object) -> ConfigError:
    return ConfigError(
        f"runs that are compared must have the same {key}",
        got=f"{ours!r} in {first.config.name}, {theirs!r} in {run.config.name}",
        fix="compare runs of one campaign file",
    )


def _same_bounds(first: Run, run: Run) -> bool:
    ours, theirs = first.info.bounds, run.info.bounds
    return len(ours) == len(theirs) and all(
        a.metric == b.metric and a.at_least == b.at_least and math.isclose(a.limit, b.limit, rel_tol=1e-9)
        for a, b in zip(ours, theirs, strict=True)
    )


def _limits(run: Run) -> list[float]:
    return [bound.limit for bound in run.info.bounds]


def _label(searcher: Mapping[str, Any], pruner: Mapping[str, Any]) -> str:
    text = wording.plugin(searcher)
    if pruner["name"] != "none":
        text += f" + {wording.plugin(pruner)}"
    return text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1]}…"


def _first_objective(run: Run) -> tuple[float, int]:
    """Sort key: minimised first objective of a run's best, then its seed."""
    assert run.best is not None
    objective = run.objectives[0]
    return objective.sign * run.best.value(objective.metric), run.config.seed


def _row(group: Group, hypervolume: Interval | None) -> ComparisonRow:
    first, objective = group.runs[0], group.runs[0].objectives[0]
    found = [(run, run.best) for run in group.runs if run.best is not None]
    test, gap = _test(group)
    return ComparisonRow(
        searcher=group.label,
        name=group.searcher["name"],
        options=group.searcher["options"],
        seeds=tuple(run.config.seed for run in group.runs),
        feasible_runs=len(found),
        evaluations=float(np.mean([facts.spent_evaluations(run) for run in group.runs])),
        pruned=float(np.mean([len(facts.pruned(run)) for run in group.runs])),
        seconds=float(np.mean([run.info.seconds for run in group.runs])),
        sensitivity_samples=float(np.mean([run.info.sensitivity_samples for run in group.runs])),
        objective=mean_interval([best.value(objective.metric) for _, best in found]) if found else None,
        metric=objective.metric,
        direction=objective.direction,
        percent=facts.percent(first, objective.metric),
        test=test,
        test_difference=gap,
        test_percent=facts.percent(first),
        costs=_mean_costs(found),
        relative_costs=_relative_costs(found),
        units=first.info.units,
        limited=limited(first),
        limit_shares=_limit_shares(found),
        hypervolume=hypervolume,
    )


def limited(run: Run) -> tuple[str, ...]:
    """Cost metrics that have a limit, in the order of the constraints."""
    return tuple(dict.fromkeys(bound.metric for bound in run.info.bounds if bound.metric in run.info.units))


def _test(group: Group) -> tuple[Interval | None, Interval | None]:
    """Mean test quality over the runs that were tested, and its paired difference to the float network's."""
    results = [result for run in group.runs if (result := facts.tested(run)) is not None]
    if not results:
        return None, None
    found: list[Quality] = [result.found for result in results]
    return (
        mean_interval([quality.metric for quality in found]),
        paired_difference(found, [result.float_network for result in results]),
    )


def _mean_costs(found: Sequence[tuple[Run, Trial]]) -> dict[str, float]:
    metrics = found[0][0].info.units if found else {}
    return {metric: float(np.mean([best.value(metric) for _, best in found])) for metric in metrics}


def _relative_costs(found: Sequence[tuple[Run, Trial]]) -> dict[str, float]:
    rows = {}
    for metric in found[0][0].info.units if found else {}:
        known = [value for run, best in found if (value := facts.relative_cost(run, best, metric)) is not None]
        if known:
            rows[metric] = float(np.mean(known))
    return rows


def _limit_shares(found: Sequence[tuple[Run, Trial]]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for run, best in found:
        for row in facts.usage(run, best):
            if row.share is not None:
                shares[row.metric] = max(row.share, shares.get(row.metric, 0.0))
    return shares
