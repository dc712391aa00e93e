"""Products of two activations, and the attention that is made of two of them.

Notation, batches and heads in front:

=======  ==========================================================
q        queries, (…, L, D)
k, v     keys (…, S, D) and values (…, S, E)
mask     (…, L, S), added to the scores; −∞ where nothing is to be seen
=======  ==========================================================

::

    scores = q · kᵀ · scale + mask        weights = softmax(scores)        context = weights · v

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, eq. 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MatrixProduct(nn.Module):
    """The product of two activations, (…, M, K) · (…, K, N), with two inputs that can be quantised."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """``torch.matmul(a, b)``; call it with both by position."""
        return torch.matmul(a, b)


def attend(
    scores: nn.Module, context: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Context (…, L, E) and weights (…, L, S) by two matrix products.

    Where the mask hides everything from a query, its weights are zero, as in ``scaled_dot_product_attention``.
    """
    found = scores(q, k.transpose(-2, -1)) * scale
    weights = torch.softmax(found if mask is None else found + mask, -1)
    if mask is not None:
        weights = weights.masked_fill((mask == -torch.inf).all(-1, keepdim=True), 0.0)
    return context(weights, v), weights


def added(mask: Tensor | None, kind: torch.dtype, *, shown: bool) -> Tensor | None:
    """A mask as it is added to scores.

    Args:
        mask: booleans, or numbers, which are taken as they are.
        kind: type of the scores.
        shown: what a boolean says of its position when it is true; torch has it both ways.
    """
    if mask is None or mask.dtype != torch.bool:
        return mask
    hidden = ~mask if shown else mask
    return torch.zeros(mask.shape, dtype=kind, device=mask.device).masked_fill(hidden, -torch.inf)


def scaled_dot_product_attention(
    scores: nn.Module,
    context: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` by two matrix products; dropout is left out."""
    mask = added(attn_mask, query.dtype, shown=True)
    if is_causal:
        causal = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        mask = added(causal, query.dtype, shown=True)
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[-3] // part.shape[-3], -3) for part in (key, value))
    return attend(scores, context, query, key, value, mask, query.shape[-1] ** -0.5 if scale is None else scale)[0]
