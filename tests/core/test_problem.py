from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import BitAssignment
from qsearch.costs import NetworkCost
from qsearch.errors import ConfigError, InfeasibleError
from qsearch.layers import Layer
from qsearch.problem import Bound, Constraint, Objective, Problem, resolve
from qsearch.protocols import CostModel
from qsearch.sites import build_space
from qsearch.trial import Cost, Quality, Trial

LAYERS = (Layer("a", "linear", 4, 3), Layer("b", "linear", 3, 2))  # 12 and 6 MACs
QUALITY = {"accuracy": 0.9, "loss": 0.5}


class Products(CostModel):
    """MACs times bits."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J"}

    def layer_cost(self, layer, weight_bits, activation_bits):
        bops = layer.kernel_params * float(np.sum(weight_bits)) * activation_bits
        return {"latency": bops, "energy": 2 * bops}


SPACE = build_space(LAYERS, weight_bits=(2, 4, 8), activation_bits=(2, 4, 8))
COST = NetworkCost(Products(), LAYERS, SPACE)
LOSS = Objective("loss", "minimize")
ACCURACY = Objective("accuracy", "maximize")
LATENCY = Objective("latency", "minimize")


def trial(number, accuracy, latency, *, state="complete", loss=1.0, violations=None):
    quality = Quality(accuracy, loss, 10, 0.0) if state == "complete" else None
    cost = Cost({"latency": latency, "energy": 2 * latency}, Products.units)
    return Trial(number, BitAssignment({"a": number % 33}), state, cost, quality, violations or {})


class TestConstraint:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "exactly one of at_most and at_least"),
            ({"at_most": 1.0, "at_least": 0.5}, "exactly one of at_most and at_least"),
            ({"at_most": float("nan")}, "must be finite; got nan"),
            ({"at_least": float("inf")}, "must be finite; got inf"),
            ({"at_most": 1.0, "relative_to": "uniform-0"}, "B in 1..32"),
            ({"at_most": 1.0, "relative_to": "uniform-33"}, "B in 1..32"),
            ({"at_most": 1.0, "relative_to": "uniform8"}, "e.g. uniform-8"),
        ],
    )
    def test_limits_that_make_no_sense(self, options, message):
        with pytest.raises(ConfigError, match=message):
            Constraint("latency", **options)

    def test_reads_as_written(self):
        assert str(Constraint("latency", at_most=0.6, relative_to="uniform-8")) == "latency <= 0.6 x uniform-8"
        assert str(Constraint("accuracy", at_least=0.97)) == "accuracy >= 0.97"

    @pytest.mark.parametrize(
        ("name", "bits"), [("uniform-1", 1), ("uniform-8", 8), ("uniform-32", 32), ("float", 32), (None, None)]
    )
    def test_reference_bits(self, name, bits):
        assert Constraint("latency", at_most=1.0, relative_to=name).reference_bits == bits


class TestResolve:
    @pytest.mark.parametrize(
        ("constraint", "limit", "at_least"),
        [
            (Constraint("latency", at_most=100.0), 100.0, False),
            (Constraint("latency", at_most=0.5, relative_to="uniform-8"), 0.5 * 18 * 64, False),
            (Constraint("energy", at_most=0.5, relative_to="uniform-4"), 18 * 16, False),
            (Constraint("latency", at_most=0.1, relative_to="float"), 0.1 * 18 * 1024, False),
            (Constraint("accuracy", at_least=0.8), 0.8, True),
            (Constraint("accuracy", at_least=0.5, relative_to="float"), 0.45, True),
            (Constraint("loss", at_most=2.0, relative_to="float"), 1.0, False),
        ],
    )
    def test_limits(self, constraint, limit, at_least):
        bound = resolve(constraint, COST, QUALITY)
        assert (bound.metric, bound.limit, bound.at_least) == (constraint.metric, pytest.approx(limit), at_least)
        assert bound.label == str(constraint)

    def test_an_unknown_metric(self):
        with pytest.raises(ConfigError, match="unknown metric 'latncy' in a constraint; did you mean 'latency'"):
            resolve(Constraint("latncy", at_most=1.0), COST, QUALITY)

    def test_quality_has_no_uniform_reference(self):
        with pytest.raises(ConfigError, match="'accuracy' can only be relative to float; got uniform-8"):
            resolve(Constraint("accuracy", at_least=1.0, relative_to="uniform-8"), COST, QUALITY)


class TestViolations:
    @given(st.floats(0.1, 100), st.floats(0.0, 100), st.booleans())
    def test_are_not_positive_exactly_where_the_bound_is_met(self, limit, value, at_least):
        violation = float(Bound("m", limit, at_least, "m").violation(value))
        assert (violation <= 0) == (value >= limit if at_least else value <= limit)
        assert abs(violation) == pytest.approx(abs(value - limit) / limit)

    def test_of_a_limit_of_zero_are_absolute(self):
        assert float(Bound("m", 0.0, False, "m").violation(3.0)) == 3.0

    def test_by_label_of_what_is_known(self):
        bounds = (Bound("latency", 100.0, False, "fast"), Bound("accuracy", 0.5, True, "good"))
        problem = Problem(SPACE, COST, (LOSS,), bounds)
        cost = Cost({"latency": 150.0, "energy": 1.0}, Products.units)
        assert problem.violations(cost, None) == {"fast": 0.5}
        found = problem.violations(cost, Quality(0.75, 1.0, 4, 0.1))
        assert found == {"fast": 0.5, "good": -0.5}

    def test_of_a_batch_are_the_largest_over_the_cost_bounds(self):
        bounds = (
            Bound("latency", 500.0, False, "latency"),
            Bound("energy", 400.0, False, "energy"),
            Bound("accuracy", 0.99, True, "accuracy"),
        )
        problem = Problem(SPACE, COST, (LOSS,), bounds)
        x = SPACE.sample(np.random.default_rng(0), 20)
        expected = [
            max(v for label, v in problem.violations(COST.estimate(SPACE.decode(one)), None).items()) for one in x
        ]
        assert problem.cost_violations(x).tolist() == pytest.approx(expected)
        assert problem.cost_bounds == bounds[:2]

    def test_without_bounds_there_are_none(self):
        assert Problem(SPACE, COST, (LOSS,)).cost_violations(SPACE.lowest[None]).tolist() == [-np.inf]


class TestProblem:
    def test_needs_an_objective_and_known_metrics(self):
        with pytest.raises(ConfigError, match="at least one objective"):
            Problem(SPACE, COST, ())
        with pytest.raises(ConfigError, match="unknown metric 'acuracy'; did you mean 'accuracy'"):
            Problem(SPACE, COST, (Objective("acuracy", "maximize"),))
        with pytest.raises(ConfigError, match="unknown metric 'power'"):
            Problem(SPACE, COST, (LOSS,), (Bound("power", 1.0, False, "power"),))

    def test_metrics_and_layers(self):
        problem = Problem(SPACE, COST, (Objective("score", "maximize"),), quality_name="score")
        assert problem.metrics == {"score": "", "loss": "", "latency": "s", "energy": "J"}
        assert problem.layers == LAYERS

    def test_the_floor_and_the_miss_are_told(self):
        floor = 18 * 4
        bound = Bound("latency", floor / 1.25, False, "latency <= 0.05 x uniform-8")
        with pytest.raises(InfeasibleError) as caught:
            Problem(SPACE, COST, (LOSS,), (bound,)).check_floor()
        assert str(caught.value) == (
            "no assignment meets latency <= 0.05 x uniform-8 (57.6 s); got a floor of 72 s, 25.0 % above it; "
            "raise the limit, or allow fewer bits"
        )

    def test_a_budget_of_exactly_the_floor_can_be_met(self):
        Problem(SPACE, COST, (LOSS,), (Bound("latency", 72.0, False, "latency"),)).check_floor()

    def test_a_quality_that_must_be_reached_has_no_floor(self):
        Problem(SPACE, COST, (LOSS,), (Bound("accuracy", 1.0, True, "accuracy"),)).check_floor()

    def test_a_lower_bound_above_the_ceiling_is_told_with_its_miss(self):
        ceiling = 18 * 64
        Problem(SPACE, COST, (LOSS,), (Bound("latency", ceiling, True, "slow"),)).check_floor()
        with pytest.raises(InfeasibleError) as caught:
            Problem(SPACE, COST, (LOSS,), (Bound("latency", 1.25 * ceiling, True, "slow"),)).check_floor()
        assert str(caught.value) == (
            "no assignment meets slow (1440 s); got a ceiling of 1152 s, 20.0 % below it; "
            "lower the limit, or allow more bits"
        )


class TestFront:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=12))
    def test_is_what_no_other_feasible_trial_dominates(self, rows):
        problem = Problem(SPACE, COST, (ACCURACY, LATENCY))
        trials = [
            trial(i, acc / 4, float(lat), violations={"latency": -1.0 if ok else 0.5})
            for i, (acc, lat, ok) in enumerate(rows)
        ]
        feasible = [t for t, (_, _, ok) in zip(trials, rows, strict=True) if ok]
        points = {t.number: (-t.value("accuracy"), t.value("latency")) for t in feasible}
        expected = {
            number
            for number, point in points.items()
            if not any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in points.values())
        }
        front = problem.front(trials)
        assert {t.number for t in front} == expected
        keys = [(*points[t.number], t.number) for t in front]
        assert keys == sorted(keys)
        best = problem.best(trials)
        if feasible:
            assert best is not None
            assert best.value("accuracy") == max(t.value("accuracy") for t in feasible)
        else:
            assert best is None

    def test_only_complete_trials_within_their_bounds_count(self):
        problem = Problem(SPACE, COST, (ACCURACY,))
        trials = [
            trial(0, 1.0, 1.0, state="failed"),
            trial(1, 1.0, 1.0, state="infeasible"),
            trial(2, 1.0, 1.0, violations={"latency": 1e-9}),
            trial(3, 0.5, 1.0, violations={"latency": 0.0}),
        ]
        assert [t.number for t in problem.front(trials)] == [3]

    def test_the_earlier_of_two_equals_is_best(self):
        problem = Problem(SPACE, COST, (ACCURACY,))
        assert problem.best([trial(4, 0.5, 1.0), trial(2, 0.5, 9.0), trial(3, 0.4, 1.0)]).number == 2

    def test_signs(self):
        problem = Problem(SPACE, COST, (ACCURACY, LOSS, LATENCY))
        assert problem.minimised(trial(0, 0.75, 3.0, loss=0.25)).tolist() == [-0.75, 0.25, 3.0]
        unknown = problem.minimised(trial(0, 0.75, 3.0, state="failed"))
        assert np.isnan(unknown[:2]).all()
        assert unknown[2] == 3.0

    def test_a_batch_of_every_assignment_finds_the_best_one_within_its_budget(self):
        """The whole chain on an enumerable space: bounds, violations, feasibility, best."""
        limit = 0.3 * COST.estimate(SPACE.reference(8)).totals["latency"]
        problem = Problem(SPACE, COST, (ACCURACY,), (Bound("latency", limit, False, "latency"),))
        trials = []
        for number, assignment in enumerate(SPACE.enumerate()):
            cost = COST.estimate(assignment)
            score = sum(assignment.mean_bits(site) ** 0.5 for site in assignment)
            quality = Quality(score, 1.0, 10, 0.0)
            trials.append(Trial(number, assignment, "complete", cost, quality, problem.violations(cost, quality)))
        best = problem.best(trials)
        by_hand = max(
            sum(b**0.5 for b in bits)
            for bits in itertools.product((2, 4, 8), repeat=4)
            if 12 * bits[0] * bits[1] + 6 * bits[2] * bits[3] <= limit
        )
        assert best is not None
        assert best.value("accuracy") == pytest.approx(by_hand)
