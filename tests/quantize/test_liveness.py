"""What networks keep for later while a layer runs, counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from qsearch.models.resnet_cifar import CifarResNet
from qsearch.models.resnet_digits import DigitsNetwork
from qsearch.quantize.trace import trace_layers

MAP = 4 * 6 * 6
"""Numbers of a feature map of 4 channels."""


def conv(c_in: int = 4, c_out: int = 4, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, 1)


class Network(nn.Module):
    """Convolutions by name, and a function of them and the input."""

    def __init__(self, run: Callable[..., object], **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


def alive(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    example = inputs or (torch.zeros(3, 4, 6, 6),)
    return {layer.name: layer.alive for layer in trace_layers(model, example)}


def test_a_chain_keeps_nothing() -> None:
    """Nor does one of chains, though the outer one still holds the input of the inner."""
    inner = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.ReLU(inplace=True), conv())
    model = nn.Sequential(conv(), nn.Sequential(inner, conv()), nn.Flatten(), nn.Linear(MAP, 5), nn.Linear(5, 2))
    assert len(alive(model)) == 7
    assert set(alive(model).values()) == {0}


def test_a_residual_block_keeps_its_input_while_its_second_convolution_runs() -> None:
    def block(self: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return torch.relu(self.second(torch.relu(self.first(x))) + x)

    assert alive(Network(block, stem=conv(), first=conv(), second=conv())) == {"stem": 0, "first": 0, "second": MAP}


def test_a_projected_shortcut_keeps_what_runs_later() -> None:
    def block(self: nn.Module, x: Tensor) -> Tensor:
        main = self.second(self.first(x))
        return main + self.shortcut(x)

    found = alive(Network(block, first=conv(4, 8, 2), second=conv(8, 8), shortcut=conv(4, 8, 2)))
    assert found == {"first": 0, "second": MAP, "shortcut": 8 * 3 * 3}


def test_a_skip_is_kept_through_encoder_and_decoder() -> None:
    def unet(self: nn.Module, x: Tensor) -> Tensor:
        high = self.high(x)
        low = self.low(self.down(high))
        up = nn.functional.interpolate(self.up(low), scale_factor=2.0)
        return self.last(torch.cat((high, up), 1))

    model = Network(unet, high=conv(), down=conv(4, 8, 2), low=conv(8, 8), up=conv(8, 4), last=conv(8, 2))
    assert alive(model) == {"high": 0, "down": 0, "low": MAP, "up": MAP, "last": 0}


def test_a_dense_block_keeps_every_map_that_a_later_concatenation_reads() -> None:
    def dense(self: nn.Module, x: Tensor) -> Tensor:
        maps = [x]
        for name in ("one", "two", "three"):
            maps.append(self.get_submodule(name)(torch.cat(maps, 1)))
        return torch.cat(maps, 1)

    model = Network(dense, one=conv(4, 2), two=conv(6, 2), three=conv(8, 2))
    # the concatenation is a layer's input, and its parts are kept for the next one
    assert alive(model) == {"one": MAP, "two": MAP + MAP // 2, "three": MAP + MAP}


def test_a_concatenation_that_grows_keeps_nothing_else() -> None:
    def dense(self: nn.Module, x: Tensor) -> Tensor:
        for name in ("one", "two"):
            x = torch.cat((x, self.get_submodule(name)(x)), 1)
        return x

    assert alive(Network(dense, one=conv(4, 2), two=conv(6, 2))) == {"one": 0, "two": 0}


def test_branches_keep_their_common_input_and_the_results_of_those_before() -> None:
    def branches(self: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.two(x), self.three(self.before(x))], 1)

    model = Network(branches, one=conv(), two=conv(4, 8), before=conv(), three=conv())
    assert alive(model) == {"one": 0, "two": MAP, "before": 3 * MAP, "three": 3 * MAP}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_what_is_made_of_constants_alone_is_one(batch: int) -> None:
    def run(net: Network, x: Tensor) -> object:
        mask, scale = torch.ones(6, 6).triu(), net.a.weight.abs().max()
        return net.b(net.a(x)) * mask * scale

    assert alive(Network(run, a=conv(), b=conv()), torch.zeros(batch, 4, 6, 6)) == {"a": 0, "b": 0}


def test_a_buffer_that_is_written_over_becomes_a_map() -> None:
    def run(net: Network, x: Tensor) -> object:
        kept = torch.zeros(x.shape)
        kept[:, :2] = x[:, :2]
        return net.b(net.a(x)) + kept

    assert alive(Network(run, a=conv(), b=conv())) == {"a": MAP, "b": MAP}


def test_what_the_network_returns_is_kept_to_the_end() -> None:
    def heads(self: nn.Module, x: Tensor) -> dict[str, object]:
        first = self.one(x)
        return {"first": [first], "second": self.two(first.relu()), "third": self.three(x)}

    assert alive(Network(heads, one=conv(), two=conv(), three=conv())) == {"one": 0, "two": 2 * MAP, "three": 2 * MAP}


def test_a_second_input_waits_for_its_turn() -> None:
    def pair(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x).mean((2, 3)) + self.two(y)

    model = Network(pair, one=conv(), two=nn.Linear(7, 4))
    assert alive(model, torch.zeros(2, 4, 6, 6), torch.zeros(2, 7)) == {"one": 7, "two": 4}


def test_the_rest_of_a_split_map_is_kept_once() -> None:
    def split(self: nn.Module, x: Tensor) -> Tensor:
        left, right = torch.relu(x).chunk(2, 1)
        return torch.cat((left, self.one(right)), 1)

    assert alive(Network(split, one=conv(2, 2))) == {"one": MAP // 2}


def test_views_of_one_map_are_kept_once_and_an_example_may_be_a_view() -> None:
    def views(self: nn.Module, x: Tensor) -> Tensor:
        x = torch.relu(x)
        flat, turned = x.flatten(1), x.transpose(2, 3)
        return self.two(self.one(x)).flatten(1) + flat + turned.flatten(1)

    model = Network(views, one=conv(), two=conv())
    assert alive(model, torch.zeros(50, 4, 6, 6)[:2]) == {"one": 0, "two": MAP}


def test_of_several_calls_the_one_that_keeps_most_counts() -> None:
    def twice(self: nn.Module, x: Tensor) -> Tensor:
        first = self.shared(x)
        return self.shared(first.relu()) + first + x

    assert alive(Network(twice, shared=conv())) == {"shared": 2 * MAP}


def test_constants_are_no_maps() -> None:
    """Parameters, buffers and tensors that hang on the network alone, read before and after a layer, and their views."""

    def scaled(self: nn.Module, x: Tensor) -> Tensor:
        x = self.one(x * self.norm.running_var.view(4, 1, 1) * everywhere)
        return self.two(x) * self.norm.running_var.view(4, 1, 1) * everywhere * self.one.weight.view(-1)[0]

    everywhere = torch.full((1, 4, 6, 6), 3.0)
    assert alive(Network(scaled, norm=nn.BatchNorm2d(4), one=conv(), two=conv())) == {"one": 0, "two": 0}


def test_what_attention_keeps_beside_the_operands_of_its_products() -> None:
    def attend(self: nn.Module, x: Tensor) -> Tensor:  # (B, 7, 4)
        q, k, v = self.q(x), self.k(x), self.v(x)
        return self.out((q @ k.transpose(1, 2)).softmax(-1) @ v) + x

    layers = {name: nn.Linear(4, 4) for name in ("q", "k", "v", "out")}
    size = 7 * 4  # numbers of every map but the scores; x is the layers' own input, until it is added at the end
    expected = {"q": 0, "k": size, "v": 2 * size, "matmul": 2 * size, "matmul_1": size, "out": size}
    assert alive(Network(attend, **layers), torch.zeros(3, 7, 4)) == expected


def test_what_is_looked_up_by_token_is_a_map_and_the_tokens_are_none() -> None:
    def embed(self: nn.Module, tokens: Tensor) -> Tensor:
        words, places = self.words(tokens), self.places(torch.arange(7))
        x = words + places
        return self.one(x) + x + self.again(tokens)

    model = Network(
        embed, words=nn.Embedding(9, 4), places=nn.Embedding(7, 4), one=nn.Linear(4, 4), again=nn.Embedding(9, 4)
    )
    found = alive(model, torch.zeros(3, 7, dtype=torch.long))
    assert found == {"words": 0, "places": 28, "one": 0, "again": 28}


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_what_is_kept_does_not_depend_on_the_batch(batch: int) -> None:
    def recurrent(self: nn.Module, x: Tensor) -> Tensor:  # (B, 5, 7) → (B, 5, 3)
        state, states = torch.zeros(len(x), 3), []
        for step in x.unbind(1):
            state = torch.tanh(self.read(step) + self.again(state))
            states.append(state)
        return torch.stack(states, 1)

    found = alive(Network(recurrent, read=nn.Linear(7, 3), again=nn.Linear(3, 3)), torch.zeros(batch, 5, 7))
    # both keep most at the fourth of five steps, where three states are stacked later and the input is read once more:
    # `read` the rest of the input and three states; `again` the input, what `read` gave, and the states but its own
    assert found == {"read": 4 * 7 + 3 * 3, "again": 5 * 7 + 3 + 2 * 3}


@pytest.mark.parametrize(
    ("model", "example", "peak"),
    [
        # a block's second convolution reads, writes and keeps 16 maps of 32 × 32
        (CifarResNet(), torch.zeros(2, 3, 32, 32), 3 * 16 * 32 * 32),
        # 6 maps of 8 × 8, three times
        (DigitsNetwork(), torch.zeros(2, 1, 8, 8), 3 * 6 * 8 * 8),
    ],
)
def test_residual_networks_peak_at_three_maps(model: nn.Module, example: Tensor, peak: int) -> None:
    layers = trace_layers(model, example)
    assert max(layer.input_elements + layer.output_elements + layer.alive for layer in layers) == peak
    for layer in layers:
        within_block = layer.name.endswith(("conv2", "shortcut.conv"))
        assert (layer.alive > 0) == within_block, layer


def test_a_map_in_the_place_of_a_freed_one_is_another() -> None:
    """Many maps of one size come and go, so that the allocator hands out the same places again and again."""

    def busy(self: nn.Module, x: Tensor) -> Tensor:
        kept = torch.relu(x)
        for _ in range(200):
            x = torch.tanh(x) + 1
        return self.one(x) * kept

    assert alive(Network(busy, one=conv())) == {"one": MAP}


class Sparse(nn.Module):
    """Multiplies by a sparse matrix, which has no memory of its own to follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.mix = torch.eye(4).to_sparse()

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sparse.mm(self.mix, self.layer(x).T).T


def test_a_network_that_cannot_be_followed_keeps_its_layers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="qsearch"):
        (layer,) = trace_layers(Sparse(), torch.zeros(2, 4))
    assert (layer.name, layer.macs, layer.alive) == ("layer", 16, 0)
    assert "what Sparse keeps for later is not counted" in caplog.text


class Shy(nn.Module):
    """Does not run while anybody watches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
            raise RuntimeError("not while you look")
        return x + self.layer(x)


def test_a_network_that_does_not_bear_watching_keeps_its_layers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="qsearch"):
        (layer,) = trace_layers(Shy(), torch.zeros(2, 4))
    assert (layer.name, layer.alive) == ("layer", 0)
    assert "what Shy keeps for later is not counted" in caplog.text
    assert "not while you look" in caplog.text
