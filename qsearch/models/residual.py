"""The basic residual block of He et al. (CVPR 2016, §3.2), whatever its shortcut.

Every convolution is followed by a batch-norm of its own, and every ReLU is a module of its own, so that a hook sees each
exactly once a pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class ResidualBlock(nn.Module, ABC):
    """Two 3×3 convolutions beside a shortcut: (N, C, H, W) → (N, ``out_channels``, H/``stride``, W/``stride``)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        changes = stride != 1 or in_channels != out_channels
        # made here and not by the caller: random weights are drawn in this order
        self.shortcut = self.reshaping(in_channels, out_channels, stride) if changes else nn.Identity()
        self.relu2 = nn.ReLU()

    @abstractmethod
    def reshaping(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """The shortcut of a block that changes the shape."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]  # calling a module is typed Any
