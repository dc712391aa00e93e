"""MobileNetV2 (Sandler et al., CVPR 2018) at CIFAR's size: depthwise-separable, narrow where it does not filter.

Notation: t expansion of a block; w the width multiplier, which scales all channels to multiples of 8, at least 8 (the
public implementations' rule: never more than 10 % below what was asked for).

Differences from the paper's Table 2, which is meant for 224×224: the stem and the first two stages keep the resolution,
so that feature maps are 32×32, 16×16, 8×8 and 4×4; w scales the last convolution's 1,280 channels, too.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from torch import Tensor, nn


class Stage(NamedTuple):
    """A row of Table 2: expansion t, channels c, blocks n, and the stride of the first of them."""

    expansion: int
    channels: int
    blocks: int
    stride: int


STAGES = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 1),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM, HEAD = 32, 1280
"""Channels of the first and of the last convolution, at w = 1."""


class InvertedResidual(nn.Module):
    """1×1 convolution to t times the channels, 3×3 depthwise, 1×1 back without a ReLU (§3.3).

    (N, ``in_channels``, H, W) → (N, ``out_channels``, ⌈H/``stride``⌉, ⌈W/``stride``⌉); the input is added where the shape
    stays. A block with t = 1 has no expanding convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            parts["expand"] = convolution(in_channels, inner, 1)
        parts["depthwise"] = convolution(inner, inner, 3, stride=stride, groups=inner)
        parts["project"] = convolution(inner, out_channels, 1, active=False)
        self.parts = nn.Sequential(parts)
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts(x)
        return x + y if self.adds else y


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 for 32×32 colour images: (N, 3, 32, 32) → logits (N, ``classes``).

    Args:
        width: w.
        classes: size of the output.
    """

    def __init__(self, width: float = 1.0, classes: int = 10) -> None:
        super().__init__()
        channels = scaled(STEM, width)
        self.stem = convolution(3, channels, 3)
        self.stages = nn.Sequential()
        for stage in STAGES:
            blocks = nn.Sequential()
            for index in range(stage.blocks):
                wider = scaled(stage.channels, width)
                blocks.append(InvertedResidual(channels, wider, 1 if index else stage.stride, stage.expansion))
                channels = wider
            self.stages.append(blocks)
        self.head = convolution(channels, scaled(HEAD, width), 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(scaled(HEAD, width), classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.stages(self.stem(x)))
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]  # calling a module is typed Any


def convolution(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, with batch-norm, and ReLU6 where ``active``."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(out_channels),
    )
    if active:
        parts["relu"] = nn.ReLU6()
    return nn.Sequential(parts)


def scaled(channels: int, width: float, multiple: int = 8) -> int:
    """``channels`` · w as a multiple of 8, to the nearest, but never less than 90 % of it."""
    wanted = channels * width
    found = max(multiple, int(wanted + multiple / 2) // multiple * multiple)
    return found + multiple if found < 0.9 * wanted else found
