"""Batch norms folded into the weights before them, which are quantised as they will run: ``batch_norm: folded``.

Notation, per kernel: w weight, b bias of the layer or 0, s its step; γ, β, μ, σ², ε of the batch norm that reads its output.

::

    r = γ / √(σ² + ε)      w ← r·w      s ← r·s      β ← β + r·(b − μ)      b ← 0      γ ← 1      μ ← 0      σ² ← 1 − ε

(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
§3.2, with the statistics of the float network throughout.) The modules stay: what was a batch norm adds β and nothing else,
so that the state of a folded network loads into one that is not. Where γ is negative the grid is mirrored, and codes are
the same as before.
"""

from __future__ import annotations

from typing import Any

import torch

from qsearch.quantize.folding import norms_behind
from qsearch.quantize.modules import head
from qsearch.quantize.unfolding import SAMPLES, unfold
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork


@torch.inference_mode(False)
@torch.no_grad()
def fold(network: TrainableNetwork, lessons: Lessons) -> tuple[str, ...]:
    """Fold what can be folded, in place; folding twice changes nothing.

    Layers that run more than once, and those whose output something else reads too, keep their batch norms as they are.

    Args:
        network: on the processor.
        lessons: what it was made of.

    Returns:
        The layers with folded batch norms.
    """
    example = head(lessons.data.inputs, SAMPLES)
    names = tuple(layer.name for layer in lessons.layers if layer.weighted)
    found = norms_behind(unfold(lessons.model(), example).network, example, names)
    for layer, norm in found.items():
        _fold(network, layer, norm)
    return tuple(found)


def _fold(network: TrainableNetwork, layer: str, norm: str) -> None:
    modules: dict[str, Any] = dict(network.model.named_modules())
    module, behind = modules[layer], modules[norm]
    ratio = behind.weight / (behind.running_var + behind.eps).sqrt()
    weight = network.float_weight(layer)
    weight.mul_(ratio.view(-1, *[1] * (weight.dim() - 1)))
    if f"{layer}.weight" in network.weights:
        network.weights[f"{layer}.weight"].rescale(ratio)
    bias = 0.0 if module.bias is None else module.bias.clone()
    behind.bias.add_(ratio * (bias - behind.running_mean))
    behind.weight.fill_(1).requires_grad_(False)
    behind.running_mean.zero_()
    behind.running_var.fill_(1 - behind.eps)
    if module.bias is not None:
        module.bias.zero_().requires_grad_(False)
