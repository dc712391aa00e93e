"""How much an evaluation is expected to be worth: acquisition functions of a Gaussian belief. All is minimised here.

Notation

=========  ==========================================================================================
μ, σ       mean and standard deviation of the belief about each of A candidates, shape (A,)
φ, Φ       density and distribution function of the standard normal
b          best value so far
F          non-dominated points, shape (n, M); r, the reference point, shape (M,)
c          exactly known cost of each candidate, shape (A,)
=========  ==========================================================================================
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from qsearch.pareto import Points, hypervolume, non_dominated

Floats = NDArray[np.float64]

LEAST_DEVIATION = 1e-12
"""Deviations below it are certainty; the limit of every formula here is its value at this one."""


def expected_improvement(mean: Floats, deviation: Floats, best: Floats | float) -> Floats:
    """E max(b − y, 0) for y ~ N(μ, σ²); arguments broadcast (Mockus 1975; Jones et al. 1998, equation 15).

    With z = (b − μ)/σ, ∫_{−∞}^{z} (b − μ − σt) φ(t) dt = (b − μ)Φ(z) + σφ(z), as ∫ tφ(t) dt = −φ(t).
    """
    spread = np.maximum(deviation, LEAST_DEVIATION)
    gain = best - mean
    z = gain / spread
    return np.asarray(np.maximum(gain * norm.cdf(z) + spread * norm.pdf(z), 0.0))


def probability_below(mean: Floats, deviation: Floats, limit: float) -> Floats:
    """P(y ≤ limit) for y ~ N(μ, σ²): the probability that a bound on a quality is met (Schonlau et al. 1998)."""
    return np.asarray(norm.cdf((limit - mean) / np.maximum(deviation, LEAST_DEVIATION)))


def expected_hypervolume_improvement(
    mean: Floats, deviation: Floats, cost: Floats, front: Points, reference: Points
) -> Floats:
    """Expected growth of the hypervolume of F, shape (n, 2), by a candidate at (y, c) with y ~ N(μ, σ²), shape (A,).

    Seen along the cost u, F dominates all above the staircase h(u) = min(r₁, min {f₁ : f ∈ F, f₂ ≤ u}). The candidate
    adds ∫_c^{r₂} max(h(u) − y, 0) du. h is constant, h_k, on strips between neighbouring costs of F, so that the
    expectation is a sum over strips of closed forms: Σ_k |strip_k ∩ [c, r₂]| · EI(μ, σ; h_k).
    (The general formula, Emmerich et al. 2011, has two Gaussian objectives; a known cost leaves one of its factors.)

    Args:
        front: quality first, cost second; need not be free of dominated points.
        reference: shape (2,).
    """
    inside = front[np.all(front < reference, axis=1)]
    inside = inside[np.argsort(inside[:, 1], kind="stable")]
    edges = np.concatenate([[-np.inf], inside[:, 1], [reference[1]]])
    heights = np.minimum.accumulate(np.concatenate([[reference[0]], inside[:, 0]]))
    widths = np.maximum(edges[1:] - np.maximum(edges[:-1], cost[:, None]), 0.0)
    gains = expected_improvement(mean[:, None], deviation[:, None], heights)
    return np.asarray((widths * gains).sum(axis=1))


def sampled_hypervolume_improvement(samples: NDArray[np.float64], front: Points, reference: Points) -> Floats:
    """Mean growth of the hypervolume of F, shape (n, M), by each candidate, over draws of it, shape (S, A, M) → (A,).

    For any number of objectives. A point p adds its box up to r, less what F dominates of it: the hypervolume of F
    moved into the box, max(F, p).
    """
    front = front[non_dominated(front)] if len(front) else front
    grown = np.zeros(samples.shape[:2])
    for index in np.ndindex(*grown.shape):
        point = samples[index]
        if np.all(point < reference):
            box = float(np.prod(reference - point))
            grown[index] = box - hypervolume(np.maximum(front, point), reference)
    return np.asarray(grown.mean(axis=0))
