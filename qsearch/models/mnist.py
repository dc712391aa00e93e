"""Two small networks for 28×28 grey images: a perceptron, and a convolutional network after LeNet-5.

LeNet-5: LeCun et al., *Proc. IEEE* 86 (1998), §II-B. Here with ReLU, maximum pooling, and a batch-norm after each
convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def perceptron(widths: Sequence[int] = (784, 256, 128, 10)) -> nn.Sequential:
    """Linear layers with ReLU between them: (N, 1, H, W) of ``widths[0]`` = H·W pixels → logits (N, ``widths[-1]``)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number in range(1, len(widths)):
        if number > 1:
            parts[f"relu{number - 1}"] = nn.ReLU()
        parts[f"linear{number}"] = nn.Linear(widths[number - 1], widths[number])
    return nn.Sequential(parts)


def lenet(classes: int = 10) -> nn.Sequential:
    """Two convolutions and two linear layers: (N, 1, 28, 28) → logits (N, ``classes``)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 5, padding=2, bias=False),
            bn1=nn.BatchNorm2d(8),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 16, 5, bias=False),
            bn2=nn.BatchNorm2d(16),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * 5 * 5, 64),
            relu3=nn.ReLU(),
            linear2=nn.Linear(64, classes),
        )
    )
