"""Pairwise interactions against what is known of quadratic losses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import EvaluationError
from qsearch.layers import Layer
from qsearch.protocols import Probe, SensitivityTable
from qsearch.sensitivity.one_at_a_time import OneAtATime
from qsearch.sensitivity.pairwise import Pairwise
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.problems import coupled
from qsearch.trial import Quality

SIZE = 3
"""Weights of a site."""


class Quadratic:
    """Loss 0.3 + gᵀΔ + ½ ΔᵀHΔ, Δ_i a vector of its own for every site and bits; the divergence is twice that."""

    def __init__(self, space: SearchSpace, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.names = [site.name for site in space.sites]
        size = SIZE * len(self.names)
        factor = rng.normal(size=(size, size))
        self.gradient, self.hessian = rng.normal(size=size), factor @ factor.T
        self.change = {
            (site.name, bits): rng.normal(size=SIZE) * 2.0**-bits * (bits != FLOAT_BITS)
            for site in space.sites
            for bits in (*site.choices, FLOAT_BITS)
        }
        self.calls = 0

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        raise AssertionError("a sensitivity must not see validation data")

    def probe(self, assignment: BitAssignment) -> Probe:
        self.calls += 1
        delta = np.concatenate([self.change[name, int(assignment[name])] for name in self.names])
        loss = 0.3 + float(self.gradient @ delta + 0.5 * delta @ self.hessian @ delta)
        return Probe(loss, 2 * loss, 10)

    def block(self, first: str, second: str) -> NDArray[np.float64]:
        i, j = (SIZE * self.names.index(name) for name in (first, second))
        return np.asarray(self.hessian[i : i + SIZE, j : j + SIZE])


def space(layers: int = 3, **options: object) -> SearchSpace:
    network = [Layer(f"l{i}", "linear", 4, 5) for i in range(layers)]
    given = {"weight_bits": [1, 2, 4], "activation_bits": [8], "fixed": {"activations": 32}, **options}
    return build_space(network, **given)


def table(space: SearchSpace, evaluator: object, **options: object) -> SensitivityTable:
    return Pairwise(Pairwise.Options(**options)).table(space, evaluator)


@pytest.mark.parametrize(("measure", "factor"), [("loss", 1.0), ("kl", 2.0)])
def test_the_mixed_difference_of_a_quadratic(measure: str, factor: float) -> None:
    """G7: I_ij = ΔW_iᵀ H_ij ΔW_j to 1e-9, with a gradient that is not zero, for all pairs of choices."""
    wide = space()
    evaluator = Quadratic(wide)
    found = table(wide, evaluator, measure=measure, levels=None).interactions
    assert list(found) == list(combinations(["l0.weight", "l1.weight", "l2.weight"], 2))
    for (first, second), values in found.items():
        assert values.shape == (3, 3)
        for row, column in np.ndindex(3, 3):
            a, b = evaluator.change[first, (1, 2, 4)[row]], evaluator.change[second, (1, 2, 4)[column]]
            assert values[row, column] == pytest.approx(factor * a @ evaluator.block(first, second) @ b, abs=1e-9)


def test_measured_pairs_reproduce_the_loss_of_any_assignment_of_a_quadratic() -> None:
    """Singles and pairs are all that a quadratic has: their sum is the loss, exactly, three sites at a time too."""
    wide = space()
    evaluator = Quadratic(wide)
    found = table(wide, evaluator, measure="loss", levels=None)
    for assignment in wide.enumerate():
        x = dict(zip([v.name for v in wide.variables], wide.encode(assignment).tolist(), strict=True))
        total = sum(found.damage[name][0, choice] for name, choice in x.items())
        total += sum(values[x[first], x[second]] for (first, second), values in found.interactions.items())
        assert 0.3 + total == pytest.approx(evaluator.probe(assignment).loss, abs=1e-9)


def test_one_level_scales_exactly_where_errors_keep_their_direction() -> None:
    """The coupled problem of ``qsearch.testing``: I_ij(c, c') = J_ij e_i(c) e_j(c')."""
    problem, evaluator = coupled(4)
    for levels in (1, 2, None):
        found = table(problem.space, evaluator, measure="loss", levels=levels).interactions
        assert len(found) == 6
        errors = 2.0 ** -np.asarray([2, 4, 6, 8])
        for (i, first), (j, second) in combinations(enumerate(problem.space.variables), 2):
            assert evaluator.interaction is not None
            expected = evaluator.interaction[i, j] * np.outer(errors, errors)
            assert found[first.name, second.name] == pytest.approx(expected, abs=1e-8)


def test_damages_of_single_variables_are_those_of_one_at_a_time() -> None:
    wide = space()
    single = OneAtATime(OneAtATime.Options(measure="loss")).table(wide, Quadratic(wide)).damage
    found = table(wide, Quadratic(wide), measure="loss").damage
    assert all((found[name] == value).all() for name, value in single.items())


def test_probes_are_counted_and_each_pair_is_measured_once() -> None:
    wide = space(4)
    for levels, each in ((1, 1), (2, 4), (None, 9)):
        evaluator = Quadratic(wide)
        found = table(wide, evaluator, levels=levels)
        assert evaluator.calls == 1 + 4 * 3 + 6 * each
        assert found.samples == 10 * evaluator.calls


def test_a_window_leaves_out_distant_pairs() -> None:
    wide = space(5)
    found = table(wide, Quadratic(wide), window=2).interactions
    assert {(int(a[1]), int(b[1])) for a, b in found} == {(i, j) for i, j in combinations(range(5), 2) if j - i <= 2}


@pytest.mark.parametrize(("levels", "price"), [(1, 1), (2, 4)])
@pytest.mark.parametrize("budget", [0, 1, 4, 5, 100])
def test_a_budget_goes_to_the_pairs_with_the_greatest_products(levels: int, price: int, budget: int) -> None:
    wide = space(5)
    evaluator = Quadratic(wide)
    found = table(wide, evaluator, evaluations=budget, levels=levels, measure="loss")
    assert evaluator.calls == 1 + 5 * 3 + price * len(found.interactions)
    assert len(found.interactions) == min(10, budget // price)
    product = {
        pair: abs(found.damage[pair[0]][0, 0] * found.damage[pair[1]][0, 0])
        for pair in combinations([v.name for v in wide.variables], 2)
    }
    left = [value for pair, value in product.items() if pair not in found.interactions]
    assert all(product[pair] >= max(left, default=0) for pair in found.interactions)


def test_float_interacts_with_nothing() -> None:
    wide = space(2, weight_bits=[2, 32])
    evaluator = Quadratic(wide)
    found = table(wide, evaluator, levels=None).interactions["l0.weight", "l1.weight"]
    assert found[0, 0] != 0
    assert found[1].tolist() == found[:, 1].tolist() == [0.0, 0.0]
    only = space(2, weight_bits=[32])
    assert not table(only, Quadratic(only)).interactions


def test_more_damage_at_more_bits_is_not_blown_up() -> None:
    class Odd(Quadratic):
        def probe(self, assignment: BitAssignment) -> Probe:
            probe = super().probe(assignment)
            return Probe(probe.loss + 1e6 * (assignment["l0.weight"] == 4), 0.0, 10)

    wide = space(2)
    found = table(wide, Odd(wide), measure="loss").interactions["l0.weight", "l1.weight"]
    assert np.abs(found).max() == pytest.approx(abs(found[0, 0]))


def test_kernelwise_variables_have_damages_only() -> None:
    wide = space(2, granularity="kernel", fixed={"l0": 8, "activations": 32})
    found = table(wide, Quadratic(space(2, weight_bits=[1, 2, 4, 8])))
    assert not found.interactions
    assert found.damage["l1.weight"].shape == (5, 3)


def test_a_tie_moves_together_and_fixed_sites_stay() -> None:
    wide = space(4, ties=[("l0.weight", "l1.weight")], fixed={"l3.weight": 4, "activations": 32})
    evaluator = Quadratic(wide)
    evaluator.change["l3.weight", 4] = np.ones(SIZE)
    found = table(wide, evaluator, measure="loss").interactions
    assert list(found) == [("l0.weight", "l2.weight")]
    expected = sum(
        evaluator.change[name, 1] @ evaluator.block(name, "l2.weight") @ evaluator.change["l2.weight", 1]
        for name in ("l0.weight", "l1.weight")
    )
    assert found["l0.weight", "l2.weight"][0, 0] == pytest.approx(expected, abs=1e-9)


def test_a_pair_that_is_not_finite_names_both_sites() -> None:
    class Broken(Quadratic):
        def probe(self, assignment: BitAssignment) -> Probe:
            both = assignment["l0.weight"] == assignment["l2.weight"] == 1
            return Probe(float("nan"), 0.0, 1) if both else super().probe(assignment)

    wide = space()
    with pytest.raises(
        EvaluationError, match=r"'l0\.weight' at 1 bits with site 'l2\.weight' at 1 bits must be finite"
    ):
        table(wide, Broken(wide))
