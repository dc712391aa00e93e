"""``OutputErrors``: how one site's choices change a layer's output, in the direction of given gradients.

Notation: see :mod:`qsearch.sensitivity.fisher`; K channels of the layer's output, C choices of the site. Per sample and
channel, with sums over positions E_c = Σ g·(y_c − y), B = Σ g·y and G = Σ g,

    d(c) = α_c·E_c + (α_c − 1)·B + β_c·G,        α_c² = σ² / σ_c²,    β_c = μ − α_c·μ_c

where μ, σ² are moments of y over all samples and positions: α and β may be known after all data has passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.assignment import FLOAT_BITS
from qsearch.protocols import FloatNetwork
from qsearch.sensitivity.floating import changed_arguments
from qsearch.space import Site

VANISHING = 1e-4
"""A channel whose variance falls below this share of its float one is corrected in its mean only: it is pruned."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Sums = tuple[Tensor, Tensor, Tensor]
"""E, shape (n, K, C), with B and G, shape (n, K)."""


class OutputErrors:
    """Gathers, run by run of a layer, what its site's choices do to its output.

    Args:
        network: the float network.
        site: a weight or an input.
    """

    def __init__(self, network: FloatNetwork, site: Site) -> None:
        self._network, self._site = network, site
        self._module = network.layers[site.layer]
        self._correction = network.correction(site.layer)
        self._moments = [_Moments() for _ in site.choices]
        self._float_moments = _Moments()
        self._runs: list[list[Sums]] = []
        self._rows: list[Sums] = []

    @torch.no_grad()
    def observe(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor, gradients: Sequence[Tensor]
    ) -> None:
        """Take in one run of the layer.

        Args:
            args, kwargs: what it was called with.
            output: y, samples first.
            gradients: one or several g, each of the shape of ``output``.
        """
        y = self._channels(output)
        g = [self._channels(gradient) for gradient in gradients]
        self._float_moments.add(y)
        errors: list[list[Tensor]] = [[] for _ in g]
        for bits, moments in zip(self._site.choices, self._moments, strict=True):
            quantized = y if bits == FLOAT_BITS else self._channels(self._run(bits, args, kwargs))
            moments.add(quantized)
            for column, gradient in zip(errors, g, strict=True):
                column.append((gradient * (quantized - y)).sum(1))
        self._runs.append(
            [
                (torch.stack(column, 2), (gradient * y).sum(1), gradient.sum(1))
                for column, gradient in zip(errors, g, strict=True)
            ]
        )

    def end_batch(self, samples: int) -> None:
        """Add up the layer's runs on a batch: one row per sample and gradient."""
        for runs in zip(*self._runs, strict=True):
            parts = zip(*(_per_sample(run, samples) for run in runs), strict=True)
            error, product, total = (torch.stack(part).sum(0) for part in parts)
            self._rows.append((error, product, total))
        self._runs.clear()

    def changes(self) -> NDArray[np.float64] | None:
        """d of each row, shape (rows, kernels, C), or (rows, 1, C) where kernels have no bits of their own.

        None if the layer's output changes nothing in that of the network.
        """
        if not self._rows:
            return None
        error, product, total = (torch.cat(part).double() for part in zip(*self._rows, strict=True))
        gain, offset = self._gain_and_offset()
        change = gain * error + (gain - 1) * product[:, :, None] + offset * total[:, :, None]
        by_kernel = self._site.kernels == change.shape[1] and not isinstance(self._module, nn.Embedding)
        return np.asarray((change if by_kernel else change.sum(1, keepdim=True)).numpy(), dtype=np.float64)

    def _gain_and_offset(self) -> tuple[Tensor, Tensor]:
        """α and β, shape (K, C)."""
        mean, variance = (value[:, None] for value in self._float_moments.values())
        means, variances = (torch.stack(v, 1) for v in zip(*(m.values() for m in self._moments), strict=True))
        gain = torch.ones_like(means)
        if self._correction == "none":
            return gain, torch.zeros_like(means)
        if self._correction == "moments":
            sound = (variances >= VANISHING * variance) & (variance > 0)
            gain = torch.where(sound, (variance / variances.clamp_min(1e-300)).sqrt(), gain)
        return gain, mean - gain * means

    def _run(self, bits: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """y_c: the layer alone, on its float input."""
        name = self._site.name
        if self._site.role == "weight":
            with _weight(self._module, self._network.quantized_weight(name, bits)):
                return _forward(self._module, args, kwargs)
        quantize = partial(self._network.quantized_input, name, bits)
        return _forward(self._module, *changed_arguments(self._site, quantize, args, kwargs))

    def _channels(self, x: Tensor) -> Tensor:
        """A layer's output as (samples, positions, K)."""
        moved = x.movedim(1, -1) if isinstance(self._module, CONVOLUTIONS) else x
        return moved.reshape(len(moved), -1, moved.shape[-1])


class _Moments:
    """Mean and variance of each channel, from sums."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in x, shape (samples, positions, K)."""
        flat = x.flatten(0, 1)
        self._count += len(flat)
        self._sum = self._sum + flat.sum(0, dtype=torch.float64)
        self._squares = self._squares + flat.double().square().sum(0)

    def values(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, shape (K,) each."""
        mean = self._sum / self._count
        return mean, (self._squares / self._count - mean.square()).clamp_min(0)


def _per_sample(run: Sums, samples: int) -> Sums:
    """Sums by sample, from those by what a layer took as samples.

    A layer may run on k vectors per sample, folded into its first extent. Where that extent is no multiple of the
    samples, they share what it gives: random signs make parts of different samples independent, so that mean squares stay.
    """
    rows = len(run[0])
    if rows % samples == 0:
        error, product, total = (part.reshape(samples, rows // samples, *part.shape[1:]).sum(1) for part in run)
    else:
        error, product, total = (part.sum(0).expand(samples, *part.shape[1:]) / samples**0.5 for part in run)
    return error, product, total


def _forward(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Run a layer past its hooks."""
    found: Tensor = module.forward(*args, **kwargs)
    return found


@contextmanager
def _weight(module: nn.Module, weight: Tensor) -> Iterator[None]:
    """Inside, the layer has another weight."""
    before = module.weight
    assert isinstance(before, nn.Parameter)
    original = before.data
    before.data = weight
    try:
        yield
    finally:
        before.data = original
