"""The CIFAR ResNets of He et al. (CVPR 2016, §4.2): 6n + 2 weighted layers, shortcuts without parameters ("option A").

Notation: n blocks per stage; stages of 16, 32, 64 channels on 32×32, 16×16, 8×8 feature maps.
n = 3 gives ResNet-20 (269,722 parameters), n = 5 ResNet-32 (464,154).

Parameter names are those of the public checkpoints (github akamaster/pytorch_resnet_cifar10), less their ``module.``.
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Tensor, nn

from qsearch.models.residual import ResidualBlock


class SubsampledShortcut(nn.Module):
    """Option A: every second row and column, new channels zero, half of them in front.

    (N, C, H, W) → (N, ``out_channels``, ⌈H/2⌉, ⌈W/2⌉).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], self.padding)


class BasicBlock(ResidualBlock):
    """A residual block whose shortcut has no parameters."""

    def reshaping(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Option A, made for ``stride`` 2."""
        return SubsampledShortcut(in_channels, out_channels)


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for 32×32 colour images: (N, 3, 32, 32) → logits (N, ``classes``).

    Args:
        n: residual blocks per stage.
        classes: size of the output.
    """

    def __init__(self, n: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(n, 16, 16, stride=1)
        self.layer2 = _stage(n, 16, 32, stride=2)
        self.layer3 = _stage(n, 32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]  # calling a module is typed Any


def _stage(n: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """n blocks, of which the first changes the shape."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(n - 1)))
