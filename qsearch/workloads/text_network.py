"""A text encoder with a linear head on the mean of its outputs.

Notation: N texts of T tokens, width W, C classes; h the encoder's last hidden states, (N, T, W); m the attention mask,
(N, T); x the pooled features, (N, W)::

    x = Σ_t m_t h_t / Σ_t m_t        logits = x Aᵀ + b

The mean over the tokens is what sentence encoders are trained with (N. Reimers and I. Gurevych, *Sentence-BERT*, EMNLP
2019).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BATCH = 64
"""Texts in a forward pass."""


class PooledClassifier(nn.Module):
    """An encoder of ``transformers`` with a linear head: indices and mask, (N, T) each → logits (N, C).

    Args:
        model: the encoder. A pooler, which some have behind their last layer, is taken out: its output has no use here.
        classes: C.
    """

    def __init__(self, model: Any, classes: int) -> None:
        super().__init__()
        if hasattr(model, "pooler"):
            model.pooler = None
        self.model = model
        self.head = nn.Linear(model.config.hidden_size, classes)

    def forward(self, indices: Tensor, mask: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(indices, mask))
        return logits

    def features(self, indices: Tensor, mask: Tensor) -> Tensor:
        """x, shape (N, W)."""
        hidden = self.model(input_ids=indices, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        pooled: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return pooled


@torch.no_grad()
def pooled_features(network: PooledClassifier, inputs: Tensor) -> Tensor:
    """Features of samples (N, 2, T), shape (N, W). Texts of like length go together, without most of their padding."""
    features = torch.empty(len(inputs), network.head.in_features)
    lengths = inputs[:, 1].sum(1)
    for rows in torch.split(lengths.argsort(stable=True), BATCH):
        batch = inputs[rows, :, : int(lengths[rows].max())]
        features[rows] = network.features(batch[:, 0], batch[:, 1])
    return features
