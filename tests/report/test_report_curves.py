"""Best so far and hypervolume by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from report_runs import RunFactory

from qsearch.pareto import hypervolume
from qsearch.problem import Bound, Objective, minimised
from qsearch.report.curves import (
    Plane,
    best_so_far,
    common_box,
    cost_planes,
    final_hypervolume,
    hypervolume_curve,
    main_plane,
    mean_curve,
    plane_front,
)
from qsearch.run import Run

LATENCY = Objective("latency", "minimize")
ACCURACY = Objective("accuracy", "maximize")


def with_energies(run: Run, energies: Sequence[float]) -> Run:
    trials = [
        replace(trial, cost=replace(trial.cost, totals={**trial.cost.totals, "energy": energy}))
        for trial, energy in zip(run.trials, energies, strict=True)
        if trial.cost is not None
    ]
    return replace(run, trials=tuple(trials))


def test_a_cost_that_no_choice_changes_has_no_plane(make_run: RunFactory) -> None:
    """Unless it is limited, or only one assignment has been tried; another run may have changed it."""
    made = make_run(evaluations=6)
    same, other = with_energies(made, [0.3] * 6), with_energies(made, [0.1 + 0.2] * 5 + [0.5])
    metrics = [
        [plane.objectives[1].metric for plane in cost_planes(*runs)] for runs in ([same], [other], [same, other])
    ]
    assert metrics == [["latency", "size"], ["latency", "energy", "size"], ["latency", "energy", "size"]]
    limited = same.info.model_copy(update={"bounds": (Bound("energy", 1.0, False, "energy"),)})
    assert cost_planes(replace(same, info=limited))[0].objectives[1].metric == "energy"
    assert len(cost_planes(replace(same, trials=same.trials[:1]))) == 3
    assert main_plane(replace(same, info=limited)) == cost_planes(replace(same, info=limited))[0]


@pytest.mark.parametrize("objective", [("accuracy", "maximize"), ("loss", "minimize"), ("latency", "minimize")])
def test_best_so_far_is_the_best_of_each_beginning(make_run: RunFactory, objective: tuple[str, str]) -> None:
    run = make_run(objectives=[objective], failures=3, limit=0.4, evaluations=25)
    pick = max if objective[1] == "maximize" else min
    spent = [trial for trial in run.trials if trial.evaluated]
    curve = best_so_far(run)
    assert len(curve) == 25
    for k in range(1, 26):
        feasible = [trial.value(objective[0]) for trial in spent[:k] if trial.feasible]
        assert curve[k - 1] == (pick(feasible) if feasible else None)
    assert curve[:3] == [None, None, None]


def test_hypervolume_curve_is_that_of_each_beginning(make_run: RunFactory) -> None:
    runs = [make_run(name=f"demo/random-s{seed}", seed=seed, failures=2, evaluations=15) for seed in range(2)]
    plane = main_plane(runs[0])
    assert plane == Plane((ACCURACY, LATENCY))
    box = common_box(runs, plane)
    assert box is not None
    for run in runs:
        spent = [trial for trial in run.trials if trial.evaluated]
        curve = hypervolume_curve(run, plane, box)
        for k in range(1, 16):
            rows = [minimised(plane.objectives, trial) for trial in spent[:k] if trial.feasible]
            expected = hypervolume(np.stack(rows), box.reference) / box.volume if rows else 0.0
            assert curve[k - 1] == pytest.approx(expected)
        assert curve[-1] == pytest.approx(final_hypervolume(run, plane, box))
        assert 0 < curve[-1] <= 1


def test_hypervolume_by_counting_points(make_run: RunFactory) -> None:
    """Share of random points of the box that some trial dominates."""
    run = make_run(evaluations=20)
    plane = Plane((ACCURACY, LATENCY))
    box = common_box([run], plane)
    assert box is not None
    rng = np.random.default_rng(0)
    sample = box.ideal + rng.random((40_000, 2)) * (box.reference - box.ideal)
    dominated = np.zeros(len(sample), dtype=bool)
    for trial in run.trials:
        if trial.feasible:
            dominated |= np.all(minimised(plane.objectives, trial) <= sample, axis=1)
    assert final_hypervolume(run, plane, box) == pytest.approx(dominated.mean(), abs=0.01)


def test_a_single_trial_fills_its_box(make_run: RunFactory) -> None:
    run = make_run(evaluations=1, limit=0)
    plane = Plane((ACCURACY, LATENCY))
    box = common_box([run], plane)
    assert box is not None
    assert final_hypervolume(run, plane, box) == pytest.approx(1)


def test_no_feasible_trial_no_box(make_run: RunFactory) -> None:
    run = make_run(limit=0.01, evaluations=3)
    assert common_box([run], Plane((ACCURACY, LATENCY))) is None
    assert best_so_far(run) == []


def test_front_of_a_plane_by_brute_force(make_run: RunFactory) -> None:
    run = make_run(evaluations=60)
    feasible = [trial for trial in run.trials if trial.feasible]
    for plane in cost_planes(run):
        metric = plane.objectives[1].metric
        front = plane_front(run.trials, plane)
        for trial in feasible:
            better = [
                other
                for other in feasible
                if other.value("accuracy") >= trial.value("accuracy")
                and other.value(metric) <= trial.value(metric)
                and (other.value("accuracy"), other.value(metric)) != (trial.value("accuracy"), trial.value(metric))
            ]
            assert (trial in front) == (not better)
        qualities = [trial.value("accuracy") for trial in front]
        assert qualities == sorted(qualities, reverse=True)


def test_planes_follow_the_objectives(make_run: RunFactory) -> None:
    several = make_run(objectives=[("accuracy", "maximize"), ("energy", "minimize"), ("size", "minimize")])
    assert main_plane(several) == Plane(several.objectives)
    cost = make_run(objectives=[("energy", "minimize")])
    assert main_plane(cost) == Plane((ACCURACY, LATENCY))
    assert [plane.objectives[1].metric for plane in cost_planes(cost)] == ["latency", "energy", "size"]


def test_mean_curve_waits_for_every_seed_and_keeps_what_was_found() -> None:
    means = mean_curve([[None, 1.0, 2.0], [3.0]])
    assert means[0] is None
    assert [mean.mean for mean in means[1:] if mean] == [2.0, 2.5]
    assert means[1] is not None
    assert means[1].high - means[1].mean == pytest.approx(12.7062 * np.std([1, 3], ddof=1) / 2**0.5, rel=1e-4)
    assert mean_curve([[], [1.0]]) == [None]
    assert mean_curve([]) == []
