"""Traces of a Hessian by Hutchinson's estimator, to a requested standard error.

Notation

======  ==================================================================================================
H       Hessian of a loss with respect to several leaves together; H_ii its block of leaf i
v       Rademacher probe, ±1 with equal probability, of the shape of all leaves
T       v_iᵀ (Hv)_i, with mean tr(H_ii)
m       number of probes
======  ==================================================================================================

    E[v ⊙ Hv] = diag(H),        Var(T) = 2 (‖H_ii‖²_F − Σ_a H_aa²) + Σ_{j≠i} ‖H_ij‖²_F

(Hutchinson 1990; Avron and Toledo, J. ACM 58, 2011; the second sum is what other leaves in the same probe add.) A
diagonal H gives its trace in one probe. One product gives T of every leaf, and of every kernel of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def rademacher(like: Tensor, generator: torch.Generator) -> Tensor:
    """v: ±1 of the shape and type of a tensor."""
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * drawn - 1).to(device=like.device, dtype=like.dtype)


def diagonal_probe(
    gradients: Sequence[Tensor | None], leaves: Sequence[Tensor], generator: torch.Generator
) -> list[Tensor | None]:
    """v ⊙ Hv for each leaf, from one probe of all of them: one backward pass through the graph of the gradients.

    Args:
        gradients: of the loss with respect to each leaf, with their graph, which is kept; None for leaves that the
            loss does not depend on.

    Returns:
        one tensor per leaf, of its shape; None where its row of H vanishes.

    Raises:
        RuntimeError: the graph cannot be differentiated.
    """
    probes = [rademacher(leaf, generator) for leaf in leaves]
    usable = [(g, v) for g, v in zip(gradients, probes, strict=True) if g is not None and g.requires_grad]
    if not usable:
        return [None] * len(leaves)
    outputs, vectors = zip(*usable, strict=True)
    products = torch.autograd.grad(outputs, leaves, vectors, retain_graph=True, allow_unused=True)
    return [None if hv is None else v * hv for v, hv in zip(probes, products, strict=True)]


@dataclass(frozen=True)
class Trace:
    """An estimate of a trace.

    Attributes:
        parts: mean over probes, shape (kernels,); their sum is the trace.
        standard_error: of the sum.
        probes: m.
    """

    parts: Floats
    standard_error: float
    probes: int

    @property
    def value(self) -> float:
        return float(self.parts.sum())

    def within(self, relative: float) -> bool:
        """Whether the standard error is at most this share of the trace's magnitude."""
        return self.standard_error <= relative * abs(self.value)


def estimate(
    draw: Callable[[int], Sequence[Mapping[str, Floats]]], relative: float, *, probes: int, most: int
) -> dict[str, Trace]:
    """Traces from as many probes as they need.

    Args:
        draw: a number of independent probes → T of each kernel of each site, shape (kernels,), for every probe.
        relative: standard error asked for, relative to each trace.
        probes: in a round, at least 2; rounds go on until all traces are within ``relative``.
        most: probes at which it ends anyway.
    """
    drawn: list[Mapping[str, Floats]] = []
    found: dict[str, Trace] = {}
    while len(drawn) < most:
        drawn.extend(draw(min(probes, most - len(drawn))))
        found = {name: _trace(np.stack([probe[name] for probe in drawn])) for name in drawn[0]}
        if all(trace.within(relative) for trace in found.values()):
            break
    return found


def _trace(drawn: Floats) -> Trace:
    """From T of every probe and kernel, shape (m, kernels)."""
    count = len(drawn)
    spread = float(drawn.sum(1).std(ddof=1)) if count > 1 else float("inf")
    return Trace(drawn.mean(0), spread / count**0.5, count)
