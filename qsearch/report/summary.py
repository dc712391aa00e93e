"""A run as plain JSON values, for scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from qsearch.report import facts, finetuned
from qsearch.report.comparison import ComparisonRow
from qsearch.run import Run
from qsearch.trial import Quality, Trial


def summary(run: Run) -> dict[str, Any]:
    """What a run found and spent. Every value is JSON; what is not known is None.

    Keys: ``name``, ``folder``, ``status``, ``workload``, ``hardware``, ``searcher``, ``seed``, ``headline``, ``best``
    (see :func:`trial_values`; None if nothing usable was found), ``nearest`` (trial number, if ``best`` is None),
    ``test``, ``float``, ``limits``, ``fine_tuned`` (see :func:`qsearch.report.finetuned.values`), ``spent``, ``failures``,
    ``front``, ``units``, ``provenance``.
    """
    best, closest = run.best, facts.nearest(run)
    values = {
        "name": run.config.name,
        "folder": str(run.folder),
        "status": run.info.status,
        **{key: run.info.config[key] for key in ("workload", "hardware", "searcher")},
        "seed": run.config.seed,
        "headline": facts.headline(run),
        "best": None if best is None else trial_values(run, best),
        "nearest": None if best is not None or closest is None else closest.number,
        "test": _test(run),
        "float": _quality(run.float_quality),
        "limits": [] if best is None else _limits(run, best),
        "fine_tuned": finetuned.all_values(run),
        "spent": _spent(run),
        "failures": [{"reason": reason, "times": times} for reason, times in facts.failure_reasons(run)],
        "front": [trial.number for trial in run.front],
        "units": dict(run.info.units),
        "provenance": dict(run.info.provenance),
    }
    return {key: _plain(value) for key, value in values.items()}


def comparison_summary(rows: list[ComparisonRow]) -> list[dict[str, Any]]:
    """Rows of a comparison as JSON values."""
    return [_plain({**asdict(row), "runs": row.runs}) for row in rows]


def trial_values(run: Run, trial: Trial) -> dict[str, Any]:
    """A trial: number, state, effort spent in evaluations, bits of every site, mean bits, quality, costs, costs relative to uniform 8 bits, violations."""
    costs = {} if trial.cost is None else dict(trial.cost.totals)
    relative = {metric: facts.relative_cost(run, trial, metric) for metric in costs}
    return {
        "trial": trial.number,
        "state": trial.state,
        "effort": trial.effort,
        "bits": dict(trial.assignment),
        **_mean_bits(run, trial),
        "quality": None if trial.quality is None else _quality(trial.quality),
        "costs": costs,
        "relative_costs": relative,
        "cost_deviations": {} if trial.cost is None else dict(trial.cost.deviations),
        "violations": dict(trial.violations),
    }


def _mean_bits(run: Run, trial: Trial) -> dict[str, float | None]:
    """Of weights and activations; of states where there are neurons."""
    roles = dict.fromkeys(("weight", "activation", *facts.quantities(run.info.layers)))
    return {
        f"mean_{role}_bits": facts.mean_bits(run.info.layers, trial.assignment, role)
        for role in facts.AVERAGED
        if role in roles
    }


def _quality(quality: Quality) -> dict[str, Any]:
    found = {**quality.values, "samples": quality.samples, "standard_error": quality.standard_error}
    return {**found, "details": dict(quality.details)} if quality.details else found


def _test(run: Run) -> dict[str, Any] | None:
    result = facts.tested(run)
    if result is None:
        return None
    return {
        "quantised": {**_quality(result.found), "interval": [result.found_interval.low, result.found_interval.high]},
        "float": {
            **_quality(result.float_network),
            "interval": [result.float_interval.low, result.float_interval.high],
        },
        "difference": None if result.difference is None else asdict(result.difference),
    }


def _limits(run: Run, best: Trial) -> list[dict[str, Any]]:
    return [
        {
            "metric": row.metric,
            "unit": row.unit,
            "constraint": None if row.bound is None else row.bound.label,
            "limit": None if row.bound is None else row.bound.limit,
            "used": row.used,
            "used_relative": row.relative,
            "limit_relative": row.allowed_relative,
            "share_of_limit": row.share,
        }
        for row in facts.usage(run, best)
    ]


def _spent(run: Run) -> dict[str, Any]:
    return {
        "evaluation_samples": sum(trial.quality.samples for trial in run.trials if trial.quality is not None),
        "evaluations": facts.spent_evaluations(run),
        "infeasible": sum(trial.state == "infeasible" for trial in run.trials),
        "failed": sum(trial.state == "failed" for trial in run.trials),
        "pruned": len(facts.pruned(run)),
        "seconds": run.info.seconds,
        "sensitivity_samples": run.info.sensitivity_samples,
        "sensitivity_seconds": run.info.sensitivity_seconds,
        "training_samples": run.info.training_samples,
        "training_seconds": run.info.training_seconds,
    }


def _plain(value: Any) -> Any:
    """JSON values only; numbers that are not finite become None, which strict JSON has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
