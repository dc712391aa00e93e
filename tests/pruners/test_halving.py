"""Successive halving against a hand-made example, against a few lines of its own, and against Optuna's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import optuna
import pytest
from curves import SHARES, Curve, drawn_curves, shares_spent, watch

from qsearch.problem import Bound, Objective
from qsearch.pruners.halving import HalvingOptions, Hyperband, SuccessiveHalving
from qsearch.pruners.median import Median
from qsearch.pruning import Pruner
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.testing.problems import separable

EPOCHS = tuple(epoch / 12 for epoch in range(1, 13))


def test_six_trials_by_hand() -> None:
    """η = 3. Going on asks for the best of 1..5, or the best two of 6, at a ninth; the best of 1..3 at a third."""
    curves = [
        (0.50, 0.60, 0.70),  # the first: nothing to compare with
        (0.40, 0.90, 0.90),  # second of 2 at a ninth
        (0.60, 0.55, 0.90),  # first of 3 at a ninth, second of 2 at a third
        (0.55, 0.90, 0.90),  # second of 4 at a ninth
        (0.58, 0.90, 0.90),  # second of 5
        (0.59, 0.70, 0.65),  # second of 6, of whom two go on; first of 3 at a third
    ]
    trials = watch(SuccessiveHalving(), curves)
    assert shares_spent(trials) == [1, 1 / 9, 1 / 3, 1 / 9, 1 / 9, 1]
    assert [trial.state for trial in trials] == ["complete", "pruned", "pruned", "pruned", "pruned", "complete"]
    assert trials[2].reason == "pruned after 33.3 % of the effort: accuracy 0.55, not among the best 1 in 3 so far"
    assert trials[2].quality is not None
    assert trials[2].quality.metric == 0.55
    assert trials[2].reports == ((1 / 9, 0.60), (1 / 3, 0.55))


def asynchronous_halving(curves: Sequence[Curve], shares: Sequence[float], eta: int) -> list[float]:
    """Share at which each trial ends; Li et al. (2020), without coming back to a trial."""
    rungs: dict[int, list[float]] = {}
    ends = []
    for curve in curves:
        rung, end = 0, 1.0
        for share, value in zip(shares[:-1], curve[:-1], strict=True):
            if round(share / shares[0]) < eta**rung:
                continue
            rungs.setdefault(rung, []).append(value)
            ahead = sum(other > value for other in rungs[rung])
            if ahead >= max(1, len(rungs[rung]) // eta):
                end = share
                break
            rung += 1
        if end == 1.0 and round(1 / shares[0]) >= eta**rung:
            rungs.setdefault(rung, []).append(curve[-1])
        ends.append(end)
    return ends


@pytest.mark.parametrize("shares", [SHARES, EPOCHS])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_many_trials_against_a_few_lines(shares: tuple[float, ...], eta: int) -> None:
    curves = drawn_curves(60, shares, seed=eta)
    trials = watch(SuccessiveHalving(HalvingOptions(reduction_factor=eta)), curves, shares)
    expected = asynchronous_halving(curves, shares, eta)
    assert shares_spent(trials) == expected
    assert len(set(expected)) >= 2


def optunas(pruner: optuna.pruners.BasePruner, curves: Sequence[Curve], shares: Sequence[float]) -> list[int]:
    """Reports that each trial makes in Optuna's own loop."""
    made: list[int] = []

    def objective(trial: optuna.Trial) -> float:
        curve = curves[trial.number]
        for count, (share, value) in enumerate(zip(shares, curve, strict=True), 1):
            trial.report(value, round(share / shares[0]))
            if trial.should_prune() and count < len(shares):
                made.append(count)
                raise optuna.TrialPruned
        made.append(len(shares))
        return curve[-1]

    with quiet_optuna():
        optuna.create_study(study_name="qsearch", direction="maximize", pruner=pruner).optimize(
            objective, n_trials=len(curves)
        )
    return made


@pytest.mark.parametrize(
    ("pruner", "make"),
    [
        (SuccessiveHalving(), lambda full: optuna.pruners.SuccessiveHalvingPruner(1, 3)),
        (
            SuccessiveHalving(HalvingOptions(reduction_factor=2)),
            lambda full: optuna.pruners.SuccessiveHalvingPruner(1, 2),
        ),
        (Hyperband(), lambda full: optuna.pruners.HyperbandPruner(1, full, 3)),
        (Hyperband(HalvingOptions(reduction_factor=2)), lambda full: optuna.pruners.HyperbandPruner(1, full, 2)),
        (Median(), lambda full: optuna.pruners.MedianPruner(5, 1)),
        (Median(Median.Options(startup=2, min_share=0.3)), lambda full: optuna.pruners.MedianPruner(2, full // 3)),
    ],
    ids=["halving", "halving-2", "hyperband", "hyperband-2", "median", "median-late"],
)
@pytest.mark.parametrize("shares", [SHARES, EPOCHS])
def test_it_ends_what_optunas_own_loop_ends(
    pruner: Pruner, make: Callable[[int], optuna.pruners.BasePruner], shares: tuple[float, ...]
) -> None:
    curves = drawn_curves(50, shares, seed=9)
    trials = watch(pruner, curves, shares)
    expected = optunas(make(round(1 / shares[0])), curves, shares)
    assert [len(trial.reports) for trial in trials] == expected
    assert len(set(expected)) > 1


def test_the_first_rung_waits_for_its_share() -> None:
    trials = watch(SuccessiveHalving(HalvingOptions(min_share=0.3, reduction_factor=2)), drawn_curves(30))
    assert set(shares_spent(trials)) == {1 / 3, 1}


def test_hyperband_ends_less_than_halving() -> None:
    curves = drawn_curves(80)
    spent = [sum(shares_spent(watch(pruner, curves))) for pruner in (SuccessiveHalving(), Hyperband())]
    assert spent[0] < spent[1] < len(curves)


def test_reports_that_do_not_divide_the_effort_evenly() -> None:
    shares = (0.3, 0.4, 0.95, 1.0)
    trials = watch(SuccessiveHalving(), drawn_curves(30, shares), shares)
    assert set(shares_spent(trials)) >= {0.3, 1.0}


def test_an_evaluation_that_was_broken_off_leaves_nothing_behind() -> None:
    """Interrupted after a splendid report, and followed by another assignment."""
    whole = watch(SuccessiveHalving(), drawn_curves(12))
    pruner = SuccessiveHalving()
    earlier, last = whole[:8], whole[8]
    interrupted = replace(whole[9], number=8, reports=((1 / 9, 0.99),))
    problem = separable(6, budget=None)[0]
    pruner.verdict(interrupted, earlier, problem)
    for count in range(1, len(last.reports)):
        so_far = replace(last, reports=last.reports[:count])
        assert pruner.verdict(so_far, earlier, problem) == SuccessiveHalving().verdict(so_far, earlier, problem)
    states = pruner.verdict(replace(whole[10], reports=whole[10].reports[:1]), [*earlier, last, whole[9]], problem)
    assert bool(states) == (len(whole[10].reports) == 1)


def test_a_trial_that_has_nothing_to_learn_is_no_measure_of_effort() -> None:
    """As a network in float: its only report is at the full effort."""
    curves = drawn_curves(20)
    trials = watch(SuccessiveHalving(), [curves[0][-1:], *curves])
    assert shares_spent(trials) == [1, *shares_spent(watch(SuccessiveHalving(), curves))]


def test_what_keeps_a_bound_is_not_outdone_where_only_costs_are_sought() -> None:
    """All are beyond the accuracy that is asked for: how far beyond makes no difference."""
    problem, _ = separable(6, budget=None)
    bound = Bound("accuracy", 0.5, True, "accuracy >= 0.5")
    threshold = replace(problem, objectives=(Objective("size", "minimize"),), bounds=(bound,))
    curves = [(0.5 + 0.4 / (1 + i), 0.9, 0.9) for i in range(8)] + [(0.49, 0.9, 0.9)]
    assert shares_spent(watch(SuccessiveHalving(), curves, problem=threshold)) == [1] * 8 + [1 / 9]
    assert shares_spent(watch(SuccessiveHalving(), curves, problem=problem)) == [1] + [1 / 9] * 8


def test_one_pruner_of_two_searches_forgets_the_first() -> None:
    pruner, curves = SuccessiveHalving(), drawn_curves(20)
    watch(pruner, drawn_curves(20, seed=5))
    again = watch(pruner, curves)
    assert shares_spent(again) == shares_spent(watch(SuccessiveHalving(), curves))
