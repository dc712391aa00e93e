"""The captured correction, against the correction that waits in hooks."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from captured_networks import drawn, normal, quantised
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError
from qsearch.quantize.correcting import Correcting, corrected_names
from qsearch.quantize.mapping import mapped
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import State, parts, stacked, state_of
from qsearch.quantize.states import States
from qsearch.quantize.trace import trace_layers

NAMES = ("residual", "skips", "pair", "words", "double")


@cache
def captured(name: str) -> tuple[QuantizedNetwork, Inputs, Correcting]:
    network, data = quantised(name, correction=True)
    return network, data, Correcting(network, data)


def found(correcting: Correcting, state: State, data: Inputs) -> tuple[Tensor, State]:
    with torch.inference_mode():
        results = correcting.program.graph(*correcting.arguments(state), *parts(data))
    return results[0], correcting.corrected(state, results)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", NAMES)
def test_one_batch_is_corrected_as_ever_to_the_last_bit(name: str, seed: int) -> None:
    network, data, correcting = captured(name)
    network.apply(drawn(network, seed, (1, 2, 3, 4, 8)))
    expected = state_of(network)
    output, state = found(correcting, expected, data)
    assert torch.equal(output, network.calibration_output())
    assert correcting.names
    for name_ in (name_ for names in correcting.names for name_ in names):
        assert torch.equal(state.tensors[name_], expected.tensors[name_])


def test_every_tensor_that_the_correction_moves_is_named() -> None:
    network, _ = quantised("residual", correction=True)
    before = {name: tensor.clone() for name, tensor in state_of(network).tensors.items()}
    network.apply(BitAssignment(dict.fromkeys(network.sites, 2)))
    moved = {name for name, tensor in state_of(network).tensors.items() if not torch.equal(tensor, before[name])}
    named = {name for names in corrected_names(network) for name in names}
    assert moved == named | {"stem.weight", "first.weight", "second.weight", "head.weight"}
    assert named == {f"norms.{i}.running_{what}" for i in range(3) for what in ("mean", "var")} | {"head.bias"}


def test_what_an_earlier_correction_has_stored_is_not_read() -> None:
    network, data, correcting = captured("residual")
    network.apply(drawn(network, 1, (2,)))
    first, once = found(correcting, state_of(network), data)
    second, twice = found(correcting, once, data)
    assert torch.equal(first, second)
    assert all(torch.equal(once.tensors[name], twice.tensors[name]) for name in once.tensors)


def test_batches_in_lockstep_agree_to_rounding() -> None:
    torch.manual_seed(0)
    network, data = quantised("double", 40, correction=True)
    assert isinstance(data, Tensor)
    lockstep = QuantizedNetwork(network.model, trace_layers(network.model, data[:1]), list(data.split(16)))
    correcting = Correcting(lockstep, data)
    lockstep.apply(BitAssignment(dict.fromkeys(lockstep.sites, 3)))
    expected = state_of(lockstep)
    _, state = found(correcting, expected, data)
    for name, tensor in expected.tensors.items():  # in double precision no code falls to another side
        torch.testing.assert_close(state.tensors[name], tensor, rtol=1e-6, atol=1e-6)


def test_float_is_left_as_it_is() -> None:
    network, data = quantised("residual", correction=True)
    stored = {name: tensor.clone() for name, tensor in state_of(network).tensors.items()}
    _, state = found(Correcting(network, data), state_of(network), data)
    assert all(torch.equal(state.tensors[name], tensor) for name, tensor in stored.items())


def test_constant_channels_keep_their_variance() -> None:
    network, data, correcting = captured("residual")
    network.apply(BitAssignment({"stem.weight": [0, 3, 3, 0, 3, 3], "stem.input": 3}))
    expected = state_of(network)
    _, state = found(correcting, expected, data)
    assert torch.equal(state.tensors["norms.0.running_var"], expected.tensors["norms.0.running_var"])
    assert state.tensors["norms.0.running_var"][0] == correcting._original["norms.0.running_var"][0]


@pytest.mark.parametrize("name", NAMES)
def test_mapped_over_assignments(name: str) -> None:
    network, data, correcting = captured(name)
    states = States(network)
    assignments = [drawn(network, seed, (2, 3, 4)) for seed in range(3)]
    stack = stacked([states.of(assignment) for assignment in assignments])
    arguments = correcting.arguments(State({**states.base, **stack.tensors}, stack.grids))
    graph = mapped(correcting.program, stack.tensors, arguments, parts(data))
    with torch.inference_mode():
        state = correcting.corrected(stack, graph(*arguments, *parts(data)))
    for row, assignment in enumerate(assignments):
        network.apply(assignment)
        for one in (names[0] for names in correcting.names):
            # of three assignments the kernels may add in another order than of one, which may move a code
            expected = state_of(network).tensors[one].detach()
            torch.testing.assert_close(state.tensors[one][row], expected, rtol=1e-3, atol=1e-3)


class Twice(nn.Module):
    """A batch-norm that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(self.norm(self.first(x)).relu()))


def test_modules_that_run_several_times_are_refused() -> None:
    model, data = Twice().eval(), normal(9, 4)
    network = QuantizedNetwork(model, trace_layers(model, data[:1]), [data])
    with pytest.raises(ConfigError, match=r"must run once for the correction to be one graph; got 2 runs of 'norm'"):
        Correcting(network, data)


def test_hooks_are_removed() -> None:
    network, data = quantised("residual", correction=True)
    before = [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in network.model.modules()]
    Correcting(network, data)
    assert before == [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in network.model.modules()]
