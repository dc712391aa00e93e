"""A narrow residual network for 8×8 images: small enough to train in seconds, tight enough that low bits hurt.

Notation: w_s channels of stage s; stage 1 works on 8×8 feature maps, each later stage halves them.

A stage opens with a block of stride 2 (stage 1: stride 1) whose shortcut is a 1×1 convolution with batch-norm where the
shape changes, the projection shortcut ("option B") of He et al., CVPR 2016, §3.3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from qsearch.models.residual import ResidualBlock


class ProjectionBlock(ResidualBlock):
    """A residual block whose shortcut is a 1×1 convolution with batch-norm where the shape changes."""

    def reshaping(self, in_channels: int, out_channels: int, stride: int) -> nn.Module:
        """Option B."""
        conv = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
        return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))


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
        return self.linear(self.flatten(self.pool(y)))  # type: ignore[no-any-return]  # calling a module is typed Any
