"""The networks: published sizes, the option-A shortcut by loops, and order of modules as hooks see it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.models.mnist import lenet, perceptron
from qsearch.models.mobilenet_v2 import CifarMobileNetV2, InvertedResidual, scaled
from qsearch.models.residual import ResidualBlock
from qsearch.models.resnet_cifar import CifarResNet, SubsampledShortcut
from qsearch.models.resnet_digits import DigitsNetwork


@pytest.mark.parametrize(("n", "parameters"), [(3, 269_722), (5, 464_154)])
def test_cifar_resnets_have_the_public_sizes(n: int, parameters: int) -> None:
    network = CifarResNet(n)
    assert sum(value.numel() for value in network.parameters()) == parameters
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 6 * n + 2
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_cifar_feature_maps_halve_twice() -> None:
    network = CifarResNet(1)
    shapes: list[torch.Size] = []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape))
    network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(1, 16, 32, 32), (1, 32, 16, 16), (1, 64, 8, 8)]


@pytest.mark.parametrize(("c_in", "c_out", "side"), [(16, 32, 32), (2, 5, 6), (3, 3, 5)])
def test_option_a_takes_every_second_pixel_between_zero_channels(c_in: int, c_out: int, side: int) -> None:
    x = torch.randn(2, c_in, side, side, generator=torch.Generator().manual_seed(0))
    half = (side + 1) // 2
    expected = torch.zeros(2, c_out, half, half)
    for channel in range(c_in):
        for row in range(half):
            for column in range(half):
                expected[:, channel + (c_out - c_in) // 2, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(SubsampledShortcut(c_in, c_out)(x), expected)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (24, 0.5, 16), (16, 0.5, 8), (16, 0.35, 8), (96, 0.35, 32), (64, 0.75, 48), (8, 0.1, 8)],
)
def test_channels_are_scaled_as_in_public_mobilenets(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


def test_mobilenet_is_the_papers_but_for_its_resolution() -> None:
    network = CifarMobileNetV2(classes=1000)
    assert sum(value.numel() for value in network.parameters()) == 3_504_872  # torchvision's mobilenet_v2
    shapes: list[torch.Size] = []
    for stage in network.stages:
        stage.register_forward_hook(lambda _module, _inputs, output: shapes.append(output.shape[1:]))
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    assert [shape[0] for shape in shapes] == [16, 24, 32, 64, 96, 160, 320]
    assert [shape[1] for shape in shapes] == [32, 16, 16, 8, 8, 4, 4]


def test_an_inverted_residual_by_its_definition() -> None:
    block = InvertedResidual(8, 8, stride=1, expansion=6).eval()
    x = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    y = x
    for name, groups, padding in (("expand", 1, 0), ("depthwise", 48, 1), ("project", 1, 0)):
        part = getattr(block.parts, name)
        y = functional.conv2d(y, part.conv.weight, padding=padding, groups=groups)
        y = functional.batch_norm(y, part.bn.running_mean, part.bn.running_var, part.bn.weight, part.bn.bias)
        y = y if name == "project" else y.clamp(0, 6)
    torch.testing.assert_close(block(x), x + y)
    assert not InvertedResidual(8, 8, stride=2, expansion=6).adds
    assert not InvertedResidual(8, 16, stride=1, expansion=6).adds
    assert len(InvertedResidual(8, 8, stride=1, expansion=1).parts) == 2


def test_the_networks_for_mnist_have_the_sizes_that_their_shapes_give() -> None:
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in (("p", perceptron()), ("l", lenet()))}
    assert parameters["p"] == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert parameters["l"] == 8 * 25 + 2 * 8 + 16 * 8 * 25 + 2 * 16 + 400 * 64 + 64 + 64 * 10 + 10
    for network in (perceptron(), lenet()):
        assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_the_digits_network_has_projection_shortcuts_where_the_shape_changes() -> None:
    network = DigitsNetwork((4, 8, 8), blocks=2)
    projections = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    ]
    assert projections == ["stages.1.0.shortcut.conv", "stages.2.0.shortcut.conv"]
    assert network(torch.zeros(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize(
    ("network", "inputs"),
    [(CifarResNet(2), torch.rand(2, 3, 32, 32)), (DigitsNetwork(), torch.rand(2, 1, 8, 8))],
    ids=["cifar", "digits"],
)
def test_each_module_runs_once_and_batch_norm_follows_its_convolution(network: nn.Module, inputs: Tensor) -> None:
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    kinds = nn.Conv2d | nn.BatchNorm2d | nn.ReLU | nn.Linear
    hooks = [
        module.register_forward_hook(lambda module, given, output: calls.append((module, given[0], output)))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        network.eval()(inputs)
    assert len({id(module) for module, _, _ in calls}) == len(calls) == len(hooks)
    for (module, _, output), (following, given, _) in itertools.pairwise(calls):
        if isinstance(module, nn.Conv2d):
            assert isinstance(following, nn.BatchNorm2d)
            assert given is output


@pytest.mark.parametrize("build", [lambda: CifarResNet(2), DigitsNetwork], ids=["cifar", "digits"])
def test_the_networks_share_one_block(build: Callable[[], nn.Module]) -> None:
    blocks = [module for module in build().modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 6
    children = ["conv1", "bn1", "relu1", "conv2", "bn2", "shortcut", "relu2"]
    assert all([name for name, _ in block.named_children()] == children for block in blocks)


def test_random_weights_are_drawn_in_the_order_that_kept_weights_were_trained_from() -> None:
    """First convolution, second, projection: another order would train another network under the same name."""
    torch.manual_seed(3)
    network = DigitsNetwork((2, 4), blocks=1)
    torch.manual_seed(3)
    shapes = [(2, 1, 3), (2, 2, 3), (2, 2, 3), (4, 2, 3), (4, 4, 3), (4, 2, 1)]
    drawn = [nn.Conv2d(c_in, c_out, side, bias=False).weight for c_out, c_in, side in shapes]
    found = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(torch.equal(one, other) for one, other in zip(found, drawn, strict=True))
