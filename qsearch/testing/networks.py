"""Geometry of networks that hardware papers report on, without weights and without torch: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator

from qsearch.layers import Layer, LayerKind

_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Per stage of inverted residuals: expansion t, output channels c, blocks n, stride s of the first block
(Sandler et al., CVPR 2018, table 2)."""


def mobilenet_v2() -> tuple[Layer, ...]:
    """The 53 layers of MobileNetV2 at width 1 on images of 224 × 224, in the order in which they run.

    300.8 M multiply-accumulates and 3.47 M weights, batch normalisation and biases not counted. Names are those of
    torchvision's module of the same network. A block whose input is added to its output keeps it ``alive`` while its
    later layers run.
    """
    return tuple(_mobilenet_v2())


def resnet20() -> tuple[Layer, ...]:
    """The 20 layers of He et al. 2016 for CIFAR-10, with shortcuts that have no weights, in the order in which they run.

    40.6 M multiply-accumulates, 268 k weights. A block's input is kept ``alive`` while its second layer
    runs.
    """
    layers, channels, size = [_convolution("conv1", 3, 16, size=32, kernel=3)], 16, 32
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(3):
            stride = 2 if stage > 1 and block == 0 else 1
            kept, out = channels * size**2, size // stride
            name = f"layer{stage}.{block}"
            layers.append(_convolution(f"{name}.conv1", channels, width, size=size, kernel=3, stride=stride))
            layers.append(_convolution(f"{name}.conv2", width, width, size=out, kernel=3, alive=kept))
            channels, size = width, out
    return (*layers, Layer("linear", "linear", 64, 10, bias=True))


def minilm(tokens: int = 128) -> tuple[Layer, ...]:
    """The 6 layers of MiniLM-L6-H384 (Wang et al., NeurIPS 2020; a BERT with 12 heads) on one sequence, as 51 layers.

    1.43 G multiply-accumulates on 128 tokens, 22.5 M weights, of which 11.9 M in embeddings; layer normalisation, biases
    and the pooler are not counted. Names are those of transformers' module of the same network; ``scores`` is Q·Kᵀ of
    the attention, ``context`` softmax(·)·V, of 12 heads each.
    """
    return tuple(_minilm(tokens, hidden=384, heads=12))


def _minilm(tokens: int, hidden: int, heads: int) -> Iterator[Layer]:
    for name, rows in (("word", 30522), ("position", 512), ("token_type", 2)):
        yield _tokens(f"embeddings.{name}_embeddings", "embedding", rows, hidden, tokens)
    kept, width = tokens * hidden, hidden // heads
    for block in range(6):
        name = f"encoder.layer.{block}"
        for place, part in enumerate(("query", "key", "value")):  # what came before waits for the scores
            yield _tokens(f"{name}.attention.self.{part}", "linear", hidden, hidden, tokens, alive=place * kept)
        yield _tokens(f"{name}.attention.self.scores", "matmul", width, tokens, tokens, uses=heads, alive=2 * kept)
        yield _tokens(f"{name}.attention.self.context", "matmul", tokens, width, tokens, uses=heads, alive=kept)
        yield _tokens(f"{name}.attention.output.dense", "linear", hidden, hidden, tokens, alive=kept)
        yield _tokens(f"{name}.intermediate.dense", "linear", hidden, 4 * hidden, tokens)
        yield _tokens(f"{name}.output.dense", "linear", 4 * hidden, hidden, tokens, alive=kept)


def _tokens(
    name: str, kind: LayerKind, in_channels: int, out_channels: int, tokens: int, uses: int = 1, alive: int = 0
) -> Layer:
    """A layer on a sequence."""
    return Layer(
        name,
        kind,
        in_channels,
        out_channels,
        input_size=(tokens,),
        output_size=(tokens,),
        uses=uses,
        bias=kind == "linear",
        alive=alive,
    )


def _mobilenet_v2() -> Iterator[Layer]:
    yield _convolution("features.0.0", 3, 32, size=224, kernel=3, stride=2)
    channels, size, block = 32, 112, 0
    for expansion, out_channels, blocks, first_stride in _STAGES:
        for position in range(blocks):
            block += 1
            stride = first_stride if position == 0 else 1
            yield from _inverted_residual(f"features.{block}.conv", channels, out_channels, size, expansion, stride)
            channels, size = out_channels, size // stride
    yield _convolution("features.18.0", 320, 1280, size=7)
    yield Layer("classifier.1", "linear", 1280, 1000, bias=True)


def _inverted_residual(
    name: str, in_channels: int, out_channels: int, size: int, expansion: int, stride: int
) -> Iterator[Layer]:
    """Expand (not where t = 1), depthwise, project."""
    hidden = in_channels * expansion
    kept = in_channels * size**2 if stride == 1 and in_channels == out_channels else 0
    depthwise = 0
    if expansion != 1:
        yield _convolution(f"{name}.0.0", in_channels, hidden, size=size)
        depthwise = 1
    yield _convolution(
        f"{name}.{depthwise}.0", hidden, hidden, size=size, kernel=3, stride=stride, groups=hidden, alive=kept
    )
    yield _convolution(f"{name}.{depthwise + 1}", hidden, out_channels, size=size // stride, alive=kept)


def _convolution(
    name: str,
    in_channels: int,
    out_channels: int,
    *,
    size: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    alive: int = 0,
) -> Layer:
    """A convolution of a square image with padding that keeps its size, divided by the stride."""
    return Layer(
        name,
        "conv",
        in_channels,
        out_channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        groups=groups,
        input_size=(size, size),
        output_size=(size // stride, size // stride),
        alive=alive,
    )
