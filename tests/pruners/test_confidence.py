"""The confidence rule against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from curves import watch
from scipy.special import ndtri

from qsearch.assignment import BitAssignment
from qsearch.problem import Bound, Objective, Problem
from qsearch.pruners.confidence import Confidence, gains_from
from qsearch.testing.problems import ACCURACY_AND_SIZE, separable
from qsearch.trial import Quality, Trial

PROBLEM = separable(4, budget=None)[0]
SHARES = (0.5, 1.0)
Z = float(ndtri(0.95))


def given(*curves: Sequence[float], problem: Problem = PROBLEM, error: float = 0.01) -> list[Trial]:
    """Complete trials, cheapest first."""
    return [trial_of(number, curve, problem=problem, error=error) for number, curve in enumerate(curves)]


def trial_of(
    number: int,
    curve: Sequence[float],
    *,
    problem: Problem = PROBLEM,
    error: float = 0.01,
    outcomes: np.ndarray | None = None,
    assignment: BitAssignment | None = None,
) -> Trial:
    cost = problem.cost.estimate(assignment or problem.space.uniform([2, 4, 6, 8][min(number, 3)]))
    quality = Quality(curve[-1], 1.0, 100 if outcomes is None else len(outcomes), error, outcomes=outcomes)
    state = "complete" if len(curve) == len(SHARES) else "pruned"
    bits = assignment or problem.space.decode(problem.space.sample(np.random.default_rng(number), 1)[0])
    reports = tuple(zip(SHARES, curve, strict=False))
    return Trial(number, bits, state, cost, quality, problem.violations(cost, quality), reports=reports)


EARLIER = given((0.60, 0.70), (0.65, 0.73), (0.50, 0.62))  # gains 0.10, 0.08, 0.12; best 0.73


def test_gains_of_complete_trials() -> None:
    assert gains_from(0.5, EARLIER) == pytest.approx([0.10, 0.08, 0.12])
    assert gains_from(0.25, EARLIER) == []
    assert gains_from(0.5, [*EARLIER, trial_of(3, (0.4,))]) == pytest.approx([0.10, 0.08, 0.12])


@pytest.mark.parametrize("beyond", [-0.001, 0.001])
def test_the_least_metric_that_goes_on(beyond: float) -> None:
    """q + z·0.01 + 0.12 against 0.73."""
    edge = 0.73 - 0.12 - Z * 0.01
    verdict = Confidence().verdict(trial_of(3, (edge + beyond,)), EARLIER, PROBLEM)
    assert (verdict == "") == (beyond > 0)
    if verdict:
        assert verdict == "at most 0.12 more to be expected, 0.73 needed"


def test_a_quantile_of_the_gains() -> None:
    options = Confidence.Options(quantile=0.5, confidence=0.5)
    below, above = (trial_of(3, (0.73 - 0.10 + shift,)) for shift in (-1e-6, 1e-6))
    assert Confidence(options).verdict(below, EARLIER, PROBLEM)
    assert not Confidence(options).verdict(above, EARLIER, PROBLEM)


def test_nothing_is_ended_before_enough_gains_were_seen() -> None:
    hopeless = trial_of(3, (0.01,))
    assert not Confidence().verdict(hopeless, EARLIER[:2], PROBLEM)
    assert not Confidence().verdict(hopeless, [], PROBLEM)
    assert Confidence().verdict(hopeless, EARLIER, PROBLEM)
    assert Confidence(Confidence.Options(startup=1)).verdict(hopeless, EARLIER[:1], PROBLEM)


def test_losses_on_the_way_count_as_no_gain() -> None:
    falling = given((0.80, 0.70), (0.81, 0.71), (0.82, 0.72))
    rule = Confidence(Confidence.Options(confidence=0.5))
    assert rule.verdict(trial_of(3, (0.719,)), falling, PROBLEM)
    assert not rule.verdict(trial_of(3, (0.721,)), falling, PROBLEM)


def test_outcomes_are_paired() -> None:
    """The best and the trial differ on 20 of 400 samples: by far not by chance, though their own errors overlap."""
    best, worse = np.ones(400, np.float32), np.ones(400, np.float32)
    best[:100] = worse[:120] = 0
    error = float(np.std(best, ddof=1) / 20)
    earlier = [trial_of(number, (0.75, 0.75), error=error, outcomes=best) for number in range(3)]
    paired = trial_of(3, (0.70,), error=error, outcomes=worse)
    alone = replace(paired, quality=replace(paired.quality, outcomes=None))
    rule = Confidence(Confidence.Options(confidence=0.99))
    assert rule.verdict(paired, earlier, PROBLEM)
    assert not rule.verdict(alone, earlier, PROBLEM)


def test_cheap_assignments_are_measured_against_cheap_ones() -> None:
    front = replace(PROBLEM, objectives=ACCURACY_AND_SIZE)
    earlier = given((0.60, 0.70), (0.65, 0.73), (0.50, 0.92), problem=front)  # of 2, 4 and 6 bits
    rule = Confidence(Confidence.Options(quantile=0.0, confidence=0.5))  # the least gain: 0.08
    for bits, goal in ((2, 0.70), (4, 0.73), (8, 0.92)):
        assignment = front.space.uniform(bits)
        good, bad = (trial_of(3, (goal - 0.08 + d,), problem=front, assignment=assignment) for d in (0.001, -0.001))
        assert not rule.verdict(good, earlier, front)
        assert rule.verdict(bad, earlier, front)


def test_a_bound_on_quality_is_what_the_least_cost_must_keep() -> None:
    bound = Bound("accuracy", 0.70, True, "accuracy >= 0.7")
    problem = replace(PROBLEM, objectives=(Objective("size", "minimize"),), bounds=(bound,))
    earlier = given((0.60, 0.70), (0.65, 0.75), (0.90, 0.99), problem=problem)  # the largest gain is 0.10
    rule = Confidence(Confidence.Options(confidence=0.5))
    assert rule.verdict(trial_of(3, (0.599,), problem=problem), earlier, problem)
    assert not rule.verdict(trial_of(3, (0.601,), problem=problem), earlier, problem)


def test_without_a_rival_or_a_bound_nothing_is_ended() -> None:
    infeasible = replace(PROBLEM, bounds=(Bound("accuracy", 2.0, False, "accuracy <= 2"), Bound("size", 0, False, "0")))
    earlier = given((0.60, 0.70), (0.65, 0.73), (0.50, 0.62), problem=infeasible)
    assert not any(trial.feasible for trial in earlier)
    assert not Confidence().verdict(trial_of(3, (0.01,), problem=infeasible), earlier, infeasible)


def test_in_a_search() -> None:
    """Each gains 0.1; the fourth is ended as it cannot reach 0.9, the fifth is let run."""
    curves = [(0.80, 0.90), (0.50, 0.60), (0.60, 0.70), (0.79, 0.99), (0.81, 0.91)]
    trials = watch(Confidence(Confidence.Options(confidence=0.5)), curves, SHARES)
    assert [trial.state for trial in trials] == ["complete"] * 3 + ["pruned", "complete"]
    assert trials[3].reason == (
        "pruned after 50 % of the effort: accuracy 0.79, at most 0.1 more to be expected, 0.9 needed"
    )
