"""Rounded scales that batch norms make good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_networks import Case, balanced, case
from torch import Tensor, nn

from qsearch.export.packed import Packed, read_network
from qsearch.quantize.folding import absorb, norms_behind


class _Readers(nn.Module):
    """A layer with a bias and a norm of its own, and five that no norm can make good."""

    def __init__(self) -> None:
        super().__init__()
        self.alone, self.own = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.shared, self.of_shared = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.twice, self.of_twice = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.before, self.of_both, self.after = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.plain, self.without = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.own(self.alone(x)))
        y = self.shared(x)
        x = torch.relu(self.of_shared(y)) + y
        x = torch.relu(self.of_twice(self.twice(self.twice(x))))
        x = torch.relu(self.of_both(self.before(x)))
        x = torch.relu(self.of_both(self.after(x)))
        return self.without(self.plain(x)).mean((2, 3))


LAYERS = ("alone", "shared", "twice", "before", "after", "plain")


@pytest.fixture
def readers() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = _Readers().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                nn.init.normal_(module.running_mean)
        return network.requires_grad_(False)


def test_only_a_norm_that_alone_reads_a_layer_is_found(readers: nn.Module) -> None:
    state = {name: value.clone() for name, value in readers.state_dict().items()}
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    assert norms_behind(readers, x, LAYERS) == {"alone": "own"}
    assert all(torch.equal(value, state[name]) for name, value in readers.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in readers.modules())


def test_a_norm_takes_out_any_ratio(readers: nn.Module) -> None:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = readers(x)
    ratio = torch.tensor([0.5, 1.1, 0.9, 3.0, 1.0, 0.3])
    readers.get_parameter("alone.weight").mul_(ratio[:, None, None, None])
    assert not torch.allclose(readers(x), expected, atol=1e-2)
    absorb(readers, "alone", "own", ratio)
    torch.testing.assert_close(readers(x), expected, atol=1e-5, rtol=1e-5)


class _Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.first(x))).mean((2, 3)))


def test_a_file_with_scales_of_16_bits_computes_what_one_of_32_does(tmp_path: Path) -> None:
    """Its weights are off by what the scales are rounded, its outputs are not."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model, samples = _Chain(), torch.randn(50, 3, 6, 6) + torch.randn(50, 3, 1, 1)
        model.first.weight.data *= 2.0 ** torch.linspace(-6, 6, 16)[:, None, None, None]
        assert model.norm.running_var is not None
        model.norm.running_var.mul_(4.0 ** torch.linspace(-6, 6, 16))
        one: Case = case(balanced(model, model.head, samples), samples)
    deployment = one.deploy(one.assignment([6], [32]).replace({"head.weight": 32}))
    notes = Packed(16).write(deployment, tmp_path / "w.safetensors")
    assert "batch norms take out what 1 layers' scales are rounded by" in notes
    network, exact = read_network(tmp_path / "w.safetensors", deployment.skeleton), deployment.module()
    off = network.get_parameter("first.weight") / exact.get_submodule("first").weight - 1
    assert float(off.nan_to_num().abs().max()) > 5e-5
    assert float((network(samples) - exact(samples)).abs().max()) < 5e-6 * float(exact(samples).abs().max())
