"""What measuring a point is worth, for each point of a pool.

Notation

=========  ==========================================================================================
σ_i²       posterior variance of log cost at point i of the pool
C_ij       posterior covariance of points i and j
q²         noise of a measurement
=========  ==========================================================================================

``variance``  how much smaller the mean deviation of the pool becomes if j is measured,

    Σ_i σ_i − √(σ_i² − C_ij² / (σ_j² + q²)),

an integrated variance (Cohn et al. 1996, "active learning Cohn") in deviations. Measuring where σ_j itself is greatest is
the cheaper rule, but it picks corners that are like nothing else: on HAQ's table it needed more samples than random ones.

``ei``        expected improvement on the lowest cost of the first metric
``ehvi``      expected growth of the hypervolume that log costs dominate
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import ConfigError, nearest
from qsearch.search.acquisition import expected_improvement, sampled_hypervolume_improvement
from qsearch.surrogates.model import Batch, LogCost

Floats = NDArray[np.float64]

REFERENCES = 512
"""Points of the pool that ``variance`` sums over: beyond that, so many drawn at random."""
DRAWS = 16
"""Draws of the posterior for the expected hypervolume improvement."""
SAMPLED = 32
"""Candidates that they are drawn for: those that would add the most hypervolume if they cost exp(μ − σ)."""
MARGIN = 0.1
"""The reference point lies beyond the worst values seen by this share of their range."""


@dataclass(frozen=True)
class State:
    """What is known when a point is to be chosen.

    Attributes:
        pool: every point.
        free: rows that may be measured, shape (F,).
        models: metric → posterior.
        y: log costs measured, shape (N, M), a column per metric.
        rng: for what is drawn.
    """

    pool: Batch
    free: NDArray[np.intp]
    models: Mapping[str, LogCost]
    y: Floats
    rng: np.random.Generator


def variance(state: State) -> Floats:
    """See the module; of several metrics the sum, each as a share of its mean deviation. Shape (F,)."""
    pool, free = state.pool, state.pool[state.free]
    if len(pool) > REFERENCES:
        pool = pool[np.sort(state.rng.choice(len(pool), REFERENCES, replace=False))]
    worth = np.zeros(len(free))
    for model in state.models.values():
        spread = model.predict(pool)[1]
        covariance = model.cross(pool, free)
        known = covariance**2 / (model.predict(free)[1] + model.noise(free))
        left = np.sqrt(np.maximum(spread[:, None] - known, 0.0)).sum(axis=0)
        total = float(np.sqrt(spread).sum())
        worth += (total - left) / total if total > 0 else 0.0
    return worth


def ei(state: State) -> Floats:
    """See the module. Shape (F,)."""
    mean, spread = next(iter(state.models.values())).predict(state.pool[state.free])
    return expected_improvement(mean, np.sqrt(spread), float(state.y[:, 0].min()))


def ehvi(state: State) -> Floats:
    """See the module; 0 of points for which nothing is drawn. Shape (F,)."""
    free = state.pool[state.free]
    found = [model.predict(free) for model in state.models.values()]
    mean = np.stack([part[0] for part in found], axis=1)
    deviation = np.sqrt(np.stack([part[1] for part in found], axis=1))
    reference = state.y.max(axis=0) + MARGIN * np.ptp(state.y, axis=0)
    bound = sampled_hypervolume_improvement((mean - deviation)[None], state.y, reference)
    hopeful = np.argsort(-bound, kind="stable")[:SAMPLED]
    draws = mean[hopeful] + deviation[hopeful] * state.rng.standard_normal((DRAWS, len(hopeful), mean.shape[1]))
    worth = np.zeros(len(free))
    worth[hopeful] = sampled_hypervolume_improvement(draws, state.y, reference)
    return worth


def random(state: State) -> Floats:
    """Any point as good as any other. Shape (F,)."""
    return state.rng.random(len(state.free))


RULES: Mapping[str, Callable[[State], Floats]] = {"variance": variance, "ei": ei, "ehvi": ehvi, "random": random}


def rule(name: str, metrics: Sequence[str]) -> Callable[[State], Floats]:
    """The acquisition of that name.

    Raises:
        ConfigError: unknown, or it needs more metrics.
    """
    if name not in RULES:
        raise ConfigError(f"unknown acquisition {name!r}", fix=nearest(name, RULES))
    if name == "ehvi" and len(metrics) < 2:
        raise ConfigError("ehvi needs at least two metrics", got=", ".join(metrics), fix="acquire by ei")
    return RULES[name]
