"""Attention by ``nn.MultiheadAttention``, by ``scaled_dot_product_attention`` and by hand is the same attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.quantize.attention import OpenAttention
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.products import MatrixProduct, scaled_dot_product_attention
from qsearch.quantize.trace import examine, trace_layers
from qsearch.quantize.unfolding import unfold

SIZE, HEADS = 8, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(**options: object) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(SIZE, HEADS, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.6, 0.6)
    return made


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [{}, {"kdim": 5, "vdim": 6}])
@pytest.mark.parametrize("masks", ["none", "boolean", "per head", "padding", "both", "numbers"])
@pytest.mark.parametrize("need_weights", [True, False])
@torch.no_grad()
def test_open_attention_gives_what_torch_gives(
    batch_first: bool, bias: bool, widths: dict[str, int], masks: str, need_weights: bool
) -> None:
    original = attention(batch_first=batch_first, bias=bias, **widths)
    q, k, v = normal(3, 4, SIZE), normal(3, 6, original.kdim, seed=1), normal(3, 6, original.vdim, seed=2)
    causal = torch.ones(4, 6, dtype=torch.bool).triu(2)
    padding = torch.arange(6) >= torch.tensor([[6], [4], [2]])
    given = {
        "none": {},
        "boolean": {"attn_mask": causal},
        "per head": {"attn_mask": (normal(3 * HEADS, 4, 6) > 0.5)},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "numbers": {"attn_mask": normal(4, 6), "key_padding_mask": normal(3, 6)},
    }[masks]
    inputs = [x if batch_first else x.transpose(0, 1) for x in (q, k, v)]
    expected, weights = original(*inputs, need_weights=need_weights, **given)
    found, ours = OpenAttention(original)(*inputs, need_weights=need_weights, **given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (ours is None) == (weights is None)
    if weights is not None:
        torch.testing.assert_close(ours, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", [True, False])
@torch.no_grad()
def test_open_attention_without_a_batch_and_with_weights_of_each_head(average: bool) -> None:
    original, x = attention(), normal(5, SIZE)
    expected = original(x, x, x, average_attn_weights=average)
    for ours, theirs in zip(OpenAttention(original)(x, x, x, average_attn_weights=average), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": normal(5, 7, seed=3)},
        {"attn_mask": normal(3, 1, 5, 7, seed=3) > 0},
        {"attn_mask": torch.zeros(5, 7, dtype=torch.bool)},  # nothing to be seen: zeros
        {"enable_gqa": True},
    ],
    ids=["plain", "causal", "scale", "numbers", "boolean", "nothing", "grouped"],
)
def test_scaled_dot_product_attention_by_two_products(given: dict[str, object]) -> None:
    heads = 2 if given.get("enable_gqa") else 4
    q, k, v = normal(3, 4, 5, 6), normal(3, heads, 7, 6, seed=1), normal(3, heads, 7, 2, seed=2)
    expected = functional.scaled_dot_product_attention(q, k, v, **given)
    found = scaled_dot_product_attention(MatrixProduct(), MatrixProduct(), q, k, v, **given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


class Written(nn.Module):
    """Self-attention with the weights of an ``nn.MultiheadAttention``, written in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.attention = attention(batch_first=True)
        self.head = nn.Linear(SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            return self.head(self.attention(x, x, x, need_weights=False)[0]).mean(1)
        weights = zip(self.attention.in_proj_weight.chunk(3), self.attention.in_proj_bias.chunk(3), strict=True)
        parts = (functional.linear(x, weight, bias) for weight, bias in weights)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if self.how == "function":
            context = functional.scaled_dot_product_attention(q, k, v)
        else:
            context = (q @ k.transpose(-2, -1) * (SIZE // HEADS) ** -0.5).softmax(-1) @ v
        context = context.transpose(1, 2).flatten(2)
        out = self.attention.out_proj
        return self.head(functional.linear(context, out.weight, out.bias)).mean(1)


MODULE = ("q", "k", "v", "scores", "context", "out_proj")
NAMES = {
    "module": tuple(f"attention.{name}" for name in MODULE),
    "function": ("linear", "linear_1", "linear_2", "scores", "context", "linear_3"),
    "hand": ("linear", "linear_1", "linear_2", "matmul", "matmul_1", "linear_3"),
}


@pytest.mark.parametrize("how", NAMES)
def test_attention_costs_the_same_however_it_is_written(how: str) -> None:
    torch.manual_seed(0)
    anatomy = examine(Written(how), normal(3, 7, SIZE))
    assert anatomy.left == ()
    macs = {layer.name: layer.macs for layer in anatomy.layers}
    by_hand = [7 * SIZE * SIZE] * 3 + [7 * 7 * SIZE] * 2 + [7 * SIZE * SIZE]  # heads share the width
    assert macs == dict(zip(NAMES[how], by_hand, strict=True)) | {"head": 7 * SIZE * 3}
    of_two_heads = [layer.uses for layer in anatomy.layers if layer.kind == "matmul"]
    assert of_two_heads == [HEADS, HEADS]
    reading = tuple(f"{name}.input" for name in NAMES[how][:3])
    weights = tuple(f"{name}.weight" for name in NAMES[how][:3])
    assert (anatomy.ties["inputs"], anatomy.ties["qkv"]) == ((reading,), (weights,))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_attention_is_quantised_the_same_however_it_is_written(bits: int) -> None:
    x = normal(20, 7, SIZE)
    found = []
    for how, names in NAMES.items():
        torch.manual_seed(0)
        model = Written(how).eval()
        network = QuantizedNetwork(model, trace_layers(model, x[:3]), [x])
        site = {f"{ours}.{part}": f"{name}.{part}" for ours, name in zip(MODULE, names, strict=True) for part in PARTS}
        network.apply(BitAssignment({site[name]: bits for name in QUANTISED}))
        found.append(network(x))
    for other in found[1:]:  # a rounding may tip a value over to the next level
        assert float((other - found[0]).abs().mean()) < 0.02 * float(found[0].std())
    with torch.no_grad():
        assert float((found[0] - model(x)).abs().max()) > 1e-5


PARTS = ("weight", "input", "other")
QUANTISED = ("q.weight", "k.weight", "v.input", "scores.input", "scores.other", "context.other", "out_proj.weight")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_fused_path_of_an_encoder_does_not_pass_the_modules_by(norm_first: bool, masked: bool) -> None:
    """In evaluation, without gradients, torch runs an encoder's layers by one fused function."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(
                SIZE, HEADS, 16, norm_first=norm_first, batch_first=True, activation="gelu"
            )
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=masked and not norm_first)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            x = self.encoder(x, src_key_padding_mask=padding if masked else None)
            return x.masked_fill(padding[..., None], 0.0).mean(1)

    model, x = Encoder().eval(), normal(9, 7, SIZE)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [2]] * 3)
    anatomy = examine(model, (x, padding))
    assert anatomy.left == ()
    assert len([layer for layer in anatomy.layers if layer.kind == "matmul"]) == 4
    assert len(anatomy.layers) == 2 * (6 + 2)
    network = QuantizedNetwork(model, anatomy.layers, [(x, padding)], correction=False)
    with torch.inference_mode():
        expected = model(x, padding)
    torch.testing.assert_close(network((x, padding)), expected, rtol=1e-4, atol=1e-5)
    for layer in anatomy.layers:  # every site is alive
        for site in (layer.weight_site, layer.activation_site):
            network.apply(BitAssignment({site: 1}))
            assert float((network((x, padding)) - expected).abs().max()) > 1e-4, site


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_that_stays_in_float_is_told_with_its_reason(options: dict[str, bool]) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = attention(batch_first=True, **options), nn.Linear(SIZE, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x)[0]).mean(1)

    model = Odd().eval()
    anatomy = examine(model, normal(2, 5, SIZE))
    assert [layer.name for layer in anatomy.layers] == ["head"]
    (part,) = anatomy.left
    assert (part.name, part.what) == ("attention", "MultiheadAttention")
    assert part.numbers >= 4 * SIZE * SIZE
    assert "adds keys and values of its own" in part.why
    network = QuantizedNetwork(model, anatomy.layers, [normal(4, 5, SIZE)])
    torch.testing.assert_close(network(normal(2, 5, SIZE)), model(normal(2, 5, SIZE)))


def test_an_attention_in_two_places_is_opened_once() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.other = attention(batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x, x, x)[0]
            return self.other(x, x, x)[0].mean(1)

    model = Shared().eval()
    network = unfold(model, normal(2, 5, SIZE)).network
    assert network.one is network.other
    layers = trace_layers(model, normal(2, 5, SIZE))
    assert {layer.name: layer.uses for layer in layers if layer.kind == "matmul"} == {
        "one.scores": 2 * HEADS,
        "one.context": 2 * HEADS,
    }
