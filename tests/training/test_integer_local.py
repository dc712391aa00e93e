"""Layers that learn locally: an integer model step by step, dynamics that are known, gradients by autograd."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from integer_model import IntegerLayer
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, QSearchError, SpaceError
from qsearch.spiking.network import SpikingNetwork, sum_pool
from qsearch.spiking.neurons import Integrator, Neuron, RecurrentNeuron
from qsearch.training.integer_local import LocalNetwork, LocalTraining, Member
from qsearch.training.lessons import Batch
from qsearch.training.local_layers import Constants, LocalLayer, State
from qsearch.training.local_options import LocalOptions
from qsearch.training.local_synapses import Synapses
from qsearch.training.local_weights import Weights, taken_over

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


pytestmark = pytest.mark.usefixtures("one_thread")


def small() -> SpikingNetwork:
    """A convolution, pooling, a hidden layer with thresholds of its own, and an output that is read as a voltage."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpikingNetwork(
            OrderedDict(
                conv=nn.Conv2d(2, 3, 3, padding=1, bias=False),
                lif=Neuron(1.3, 0.8),
                pool=sum_pool(2),
                flat=nn.Flatten(),
                hidden=nn.Linear(27, 5, bias=False),
                fire=Neuron(torch.linspace(0.6, 1.1, 5)),
                head=nn.Linear(5, 3, bias=False),
                out=Integrator(0.9),
            ),
            readout="last",
        )


def assigned(weights: int = 5, states: int = 9, **others: Any) -> BitAssignment:
    bits: dict[str, Any] = {f"{name}.weight": weights for name in ("conv", "hidden", "head")}
    bits |= {f"{name}.state": states for name in ("lif", "fire", "out")}
    bits |= {"lif.leak": 6, "out.leak": 5, "lif.threshold": 4, "fire.threshold": 5}
    return BitAssignment(bits | {name.replace("_", "."): value for name, value in others.items()})


def spikes(count: int, steps: int = 8, seed: int = 0) -> Tensor:
    return torch.bernoulli(torch.full((count, steps, 2, 6, 6), 0.4), generator=generator(seed))


def network(assignment: BitAssignment, **options: Any) -> LocalNetwork:
    return LocalNetwork(small(), assignment, spikes(8), LocalOptions(**options), generator())


def whole(x: Tensor) -> Any:
    """As 64-bit integers, which nothing is lost by."""
    assert bool((x == x.round()).all())
    return x.to(torch.int64).numpy().copy()


def exponent(step: float) -> int:
    assert math.log2(step).is_integer()
    return int(math.log2(step))


def integer_model(member: Member) -> IntegerLayer:
    """A member's constants as codes."""
    layer, bits, readout = member.layer, member.bits, member.readout
    convolution = isinstance(member.stage.module, nn.Conv2d)
    return IntegerLayer(
        codes=whole(layer.weights.codes),
        kernel_bits=np.asarray(bits.weights, dtype=np.int64),
        stored_bits=np.asarray(bits.stored, dtype=np.int64),
        widest=max(2, *bits.weights),
        pad=1 if convolution else None,
        s=bits.state,
        c=bits.leak,
        b=bits.errors,
        leaks=tuple(int(value * 2**bits.leak) for value in layer.leaks),
        drive=int(layer.drive),
        threshold=None if layer.threshold is None else whole(layer.threshold),
        reset=None if layer.reset is None else whole(layer.reset),
        weight_exponent=exponent(layer.weights.step),
        refractory_exponent=exponent(layer.refractory.step),
        potential_exponent=exponent(layer.potential.step),
        forward=None if readout.forward_weights is None else whole(readout.forward_weights),
        backward=None if readout.backward_weights is None else whole(readout.backward_weights),
        unit=int(readout.unit),
        penalty=max(1, round(2 ** (bits.errors - 1) / 32)),
    )


@pytest.mark.parametrize(
    ("weights", "states", "errors", "stored", "others"),
    [
        (5, 9, 8, None, {}),
        (2, 4, 3, None, {}),
        (8, 12, 6, None, {}),
        (16, 16, 16, None, {}),
        (2, 9, 8, 8, {}),
        (4, 8, 8, None, {"conv_weight": (2, 6, 0), "lif_state": 6, "hidden_weight": (2, 3, 4, 5, 6)}),
        (4, 8, 8, 5, {"conv_weight": (2, 6, 0), "lif_state": 6, "hidden_weight": (2, 3, 4, 5, 6)}),
    ],
)
def test_it_is_what_an_integer_model_gives_step_by_step(
    weights: int, states: int, errors: int, stored: int | None, others: dict[str, Any]
) -> None:
    """States, spikes, and weights as they learn: to the last bit, of every step."""
    options = LocalOptions(error_bits=errors, stored_bits=stored, activity=1 / 32)
    random = generator(5)
    found = LocalNetwork(small(), assigned(weights, states, **others), spikes(8), options, random)
    models = [integer_model(member) for member in found.members]
    moved, fired = 0, 0
    for batch in range(3):
        inputs, targets = spikes(4, seed=batch), torch.randint(0, 3, (4,), generator=generator(batch))
        before: list[State | None] = [None] * len(models)
        for model in models:
            model.q = model.p = model.r = 0
        for step in range(inputs.shape[1]):
            x, codes = inputs[:, step].double(), whole(inputs[:, step])
            for index, (member, model) in enumerate(zip(found.members, models, strict=True)):
                if index == 1:  # pooling by sums, in integers
                    codes = codes.reshape(4, 3, 3, 2, 3, 2).sum((3, 5)).reshape(4, 27)
                state, x = member.advance(x, before[index])
                codes = model.advance(codes)
                before[index] = state
                assert np.array_equal(whole(state.synapse), model.q)
                assert np.array_equal(whole(state.membrane), model.p)
                assert np.array_equal(whole(state.refractory), model.r)
                assert np.array_equal(whole(state.potential), model.u)
                assert np.array_equal(whole(x), codes)
                twin = torch.Generator()
                twin.set_state(random.get_state())
                was = model.codes.copy()
                drawn = whole(torch.randint(0, 2**31, was.shape, generator=twin).double())
                member.learn(state, targets, options, 4, random)
                model.learn(whole(targets), 4, drawn)
                assert np.array_equal(whole(member.layer.weights.codes), model.codes)
                moved, fired = moved + int((was != model.codes).sum()), fired + int(codes.sum())
    assert moved > 20
    assert fired > 20


def layer(leak: float = 0.5, bits: int = FLOAT_BITS, threshold: float | None = 1.0, **constants: float) -> LocalLayer:
    """One neuron with one synapse of weight ¾."""
    synapses = Synapses(nn.Linear(1, 1, bias=False))
    weights = taken_over([FLOAT_BITS if bits == FLOAT_BITS else 8], torch.tensor([[0.75]]))
    given = {"membrane": leak, "synapse": leak, "refractory": leak, **constants}
    theta = None if threshold is None else torch.tensor([threshold])
    wide = FLOAT_BITS if bits == FLOAT_BITS else 8
    return LocalLayer(synapses, weights, Constants(threshold=theta, **given), bits, wide, wide)


def course(found: LocalLayer, trains: Tensor) -> list[State]:
    """States of all steps of spikes (B, T, 1)."""
    state, states = None, []
    for step in trains.unbind(1):
        state, _ = found.advance(step, state)
        states.append(state)
    return states


def test_a_constant_input_drives_the_synaptic_trace_to_its_limit() -> None:
    found = layer(synapse=0.8)
    found.drive = 0.15
    last = course(found, torch.ones(1, 200, 1))[-1]
    assert float(last.synapse) == pytest.approx(0.15 / (1 - 0.8))
    assert float(last.membrane) == pytest.approx(0.15 / (1 - 0.8))  # τ_mem = 1 − α passes it on as it is


def test_traces_end_at_the_rate_of_spikes_and_saturate() -> None:
    found = layer(0.9)
    trains = torch.zeros(1, 400, 1)
    trains[:, ::4] = 1
    states = course(found, trains)
    assert float(torch.stack([state.membrane for state in states[-40:]]).mean()) == pytest.approx(0.25, abs=1e-3)
    for bits in (4, 8):
        states = course(layer(0.75, bits), torch.full((1, 60, 1), 9.0))
        assert max(float(state.synapse) for state in states) == 2**bits - 1


@pytest.mark.parametrize("bits", [4, 6, 8, 10, 12])
def test_a_quantised_trace_stays_near_the_float_one(bits: int) -> None:
    """|Q̂ − Q| ≤ 2^−(b+1) / (1 − β), where β and τ are exact."""
    trains = torch.bernoulli(torch.full((50, 60, 1), 0.3), generator=generator(bits))
    exact = torch.stack([state.synapse for state in course(layer(0.75), trains)])
    held = torch.stack([state.synapse for state in course(layer(0.75, bits), trains)]) * 2.0**-bits
    unclamped = exact < 1 - 2.0**-bits
    assert bool(unclamped.all())
    assert float((held - exact).abs().max()) <= 2.0 ** -(bits + 1) / (1 - 0.75)
    assert float((held - exact).abs().max()) > 0


@pytest.mark.parametrize("bits", [6, 10, FLOAT_BITS])
@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.875])
def test_resets_keep_the_refractory_trace_below_its_limit(gamma: float, bits: int) -> None:
    """R ≤ θ/(1 − γ), up to the rounding of each step, though the neuron fires always."""
    found = layer(0.5, bits, refractory=gamma, threshold=1.0)
    found.threshold = torch.tensor([-1e9], dtype=DOUBLE)
    states = course(found, torch.ones(1, 100, 1))
    refractory = torch.stack([state.refractory for state in states]) * found.refractory.step
    slack = 0.0 if bits == FLOAT_BITS else 0.5 * found.refractory.step / (1 - gamma)
    assert float(refractory.max()) <= 1 / (1 - gamma) + slack + 1e-12
    assert float(refractory.max()) == pytest.approx(1 / (1 - gamma), abs=max(slack, 1e-4))


def test_nothing_wraps() -> None:
    """The largest weights and inputs, of either sign: every register stays within its ends."""
    for sign in (1.0, -1.0):
        synapses = Synapses(nn.Linear(200, 2, bias=False))
        weights = taken_over([8, 8], torch.full((2, 200), 30 * sign))
        found = LocalLayer(synapses, weights, Constants(0.5, 0.5, 0.9, torch.tensor([1.0])), 7, 8, 8)
        state = course(found, torch.full((1, 50, 200), 1e6))[-1]
        assert state.potential.tolist() == [[63.0, 63.0] if sign > 0 else [-64.0, -64.0]]
        assert float(state.refractory.max()) <= 127
        assert float(state.synapse.max()) == 127
        assert 126 <= float(state.membrane.max()) <= 127  # whose last code is lost in rounding


def test_started_from_the_network_a_float_layer_is_its_leaky_neuron() -> None:
    """β = 0 and γ = λ: P sums what the membrane would, R what its resets take away."""
    torch.manual_seed(1)
    model = SpikingNetwork(OrderedDict(fc=nn.Linear(12, 7, bias=False), lif=Neuron(1.0, 0.7)))
    trains = torch.bernoulli(torch.full((20, 30, 12), 0.8), generator=generator(2))
    options = LocalOptions(start="network", synapse=0.0, refractory=model.lif.leak.weight.item())
    found = LocalNetwork(model, BitAssignment({}), trains, options, generator())
    (member,), state, counted = found.members, None, []
    for step in trains.unbind(1):
        state, fired = member.advance(step, state)
        counted.append(fired)
    expected = model.lif(functional.linear(trains, model.fc.weight))
    assert torch.equal(torch.stack(counted, 1).float(), expected)
    assert 0.01 < expected.mean().item() < 0.5


@pytest.mark.parametrize("index", [0, 2])
def test_the_gradient_is_that_of_the_local_loss(index: int) -> None:
    """Of one step, by autograd, with H set to G: up to the power of two that it is normalised by."""
    options = LocalOptions(silence=0.0)
    found = LocalNetwork(small(), BitAssignment({}), spikes(8), options, generator(3))
    member, targets, before = found.members[index], torch.tensor([0, 1, 2, 1]), None
    member.readout.backward_weights = member.readout.forward_weights
    rates = torch.full((4, 2, 6, 6) if index == 0 else (4, 5), 0.5, dtype=DOUBLE)
    inputs = [torch.bernoulli(rates, generator=generator(step)) for step in range(4)]
    for x in inputs:
        before, _ = member.layer.advance(x, before)
    assert before is not None
    weight = member.layer.weights.codes.clone().requires_grad_()
    moved = member.layer.synapses.currents(weight, before.membrane) * member.layer.weights.step
    potential = moved + (before.potential - member.layer.currents(before.membrane)).detach()
    wanted = functional.one_hot(targets, 3).double() * member.readout.unit
    activity = member.layer.activity(potential)
    if member.readout.direct:  # its slope is one at its ends as well
        activity = activity.detach() + potential - potential.detach()
    loss = (member.readout.read(activity) - wanted).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, weight)
    was = member.layer.weights.codes.clone()
    member.learn(before, targets, options, 10, generator())
    found_gradient = (was - member.layer.weights.codes) * 2**10
    scale = expected.abs().max() / found_gradient.abs().max()
    assert math.log2(float(scale)) == pytest.approx(round(math.log2(float(scale))), abs=1e-9)
    assert torch.allclose(found_gradient * scale, expected, atol=1e-9 * float(expected.abs().max()))


def test_errors_stay_in_their_layer() -> None:
    """What the layers behind have learnt does not reach the first."""
    ways = []
    for silent in (False, True):
        found = network(assigned())
        if silent:
            for member in found.members[1:]:
                member.layer.weights.codes = torch.zeros_like(member.layer.weights.codes)
        member = found.members[0]
        state, _ = member.advance(spikes(4)[:, 0].double(), None)
        for _ in range(4):
            member.learn(state, torch.tensor([0, 1, 2, 0]), LocalOptions(), 4, generator(1))
        ways.append(member.layer.weights.codes)
    assert torch.equal(*ways)


def test_the_burn_in_teaches_nothing() -> None:
    found = network(assigned(), burn_in=7)
    before = [member.layer.weights.codes.clone() for member in found.members]
    found.learn(spikes(4, steps=7), torch.tensor([0, 1, 2, 0]), 3)
    assert all(torch.equal(*pair) for pair in zip(before, (m.layer.weights.codes for m in found.members), strict=True))
    found.learn(spikes(4, steps=8), torch.tensor([0, 1, 2, 0]), 3)
    assert any(not torch.equal(*p) for p in zip(before, (m.layer.weights.codes for m in found.members), strict=True))


def test_bits_go_where_they_are_said_to() -> None:
    found = network(assigned(states=7, conv_weight=(3, 0, 6), out_state=12, lif_leak=FLOAT_BITS), constant_bits=5)
    bits = [member.bits for member in found.members]
    assert [part.state for part in bits] == [7, 7, 12]
    assert [part.leak for part in bits] == [16, 5, 5]  # float beside whole numbers; the option; the site
    assert [part.threshold for part in bits] == [4, 5, 16]
    assert bits[0].weights == (3, 0, 6)
    assert not found.members[0].layer.weights.codes[1].any()
    assert all(member.layer.weights.whole and member.layer.traces.whole for member in found.members)
    floating = network(BitAssignment({}))
    assert not any(member.layer.weights.whole or member.layer.traces.whole for member in floating.members)
    assert {member.bits.errors for member in floating.members} == {FLOAT_BITS}
    assert floating.members[0].layer.leaks[0] == pytest.approx(0.8)
    assert floating.members[1].layer.leaks[0] == 0.75


@pytest.mark.parametrize("bits", [2, 4, 8, FLOAT_BITS])
@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_random_weights_give_currents_of_the_size_that_is_asked_for(bits: int, gain: float) -> None:
    """In every layer, up to the root of two, which powers of two cost."""
    before: list[State | None] = [None] * 3
    found = network(assigned(bits, 12), gain=gain).members
    for step in spikes(8).unbind(1):
        x = step
        for index, member in enumerate(found):
            before[index], x = member.advance(x, before[index])
    for member, state in zip(found, before, strict=True):
        assert state is not None
        size = float(member.layer.currents(state.membrane).square().mean().sqrt()) * member.layer.potential.step
        assert 0.7 * gain <= size <= 1.42 * gain


def test_memory_is_counted_from_the_network() -> None:
    conv, hidden, head = (member.counts for member in network(assigned(), readout_bits=3).members)
    assert (conv.kernel, conv.weights, conv.inputs, conv.neurons, conv.thresholds) == (18, (5,) * 3, 72, 108, 1)
    assert (hidden.kernel, hidden.inputs, hidden.neurons, hidden.thresholds, hidden.readout) == (27, 27, 5, 5, 30)
    assert (head.kernel, head.inputs, head.neurons, head.thresholds, head.readout) == (5, 5, 3, 0, 0)
    assert conv.readout == 2 * 3 * 108
    assert conv.state_numbers == 2 * 72 + 2 * 108
    assert head.state_numbers == 2 * 5 + 3


def test_it_learns_in_whole_numbers() -> None:
    """Which of three rows flickers, by 4-bit weights, 8-bit states and 4-bit errors."""
    targets = torch.randint(0, 3, (240,), generator=generator(1))
    rates = torch.full((240, 8, 2, 6, 6), 0.15)
    for row in (0, 1):
        rates[torch.arange(240), :, :, 2 * targets + row] = 0.5
    inputs = torch.bernoulli(rates, generator=generator(2))
    options, random = LocalOptions(error_bits=4, epochs=8, batch_size=16), generator(3)
    found = LocalNetwork(small(), assigned(4, 8), inputs[:16], options, random)
    training = LocalTraining(found, Batch(inputs[:160], targets[:160]), options, random)
    for _ in range(8):
        training.epoch()
    right = float((found(inputs[160:]).argmax(1) == targets[160:]).double().mean())
    assert right > 0.6  # of three, by a hidden layer of five
    for member in found.members:
        assert torch.equal(member.layer.weights.codes, member.layer.weights.codes.round())
        assert float(member.layer.weights.codes.abs().max()) <= 7


def with_layers(**layers: nn.Module) -> SpikingNetwork:
    return SpikingNetwork(OrderedDict(layers))


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(72, 3)),
        with_layers(flat=nn.Flatten(), one=nn.Linear(72, 3)),
        with_layers(flat=nn.Flatten(), one=nn.Linear(72, 3), two=nn.Linear(3, 3), out=Neuron()),
        with_layers(flat=nn.Flatten(), one=nn.Linear(72, 3), fire=RecurrentNeuron(nn.Linear(3, 3))),
        with_layers(conv=nn.Conv2d(2, 3, 3), norm=nn.BatchNorm2d(3), fire=Neuron()),
        with_layers(conv=nn.Conv2d(2, 3, 3), fire=Neuron(), pool=nn.AvgPool2d(2), flat=nn.Flatten()),
        with_layers(conv=nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), fire=Neuron(), flat=nn.Flatten()),
        with_layers(conv=nn.Conv2d(2, 3, 3), fire=Neuron(), act=nn.ReLU()),
    ],
)
def test_networks_that_cannot_learn_so_are_refused(model: nn.Module) -> None:
    with pytest.raises(DataError):
        LocalNetwork(model, BitAssignment({}), spikes(2), LocalOptions(), generator())


@pytest.mark.parametrize(
    ("assignment", "options", "error"),
    [
        (assigned(conv_weight=1), {}, SpaceError),
        (assigned(conv_weight=(4, 1, 4)), {}, SpaceError),
        (assigned(conv_weight=(4, 5)), {}, SpaceError),
        (assigned(), {"burn_in": 8}, ConfigError),
        (assigned(), {"output": "spikes"}, ConfigError),
    ],
)
def test_what_does_not_fit_is_refused(
    assignment: BitAssignment, options: dict[str, Any], error: type[QSearchError]
) -> None:
    with pytest.raises(error):
        network(assignment, **options)


def test_convolutions_of_every_kind_learn_by_the_same_sums() -> None:
    """Groups, strides, dilation, and one or three extents: against autograd."""
    for module, shape in (
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
        (nn.Conv2d(2, 4, (3, 2), dilation=2), (2, 2, 8, 7)),
        (nn.Conv2d(2, 4, 3, padding="same"), (2, 2, 5, 6)),
        (nn.Conv3d(1, 2, 2), (2, 1, 4, 3, 5)),
    ):
        synapses, x = Synapses(module), torch.randint(0, 9, shape).double()
        weight = torch.randint(-3, 4, synapses.shape).double().requires_grad_()
        y = synapses.currents(weight, x)
        errors = torch.randint(-5, 6, y.shape).double()
        (expected,) = torch.autograd.grad((y * errors).sum(), weight)
        assert torch.equal(synapses.gradient(errors, x), expected)


def test_weights_without_bits_stay_pruned() -> None:
    weights = Weights([0, 0], (2, 3), 0)
    weights.move(torch.full((2, 3), 100.0, dtype=DOUBLE), 8, 1, generator())
    assert not weights.values.any()
