"""Costs at real-valued bits against hand counts (golden test G6), against the cost models at choices, and by slope."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import UserError
from qsearch.layers import Layer
from qsearch.learned.interpolation import shares
from qsearch.learned.limits import Limit, concerned, limits_at, require_tabulated
from qsearch.learned.penalty import Penalty, RealCost
from qsearch.problem import Bound, Objective, Problem
from qsearch.sites import build_space
from qsearch.space import SearchSpace
from qsearch.testing.networks import resnet20
from qsearch.testing.problems import WeightSize, kernels, separable

INTEGERS = list(range(2, 9))
ADDITIVE = ["size", "bops", "memory", "energy-45nm", "roofline", "bismo", "bitfusion", "tensorcore", "mcu"]


def cost_of(name: str, layers: tuple[Layer, ...], **space: object) -> NetworkCost:
    options = {"scale_bits": 0, "field_bits": 0} if name == "size" else {}
    given = {"weight_bits": INTEGERS, "activation_bits": INTEGERS, **space}
    return NetworkCost(registry.create("cost_models", name, options), layers, build_space(layers, **given))


def at(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


class TestGoldenNumbers:
    """G6: FracBits' costs are linear in each of the bits."""

    layers = (
        Layer("a", "linear", 10, 7),
        Layer("b", "conv", 4, 6, kernel=(3, 3), output_size=(5, 5), input_size=(5, 5)),
    )

    def test_size_is_bits_times_weights(self) -> None:
        cost = cost_of("size", self.layers, fixed={"activations": 8})
        weights = 70 + 6 * 4 * 9
        found = RealCost(cost, "size")([at(3.3), at(3.3)])
        assert float(found) == pytest.approx(3.3 * weights / 8, rel=1e-14)

    def test_bit_operations_are_the_product_of_both_bits_times_macs(self) -> None:
        cost = cost_of("bops", self.layers[1:])
        macs = 25 * 6 * 4 * 9
        found = RealCost(cost, "bops")([at(3.3), at(4.6)])
        assert float(found) == pytest.approx(15.18 * macs, rel=1e-14)

    def test_they_are_so_with_gaps_between_choices_and_with_bits_per_kernel(self) -> None:
        cost = cost_of("bops", self.layers[1:], weight_bits=[2, 4, 8], activation_bits=[2, 8], granularity="kernel")
        bits = torch.tensor([2.0, 2.5, 3.3, 4.0, 6.1, 8.0], dtype=torch.float64)
        found = RealCost(cost, "bops")([bits, at(4.6)])
        assert float(found) == pytest.approx(float(bits.mean()) * 4.6 * 25 * 6 * 4 * 9, rel=1e-14)

    def test_the_slopes_are_the_other_factor(self) -> None:
        cost = cost_of("bops", self.layers[1:])
        weight, activation = at(3.3).requires_grad_(), at(4.6).requires_grad_()
        RealCost(cost, "bops")([weight, activation]).backward()
        assert float(weight.grad) == pytest.approx(4.6 * 5400)
        assert float(activation.grad) == pytest.approx(3.3 * 5400)


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("granularity", ["layer", "kernel"])
def test_exact_at_choices_for_every_cost_model(name: str, granularity: str) -> None:
    layers = resnet20()[:6] + resnet20()[-1:]
    ties = [("layer1.0.conv1.input", "layer1.1.conv1.input")]
    cost = cost_of(name, layers, weight_bits=[2, 3, 8], activation_bits=[4, 8], granularity=granularity, ties=ties,
                   fixed={"first": 8})  # fmt: skip
    try:
        require_tabulated(cost)
    except UserError:
        assert granularity == "kernel"
        return
    x = cost.space.sample(np.random.default_rng(0), 12)
    expected = cost.estimate_many(x)
    for metric in cost.units:
        real = RealCost(cost, metric)
        for row, index in enumerate(x):
            bits = [
                torch.from_numpy(np.asarray(v.choices, dtype=np.float64)[index[v.slice]]) for v in cost.space.variables
            ]
            assert float(real(bits)) == pytest.approx(expected[metric][row], rel=1e-9), metric


def test_the_greatest_of_the_layers_where_the_network_has_that() -> None:
    cost = cost_of("mcu", resnet20()[:4])
    greatest = next(metric for metric in cost.units if metric in cost.model.maxima)
    x = cost.space.highest
    bits = [torch.tensor([8.0]) for _ in cost.space.variables]
    assert float(RealCost(cost, greatest)(bits)) == cost.estimate_many(x[None])[greatest][0]


def test_bits_of_variables_that_do_not_learn_are_held() -> None:
    cost = cost_of("bops", resnet20()[:2])
    first, *others = cost.space.variables
    found = RealCost(cost, "bops", [first], {v.name: 5 for v in others})([at(2.5)])
    every = RealCost(cost, "bops")([at(2.5), *[at(5.0)] * len(others)])
    assert float(found) == float(every)


@given(
    st.lists(st.integers(0, 32), min_size=1, max_size=6, unique=True).map(sorted),
    st.lists(st.floats(0, 32), min_size=1, max_size=5),
)
def test_shares_are_of_two_neighbours_and_give_the_bits_back(choices: list[int], bits: list[float]) -> None:
    grid = torch.tensor(choices, dtype=torch.float64)
    real = torch.tensor(bits, dtype=torch.float64).clamp(choices[0], choices[-1])
    found = shares(real, grid)
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(1), torch.ones(len(bits), dtype=torch.float64))
    torch.testing.assert_close(found @ grid, real)
    for row in found:
        used = torch.nonzero(row).flatten()
        assert len(used) <= 2
        assert int(used[-1] - used[0]) <= 1
    assert torch.equal(shares(grid, grid), torch.eye(len(choices), dtype=torch.float64))


class TestPenalty:
    def penalty(self, most: float, weight: float = 7.0) -> Penalty:
        cost = cost_of("size", (Layer("a", "linear", 10, 8),), fixed={"activations": 8})
        return Penalty([Limit(cost, "size", most)], cost.space.variables, {}, weight)

    def test_nothing_within_the_target(self) -> None:
        assert float(self.penalty(30.0)([at(3.0)])) == 0

    def test_the_square_of_the_overrun_beyond_it(self) -> None:
        bits = at(3.3).requires_grad_()
        found = self.penalty(30.0)([bits])  # 33 byte
        assert found.item() == pytest.approx(7 * 0.1**2)
        found.backward()
        assert float(bits.grad) == pytest.approx(7 * 2 * 0.1 * 10 / 30)

    def test_several_limits_add_up(self) -> None:
        cost = cost_of("bops", (Layer("a", "linear", 10, 8),))
        size = NetworkCost(WeightSize(), cost.layers, cost.space)
        limits = [Limit(cost, "bops", 80 * 9.0), Limit(size, "size", 80 * 2.0)]
        found = Penalty(limits, cost.space.variables, {}, 1.0)([at(3.0), at(4.0)])
        assert float(found) == pytest.approx((12 / 9 - 1) ** 2 + (3 / 2 - 1) ** 2)


class TestLimits:
    def test_one_target_scales_every_upper_bound(self) -> None:
        problem, _ = separable(3, budget=0.5)
        (limit,) = limits_at(problem, 0.8)
        assert (limit.metric, limit.most) == ("size", pytest.approx(0.8 * problem.bounds[0].limit))

    def test_without_a_bound_uniform_8_bits(self) -> None:
        problem, _ = separable(3, budget=None)
        (limit,) = limits_at(problem, 0.5)
        assert limit.most == pytest.approx(4 * sum(layer.params for layer in problem.layers))

    def test_where_a_cost_is_minimised_the_other_bounds_stay(self) -> None:
        cost = cost_of("bops", resnet20()[:3])
        bound = Bound("bops", 1e6, False, "bops")
        floor = Bound("bops", 1.0, True, "at least")
        size = Problem(cost.space, cost, (Objective("bops", "minimize"),), (bound, floor))
        assert [limit.most for limit in limits_at(size, 0.5)] == [5e5]
        only_quality = replace(size, objectives=(Objective("accuracy", "maximize"),))
        assert [limit.most for limit in limits_at(only_quality, 1.0)] == [1e6]

    def test_variables_that_no_limited_cost_depends_on_are_known(self) -> None:
        cost = cost_of("size", resnet20()[:2])
        found = dict(
            zip([v.name for v in cost.space.variables], concerned([Limit(cost, "size", 1.0)], cost.space), strict=True)
        )
        assert found == {"conv1.weight": True, "conv1.input": False, "layer1.0.conv1.weight": True,
                         "layer1.0.conv1.input": False}  # fmt: skip

    def test_a_cost_that_does_not_add_up_is_refused(self) -> None:
        class Odd(WeightSize):
            additive = False

        problem, _ = separable(2)
        with pytest.raises(UserError, match=r"sum, or the greatest.*Odd"):
            require_tabulated(NetworkCost(Odd(), problem.layers, problem.space))

    def test_bits_per_kernel_need_a_cost_that_is_the_mean_of_kernels(self) -> None:
        class Odd(WeightSize):
            kernel_additive = False

        problem, _ = kernels(4)
        require_tabulated(problem.cost)
        with pytest.raises(UserError, match=r"kernels' costs.*granularity: layer"):
            require_tabulated(NetworkCost(Odd(), problem.layers, problem.space))
        assert isinstance(problem.space, SearchSpace)
