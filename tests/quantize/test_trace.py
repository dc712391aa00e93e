"""Layers found in a network, against geometry counted by hand."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.layers import Layer
from qsearch.quantize.trace import trace_layers


def only(module: nn.Module, *shape: int) -> Layer:
    (layer,) = trace_layers(nn.Sequential(module), torch.zeros(shape))
    return layer


@pytest.mark.parametrize(
    ("module", "shape", "output_size", "params", "macs"),
    [
        (nn.Conv1d(4, 6, 5, padding=2), (2, 4, 20), (20,), 6 * 4 * 5, 20 * 120),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (2, 3, 9, 7), (5, 4), 8 * 3 * 9, 20 * 216),
        (nn.Conv2d(8, 12, (1, 3), groups=4), (2, 8, 5, 5), (5, 3), 12 * 2 * 3, 15 * 72),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), (2, 6, 5, 5), (3, 3), 6 * 9, 9 * 54),
        (nn.Conv3d(2, 4, 3, padding=1), (2, 2, 3, 4, 5), (3, 4, 5), 4 * 2 * 27, 60 * 216),
        (nn.Conv2d(3, 8, 3, dilation=2), (1, 3, 9, 9), (5, 5), 216, 25 * 216),
        (nn.Linear(7, 5), (2, 7), (), 35, 35),
        (nn.Linear(7, 5), (2, 11, 7), (11,), 35, 11 * 35),
    ],
)
def test_parameters_and_macs_counted_by_hand(
    module: nn.Module, shape: tuple[int, ...], output_size: tuple[int, ...], params: int, macs: int
) -> None:
    layer = only(module, *shape)
    assert (layer.output_size, layer.params, layer.macs) == (output_size, params, macs)
    assert layer.bias == (module.bias is not None)
    assert layer.params == module.weight.numel()


def test_a_convolution_in_full() -> None:
    layer = only(nn.Conv2d(8, 12, (1, 3), stride=(2, 1), groups=4), 3, 8, 5, 6)
    assert layer == Layer("0", "conv", 8, 12, (1, 3), (2, 1), 4, (5, 6), (3, 4), 1, True)


def test_depthwise_is_known() -> None:
    assert only(nn.Conv2d(6, 6, 3, groups=6), 1, 6, 5, 5).depthwise


def test_an_embedding_and_a_linear_layer_on_tokens() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 8)
            self.project = nn.Linear(8, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.project(input=self.embed(tokens))

    embed, project = trace_layers(Text(), torch.zeros(2, 6, dtype=torch.long))
    assert (embed.kind, embed.in_channels, embed.out_channels, embed.output_size) == ("embedding", 50, 8, (6,))
    assert (embed.params, embed.macs, embed.kernels) == (400, 0, 50)
    assert (project.input_size, project.output_size, project.macs) == ((6,), (6,), 6 * 24)


class Reused(nn.Module):
    """``second`` is defined first, runs twice; ``idle`` never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.idle = nn.Linear(3, 3)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.dropout = nn.Dropout()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.second(self.dropout(self.first(x)))))


def test_order_is_that_of_running_and_reuse_counts_once() -> None:
    layers = trace_layers(Reused(), torch.zeros(2, 3, 6, 6))
    assert [layer.name for layer in layers] == ["first", "second"]
    assert layers[1].uses == 2
    assert layers[1].macs == 2 * 36 * 4 * 4 * 9


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_geometry_does_not_depend_on_the_batch(batch: int) -> None:
    assert trace_layers(Reused(), torch.zeros(batch, 3, 6, 6)) == trace_layers(Reused(), torch.zeros(3, 3, 6, 6))


def test_positions_folded_into_the_batch_are_counted() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.head = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:  # (B, T, H, W) → (B, T, 3)
            maps = self.conv(x.reshape(-1, 1, *x.shape[2:]))
            return self.head(maps.mean((2, 3))).reshape(len(x), -1, 3)

    conv, head = trace_layers(Folded(), torch.zeros(2, 7, 5, 5))
    assert (conv.uses, conv.macs) == (7, 7 * 9 * 18)
    assert (head.output_size, head.macs) == ((7,), 7 * 6)


def test_several_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.head(one + other)

    (head,) = trace_layers(Pair(), (torch.zeros(3, 4), torch.zeros(3, 4)))
    assert head.output_size == ()


def test_the_network_and_the_generators_are_left_as_they_are() -> None:
    model = Reused().train()
    model.dropout.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    trace_layers(model, torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert not model.dropout.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_network_that_does_not_run_is_told_with_its_reason() -> None:
    with pytest.raises(DataError, match=r"must run on the example input.*RuntimeError.*give an example"):
        trace_layers(Reused(), torch.zeros(2, 5, 6, 6))


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(DataError, match="at least one convolution"):
        trace_layers(nn.Sequential(nn.ReLU()), torch.zeros(2, 5))


def test_weights_that_are_no_site_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten(), nn.Linear(9, 2))
    with caplog.at_level("WARNING", logger="qsearch"):
        layers = trace_layers(model, torch.zeros(4, 2, 2))
    assert [layer.name for layer in layers] == ["2"]
    assert "left in float, not searched: 0 (ConvTranspose1d)" in caplog.text


class Attending(nn.Module):
    """Tokens go through attention and a layer behind it; (B, S, C), or turned to (S, B, C) inside."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.value = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.project = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        value = self.value(x)
        x = self.project(self.attention(x, x, value, need_weights=False)[0])
        return x if self.batch_first else x.transpose(0, 1)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 6), (2, 6), (4, 6), (6, 6), (3, 1), (12, 6), (5, 30)])
def test_sequence_first_costs_what_batch_first_does(
    batch_first: bool, batch: int, tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", logger="qsearch"):
        layers = trace_layers(Attending(batch_first), torch.zeros(batch, tokens, 8))
    projections = dict.fromkeys(("attention.q", "attention.k", "attention.v", "attention.out_proj"), tokens * 64)
    products = dict.fromkeys(("attention.scores", "attention.context"), tokens * tokens * 8)
    expected = {"value": tokens * 64, "project": tokens * 24} | projections | products
    assert {layer.name: layer.macs for layer in layers} == expected
    of_two_heads = {"attention.context": 2 * tokens * tokens}
    assert {layer.name: layer.input_elements for layer in layers} == dict.fromkeys(expected, tokens * 8) | of_two_heads
    assert not caplog.records


def test_positions_computed_once_for_all_samples_count_in_full() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(7, 4)
            self.shape = nn.Conv1d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:  # (B, 7, 4)
            places = self.places(torch.arange(7))
            return x + self.shape(places.reshape(7, 4, 1))[:, :, 0]

    places, shape = trace_layers(Placed(), torch.zeros(2, 7, 4))
    assert places.output_size == (7,)
    assert shape.macs == 7 * 16


class Pyramid(nn.Module):
    """One head for maps of 8×8 and 4×4, and one linear layer for a sequence and for its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        large, small = self.head(x), self.head(x[:, :, ::2, ::2])
        return self.last(large.flatten(2).transpose(1, 2)).mean(1) + self.last(small.mean((2, 3)))


def test_a_module_on_several_geometries_costs_the_sum(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="qsearch"):
        head, last = trace_layers(Pyramid(), torch.zeros(2, 3, 8, 8))
    assert head.macs == (64 + 16) * 5 * 3 * 9
    assert (head.input_elements, head.output_elements) == (80 * 3, 80 * 5)
    assert (len(head.output_size), head.uses) == (2, 1)
    assert (last.macs, last.input_elements, last.output_elements) == (65 * 10, 65 * 5, 65 * 2)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "layer head runs on feature maps of 8×8 → 8×8 and of 4×4 → 4×4" in lines[0]


def test_maps_that_differ_at_the_input_only_are_told_apart() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 2, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.conv(x[:, :, 1:])

    (conv,) = trace_layers(Strided(), torch.zeros(2, 1, 9))
    assert (conv.input_elements, conv.macs) == (9 + 8, 2 * 4 * 2)


def test_a_network_that_cannot_be_copied_is_told_so() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model.lock = threading.Lock()
    with pytest.raises(DataError, match=r"Sequential must allow a deep copy.*TypeError: cannot pickle.*lock"):
        trace_layers(model, torch.zeros(2, 3))
