"""Deployments against the evaluated network: the same numbers, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_networks import EVERY_KIND, Case
from torch import nn

from qsearch.assignment import BitAssignment
from qsearch.export.capture import capture
from qsearch.export.deployment import deploy, layer_of
from qsearch.export.modules import QuantizedInput, StoredWeight, in_double_precision
from qsearch.export.signs import positive_scales
from qsearch.export.writing import outputs


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("which", ["small", "attention"])
def test_computes_what_was_evaluated(which: str, by_kernel: bool, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(which)
    for seed in range(3):
        assignment = case.assignment(
            (*EVERY_KIND, 20, 28), (1, 2, 5, 8, 12, 20, 28, 32), by_kernel=by_kernel, seed=seed
        )
        module = case.deploy(assignment).module()
        assert torch.equal(outputs(module, case.data), outputs(case.network, case.data))


def test_what_is_deployed_stays_when_the_network_takes_on_other_bits(small: Case) -> None:
    deployment = small.deploy(small.assignment([2], [3]))
    before = outputs(deployment.module(), small.data)
    small.network.apply(BitAssignment({}))
    assert torch.equal(outputs(deployment.module(), small.data), before)
    assert not torch.equal(outputs(small.network, small.data), before)


def test_layers_hold_codes_in_the_narrowest_integers(small: Case) -> None:
    for bits, dtype in ((4, torch.int8), (8, torch.int8), (9, torch.int16), (16, torch.int16), (17, torch.int32)):
        module = small.deploy(small.assignment([bits], [8])).module()
        stored = dict(module.named_buffers())["first.parametrizations.weight.original"]
        assert stored.dtype == dtype
        assert int(stored.min()) >= -(1 << (bits - 1))
        assert int(stored.max()) < 1 << (bits - 1)
        assert "first.weight" not in dict(module.named_parameters())


def test_bits_of_each_kernel(small: Case) -> None:
    """Codes, scales and floats of every kernel, from the tables of its bitwidth."""
    bits = tuple(EVERY_KIND)
    deployment = small.deploy(BitAssignment({"first.weight": bits}))
    stored = deployment.weights["first.weight"]
    original = small.model.get_parameter("first.weight").detach()
    for kernel, b in enumerate(bits):
        if b == 32:
            assert torch.equal(stored.values[kernel], original[kernel])
            continue
        table = small.network.quantized_weight("first.weight", b)
        assert torch.equal(stored.codes[kernel].long(), table.codes[kernel].long())
        assert torch.equal(stored.values[kernel], table.values[kernel])
        assert torch.equal(stored.codes[kernel] * stored.scales[kernel], stored.values[kernel])
    assert stored.float_kernels.tolist() == [bits.index(32)]
    assert (stored.widest, stored.is_float) == (12, False)
    assert deployment.weights["head.weight"].is_float


def test_modules_come_from_torch_alone(small: Case) -> None:
    """What a deployment adds beside the network's own modules are its two kinds, and parametrisations."""
    module = small.deploy(small.assignment([4], [8])).module()
    added = {type(part) for part in module.modules() if type(part).__module__.startswith("qsearch")}
    assert added == {StoredWeight, QuantizedInput}
    hooks = [hook for part in module.modules() for hook in part._forward_pre_hooks.values()]
    assert {hook.__module__ for hook in hooks} == {"qsearch.export.modules"}
    assert len(hooks) == len(small.layers)


def test_layer_of_a_site() -> None:
    assert layer_of("stages.0.conv1.weight") == "stages.0.conv1"


def test_signs_move_where_the_grid_allows(small: Case) -> None:
    """q·s stays; a scale stays negative only where a code fills the grid's longer side."""
    stored = small.deploy(small.assignment([4], [8], seed=3)).weights["again.weight"]
    codes, scales = positive_scales(stored, 8)
    values = codes * scales[:, None, None, None]
    assert np.array_equal(values.astype(np.float32), stored.values.numpy())
    assert (np.abs(codes) <= 8).all()
    assert codes.max() <= 7
    assert ((scales > 0) | (codes.min(axis=(1, 2, 3)) == -8)).all()
    assert (stored.scales < 0).any()
    assert (positive_scales(stored, 128)[1] > 0).all()


def test_double_precision_differs_by_roundings_only(small: Case) -> None:
    module = in_double_precision(small.deploy(small.assignment([8], [32])).module())
    found = outputs(lambda x: module(x.double()), small.data)
    expected = outputs(small.network, small.data)
    assert found.dtype == torch.float64
    assert 0 < float((found - expected).abs().max()) < 1e-5
    assert isinstance(module.get_submodule("head"), nn.Linear)


def test_one_sample_is_kept_twice(small: Case) -> None:
    """A graph that is captured with one sample would be bound to one."""
    deployment = deploy(small.network, small.layers, small.assignment([4], [8]), small.samples[:1])
    assert torch.equal(deployment.example, small.samples[[0, 0]])
    captured = capture(deployment.module(), deployment.example)
    assert captured.any_batch
    assert torch.equal(captured.program.module()(small.samples[:3]), small.network(small.samples[:3]))


def test_one_sample_of_several_inputs_is_kept_twice(small: Case) -> None:
    inputs = (small.samples[:1], torch.ones(1, 3))
    found = deploy(small.network, small.layers, BitAssignment({}), inputs).example
    assert [tuple(part.shape) for part in found] == [(2, 3, 8, 8), (2, 3)]
