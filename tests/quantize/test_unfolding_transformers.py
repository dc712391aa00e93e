"""BERT and ViT as the library transformers writes them, from tiny configurations: nothing is downloaded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qsearch.anatomy import Anatomy
from qsearch.assignment import BitAssignment
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import examine

transformers = pytest.importorskip("transformers", reason="the extra huggingface is not installed")

WIDTH, HEADS, INNER, BLOCKS, TOKENS = 16, 4, 32, 2, 10
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
}
IMPLEMENTATIONS = ["eager", "sdpa"]


class Text(nn.Module):
    """BERT, and a linear layer on the mean of the tokens that are no padding."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=50, max_position_embeddings=20, attn_implementation=implementation, **SIZES
        )
        self.bert = transformers.BertModel(config, add_pooling_layer=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        shown = mask[..., None].to(states.dtype)
        return self.head((states * shown).sum(1) / shown.sum(1))


class Image(nn.Module):
    """ViT on 8 × 8 images in patches of 4 × 4, and a linear layer on its first token."""

    def __init__(self, implementation: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        config = transformers.ViTConfig(image_size=8, patch_size=4, attn_implementation=implementation, **SIZES)
        self.vit = transformers.ViTModel(config, add_pooling_layer=False)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.vit(images).last_hidden_state[:, 0])


def batch(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, TOKENS + 1, (count, 1), generator=generator)
    tokens = torch.randint(0, 50, (count, TOKENS), generator=generator)
    return tokens, (torch.arange(TOKENS) < lengths).long()


def products(anatomy: Anatomy) -> list[int]:
    return [layer.macs for layer in anatomy.layers if layer.kind == "matmul"]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bert_by_hand(implementation: str) -> None:
    anatomy = examine(Text(implementation), batch(3))
    assert anatomy.left == ()
    assert products(anatomy) == [TOKENS * TOKENS * WIDTH] * (2 * BLOCKS)
    assert {layer.uses for layer in anatomy.layers if layer.kind == "matmul"} == {HEADS}
    linear = BLOCKS * TOKENS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER) + WIDTH * 3
    assert sum(layer.macs for layer in anatomy.layers if layer.kind == "linear") == linear
    assert sum(layer.kind == "embedding" for layer in anatomy.layers) == 3
    reading = [f"bert.encoder.layer.{block}.attention.self" for block in range(BLOCKS)]
    for kind, part in (("inputs", "input"), ("residual", "input"), ("qkv", "weight")):
        expected = tuple(tuple(f"{at}.{name}.{part}" for name in ("query", "key", "value")) for at in reading)
        assert anatomy.ties[kind] == expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vit_by_hand(implementation: str) -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    anatomy = examine(Image(implementation), images)
    positions = 5  # four patches and the token of the class
    assert products(anatomy) == [positions * positions * WIDTH] * (2 * BLOCKS)
    assert {part.name.rpartition(".")[2] for part in anatomy.left} == {"cls_token", "position_embeddings"}
    patches = next(layer for layer in anatomy.layers if layer.kind == "conv")
    assert patches.macs == 4 * WIDTH * 3 * 16
    network = QuantizedNetwork(Image(implementation).eval(), anatomy.layers, [images])
    with torch.no_grad():
        torch.testing.assert_close(network(images), Image(implementation).eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bert_is_the_same_in_float_and_every_site_is_alive(implementation: str) -> None:
    model, data = Text(implementation).eval(), batch(12)
    anatomy = examine(model, tuple(part[:3] for part in data))
    halves = [tuple(part[:5] for part in data), tuple(part[5:] for part in data)]
    network = QuantizedNetwork(model, anatomy.layers, halves)
    with torch.inference_mode():
        expected = model(*data)
    torch.testing.assert_close(network(data), expected, rtol=1e-4, atol=1e-5)
    for site in network.sites:
        network.apply(BitAssignment({site: 1}))
        assert float((network(data) - expected).abs().max()) > 1e-6, site
    network.apply(BitAssignment({}))
    torch.testing.assert_close(network(data), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bits", [3, 8])
def test_both_implementations_are_quantised_alike(bits: int) -> None:
    found = []
    for implementation, names in (("eager", ("matmul", "matmul_1")), ("sdpa", ("scores", "context"))):
        model, data = Text(implementation).eval(), batch(12)
        network = QuantizedNetwork(model, examine(model, data).layers, [data])
        sites = [site for site in network.sites if site.rpartition(".")[0].endswith(names)]
        assert len(sites) == 4 * BLOCKS
        network.apply(BitAssignment(dict.fromkeys(sites, bits)))
        found.append(network(data))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


def test_gpt2_multiplies_by_parameters() -> None:
    """Its linear layers are ``torch.addmm`` of modules of its own; its table of tokens embeds and projects."""

    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            config = transformers.GPT2Config(vocab_size=50, n_positions=20, n_embd=WIDTH, n_layer=1, n_head=HEADS)
            self.gpt = transformers.GPT2LMHeadModel(config)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.gpt(tokens, use_cache=False).logits[:, -1]

    model, (tokens, _) = Language().eval(), batch(4)
    anatomy = examine(model, tokens)
    assert anatomy.left == ()
    found = {layer.name.rpartition("transformer.")[2]: layer.macs for layer in anatomy.layers if layer.kind == "linear"}
    assert found == {
        "h.0.attn.c_attn.linear": TOKENS * 3 * WIDTH * WIDTH,
        "h.0.attn.c_proj.linear": TOKENS * WIDTH * WIDTH,
        "h.0.mlp.c_fc.linear": TOKENS * 4 * WIDTH * WIDTH,
        "h.0.mlp.c_proj.linear": TOKENS * 4 * WIDTH * WIDTH,
        "gpt.lm_head": TOKENS * WIDTH * 50,
    }
    network = QuantizedNetwork(model, anatomy.layers, [tokens])
    torch.testing.assert_close(network(tokens), model(tokens).detach(), rtol=1e-4, atol=1e-5)
