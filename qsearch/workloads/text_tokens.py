"""Texts as tensors.

Notation: N texts of T tokens. A sample is an int64 tensor of shape (2, T): the tokens' indices, and the attention mask,
1 on what was in the text and 0 on padding. A network gets the two as two inputs, (N, T) each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from qsearch.errors import DataError


def encode(tokenizer: Any, texts: Sequence[str], length: int, positions: float) -> Tensor:
    """Texts, cut and padded on the right to ``length`` tokens: int64 of shape (N, 2, T).

    Args:
        positions: tokens that the network takes at most.

    Raises:
        DataError: ``length`` is more.
    """
    if length > positions:
        raise DataError("option 'length' must be within what the model takes", got=length, fix=f"at most {positions}")
    found = tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=length,
        padding_side="right",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return torch.stack([found["input_ids"], found["attention_mask"]], dim=1)


def uncut(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The tokens of each text, however many: two texts are one to a network where these agree."""
    return [tuple(tokens) for tokens in tokenizer(list(texts))["input_ids"]]


def positions_of(model: Any, tokenizer: Any) -> float:
    """Tokens that a network of ``transformers`` takes at most; infinity where neither it nor its tokeniser says."""
    most = getattr(model.config, "max_position_embeddings", None) or 0
    limits: list[float] = [tokenizer.model_max_length, most if most > 0 else math.inf]
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:  # RoBERTa and its kin count from behind it
            limits.append(module.num_embeddings - padding - 1)
    return min(limits)


def longest(tokenizer: Any, texts: Sequence[str], positions: float) -> int:
    """Tokens that 99 % of the texts need, rounded up to a multiple of 8; at most ``positions``."""
    counts = sorted(map(len, uncut(tokenizer, texts)))
    needed = counts[math.ceil(0.99 * len(counts)) - 1]
    return int(min(math.ceil(needed / 8) * 8, positions))


def as_two_inputs(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of samples (2, T) as one of ``((indices, mask), target)`` batches."""
    return DataLoader(loader.dataset, batch_size=loader.batch_size, collate_fn=_collate, generator=torch.Generator())


def _collate(samples: list[Any]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    inputs, targets = default_collate(samples)
    return (inputs[:, 0], inputs[:, 1]), targets
