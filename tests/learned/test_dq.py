"""Learned step and range: golden bits, gradients against finite differences of what is not rounded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from taught import lessons
from torch import Tensor

from qsearch.learned.dq import LearnedRange
from qsearch.learned.ranges import (
    RangeBits,
    RangeQuantizer,
    bits_of,
    quantize_range,
    range_choices,
    whole_bits,
)
from qsearch.sites import build_space
from qsearch.space import Variable
from qsearch.testing.problems import linear_layers


def variable(choices: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8), length: int = 1) -> Variable:
    return Variable("layer0.weight", ("layer0.weight",), choices, length, 0)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


class TestBits:
    @pytest.mark.parametrize(
        ("step", "reach", "signed", "bits"),
        [
            (0.25, 1.75, True, 4),
            (0.25, 1.75, False, 3),
            (1.0, 1.0, True, 2),
            (1.0, 255.0, False, 8),
            (0.25, 1.8, True, 5),
        ],
    )
    def test_golden(self, step: float, reach: float, signed: bool, bits: int) -> None:
        assert float(whole_bits(bits_of(number(step), number(reach), signed))) == bits

    def test_whole_bits_have_the_slope_of_the_logarithm(self) -> None:
        """∂b/∂q = 1 / ((q + d)·ln 2), and ∂b/∂d = −q / (d·(q + d)·ln 2)."""
        step, reach = number(0.25).requires_grad_(), number(1.6).requires_grad_()
        whole_bits(bits_of(step, reach, True)).sum().backward()
        assert reach.grad.item() == pytest.approx(1 / (1.85 * np.log(2)))
        assert step.grad.item() == pytest.approx(-1.6 / (0.25 * 1.85 * np.log(2)))

    @given(st.floats(2, 8), st.booleans())
    def test_a_start_gives_its_bits(self, start: float, signed: bool) -> None:
        bits = RangeBits(variable(), signed, start)
        assert bits.real().item() == pytest.approx(start, abs=1e-4)

    @pytest.mark.parametrize("signed", [False, True])
    def test_bits_stay_within_the_choices_and_ranges_are_left(self, signed: bool) -> None:
        bits = RangeBits(variable((3, 4, 6), 4), signed, 4.0)
        with torch.no_grad():
            bits.log_reach.copy_(torch.tensor([0.0, 1.0, 0.5, -9.0]))
            bits.log_step.copy_(torch.tensor([5.0, -3.0, -20.0, -13.0]))
        middle = bits.log_step[1].item()
        bits.constrain()
        real = bits.real()
        assert real[0].item() == pytest.approx(3.0, abs=1e-5)
        assert real[2].item() == pytest.approx(6.0, abs=1e-5)
        assert bits.log_step[1].item() == middle
        assert bits.log_reach.tolist() == [0.0, 1.0, 0.5, -6.0]

    def test_signed_tensors_do_not_learn_fewer_than_2_bits(self) -> None:
        bits = RangeBits(variable((0, 1, 2, 4)), True, 4.0)
        bits.set_to(torch.tensor([0.0]))
        assert bits.real().item() == 2.0
        assert RangeBits(variable((1, 2)), False, 1.0).real().item() == pytest.approx(1.0)

    def test_choices_hold_the_bits(self) -> None:
        space = build_space(
            linear_layers([4, 4, 4, 4]), weight_bits=[2, 4, 8], activation_bits=[8], fixed={"activations": 8}
        )
        assert range_choices(space, np.asarray([2.0, 2.3, 4.0000004, 5.1])).tolist() == [0, 1, 1, 2]


class TestQuantiser:
    def test_values_by_hand(self) -> None:
        v = torch.tensor([-3.0, -1.0, -0.3, 0.1, 0.4, 1.74, 1.9])
        found = quantize_range(v, torch.tensor([0.25]), torch.tensor([1.75]), True)
        assert found.tolist() == [-1.75, -1.0, -0.25, 0.0, 0.5, 1.75, 1.75]
        unsigned = quantize_range(v, torch.tensor([0.25]), torch.tensor([1.75]), False)
        assert unsigned.tolist() == [0.0, 0.0, 0.0, 0.0, 0.5, 1.75, 1.75]

    @pytest.mark.parametrize("signed", [False, True])
    def test_gradients_are_those_of_what_is_not_rounded(self, signed: bool) -> None:
        """With the rounding's residue held, v̂ = clip(v) + d·residue inside and the range outside."""
        v = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        probe = torch.randn(200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        step, reach = 0.21, 1.05
        residue = (v / step).round() - v / step

        def surrogate(v: Tensor, step: float, reach: float) -> float:
            low = -reach if signed else 0.0
            inside = (v >= low) & (v <= reach)
            return float((probe * torch.where(inside, v + step * residue, v.clamp(low, reach))).sum())

        inputs = [v.clone().requires_grad_(), number(step).requires_grad_(), number(reach).requires_grad_()]
        (quantize_range(*inputs, signed) * probe).sum().backward()
        e = 1e-7
        by_step = (surrogate(v, step + e, reach) - surrogate(v, step - e, reach)) / (2 * e)
        by_reach = (surrogate(v, step, reach + e) - surrogate(v, step, reach - e)) / (2 * e)
        assert inputs[1].grad.item() == pytest.approx(by_step, rel=1e-6)
        assert inputs[2].grad.item() == pytest.approx(by_reach, rel=1e-6)
        for place in range(0, 200, 17):
            moved = v.clone()
            moved[place] += e
            by_value = (surrogate(moved, step, reach) - surrogate(v, step, reach)) / e
            assert inputs[0].grad[place].item() == pytest.approx(by_value, abs=1e-6)

    @given(st.floats(-4, 4), st.floats(0.05, 1), st.floats(1, 3), st.booleans())
    def test_gradients_are_bounded_and_disjoint(self, value: float, step: float, reach: float, signed: bool) -> None:
        inputs = [number(value).requires_grad_(), number(step).requires_grad_(), number(reach).requires_grad_()]
        quantize_range(*inputs, signed).sum().backward()
        by_value, by_step, by_reach = (item.grad.item() for item in inputs)
        inside = (-reach if signed else 0) <= value <= reach
        assert by_value == inside
        assert abs(by_step) <= 0.5
        assert by_reach in ((0,) if inside else (-1, 0, 1))
        assert inside or by_step == 0

    def test_kernels_share_what_learns_in_units_of_their_ranges(self) -> None:
        bits = RangeBits(variable(), True, 4.0)
        module = RangeQuantizer(bits, torch.tensor([1.0, 10.0]), True)
        weight = torch.tensor([[0.45, -0.9], [4.5, -9.0]])
        found = module(weight)
        torch.testing.assert_close(found[1], 10 * found[0])
        found.sum().backward()
        assert bits.log_step.grad.shape == (1,)

    def test_steps_may_be_powers_of_two(self) -> None:
        bits = RangeBits(variable(), True, 4.0)
        plain = RangeQuantizer(bits, torch.tensor([1.0]), True)
        module = RangeQuantizer(bits, torch.tensor([1.0]), True, power_of_two=True)
        weight = torch.linspace(-1, 1, 41)[None]
        assert torch.equal(module(weight) % 0.125, torch.zeros(1, 41))  # 1/7 is nearest to 1/8
        assert float(module(weight).detach().max()) == 0.875  # of which 4 bits count 7
        assert bool((plain(weight) % 0.125 != 0).any())
        (module(weight) * weight).sum().backward()
        assert bits.log_step.grad.item() != 0

    @given(st.floats(1, 8), st.booleans(), st.floats(0.1, 10), st.floats(-1, 1))
    def test_steps_of_powers_of_two_use_no_more_levels_than_the_bits_that_are_charged(
        self, start: float, signed: bool, range_: float, log_reach: float
    ) -> None:
        bits = RangeBits(variable((1, 2, 4, 8)), signed, start)
        with torch.no_grad():
            bits.log_reach += log_reach
        bits.constrain()
        module = RangeQuantizer(bits, torch.tensor([range_]), signed, power_of_two=True)
        levels = module(torch.linspace(-30, 30, 20_001)[None]).detach().unique()
        assert len(levels) <= 2 ** int(bits()) - signed

    @pytest.mark.parametrize("real", [2.0, 3.4, 6.0])
    def test_tied_sites_with_and_without_sign_have_the_same_bits(self, real: float) -> None:
        bits = RangeBits(variable(), True, real)
        levels = bits.levels(False).item()
        assert np.log2(levels + 1) == pytest.approx(real, abs=1e-4)
        assert np.log2(bits.levels(True).item() + 1) + 1 == pytest.approx(real, abs=1e-4)


class Signs(LearnedRange):
    """Of two inputs the first, which gives its variable its name, has no sign."""

    def signed(self, site: str) -> bool:
        return site != "layer0.input"


@pytest.mark.parametrize("frozen", [None, 1.0, 2.0])
def test_a_signed_input_tied_to_an_unsigned_one_never_has_less_than_2_bits(frozen: float | None) -> None:
    tied = Variable("layer0.input", ("layer0.input", "layer1.input"), (1, 2, 4), 1, 0)
    scheme = Signs(lessons(linear_layers([4, 4])))
    bits = scheme.bits(tied, 1.2)
    if frozen is not None:
        bits.set_to(torch.tensor([frozen]))
    x = torch.linspace(-1, 1, 9)
    signed, unsigned = (scheme.quantizer(bits, torch.ones(1), each)(x).detach() for each in (True, False))
    assert signed.unique().tolist() == [-1, 0, 1]
    torch.testing.assert_close(unsigned.unique(), torch.tensor([0, 1 / 3, 2 / 3, 1]))


def test_the_start_is_the_calibrated_grid() -> None:
    given = lessons(linear_layers([6, 5]))
    scheme = LearnedRange(given)
    bits = scheme.bits(variable(), 4.0)
    weight = given.model().get_submodule("layer0").weight.detach()
    scales = given.calibrated.quantized_weight("layer0.weight", 4).scales.abs()
    expected = torch.fake_quantize_per_channel_affine(weight, scales, torch.zeros(6, dtype=torch.int32), 0, -7, 7)
    torch.testing.assert_close(scheme.weight(bits, "layer0.weight", weight)(weight), expected)
    x = given.data.inputs
    assert isinstance(x, Tensor)
    assert scheme.signed("layer0.input")
    scale = given.calibrated.activation_quantizer("layer0.input", 4).scale
    found = scheme.input(scheme.bits(variable(), 4.0), "layer0.input")(x)
    torch.testing.assert_close(found, torch.fake_quantize_per_tensor_affine(x, float(scale), 0, -7, 7))
