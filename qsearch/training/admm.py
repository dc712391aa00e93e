"""The alternating direction method of multipliers (ADMM), for a loss under constraints that are easy to project on.

Notation, per weight; a network's weights are taken together:

=======  ==============================================================================================
W        the weight that the loss f is worked out with
Z        its counterpart within the constraint's set S
U        scaled dual: the sum of what W and Z have differed by
Π        projection onto S
ρ        how much a difference of W and Z costs
r        primal residual, ‖W − Z‖ / ‖W‖ over all weights
=======  ==============================================================================================

::

    W ← argmin f(W) + Σ ρ/2·‖W − Z + U‖²          Z ← Π(W + U)          U ← U + W − Z

so that the loss is trained towards a target Z − U that moves every time. Where ρ grows by a factor, U shrinks by it, for
what it scales is the dual ρ·U (Boyd et al., "Distributed Optimization and Statistical Learning via ADMM", 2011, §3.4.1).
For pruning and quantisation, whose sets are not convex, see Ren et al., "ADMM-NN", ASPLOS 2019, §3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from qsearch.registry import PluginOptions

Weights: TypeAlias = Mapping[str, Tensor]
"""Name → a weight; all mappings of one run have the same names."""

Projection: TypeAlias = Callable[[Tensor], Tensor]
"""Π of one weight."""

Minimise: TypeAlias = Callable[[Weights, float], Weights]
"""The first step: targets Z − U and ρ → W. It may start from where it last ended, and need not go all the way."""


class AdmmOptions(PluginOptions):
    """How ρ grows, and when to stop.

    An iteration by gradient steps moves W to its target by about rate·ρ·steps, as a share of the way, where momentum does not
    speed it: few steps ask for a larger ρ, or for more epochs.

    Attributes:
        rho: ρ of the first iteration.
        growth: what ρ is multiplied by.
        every: iterations between two such growths.
        iterations: at most so many; none leaves a single projection, which is one-shot magnitude pruning.
        tolerance: the residual below which there are no more.
        rate: learning rate of the first step, which does not fall; that of the training if None. Dense networks are at
            their best already and want a lower one than the retraining of a few weights.
    """

    rho: float = Field(default=1e-3, gt=0)
    growth: float = Field(default=10.0, ge=1)
    every: int = Field(default=3, ge=1)
    iterations: int = Field(default=9, ge=0)
    tolerance: float = Field(default=1e-3, ge=0)
    rate: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Iterate:
    """Where an iteration ended.

    Attributes:
        weights: W.
        projected: Z.
        rho: ρ.
        residual: r.
    """

    weights: Weights
    projected: Weights
    rho: float
    residual: float


def iterate(
    start: Weights, project: Mapping[str, Projection], minimise: Minimise, options: AdmmOptions
) -> Iterator[Iterate]:
    """The iterations, until the residual is small enough or there have been enough of them.

    Args:
        start: W to start from.
        project: Π of each weight.
        minimise: the first step.
    """
    rho = options.rho
    duals = {name: torch.zeros_like(w) for name, w in start.items()}
    projected = {name: project[name](w) for name, w in start.items()}
    for number in range(options.iterations):
        if number and number % options.every == 0:
            rho *= options.growth
            duals = {name: u / options.growth for name, u in duals.items()}
        weights = minimise({name: projected[name] - u for name, u in duals.items()}, rho)
        projected = {name: project[name](w + duals[name]) for name, w in weights.items()}
        duals = {name: duals[name] + w - projected[name] for name, w in weights.items()}
        found = Iterate(weights, projected, rho, residual(weights, projected))
        yield found
        if found.residual < options.tolerance:
            return


def residual(weights: Weights, projected: Weights) -> float:
    """r; 0 where all weights are zero and stay so, infinite where they are zero and are not to be."""
    apart = sum(float((w - projected[name]).double().square().sum()) for name, w in weights.items())
    size = sum(float(w.double().square().sum()) for w in weights.values())
    if not size:
        return math.inf if apart else 0.0
    return float((apart / size) ** 0.5)
