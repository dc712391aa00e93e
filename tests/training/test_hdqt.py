"""``hdqt``: exact gradients without quantisers, known products with them, and which networks it takes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from qsearch.errors import ConfigError, DataError
from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.registry import validate
from qsearch.training.hadamard_products import Arithmetic, HdqtOptions, Operand, quantized_product
from qsearch.training.hdqt import HadamardConv2d, HadamardLinear, clamp_counts, clamp_rates, hdqt

OFF = {"bits": None, "forward_accumulator": None, "backward_accumulator": None}
"""No quantiser, no accumulator: the Hadamard transform alone."""

TO_NEAREST: frozenset[Operand] = frozenset()


def seeded(*shape: int, seed: int = 0, double: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64 if double else torch.float32)


def gradients(network: nn.Module, inputs: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """Of the inputs and of every parameter, with the output."""
    x = inputs.clone().requires_grad_()
    network.zero_grad()
    output = network(x)
    output.backward(gradient.expand_as(output))
    assert x.grad is not None
    return {"output": output.detach(), "input": x.grad} | {
        name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.grad is not None
    }


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(11, 10), (7, 11)),
    "linear on sequences": (nn.Linear(12, 6, bias=False), (2, 5, 3, 12)),
    "linear on one sample": (nn.Linear(4, 3), (4,)),
    "conv2d": (nn.Conv2d(3, 5, 3), (2, 3, 8, 7)),
    "stride and padding": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)), (2, 3, 9, 6)),
    "dilation, no bias": (nn.Conv2d(2, 4, 3, dilation=(2, 1), bias=False), (3, 2, 9, 6)),
    "same padding": (nn.Conv2d(2, 4, (5, 3), padding="same"), (3, 2, 9, 6)),
    "circular padding": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (3, 2, 9, 6)),
    "pointwise with stride": (nn.Conv2d(4, 6, 1, stride=2), (3, 4, 8, 8)),
    "conv1d": (nn.Conv1d(3, 5, 4, stride=3, padding=2), (2, 3, 11)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 3, 5)),
    "conv1d on one sample": (nn.Conv1d(3, 5, 4, stride=3, padding=2), (3, 11)),
    "conv2d on one sample": (nn.Conv2d(3, 5, 3), (3, 8, 8)),
    "circular padding on one sample": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 9, 6)),
    "conv3d on one sample": (nn.Conv3d(2, 3, 2, padding=1), (2, 4, 3, 5)),
    "linear on no sample": (nn.Linear(11, 10), (0, 11)),
    "conv2d on no sample": (nn.Conv2d(3, 5, 3, padding=1), (0, 3, 8, 7)),
}


@pytest.mark.parametrize("pad", [True, False])
@pytest.mark.parametrize("hadamard", [True, False])
@pytest.mark.parametrize("case", LAYERS)
def test_gradients_are_exact_without_quantisers(case: str, hadamard: bool, pad: bool) -> None:
    layer, shape = LAYERS[case]
    layer = copy.deepcopy(layer).double()
    x = seeded(*shape, double=True)
    gradient = seeded(*layer(x).shape, seed=1, double=True)
    expected = gradients(layer, x, gradient)
    found = gradients(hdqt(layer, HdqtOptions(**OFF, hadamard=hadamard, pad=pad)), x, gradient)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["linear on no sample", "conv2d on no sample"])
def test_an_empty_batch_has_no_products_and_gradients_of_zero(case: str) -> None:
    layer, shape = LAYERS[case]
    converted = hdqt(layer)
    expected, x = layer(torch.empty(shape)).shape, torch.empty(shape)
    found = gradients(converted, x, torch.empty(expected))
    assert found["output"].shape == expected
    assert not found["weight"].any()
    assert not found["bias"].any()
    assert clamp_rates(converted) == {"": {}}


def test_one_sample_is_a_batch_of_one() -> None:
    layer, x = hdqt(nn.Conv2d(3, 5, 3)), seeded(3, 8, 8)
    assert torch.equal(layer(x), layer(x[None])[0])


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(3, 5, 3), (2, 6, 8, 8), "each product takes 27 inputs; got 54"),
        (nn.Conv2d(3, 5, 3), (8, 8), r"a convolution of 2 extents takes \(N, C, \*S\) or \(C, \*S\); got \(8, 8\)"),
        (nn.Linear(6, 4), (2, 3), "each product takes 6 inputs; got 3"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(layer: nn.Module, shape: tuple[int, ...], message: str) -> None:
    """Twice the channels, or half the inputs, would go through as other numbers of rows."""
    with pytest.raises(DataError, match=message):
        hdqt(layer)(seeded(*shape))


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_a_whole_network_has_exact_gradients_without_quantisers(block: int) -> None:
    torch.manual_seed(0)
    network = DigitsNetwork().double()
    x, gradient = seeded(8, 1, 8, 8, double=True), seeded(8, 10, seed=1, double=True)
    expected = gradients(network, x, gradient)
    found = gradients(hdqt(network, HdqtOptions(**OFF, block=block)), x, gradient)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)


def rounded(x: Tensor, peak: int = 7) -> tuple[Tensor, Tensor]:
    """4-bit codes to the nearest and their step, independently of the package."""
    step = x.abs().max() / peak
    return torch.round(x / step), step


def test_products_are_those_of_the_equations() -> None:
    """Forward and both gradients, rounded to the nearest, from plain tensors and Sylvester's matrix."""
    x, w, gradient = seeded(8, 32), seeded(4, 32, seed=1), seeded(8, 4, seed=2)
    options = HdqtOptions(forward_accumulator=None, backward_accumulator=None, stochastic=TO_NEAREST)
    layer = hdqt(nn.Linear(32, 4, bias=False), options)
    layer.load_state_dict({"weight": w})
    found = gradients(layer, x, gradient)
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    four = torch.kron(two, two)
    eight = torch.kron(two, four)
    (xq, xs), (wq, ws) = rounded(x), rounded(w)
    torch.testing.assert_close(found["output"], xq @ wq.T * xs * ws)
    (g, gs), (hw, hws) = rounded(gradient @ four), rounded(four @ wq)
    torch.testing.assert_close(found["input"], g @ hw * (gs * hws * ws / 4))
    (g, gs), (hx, hxs) = rounded(gradient.T @ eight), rounded(eight @ xq)
    torch.testing.assert_close(found["weight"], g @ hx * (gs * hxs * xs / 8))


def test_sums_are_clamped_in_all_three_products_and_counted() -> None:
    """Equal numbers everywhere: codes are ±7, a tile of 32 sums to 1,568, and 127 of it is kept."""
    layer = hdqt(nn.Linear(64, 64, bias=False), HdqtOptions(hadamard=False, stochastic=TO_NEAREST))
    nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    found = gradients(layer, torch.ones(64, 64), torch.ones(64, 64))
    for value in (found["output"], found["input"], found["weight"]):
        torch.testing.assert_close(value, torch.full((64, 64), 2 * 127 / 49))
    assert clamp_rates(layer) == {"": {"forward": 1.0, "input": 1.0, "weight": 1.0}}
    assert clamp_counts(layer).sums == {"forward": 2 * 64**2, "input": 2 * 64**2, "weight": 2 * 64**2}


@pytest.mark.parametrize("forward", [8, 12])
@pytest.mark.parametrize("backward", [8, 12])
def test_each_pass_has_the_width_of_its_own_accumulators(forward: int, backward: int) -> None:
    options = HdqtOptions(forward_accumulator=forward, backward_accumulator=backward, hadamard=False)
    layer = hdqt(nn.Linear(64, 64, bias=False), options)
    nn.init.ones_(layer.weight)  # type: ignore[arg-type]
    gradients(layer, torch.ones(64, 64), torch.ones(64, 64))
    rates = clamp_rates(layer, reset=True)[""]
    assert rates == {"forward": float(forward == 8), "input": float(backward == 8), "weight": float(backward == 8)}
    assert clamp_rates(layer) == {"": {}}


def test_evaluation_is_not_counted() -> None:
    """A step and then ten passes without gradients: as many sums forward as one product has."""
    layer = hdqt(nn.Linear(64, 64, bias=False))
    gradients(layer, seeded(32, 64), seeded(32, 64, seed=1))
    trained = clamp_counts(layer).sums
    for _ in range(5):
        with torch.no_grad():
            layer(seeded(32, 64))
        with torch.inference_mode():
            layer(seeded(32, 64))
    assert clamp_counts(layer).sums == trained
    assert trained["forward"] == 2 * 32 * 64


def test_inputs_without_a_sign_may_use_the_whole_grid() -> None:
    x = torch.linspace(0, 1.5, 16)[None]
    outputs = {}
    for unsigned in (False, True):
        options = HdqtOptions(unsigned=unsigned, forward_accumulator=None)
        layer = hdqt(nn.Linear(16, 16, bias=False), options)
        nn.init.eye_(layer.weight)  # type: ignore[arg-type]
        outputs[unsigned] = layer(x).detach()
        torch.testing.assert_close(layer(-x).detach(), -outputs[False])
    torch.testing.assert_close(outputs[True], x)
    assert float((outputs[False] - x).abs().max()) == pytest.approx(0.1, abs=0.01)


def test_gradients_are_right_on_average() -> None:
    """Both gradients over many draws, with every operand of the backward pass rounded stochastically."""
    operands = frozenset({"input-gradient", "backward-weight", "weight-gradient", "backward-input"})
    options = HdqtOptions(forward_accumulator=None, backward_accumulator=None, stochastic=operands)
    arithmetic = Arithmetic(options, torch.Generator().manual_seed(0))
    x, w, gradient = seeded(6, 10), seeded(5, 10, seed=1), seeded(6, 5, seed=2)
    codes = arithmetic.codes(x, "forward-input"), arithmetic.codes(w, "forward-weight")
    draws = 4000
    by_input = torch.stack([arithmetic.by_input(gradient, codes[1]) for _ in range(draws)])
    by_weight = torch.stack([arithmetic.by_weight(gradient, codes[0]) for _ in range(draws)])
    for found, exact in (
        (by_input, gradient @ (codes[1].values * codes[1].step)),
        (by_weight, gradient.T @ (codes[0].values * codes[0].step)),
    ):
        deviation = (found.mean(0) - exact).abs() / (found.std(0) / draws**0.5)
        assert float(deviation.max()) < 5
        assert float((deviation > 3).float().mean()) < 0.05


@pytest.mark.parametrize("operand", get_args(Operand))
def test_each_operand_can_be_stochastic_by_itself(operand: Operand) -> None:
    """Two draws differ in the one product that it is part of (and in what follows from the forward pass's)."""
    x, gradient, layer = seeded(8, 32), seeded(8, 16, seed=1), nn.Linear(32, 16, bias=False)
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(2))
    first, second = (
        gradients(hdqt(layer, HdqtOptions(stochastic=frozenset({operand})), seed), x, gradient) for seed in (0, 1)
    )
    differ = {name for name in first if not torch.equal(first[name], second[name])}
    expected = {
        "forward-input": {"output", "weight"},
        "forward-weight": {"output", "input"},
        "input-gradient": {"input"},
        "backward-weight": {"input"},
        "weight-gradient": {"weight"},
        "backward-input": {"weight"},
    }
    assert differ == expected[operand]


def test_the_published_operands_leave_the_forward_pass_as_it_is() -> None:
    network = hdqt(DigitsNetwork().eval())
    x = seeded(4, 1, 8, 8)
    assert torch.equal(network(x), network(x))


def test_a_lone_gradient_survives_in_the_hadamard_domain() -> None:
    """A row with one large and many small numbers: to the nearest, only the transform keeps the small ones' sum."""
    gradient = torch.full((1, 32), 0.06)
    gradient[0, 0] = 1.0
    weight = torch.ones(32, 1)
    kept = {}
    for hadamard in (True, False):
        options = HdqtOptions(hadamard=hadamard, stochastic=TO_NEAREST, backward_accumulator=None)
        arithmetic = Arithmetic(options, torch.Generator())
        kept[hadamard] = float(arithmetic.by_input(gradient, arithmetic.codes(weight, "forward-weight")))
    assert kept[False] == pytest.approx(1)
    assert kept[True] == pytest.approx(float(gradient.sum()), rel=0.1)


def test_the_network_itself_is_left_alone() -> None:
    network = DigitsNetwork()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    converted = hdqt(network)
    assert converted.state_dict().keys() == before.keys()
    assert not any(isinstance(module, HadamardLinear | HadamardConv2d) for module in network.modules())
    F.cross_entropy(converted(seeded(4, 1, 8, 8)), torch.arange(4)).backward()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(parameter.grad is not None for parameter in converted.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_every_layer_is_converted_and_skipped_ones_are_not() -> None:
    converted = hdqt(DigitsNetwork(), HdqtOptions(skip=frozenset({"conv1", "linear"})))
    plain = [name for name, module in converted.named_modules() if type(module) in (nn.Linear, nn.Conv2d)]
    assert plain == ["conv1", "linear"]
    converted(seeded(4, 1, 8, 8))
    assert len(clamp_rates(converted)) == 16 - 2
    assert all(set(rates) == {"forward"} for rates in clamp_rates(converted).values())


def test_a_layer_at_two_places_stays_one() -> None:
    shared = nn.Linear(4, 4)
    converted = hdqt(nn.Sequential(shared, nn.ReLU(), shared))
    assert converted[0] is converted[2]  # type: ignore[index]
    assert isinstance(converted[0], HadamardLinear)  # type: ignore[index]


def test_hooks_still_run() -> None:
    seen: list[torch.Size] = []
    layer = nn.Linear(4, 3)
    layer.register_forward_hook(lambda *args: seen.append(args[-1].shape))
    hdqt(layer)(seeded(2, 4))
    assert seen == [(2, 3)]


def test_a_seed_fixes_training_and_copies_go_on_alike() -> None:
    x, target = seeded(8, 1, 8, 8), torch.arange(8)

    def step(network: nn.Module) -> Tensor:
        network.zero_grad()
        F.cross_entropy(network(x), target).backward()
        return torch.cat([parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None])

    network = DigitsNetwork()
    first, again, other = hdqt(network, seed=1), hdqt(network, seed=1), hdqt(network, seed=2)
    assert torch.equal(step(first), step(again))
    duplicate = copy.deepcopy(first)
    assert torch.equal(step(first), step(duplicate))
    assert not torch.equal(step(first), step(other))


class Own(nn.Linear):
    """A layer with a forward pass of its own."""


@pytest.mark.parametrize(
    ("layer", "rule"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), r"convolutions of one group; got 'layer' with groups=4; add 'layer' to the"),
        (nn.ConvTranspose2d(4, 4, 3), r"hdqt converts Linear, Conv1d, Conv2d, Conv3d; got 'layer', ConvTranspose2d;"),
        (Own(4, 4), r"hdqt converts .*; got 'layer', Own; add 'layer' to the option 'skip', and it stays in float"),
    ],
)
def test_what_cannot_be_converted_is_told_and_can_be_skipped(layer: nn.Module, rule: str) -> None:
    network = nn.Sequential(OrderedDict(layer=layer, last=nn.Linear(4, 2)))
    with pytest.raises(ConfigError, match=rule) as caught:
        hdqt(network)
    assert "\n" not in str(caught.value)
    converted = dict(hdqt(network, HdqtOptions(skip=frozenset({"layer"}))).named_children())
    assert type(converted["layer"]) is type(layer)
    assert isinstance(converted["last"], HadamardLinear)


def test_a_network_is_converted_once() -> None:
    with pytest.raises(ConfigError, match="hdqt converts a layer once; got 'conv1', already converted; convert the"):
        hdqt(hdqt(DigitsNetwork()))


def test_a_layer_to_skip_must_exist() -> None:
    with pytest.raises(ConfigError, match="no layer 'conv2' to skip; did you mean 'conv1'"):
        hdqt(DigitsNetwork(), HdqtOptions(skip=frozenset({"conv2"})))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits"),
        ({"block": 12}, "a block must be a power of two"),
        ({"bits": None}, "accumulators of limited width need whole numbers"),
        ({"tile": 0}, "tile"),
        ({"stochastic": ["forward"]}, "stochastic"),
        ({"hadamrd": True}, "did you mean 'hadamard'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(HdqtOptions, options, "options of hdqt")


def test_a_frozen_weight_costs_no_product() -> None:
    layer = hdqt(nn.Linear(8, 8))
    layer.weight.requires_grad_(False)  # type: ignore[operator]
    gradients(layer, seeded(4, 8), seeded(4, 8, seed=1))
    assert set(clamp_rates(layer)[""]) == {"forward", "input"}


def test_half_precision_rounds_the_ends_only() -> None:
    """Codes of half-precision numbers are multiplied in whole numbers: as in single precision, rounded at the end."""
    layer = hdqt(nn.Linear(64, 8, bias=False), HdqtOptions(stochastic=TO_NEAREST)).bfloat16()
    x, gradient = seeded(4, 64).bfloat16(), seeded(4, 8, seed=1).bfloat16()
    half, full = gradients(layer, x, gradient), gradients(copy.deepcopy(layer).float(), x.float(), gradient.float())
    for name, value in half.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, full[name].bfloat16())


def test_autocasting_leaves_products_alone() -> None:
    layer = hdqt(nn.Conv2d(3, 8, 3), HdqtOptions(stochastic=TO_NEAREST))
    x, gradient = seeded(2, 3, 8, 8), seeded(2, 8, 6, 6, seed=1)
    expected = gradients(layer, x, gradient)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(layer, x, gradient)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_the_product_has_gradients_by_finite_differences() -> None:
    arithmetic = Arithmetic(HdqtOptions(**OFF), torch.Generator())
    x, w = seeded(3, 5, double=True).requires_grad_(), seeded(4, 5, seed=1, double=True).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: quantized_product(x, w, arithmetic), (x, w))


def test_a_network_learns_at_four_and_eight_bits() -> None:
    """A problem of two linear classes, from far away: the loss falls like in float."""
    torch.manual_seed(0)
    x = seeded(128, 16)
    target = (x[:, :8].sum(1) > 0).long()
    network = hdqt(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2)))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(network(x), target).backward()
        optimiser.step()
    assert float((network(x).argmax(1) == target).float().mean()) > 0.95
