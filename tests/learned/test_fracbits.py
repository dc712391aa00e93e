"""Interpolated quantisers against the formula written out, and by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from taught import lessons
from torch import Tensor, nn

from qsearch.learned.fracbits import Fractional, FractionalBits, FractionalQuantizer
from qsearch.space import Variable
from qsearch.testing.problems import linear_layers
from qsearch.training.lessons import Lessons

SIZES = [6, 5]


@pytest.fixture(scope="module")
def given() -> Lessons:
    return lessons(linear_layers(SIZES))


def variable(choices: tuple[int, ...], length: int = 1) -> Variable:
    return Variable("layer0.weight", ("layer0.weight",), choices, length, 0)


def weight_of(given: Lessons) -> Tensor:
    return given.model().get_submodule("layer0").weight.detach()


def quantizer(given: Lessons, start: float, choices: tuple[int, ...], length: int = 1) -> FractionalQuantizer:
    scheme = Fractional(given, "lsq")
    return scheme.weight(scheme.bits(variable(choices, length), start), "layer0.weight", weight_of(given))


def looked_up(given: Lessons, bits: int) -> Tensor:
    return given.calibrated.quantized_weight("layer0.weight", bits).values


class TestWeights:
    @pytest.mark.parametrize(("real", "low", "high", "t"), [(3.3, 3, 4, 0.3), (5.0, 4, 8, 0.25), (7.9, 4, 8, 0.975)])
    def test_the_two_next_to_it_by_their_shares(
        self, given: Lessons, real: float, low: int, high: int, t: float
    ) -> None:
        found = quantizer(given, real, (2, 3, 4, 8))(weight_of(given))
        torch.testing.assert_close(found, (1 - t) * looked_up(given, low) + t * looked_up(given, high))

    @pytest.mark.parametrize("bits", [0, 1, 2, 4, 32])
    def test_at_a_choice_that_quantiser_alone(self, given: Lessons, bits: int) -> None:
        found = quantizer(given, bits, (0, 1, 2, 4, 32))(weight_of(given))
        assert torch.equal(found, weight_of(given) if bits == 32 else looked_up(given, bits))

    def test_each_kernel_by_its_own_bits(self, given: Lessons) -> None:
        module = quantizer(given, 3.0, (2, 3, 4), len(weight_of(given)))
        real = torch.tensor([2.0, 2.4, 3.0, 3.1, 3.9, 4.0])
        module._bits.set_to(real)
        found = module(weight_of(given))
        for kernel, bits in enumerate(real.tolist()):
            low, t = int(min(bits, 3)), bits - int(min(bits, 3))
            expected = (1 - t) * looked_up(given, low)[kernel] + t * looked_up(given, low + 1)[kernel]
            torch.testing.assert_close(found[kernel], expected)

    @pytest.mark.parametrize("real", [2.2, 3.0, 3.7, 6.0])
    def test_the_slope_by_bits_is_the_difference_of_the_two(self, given: Lessons, real: float) -> None:
        """The interpolation is linear between choices, so that a forward difference has no error but rounding."""
        module = quantizer(given, real, (2, 3, 4, 8))
        probe = torch.randn(weight_of(given).shape, generator=torch.Generator().manual_seed(1))
        (module(weight_of(given)) * probe).sum().backward()
        before = (module(weight_of(given)) * probe).sum().detach()
        slope = module._bits.value.grad.item()
        with torch.no_grad():
            module._bits.value += 0.1
        after = (module(weight_of(given)) * probe).sum().detach()
        assert slope == pytest.approx(((after - before) / 0.1).item(), rel=1e-4)

    def test_the_slope_at_the_top_choice_is_that_below_it(self, given: Lessons) -> None:
        """By a backward difference: bits that have come up to the top go down again by what that costs."""
        module = quantizer(given, 8.0, (2, 3, 4, 8))
        probe = torch.randn(weight_of(given).shape, generator=torch.Generator().manual_seed(1))
        before = (module(weight_of(given)) * probe).sum()
        before.backward()
        with torch.no_grad():
            module._bits.value -= 0.5
        after = (module(weight_of(given)) * probe).sum().detach()
        assert module._bits.value.grad.item() == pytest.approx(((before.detach() - after) / 0.5).item(), rel=1e-3)

    @pytest.mark.parametrize(("real", "used"), [(2.0, [0, 1]), (3.0, [1, 2]), (3.5, [1, 2]), (8.0, [2, 3])])
    def test_no_more_than_two_quantisers_run(self, real: float, used: list[int]) -> None:
        assert FractionalBits(variable((2, 3, 4, 8)), real).used() == used

    def test_weights_learn_straight_through_both(self, given: Lessons) -> None:
        module = quantizer(given, 7.5, (7, 8))
        weight = (0.01 * weight_of(given)).requires_grad_()  # far within both grids
        module(weight).sum().backward()
        torch.testing.assert_close(weight.grad, torch.ones_like(weight))

    def test_steps_of_every_bitwidth_learn_by_themselves(self, given: Lessons) -> None:
        module = quantizer(given, 3.5, (2, 3, 4))
        module(weight_of(given)).square().sum().backward()
        two, three, four = (next(part.parameters()) for part in module.quantizers)
        assert two.grad is None
        assert bool((three.grad != 0).any())
        assert bool((four.grad != 0).any())


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, v: Tensor) -> Tensor:
        self.calls += 1
        return v


class TestFrozen:
    """What FracBits' reference code misses: it rounds the bits of activations and then uses the real-valued ones."""

    @pytest.mark.parametrize("frozen", [3, 4, 6])
    def test_rounded_bits_run_one_quantiser(self, frozen: int) -> None:
        bits = FractionalBits(variable((2, 3, 4, 6)), 3.4)
        counters = [Counted() for _ in range(4)]
        module = FractionalQuantizer(bits, counters)
        bits.value.requires_grad_(False)
        bits.set_to(torch.tensor([float(frozen)]))
        x = torch.randn(5, 3)
        assert torch.equal(module(x), x)
        assert [part.calls for part in counters] == [int(choice == frozen) for choice in (2, 3, 4, 6)]

    def test_frozen_activations_are_those_of_calibration(self, given: Lessons) -> None:
        scheme = Fractional(given, "lsq")
        bits = scheme.bits(variable((2, 3, 4)), 2.6)
        module = scheme.input(bits, "layer0.input")
        x = given.data.inputs
        assert isinstance(x, Tensor)
        mixed = module(x)
        bits.value.requires_grad_(False)
        bits.set_to(torch.tensor([3.0]))
        expected = given.calibrated.activation_quantizer("layer0.input", 3)(x)
        assert torch.equal(module(x), expected)
        assert not torch.allclose(mixed, expected)


class TestPenalty:
    """Quantisers that clip pay for their clips, where values pass through them."""

    @pytest.mark.parametrize(("real", "shares"), [(2.25, (0.75, 0.25, 0, 0)), (4.0, (0, 0, 1, 0)), (8.0, (0, 0, 0, 1))])
    def test_of_each_quantiser_by_its_share(self, given: Lessons, real: float, shares: tuple[float, ...]) -> None:
        scheme = Fractional(given, "pact")
        module = scheme.input(scheme.bits(variable((2, 3, 4, 8)), real), "layer0.input")
        for part in module.quantizers:
            part(given.data.inputs.clone().requires_grad_())  # clips of what takes no gradient stand
        penalties = [part.penalty().detach() for part in module.quantizers]
        expected = sum(share * float(penalty) for share, penalty in zip(shares, penalties, strict=True))
        found = module.penalty()
        assert found is not None
        assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
        found.backward()
        gradients = [next(part.parameters()).grad for part in module.quantizers]
        assert [gradient is not None and bool(gradient != 0) for gradient in gradients] == [s > 0 for s in shares]
        assert module._bits.value.grad is None


def test_bits_stay_within_the_choices() -> None:
    bits = FractionalBits(variable((2, 4), 3), 3.0)
    with torch.no_grad():
        bits.value.copy_(torch.tensor([1.0, 3.3, 9.0]))
    bits.constrain()
    np.testing.assert_allclose(bits.real().numpy(), [2.0, 3.3, 4.0], rtol=1e-6)
