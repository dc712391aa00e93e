"""Neurons: in fixed point against integer arithmetic, in float against plain loops, closed forms, and bad input."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qsearch.errors import ConfigError, DataError, SpaceError
from qsearch.spiking.delayed import DelayedNeuron, DelayedRecurrentNeuron
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid, leak_grid, threshold_grid
from qsearch.spiking.neurons import Grids, Integrator, Neuron, RecurrentNeuron, Reset
from qsearch.testing.spiking import IntegerNeuron, assert_integer_exact, integer_neuron

RESETS: st.SearchStrategy[Reset] = st.sampled_from(get_args(Reset))
SHAPE = (3, 12, 4, 2)


@st.composite
def neurons(draw: st.DrawFn, leaks: str) -> Integrator:
    """Neurons of all kinds, their constants for all, by channel or by neuron; the leak in a register or in float."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.integers(2, 30 if leaks == "float" else 31))
    state = StateGrid(bits, draw(st.integers(-12, 4)) - bits // 2)
    shapes = st.sampled_from([(), (4, 1), (2,), (4, 2)])
    leak, register = None, None
    if leaks != "none":
        leak = torch.tensor(np.sqrt(rng.random(draw(shapes))), dtype=torch.float32)
        leak = torch.where(leak > 0.95, 1.0, leak)
    if leaks == "register":
        register = leak_grid(draw(st.integers(1, min(31, 54 - bits))))
    if draw(st.integers(0, 4)) == 0:
        found: Integrator = Integrator(leak)
        found.grids = Grids(state, register)
        return found
    reach = state.highest * state.step
    threshold = torch.tensor(rng.uniform(0.01, draw(st.sampled_from([0.1, 1, 1.6])), draw(shapes)) * reach).float()
    thresholds = threshold_grid(draw(st.integers(1, 31)), float(threshold.max())) if draw(st.booleans()) else None
    neuron = Neuron(threshold, leak, reset=draw(RESETS), several=draw(st.booleans()))
    neuron.grids = Grids(state, register, thresholds)
    return neuron


@st.composite
def currents_of(draw: st.DrawFn, neuron: Integrator, dtype: torch.dtype) -> Tensor:
    """Currents as large as the register, far larger, a few steps of it, or halfway between two codes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    state = neuron.grids.state
    assert state is not None
    reach = (state.highest + 1) * state.step
    scale = draw(st.sampled_from([reach / 8, reach, 1e9 * reach, 4 * state.step]))
    found = rng.standard_normal(SHAPE) * scale + draw(st.sampled_from([0.0, 0.1, -0.1])) * scale
    if draw(st.booleans()):
        found = np.round(found / state.step) * state.step + state.step / 2
    return torch.tensor(found, dtype=dtype)


@pytest.mark.parametrize("leaks", ["none", "register", "float"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=40)
@given(data=st.data())
def test_states_and_spikes_are_those_of_integer_arithmetic(leaks: str, dtype: torch.dtype, data: st.DataObject) -> None:
    neuron = data.draw(neurons(leaks))
    assert_integer_exact(neuron, data.draw(currents_of(neuron, dtype)))


@settings(max_examples=30)
@given(st.data(), st.integers(2, 24), st.integers(1, 12), RESETS, st.booleans())
def test_recurrent_neurons_are_those_of_integer_arithmetic(
    data: st.DataObject, bits: int, leak_bits: int, reset: Reset, several: bool
) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    torch.manual_seed(seed)
    neuron = RecurrentNeuron(nn.Linear(2, 2), 0.7, 0.9, reset=reset, several=several)
    neuron.grids = Grids(StateGrid(bits, 2 - bits), leak_grid(leak_bits), threshold_grid(5, 0.7))
    assert_integer_exact(neuron, torch.randn(SHAPE) * 0.7 + 0.2)


@settings(max_examples=150)
@given(st.data(), st.integers(2, 31), st.integers(1, 31), RESETS, st.booleans())
def test_the_integer_model_is_the_equations_in_fractions(
    data: st.DataObject, bits: int, leak_bits: int, reset: Reset, several: bool
) -> None:
    """One neuron; Python's whole numbers have no width, and its fractions round half to even."""
    highest = 2 ** (bits - 1) - 1
    leak, threshold = data.draw(st.integers(0, 2**leak_bits - 1)), data.draw(st.integers(1, highest))
    currents = data.draw(st.lists(st.integers(-3 * highest, 3 * highest), min_size=1, max_size=8))
    model = IntegerNeuron(bits, np.array(threshold), np.array(leak), leak_bits, reset, several)
    states, spikes = model.run(np.array(currents)[None])
    state = 0
    for step, current in enumerate(currents):
        state = min(max(round(Fraction(state * leak, 2**leak_bits)) + current, -highest - 1), highest)
        sent = max(state // threshold, 0) if several else int(state >= threshold)
        state = state - threshold * sent if reset == "subtract" else 0 if sent else state
        assert (int(states[0, step]), int(spikes[0, step])) == (state, sent)


def test_a_difference_is_found() -> None:
    """What checks neurons does not pass one that rounds another way."""

    class Truncating(Neuron):
        def _next(self, state: Tensor, current: Tensor, leak: Tensor | None) -> Tensor:
            assert leak is not None
            return (state * leak).floor() + current

    neuron = Truncating(1.0, 0.8)
    neuron.grids = Grids(StateGrid(8, -4), leak_grid(4), threshold_grid(4, 1.0))
    with pytest.raises(AssertionError, match="of step"):
        assert_integer_exact(neuron, torch.full((1, 20), 0.3))


@pytest.mark.parametrize("bits", [2, 3, 8, 16, 24, 31])
def test_saturating_arithmetic_never_wraps(bits: int) -> None:
    neuron = Neuron(1e30)
    neuron.grids = Grids(StateGrid(bits, 0))
    upwards = [int(state) for state, _ in neuron.steps(torch.full((1, 6), 3e38))]
    downwards = [int(state) for state, _ in neuron.steps(torch.full((1, 6), -3e38))]
    assert upwards == [0] * 6  # the threshold is the greatest state: it is taken away at once
    assert downwards == [-(2 ** (bits - 1))] * 6
    held = Integrator()
    held.grids = Grids(StateGrid(bits, 0))
    assert held(torch.full((1, 3), 3e38, dtype=torch.float64)).tolist() == [[2 ** (bits - 1) - 1] * 3]
    assert held(torch.tensor([[3e38, -3e38, 1.0]], dtype=torch.float64))[0, 2] == -(2 ** (bits - 1)) + 1


def test_thresholds_are_rounded_onto_the_grid_of_the_state() -> None:
    """Stored at a sixteenth each, compared at a quarter each: half to even, at least one, at most the greatest state."""
    thresholds = torch.tensor([1 / 16, 0.375, 0.625, 0.9375, 30.0])
    neuron = Neuron(thresholds)
    neuron.grids = Grids(StateGrid(5, -2), None, ConstantGrid(10, -4, fewest=1))
    assert integer_neuron(neuron).threshold is not None
    spiked = torch.stack([neuron(torch.full((1, 1, 5), code / 4)) for code in range(1, 16)])[:, 0, 0]
    first = [next(code for code, sent in enumerate(column, start=1) if sent) for column in spiked.T]
    assert first == [1, 2, 2, 4, 15]


@pytest.mark.parametrize("bits", [12, 16, 20, 24, 30])
def test_float_leaks_are_exact(bits: int) -> None:
    """Products of codes and leaks of 24 binary places, beside integers."""
    torch.manual_seed(0)
    neuron = Neuron(0.7, torch.rand(4))
    neuron.grids = Grids(StateGrid(bits, 2 - bits))
    assert_integer_exact(neuron, torch.randn(10, 50, 4) * 0.5)


def test_wide_registers_are_exact() -> None:
    """31 bits of state and 23 of leak are all that float64 holds."""
    torch.manual_seed(0)
    for leak_bits in (8, 23):
        neuron = Neuron(0.9, 0.97)
        neuron.grids = Grids(StateGrid(31, -29), leak_grid(leak_bits), threshold_grid(20, 0.9))
        assert_integer_exact(neuron, torch.randn(4, 50, 6, dtype=torch.float64))
    kept = Integrator(1.0)  # 1 − 2^−26, of which float32 knows nothing
    kept.grids = Grids(StateGrid(28, -26), leak_grid(26))
    assert_integer_exact(kept, torch.full((1, 50, 1), 1.9, dtype=torch.float64) * (torch.arange(50) < 1)[:, None])
    neuron.grids = Grids(StateGrid(31, -29), leak_grid(24))
    with pytest.raises(SpaceError, match="must fit in 53 bits; got 54"):
        neuron(torch.randn(4, 50, 6))


@settings(max_examples=40)
@given(st.integers(2, 24), st.integers(1, 31))
def test_float32_is_used_as_far_as_it_is_exact(bits: int, leak_bits: int) -> None:
    """The greatest product of a code and a leak is below 2^24, or the state is of float64."""
    neuron = Neuron(1.0, 0.9)
    neuron.grids = Grids(StateGrid(bits, 0), leak_grid(leak_bits))
    ((state, _),) = neuron.steps(torch.zeros(1, 1, 1))
    assert (state.dtype == torch.float32) == (2 ** (bits - 1) * 2**leak_bits <= 2**24)


@pytest.mark.parametrize("leak", [None, 0.9])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
@pytest.mark.parametrize("several", [False, True])
def test_float_neurons_step_by_step(leak: float | None, reset: Reset, several: bool) -> None:
    """A loop over numbers, in float64."""
    torch.manual_seed(0)
    currents = torch.randn(5, 40, dtype=torch.float64) + 0.4
    found = Neuron(0.75, leak, reset=reset, several=several).double()(currents)
    kept = 1.0 if leak is None else float(np.float32(leak))
    for row, sent in zip(currents.tolist(), found.tolist(), strict=True):
        state, expected = 0.0, []
        for current in row:
            state = kept * state + current
            count = max(math.floor(state / 0.75), 0) if several else int(state >= 0.75)
            state = state - 0.75 * count if reset == "subtract" else 0.0 if count else state
            expected.append(count)
        assert sent == expected


@given(st.floats(-1, 3, width=32), st.floats(0.5, 2, width=32), st.sampled_from([1, 7, 64, 500]))
@settings(max_examples=30)
def test_firing_rate_of_a_constant_current(current: float, threshold: float, steps: int) -> None:
    """clip(a/θ, 0, 1), and without the 1 where a neuron may spike several times in a step, to within a spike."""
    rate, currents = max(current / threshold, 0), torch.full((1, steps), current, dtype=torch.float64)
    for several, expected in ((False, min(rate, 1)), (True, rate)):
        found = Neuron(threshold, several=several).double()(currents).detach().mean()
        assert abs(float(found) - expected) <= (1 + 1e-9) / steps


@given(st.integers(-40, 200), st.integers(1, 63), st.integers(1, 300))
@settings(max_examples=30)
def test_firing_rate_in_fixed_point(current: int, threshold: int, steps: int) -> None:
    """⌊T·a/θ⌋ spikes of a current below the threshold, and none is lost to rounding."""
    neuron = Neuron(threshold / 16)
    neuron.grids = Grids(StateGrid(12, -4))
    found = int(neuron(torch.full((1, steps), current / 16)).detach().sum())
    assert found == (steps if current >= threshold else steps * max(current, 0) // threshold)


@settings(max_examples=30)
@given(st.floats(0, 1 - 2.0**-7, width=32), st.floats(0.125, 3, width=32))
def test_a_leaky_state_goes_to_its_limit(leak: float, current: float) -> None:
    """u_t = a(1 − λ^t)/(1 − λ), and the first spike is at the first t at which that is at the threshold."""
    steps = torch.arange(1, 41, dtype=torch.float64)
    expected = current * (1 - leak**steps) / (1 - leak)
    currents = torch.full((1, 40), current, dtype=torch.float64)
    torch.testing.assert_close(Integrator(leak).double()(currents)[0], expected)
    threshold = (
        float(expected[20] + expected[19]) / 2 if expected[20] - expected[19] > 1e-9 else 2 * float(expected[-1])
    )
    first = torch.nonzero(Neuron(threshold, leak).double()(currents)[0]).flatten().tolist()
    reached = torch.nonzero(expected >= float(np.float32(threshold))).flatten().tolist()
    assert first[:1] == reached[:1]


@given(st.integers(6, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_a_state_in_fixed_point_stays_near_that_in_float(bits: int, seed: int) -> None:
    """Each step rounds a current and a product: at most Δ, of which the leak keeps Δ/(1 − λ) in the end."""
    currents = torch.tensor(np.random.default_rng(seed).uniform(-0.1, 0.1, (4, 100)))
    leak = 0.875
    module = Integrator(leak).double()
    expected = module(currents)
    step = 2.0 ** (1 - bits)  # within ±1, which 0.1/(1 − λ) does not leave
    module.grids = Grids(StateGrid(bits, 1 - bits), leak_grid(3))
    assert float((module(currents) - expected).detach().abs().max()) <= step / (1 - leak)


def test_recurrent_neurons_unrolled_by_hand() -> None:
    """V·S of the step before, with V's bias from the first step on; V runs once a step."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 3).double()
    neuron = RecurrentNeuron(layer, 0.8, 0.9)
    calls: list[int] = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    neuron.double()
    currents = torch.randn(2, 15, 3, dtype=torch.float64) + 0.3
    found = neuron(currents)
    assert len(calls) == 15
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    leak, threshold = float(np.float32(0.9)), float(np.float32(0.8))
    state = spikes = np.zeros((2, 3))
    for step in range(15):
        state = leak * state + currents[:, step].numpy() + spikes @ weight.T + bias
        spikes = (state >= threshold).astype(float)
        state = state - threshold * spikes
        assert np.array_equal(found[:, step].detach().numpy(), spikes)


def test_recurrent_convolutions() -> None:
    neuron = RecurrentNeuron(nn.Conv2d(2, 2, 3, padding=1), torch.full((2, 1, 1), 0.6), 0.9)
    neuron.grids = Grids(StateGrid(10, -7), leak_grid(4), threshold_grid(4, 0.6))
    assert_integer_exact(neuron, torch.randn(2, 8, 2, 5, 5))


class Tired(Neuron):
    """A neuron whose own spikes take from its next current."""

    def _received(self, current: Tensor, sent: Tensor, dtype: torch.dtype) -> Tensor:
        return super()._received(current, sent, dtype) - sent.to(dtype)


def test_what_neurons_do_to_themselves_is_asked_of_them() -> None:
    neuron = Tired(0.6, 0.9)
    neuron.grids = Grids(StateGrid(8, -5), leak_grid(4), threshold_grid(4, 0.6))
    assert_integer_exact(neuron, torch.randn(2, 30, 4) + 0.4)


def test_a_recurrent_layer_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(DataError, match=r"must keep the shape \(2, 3\); got \(2, 1\)"):
        RecurrentNeuron(nn.Linear(3, 1))(torch.zeros(2, 4, 3))


def test_constants_by_channel() -> None:
    currents = torch.rand(2, 10, 3, 4, 4)
    thresholds, leaks = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.5, 0.9])
    found = Neuron(thresholds.reshape(3, 1, 1), leaks.reshape(3, 1, 1))(currents)
    for channel in range(3):
        alone = Neuron(thresholds[channel], leaks[channel])(currents[:, :, channel])
        assert torch.equal(found[:, :, channel], alone)


@pytest.mark.parametrize("grids", [Grids(), Grids(StateGrid(12, -9), leak_grid(6), threshold_grid(6, 0.7))])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_has_a_state_of_float32(grids: Grids, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    currents = (torch.randn(3, 60, 5) * 0.5 + 0.2).to(dtype)
    neuron = Neuron(0.7, 0.9)
    neuron.grids = grids
    found = neuron(currents)
    assert found.dtype == dtype
    assert torch.equal(found.float(), neuron(currents.float()).float())
    assert Integrator(0.9)(currents).dtype == dtype


@pytest.mark.parametrize("module", [Neuron(0.7, 0.9), Integrator(0.9), Neuron(0.7, several=True, reset="zero")])
@pytest.mark.parametrize("grids", [Grids(), Grids(StateGrid(8, -5))])
def test_gradients_asked_for_change_nothing(module: Integrator, grids: Grids) -> None:
    torch.manual_seed(0)
    currents = torch.randn(3, 20, 5) * 0.5 + 0.2
    module = copy.deepcopy(module)
    module.grids = grids
    with torch.no_grad():
        expected = module(currents)
    found = module(currents.clone().requires_grad_())
    assert found.requires_grad
    assert torch.equal(found, expected)
    with torch.inference_mode():
        assert torch.equal(module(currents), expected)


def test_layouts_of_currents_do_not_matter() -> None:
    """A current that is the same at every step is one tensor, expanded; channels may come last in memory."""
    currents = torch.rand(2, 1, 3, 4, 4)
    neuron = Neuron(0.7, 0.9)
    with torch.no_grad():
        assert torch.equal(neuron(currents.expand(2, 9, 3, 4, 4)), neuron(currents.repeat(1, 9, 1, 1, 1)))
        last = torch.rand(2, 5, 4, 4, 3).permute(0, 1, 4, 2, 3)
        assert torch.equal(neuron(last), neuron(last.contiguous()))


def test_no_samples_give_no_spikes() -> None:
    for module in (Neuron(), Integrator(0.5), RecurrentNeuron(nn.Linear(3, 3))):
        assert module(torch.zeros(0, 4, 3)).shape == (0, 4, 3)


def test_copies_pickles_and_state_dicts() -> None:
    neuron = RecurrentNeuron(nn.Linear(3, 3), torch.tensor([0.5, 1.0, 2.0]), 0.9, reset="zero")
    neuron.grids = Grids(StateGrid(8, -5), leak_grid(4), threshold_grid(4, 2.0))
    currents = torch.rand(2, 20, 3)
    expected = neuron(currents)
    for other in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert other.grids == neuron.grids
        assert torch.equal(other(currents), expected)
    assert {"leak.weight", "threshold.weight"} < set(neuron.state_dict())
    fresh = RecurrentNeuron(nn.Linear(3, 3), torch.ones(3), 0.1, reset="zero")
    fresh.load_state_dict(neuron.state_dict())
    fresh.grids = neuron.grids
    assert torch.equal(fresh(currents), expected)


def test_constants_are_brought_back() -> None:
    neuron = Neuron(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.9]))
    assert neuron.leak is not None
    neuron.leak.weight.data = torch.tensor([-0.5, 1.5])
    neuron.threshold.weight.data = torch.tensor([-1.0, 2.0])
    neuron.constrain()
    assert neuron.leak.weight.tolist() == [0, 1]
    assert neuron.threshold.weight[1] == 2
    assert neuron.threshold.weight[0] > 0


@pytest.mark.parametrize(
    ("currents", "rule"),
    [
        (torch.zeros(2, 0, 3), "at least one step; got shape (2, 0, 3)"),
        (torch.zeros(2), "at least one step; got shape (2,)"),
        (torch.zeros(2, 3, dtype=torch.int64), "in floating point; got torch.int64"),
    ],
)
def test_bad_currents(currents: Tensor, rule: str) -> None:
    for module in (Neuron(), Integrator()):
        with pytest.raises(DataError) as caught:
            module(currents)
        assert rule in str(caught.value)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 4, 4), (1, 1, 1)])
def test_constants_that_are_not_the_neurons(shape: tuple[int, ...]) -> None:
    for module in (Neuron(torch.ones(shape)), Integrator(torch.ones(shape))):
        with pytest.raises(DataError, match=r"constants of neurons of shape \(4, 4\) must broadcast"):
            module(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"threshold": 0.0}, DataError),
        ({"threshold": torch.tensor([1.0, math.nan])}, DataError),
        ({"threshold": math.inf}, DataError),
        ({"leak": 1.01}, DataError),
        ({"leak": math.nan}, DataError),
        ({"reset": "soft"}, ConfigError),
        ({"surrogate": "arctangent"}, ConfigError),
    ],
)
def test_bad_neurons(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Neuron(**arguments)


@pytest.mark.parametrize(
    ("grids", "most"),
    [
        (Grids(threshold=ConstantGrid(4, -4, fewest=1)), 15 / 16),
        (Grids(StateGrid(5, -3)), 15 / 8),
        (Grids(StateGrid(5, -5), None, ConstantGrid(4, -4, fewest=1)), 15 / 32),
        (Grids(), 7.0),
    ],
)
def test_thresholds_stay_within_their_registers(grids: Grids, most: float) -> None:
    """And have gradients there, with which they may go down again."""
    neuron = Neuron(0.4)
    neuron.grids = grids
    neuron.threshold.weight.data.fill_(7.0)
    neuron.constrain()
    assert float(neuron.threshold.weight.detach()) == most
    neuron(torch.full((1, 9, 1), most * 0.6)).sum().backward()
    assert neuron.threshold.weight.grad is not None
    assert float(neuron.threshold.weight.grad) != 0


@pytest.mark.parametrize("reset", get_args(Reset))
def test_charges_are_states_before_their_reset(reset: Reset) -> None:
    neuron = Neuron(1.0, 0.5, reset=reset).requires_grad_(False)
    currents = torch.tensor([[0.75, 1.0, 0.5]])[..., None]
    after = {"subtract": 0.375, "zero": 0.0}[reset]
    expected = torch.tensor([0.75, 1.375, 0.5 * after + 0.5])
    assert torch.equal(torch.cat(list(neuron.charges(currents))).flatten(), expected)
    neuron.grids = Grids(StateGrid(8, -4))
    assert torch.equal(torch.cat(list(neuron.charges(currents))).flatten(), (expected * 16).round() / 16)


def test_currents_by_keyword_reach_hooks_by_position() -> None:
    seen = []
    neuron = Neuron(1.0)
    neuron.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    currents = torch.rand(2, 3, 4)
    assert torch.equal(neuron(currents=currents), neuron(currents))
    assert all(torch.equal(part, currents) for part in seen)
    assert len(seen) == 2


def test_a_reset_to_zero_does_not_wait() -> None:
    with pytest.raises(ConfigError, match="only a reset by subtraction can wait"):
        DelayedNeuron(1.0, 0.5, reset="zero")
    with pytest.raises(ConfigError, match="only a reset by subtraction can wait"):
        DelayedRecurrentNeuron(nn.Linear(3, 3), 1.0, 0.5, reset="zero")
