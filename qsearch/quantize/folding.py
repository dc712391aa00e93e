"""Batch norms right behind layers, and what they can take over from them.

Notation: r for each kernel; y output of the layer, without its bias b.

A layer whose kernels are r times as large gives r·y. The batch norm's γ·(y + b − μ)/σ + β is the same again with b·r, μ·r and
γ/r, which are floats that a file stores anyway; so scales that are stored in few bits are made good, with r = s′/s for s the
scale and s′ the one that is stored. What is left is the rounding of these, as of any arithmetic.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.quantize.modules import Inputs, forward

CLOSE = 1e-4
"""Relative difference below which outputs are the same: the ratios tried are powers of two, which round nothing."""


@torch.no_grad()
def norms_behind(network: nn.Module, example: Inputs, layers: tuple[str, ...]) -> dict[str, str]:
    """Layer → the batch norm that reads its output, where nothing else does.

    Args:
        layers: names of layers with a weight; others, and those that run more than once, are not in the answer.
    """
    found = {layer: norm for layer, norm in _adjacent(network, example, layers).items() if _fits(network, layer, norm)}
    expected = forward(network, example)
    return {layer: norm for layer, norm in found.items() if _absorbs(network, layer, norm, example, expected)}


@torch.no_grad()
def absorb(network: nn.Module, layer: str, norm: str, ratio: Tensor) -> None:
    """Have a batch norm take out r, shape (K,), from a layer whose weight is too large by it; the weight is left as it is."""
    modules: dict[str, Any] = dict(network.named_modules())
    bias: Tensor | None = getattr(modules[layer], "bias", None)
    if bias is not None:
        bias.mul_(ratio)
    modules[norm].running_mean.mul_(ratio)
    modules[norm].weight.div_(ratio)


def _adjacent(network: nn.Module, example: Inputs, layers: tuple[str, ...]) -> dict[str, str]:
    """Layer → batch norm that is given the very tensor that the layer gave, both in the only run of theirs."""
    modules = dict(network.named_modules())
    norms = [name for name, module in modules.items() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    given: dict[str, list[Tensor]] = {name: [] for name in layers}
    read: dict[str, list[Tensor]] = {name: [] for name in norms}
    hooks = [
        modules[name].register_forward_hook(lambda _, __, output, name=name: given[name].append(output))
        for name in layers
    ]
    hooks += [
        modules[name].register_forward_pre_hook(lambda _, args, name=name: read[name].append(args[0])) for name in norms
    ]
    try:
        forward(network, example)
    finally:
        for hook in hooks:
            hook.remove()
    once = {name: tensors[0] for name, tensors in read.items() if len(tensors) == 1}
    return {
        layer: norm
        for layer, tensors in given.items()
        for norm, tensor in once.items()
        if len(tensors) == 1 and tensor is tensors[0]
    }


def _fits(network: nn.Module, layer: str, norm: str) -> bool:
    """Whether a batch norm has a weight and a mean for each kernel."""
    modules: dict[str, Any] = dict(network.named_modules())
    behind, kernels = modules[norm], len(modules[layer].weight)
    return behind.affine and behind.running_mean is not None and len(behind.weight) == kernels


def _absorbs(network: nn.Module, layer: str, norm: str, example: Inputs, expected: Tensor) -> bool:
    """Whether outputs stay when a weight is doubled here and there, and the batch norm takes it out.

    They do not if something else reads the layer's output, or the weight or the batch norm is another's too.
    """
    tried = copy.deepcopy(network)
    weight: Tensor = dict(tried.named_modules())[layer].weight
    ratio = 2.0 ** (torch.arange(len(weight)) % 3).to(weight.dtype)
    weight.mul_(ratio.reshape(-1, *[1] * (weight.dim() - 1)))
    absorb(tried, layer, norm, ratio)
    return float((forward(tried, example) - expected).norm()) <= CLOSE * float(expected.norm())
