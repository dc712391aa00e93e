"""``nn.MultiheadAttention`` in the open: its four linear layers and its two products as modules of their own.

Notation: B samples, H heads, L queries, S keys, D numbers per head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qsearch.quantize.products import MatrixProduct, added, attend


class OpenAttention(nn.Module):
    """What an ``nn.MultiheadAttention`` computes in evaluation, by modules that can be quantised.

    ``nn.TransformerEncoderLayer`` reads ``in_proj_bias`` and takes its fused path where there is one, which would pass
    the modules by: there is none here.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads = original.embed_dim, original.num_heads
        self.batch_first = original.batch_first
        self.in_proj_bias = self.in_proj_weight = None
        self._qkv_same_embed_dim = False
        weights, biases = _projections(original)
        self.q, self.k, self.v = (_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.scores, self.context = MatrixProduct(), MatrixProduct()
        self.out_proj = _linear(original.out_proj.weight, original.out_proj.bias)
        self.eval()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``; ``is_causal`` is a hint there too, and changes nothing."""
        q, k, v = (
            self._heads(project(x)) for project, x in ((self.q, query), (self.k, key), (self.v, value))
        )  # (B, H, L or S, D)
        mask = self._mask(attn_mask, key_padding_mask, q)
        context, weights = attend(self.scores, self.context, q, k, v, mask, q.shape[-1] ** -0.5)
        output: Tensor = self.out_proj(self._joined(context, query.dim()))
        if not need_weights:
            return output, None
        weights = weights.mean(1) if average_attn_weights else weights
        return output, weights if query.dim() == 3 else weights[0]

    def _heads(self, x: Tensor) -> Tensor:
        """(L, H·D), (B, L, H·D) or (L, B, H·D) → (B, H, L, D)."""
        if x.dim() == 2:
            x = x[None]
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _joined(self, x: Tensor, extents: int) -> Tensor:
        """(B, H, L, D) → the layout of a query of so many extents."""
        x = x.transpose(1, 2).flatten(2)
        if extents == 2:
            return x[0]
        return x if self.batch_first else x.transpose(0, 1)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks in one, to be broadcast to (B, H, L, S)."""
        mask, hidden = (added(part, q.dtype, shown=False) for part in (attn_mask, padding))
        if mask is not None and mask.dim() == 3:  # (B·H, L, S)
            mask = mask.reshape(len(q), self.num_heads, *mask.shape[1:])
        if hidden is None:
            return mask
        hidden = hidden.reshape(len(q), 1, 1, -1)
        return hidden if mask is None else mask + hidden


def open_attentions(network: nn.Module) -> list[str]:
    """Replace every attention within ``network`` that can be; the names of those that were."""
    names, replaced = [], dict[nn.Module, OpenAttention]()
    for name, module in network.named_modules():
        if name and isinstance(module, nn.MultiheadAttention) and why_closed(module) is None:
            names.append(name)
            replaced[module] = OpenAttention(module)
    for parent in list(network.modules()):
        for key, child in parent._modules.items():
            if child in replaced:
                parent._modules[key] = replaced[child]
    return names


def avoid_nested_tensors(network: nn.Module) -> None:
    """Let the encoders of a network compute on whole tensors: hooks on layers cannot read nested ones."""
    for module in network.modules():
        if isinstance(module, nn.TransformerEncoder) and getattr(module, "use_nested_tensor", False):
            module.use_nested_tensor = False
            module.layers[-1].register_forward_hook(_without_padding, with_kwargs=True)


def _without_padding(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """The output as nested tensors give it: zero where a mask hides what stands at the ends of sequences."""
    mask = kwargs.get("src_key_padding_mask")
    if mask is None or kwargs.get("src_mask") is not None or output.dim() != 3:
        return output
    hidden = mask if mask.dtype == torch.bool else mask == -torch.inf
    at_the_ends = ~(hidden[:, :-1] & ~hidden[:, 1:]).any()  # of all sequences, or torch takes no nested tensor
    return output.masked_fill(hidden[..., None] & at_the_ends, 0.0)


def why_closed(module: nn.MultiheadAttention) -> str | None:
    """Why an attention must stay as it is; None where it need not."""
    if type(module).forward is not nn.MultiheadAttention.forward or "forward" in vars(module):
        return "its class has a forward of its own"
    if module._forward_hooks or module._forward_pre_hooks:
        return "it has hooks of its own"
    if module.bias_k is not None or module.add_zero_attn:
        return "it adds keys and values of its own (add_bias_kv, add_zero_attn)"
    return None


def _projections(original: nn.MultiheadAttention) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
    """Weights of q, k and v, and their biases."""
    if original.in_proj_weight is not None:
        weights = original.in_proj_weight.chunk(3)
    else:
        weights = (original.q_proj_weight, original.k_proj_weight, original.v_proj_weight)
    return weights, (None,) * 3 if original.in_proj_bias is None else original.in_proj_bias.chunk(3)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer with copies of a weight and a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer
