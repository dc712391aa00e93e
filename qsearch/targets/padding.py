"""Zeros around a feature map, as its sizes before and after a convolution tell."""

from __future__ import annotations

from qsearch.layers import Layer


def padding(layer: Layer) -> list[tuple[int, int]]:
    """Zeros before and after each extent of a convolution's input: one more behind where they are odd."""
    extents = zip(layer.output_size, layer.stride, layer.kernel, layer.input_size, strict=True)
    total = [max(0, (out - 1) * stride + kernel - size) for out, stride, kernel, size in extents]
    return [(zeros // 2, zeros - zeros // 2) for zeros in total]
