"""Surrogate gradients: what stands in for the derivative of a spike.

Notation: z = u/θ − 1, a neuron's state beside its threshold; S, its spikes in a step.

==============  =======================================  ================================================================
name            ∂S/∂z                                    source
==============  =======================================  ================================================================
triangle        γ · max(0, 1 − |z|)                      Bellec et al., NeurIPS 2018; Datta et al., 2107.11979
arctan          α/2 / (1 + (π/2·α·z)²)                   Fang et al., ICCV 2021
fast-sigmoid    1 / (1 + k·|z|)²                         Zenke and Ganguli, 2018
==============  =======================================  ================================================================

Where a neuron may spike several times in a step, S grows by one with every θ, and its derivative above the threshold is one.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

SurrogateName = Literal["triangle", "arctan", "fast-sigmoid"]

GAMMA, ALPHA, SLOPE = 1.0, 2.0, 5.0
"""γ, α and k of the table."""


def derivative(name: SurrogateName, z: Tensor) -> Tensor:
    """∂S/∂z of the table, of the shape of z."""
    if name == "triangle":
        return GAMMA * (1 - z.abs()).clamp_min(0)
    if name == "arctan":
        return ALPHA / 2 / (1 + (math.pi / 2 * ALPHA * z).square())
    return 1 / (1 + SLOPE * z.abs()).square()


class _Spikes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, spikes: Tensor, name: SurrogateName, several: bool) -> Tensor:
        ctx.save_for_backward(z)
        ctx.name, ctx.several = name, several
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (z,) = ctx.saved_tensors
        slope = derivative(ctx.name, z)
        if ctx.several:
            slope = slope.masked_fill(z >= 0, 1)
        return gradients[0] * slope, None, None, None


def spikes_of(state: Tensor, threshold: Tensor, name: SurrogateName, *, several: bool) -> Tensor:
    """S = [u ≥ θ], or ⌊u/θ⌋ of u ≥ 0 where a neuron may spike several times; with the surrogate's gradient.

    Args:
        state, threshold: u and θ > 0, in the same units; whole numbers are compared as such.
    """
    with torch.no_grad():  # written as numbers, for conversion from truth values would take most of a step's time
        spikes = torch.empty_like(state)
        if several:
            torch.div(state, threshold, out=spikes).floor_().clamp_min_(0)
        else:
            torch.ge(state, threshold, out=spikes)
    if not (torch.is_grad_enabled() and (state.requires_grad or threshold.requires_grad)):
        return spikes
    found: Tensor = _Spikes.apply(state / threshold - 1, spikes, name, several)  # type: ignore[no-untyped-call]
    return found
