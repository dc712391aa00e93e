"""Sites that belong together, against networks whose streams are written down by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.models.resnet_cifar import CifarResNet
from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.quantize.trace import examine


def ties(model: nn.Module, *shape: int) -> dict[str, tuple[tuple[str, ...], ...]]:
    return dict(examine(model, torch.zeros(shape)).ties)


def test_resnet_20() -> None:
    """Shortcuts without parameters subsample and pad, which ends a stream; pooling ends the last one."""
    assert ties(CifarResNet(), 2, 3, 32, 32) == {
        "residual": (
            ("layer1.0.conv1.input", "layer1.1.conv1.input", "layer1.2.conv1.input", "layer2.0.conv1.input"),
            ("layer2.1.conv1.input", "layer2.2.conv1.input", "layer3.0.conv1.input"),
            ("layer3.1.conv1.input", "layer3.2.conv1.input"),
        )
    }


def test_the_digits_network() -> None:
    """Shortcuts are convolutions that read what the block reads."""
    assert ties(DigitsNetwork(), 2, 1, 8, 8) == {
        "inputs": (
            ("stages.1.0.conv1.input", "stages.1.0.shortcut.conv.input"),
            ("stages.2.0.conv1.input", "stages.2.0.shortcut.conv.input"),
        ),
        "residual": (
            (
                "stages.0.0.conv1.input",
                "stages.0.1.conv1.input",
                "stages.1.0.conv1.input",
                "stages.1.0.shortcut.conv.input",
            ),
            ("stages.1.1.conv1.input", "stages.2.0.conv1.input", "stages.2.0.shortcut.conv.input"),
        ),
    }


class Block(nn.Module):
    """Two sites on one stream: the input of ``one``, and that of ``two``, with a sum and an activation in between."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.one(x)
        if self.how == "plus":
            y = y + x
        elif self.how == "in place":
            y += x
        elif self.how == "function":
            y = torch.add(x, other=y)
        elif self.how == "method in place":
            y.add_(x)
        elif self.how == "activation":
            y = functional.dropout(functional.gelu((x + y).relu_()), 0.1, self.training).contiguous()
        elif self.how == "broadcast":
            y = y + x.mean(0, keepdim=True)
        elif self.how == "scaled in place":
            y = (y + x).mul_(2.0)
        elif self.how == "normalised":
            y = functional.layer_norm(y + x, (4,))
        else:
            y = y + 1.0
        return self.two(y)


@pytest.mark.parametrize("how", ["plus", "in place", "function", "method in place", "activation"])
def test_sums_and_activations_keep_a_stream_together(how: str) -> None:
    assert ties(Block(how), 3, 4) == {"residual": (("one.input", "two.input"),)}


@pytest.mark.parametrize("how", ["broadcast", "scaled in place", "normalised", "a number"])
def test_what_else_becomes_of_a_tensor_ends_its_stream(how: str) -> None:
    assert ties(Block(how), 3, 4) == {}


def test_a_tensor_that_is_written_to_is_another() -> None:
    class Written(nn.Module):
        def __init__(self, writes: bool) -> None:
            super().__init__()
            self.writes = writes
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            y = self.one(x)
            if self.writes:
                x.exp_()
            return self.two(x) + y[:, :3]

    assert ties(Written(False), 3, 4) == {"inputs": (("one.input", "two.input"),)}
    assert ties(Written(True), 3, 4) == {}


def test_weights_of_one_shape_that_read_the_same_tensor() -> None:
    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((self.q(x), self.k(x.view_as(x)), self.v(x), self.other(x * 2)), 1)

    assert ties(Reading(), 3, 4) == {
        "inputs": (("q.input", "k.input", "v.input"),),
        "qkv": (("q.weight", "k.weight"),),
    }


def test_a_layer_that_runs_twice_joins_what_it_reads() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.tanh()
            return self.shared(x) * self.one(x) * self.shared(y) * self.two(y)

    assert ties(Twice(), 3, 4) == {"inputs": (("shared.input", "one.input", "two.input"),)}


def test_streams_run_through_functional_calls() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.ParameterList(nn.Parameter(torch.randn(4, 4)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for weight in self.w:
                x = x + functional.linear(x, weight)
            return x

    assert ties(Functional(), 3, 4) == {"residual": (("linear.input", "linear_1.input", "linear_2.input"),)}
