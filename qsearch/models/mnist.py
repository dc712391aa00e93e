"""Small networks for 28×28 grey images: a perceptron, and two convolutional networks after LeNet-5.

LeNet-5: LeCun et al., *Proc. IEEE* 86 (1998), §II-B. :func:`lenet` has ReLU, maximum pooling, and a batch-norm after each
convolution; :func:`lenet5` is the one that the literature of pruning means by the name.
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


def lenet5(classes: int = 10) -> nn.Sequential:
    """The LeNet-5 that comes with Caffe: (N, 1, 28, 28) → logits (N, ``classes``).

    20 and 50 channels, 500 hidden units; 430,500 weights for 10 classes, and 580 biases. Convolutions are not padded,
    maximum pooling is all that follows them; the one ReLU is behind the hidden units.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(50 * 4 * 4, 500),
            relu1=nn.ReLU(),
            linear2=nn.Linear(500, classes),
        )
    )
