"""A small U-Net (Ronneberger et al., MICCAI 2015): an encoder that halves, a decoder that doubles, and skips between them.

Notation: w_s channels at scale s, where feature maps are H/2^s × W/2^s; S the last scale.

Differences from the paper: convolutions keep the size, batch-norm follows each, and the decoder repeats pixels and
convolves, where the paper transposes a convolution, which leaves a checkerboard (Odena et al., *Distill*, 2016).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Segmenter: (N, ``in_channels``, H, W) → logits (N, ``classes``, H, W); H and W are multiples of 2^S.

    Args:
        widths: w_0 … w_S.
        in_channels: of the images.
        classes: of a pixel.
    """

    def __init__(self, widths: Sequence[int] = (8, 16, 32), in_channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.encoders = nn.ModuleList()
        channels = in_channels
        for width in widths:
            self.encoders.append(double_convolution(channels, width))
            channels = width
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoders = nn.ModuleList()
        for width in reversed(widths[:-1]):
            self.decoders.append(double_convolution(channels + width, width))
            channels = width
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for encode in self.encoders:
            x = encode(self.pool(x) if skips else x)
            skips.append(x)
        skips.pop()  # the coarsest goes straight on
        for decode in self.decoders:
            x = decode(torch.cat([self.enlarge(x), skips.pop()], dim=1))
        return self.classify(x)  # type: ignore[no-any-return]  # calling a module is typed Any


def double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3×3 convolution, batch-norm, ReLU."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for number, channels in enumerate((in_channels, out_channels), start=1):
        parts[f"conv{number}"] = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        parts[f"bn{number}"] = nn.BatchNorm2d(out_channels)
        parts[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(parts)
