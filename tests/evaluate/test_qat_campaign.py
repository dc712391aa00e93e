"""Campaigns whose evaluations are trainings: searchers, failures, and resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import qat_workload
import torch
from qat_workload import COUNTS, bits

from qsearch.config import parse
from qsearch.errors import EvaluationError
from qsearch.run import Run
from qsearch.sweep import run_sweep
from qsearch.trial import Trial

EVALUATIONS = 5


def settings(**changes: Any) -> dict[str, Any]:
    options = changes.pop("options", {})
    return {
        "name": "qat",
        "budget": {"evaluations": EVALUATIONS},
        "workload": f"{qat_workload.__file__}:Stripes",
        "space": {"weight_bits": [1, 2, 4, 8], "activation_bits": [2, 4, 8]},
        "hardware": "size",
        "evaluator": {"name": "qat", "options": {"epochs": 2, "batch_size": 40, "threads": 1, **options}},
        "searcher": "random",
        "constraints": ["size<=0.6"],
        **changes,
    }


def run(root: Path, stop_after: int | None = None, **changes: Any) -> Run:
    """A campaign; killed before its trial ``stop_after`` + 1 is told of."""

    def watch(config: Any, oracle: Any, trial: Trial | None) -> None:
        if trial is not None and trial.number + 1 == stop_after:
            raise KeyboardInterrupt

    return run_sweep(parse(settings(**changes), "test"), root, on_trial=watch)[0]


def facts(found: Run) -> list[Any]:
    """All of a run's trials but times."""
    return [
        (t.number, t.assignment, t.state, t.reason, t.reports, t.quality, t.quality and dict(t.quality.details))
        for t in found.trials
    ]


@pytest.mark.parametrize(
    "searcher",
    [
        "uniform",
        "greedy",
        {"name": "ilp", "options": {"solutions": 3}},
        {"name": "hawq", "options": {}},
        "iqp",
        "water-filling",
        "auto",
        {"name": "optuna", "options": {"sampler": "tpe"}},
    ],
    ids=lambda searcher: searcher if isinstance(searcher, str) else searcher["name"],
)
def test_every_searcher_works_on_it_as_on_post_training(tmp_path: Path, searcher: Any) -> None:
    found = run(tmp_path, searcher=searcher, space={"weight_bits": [1, 2, 4, 8], "fixed": {"activations": 8}})
    assert found.best is not None
    assert {trial.state for trial in found.trials} <= {"complete", "infeasible"}
    trained = [t for t in found.trials if t.quality is not None]
    assert all(t.quality.details["epochs"] == 2 and t.quality.details["start"] == "float" for t in trained if t.quality)
    assert found.info.tested[str(found.best.number)]["samples"] == COUNTS["test"]


def test_bisection_meets_a_bound_on_the_quality_after_training(tmp_path: Path) -> None:
    objective, bound = {"metric": "size", "direction": "minimize"}, "accuracy>=0.9*float"
    found = run(tmp_path, searcher="bisection", objectives=[objective], constraints=[bound])
    assert found.best is not None
    assert found.best.quality is not None
    assert found.best.quality.metric >= 0.9 * found.info.float_quality["metric"]
    assert found.best.quality.details["epochs"] == 2


def test_the_reference_is_the_float_network_and_the_test_is_of_the_trained_one(tmp_path: Path) -> None:
    found = run(tmp_path, seed=3)
    x, y = qat_workload.stripes("validation")
    with torch.no_grad():
        expected = (qat_workload.trained()(x).argmax(1) == y).float().mean()
    assert found.info.float_quality["metric"] == pytest.approx(float(expected))
    assert found.best is not None
    assert found.best.quality is not None
    assert found.best.quality.details["seed"] == 3
    fresh = qat_workload.evaluator()
    assert fresh.evaluate(found.best.assignment, seed=3) == found.best.quality
    assert fresh.test(found.best.assignment).metric == found.info.tested[str(found.best.number)]["metric"]


def test_diverged_trainings_are_failed_trials_with_their_reason(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="3 evaluations failed, the limit; got last: training must not diverge"):
        run(tmp_path, options={"rate": 1e6}, max_failures=3)
    again = run(tmp_path, options={"rate": 1e6}, max_failures=EVALUATIONS + 1)
    failed = [trial for trial in again.trials if trial.state != "infeasible"]
    assert len(failed) == EVALUATIONS
    for trial in failed:
        assert trial.state == "failed"
        assert trial.reason.startswith("training must not diverge; got loss ")
        assert "epoch 1 of 2" in trial.reason
        assert trial.reason.endswith("lower the rate, or raise the bits")


@pytest.mark.parametrize("pruner", ["none", {"name": "successive-halving", "options": {"reduction_factor": 2}}])
def test_a_warm_campaign_killed_after_each_trial_ends_with_the_ledger_of_one_that_was_not(
    tmp_path: Path, pruner: Any
) -> None:
    changes = {"options": {"warm_start": True, "epochs": 2}, "pruner": pruner}
    whole = run(tmp_path / "whole", **changes)
    starts = {t.quality.details["start"] for t in whole.trials if t.quality is not None}
    assert len(starts) > 2
    for count in range(1, len(whole.trials)):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", stop_after=count, **changes)
        if count == 3:
            for path in (tmp_path / "killed" / "qat" / "trained").iterdir():
                path.unlink()
    resumed = run(tmp_path / "killed", **changes)
    assert facts(resumed) == facts(whole)
    assert resumed.info.tested == whole.info.tested


def test_a_sweep_tells_the_evaluator_of_each_of_its_campaigns(tmp_path: Path) -> None:
    """Campaigns share the evaluator, and must not start from each other's states."""
    changes = {"options": {"warm_start": True, "epochs": 1}}
    both = run_sweep(parse(settings(seed=[1, 0], **changes), "test"), tmp_path / "both")
    alone = run(tmp_path / "alone", seed=0, **changes)
    assert facts(both[1]) == facts(alone)
    assert facts(both[0]) != facts(alone)


def test_bits_per_kernel_are_searched_too(tmp_path: Path) -> None:
    found = run(tmp_path, space={"weight_bits": [2, 4, 8], "granularity": "kernel"}, searcher="ilp")
    assert found.best is not None
    assert any(isinstance(value, tuple) for value in found.best.assignment.values())
    assert found.best.assignment != bits(8)
