"""A narrow residual network for 8×8 images: small enough to train in seconds, tight enough that low bits hurt.

Notation: w_s channels of stage s; stage 1 works on 8×8 feature maps, each later stage halves them.

A stage opens with a block of stride 2 (stage 1: stride 1) whose shortcut is a 1×1 convolution with batch-norm where the
shape changes, the projection shortcut ("option B") of He et al., CVPR 2016, §3.3. Every convolution is followed by a
batch-norm of its own, and every ReLU is a module of its own, so that a hook sees each exactly once a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ProjectionBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: (N, C, H, W) → (N, ``out_channels``, H/``stride``, W/``stride``)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(out_channels))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]  # nn.Module is typed as returning Any


class DigitsNetwork(nn.Module):
    """Residual classifier of 8×8 grey images: (N, 1, 8, 8) → logits (N, ``classes``).

    Args:
        widths: channels of each stage.
        blocks: residual blocks per stage.
        classes: size of the output.
    """

    def __init__(self, widths: Sequence[int] = (6, 12, 24), blocks: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu1 = nn.ReLU()
        stages = nn.Sequential()
        channels = widths[0]
        for index, width in enumerate(widths):
            stage = nn.Sequential()
            for block in range(blocks):
                stage.append(ProjectionBlock(channels, width, stride=2 if index and not block else 1))
                channels = width
            stages.append(stage)
        self.stages = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stages(self.relu1(self.bn1(self.conv1(x))))
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]  # as above
