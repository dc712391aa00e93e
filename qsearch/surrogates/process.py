"""``Process``: a Gaussian process on log costs.

Notation

=========  ==========================================================================================
x          features of a point, shape (d,); X, of N points, shape (N, d); each column standardised
y          log cost, shape (N,), standardised
ℓ          lengths of the kernel, one per feature, shape (d,)
θ          logarithms of the kernel's parameters
=========  ==========================================================================================

    y(x) ~ GP(0, s²·Matérn₅⸝₂(‖(x − x')/ℓ‖) + t²·(1 + x·x') + q²·[x = x'])

The middle term is a line through the logs, with its slopes integrated out: a cost that is a product of powers is learnt from
few points, and goes on as such beyond them. θ is the most probable, not the likeliest: at ten points the likelihood has many
optima. Log-normal priors (ℓ about 3, s and t about 1, q² about 10⁻³) took a fifth off the median error on HAQ's table at 20
and 30 random samples, and make further starts of the ascent needless.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

Floats = NDArray[np.float64]
Objective = Callable[[Floats], tuple[float, Floats]]

RESTARTS = 0
"""Further starts of the ascent, drawn with the fit's seed: 1 and 3 changed the error on HAQ's table by less than 0.003."""


@dataclass(frozen=True)
class Process:
    """A posterior over log cost, given its observations and the parameters found.

    Attributes:
        x: features as given, shape (N, d).
        y: log costs, shape (N,).
        theta: θ.
    """

    x: Floats
    y: Floats
    theta: Floats

    @classmethod
    def fit(cls, x: Floats, y: Floats, *, seed: int, theta: Floats | None = None) -> Process:
        """Learn from N ≥ 2 observations; ``theta`` where it is known already."""
        if theta is None:
            centre, spread = _moments(x)
            theta = _most_probable((x - centre) / spread, (y - y.mean()) / _scale(y), seed)
        return cls(x, y, theta)

    @property
    def noise(self) -> float:
        """Variance of log cost that the features do not explain: of readings, and of what no smooth function follows."""
        return float(np.exp(self.theta[-1])) * self._scale**2

    def mean(self, x: Floats) -> Floats:
        """Posterior mean of log cost, shape (A,)."""
        return self._mean(self._prior(self.x, x))

    def joint(self, x: Floats) -> tuple[Floats, Floats]:
        """Posterior mean, shape (A,), and covariance, shape (A, A), noise not included."""
        prior = self._prior(self.x, x)
        explained = self._explained(prior)
        return self._mean(prior), self._scale**2 * (self._prior(x, x) - explained.T @ explained)

    def cross(self, x: Floats, other: Floats) -> Floats:
        """Posterior covariance of two batches, shape (A, B), noise not included."""
        explained, there = (self._explained(self._prior(self.x, points)) for points in (x, other))
        return self._scale**2 * (self._prior(x, other) - explained.T @ there)

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Posterior mean and variance, both of shape (A,), noise not included."""
        prior = self._prior(self.x, x)
        variance = self._kernel.k1.diag(self._standardised(x)) - (self._explained(prior) ** 2).sum(axis=0)
        return self._mean(prior), self._scale**2 * np.maximum(variance, 0.0)

    def leave_one_out(self) -> float:
        """Mean log density of each observation given all others (Rasmussen & Williams 2006, equations 5.10–5.12)."""
        inverse = cho_solve((self._factor, True), np.eye(len(self.y)))
        variance = 1.0 / np.diag(inverse)
        error = self._weights * variance
        density = -0.5 * (np.log(2 * np.pi * variance) + error**2 / variance)
        return float(density.mean() - np.log(self._scale))

    def _prior(self, x: Floats, other: Floats) -> Floats:
        return np.asarray(self._kernel.k1(self._standardised(x), self._standardised(other)))

    def _mean(self, prior: Floats) -> Floats:
        """Posterior mean, shape (A,), given k(X, x), shape (N, A)."""
        return np.asarray(self.y.mean() + self._scale * (self._weights @ prior))

    def _explained(self, prior: Floats) -> Floats:
        """L⁻¹·k(X, x), shape (N, A)."""
        return np.asarray(solve_triangular(self._factor, prior, lower=True, check_finite=False))

    @cached_property
    def _moments(self) -> tuple[Floats, Floats]:
        return _moments(self.x)

    def _standardised(self, x: Floats) -> Floats:
        centre, spread = self._moments
        return np.asarray((x - centre) / spread)

    @cached_property
    def _scale(self) -> float:
        return _scale(self.y)

    @cached_property
    def _kernel(self) -> Kernel:
        return _kernel(self.x.shape[1]).clone_with_theta(self.theta)

    @cached_property
    def _regressor(self) -> GaussianProcessRegressor:
        with threadpool_limits(limits=1):
            fixed = GaussianProcessRegressor(self._kernel, optimizer=None)
            return fixed.fit(self._standardised(self.x), (self.y - self.y.mean()) / self._scale)

    @property
    def _factor(self) -> Floats:
        return np.asarray(self._regressor.L_)

    @property
    def _weights(self) -> Floats:
        return np.asarray(self._regressor.alpha_)


def _scale(y: Floats) -> float:
    return float(y.std()) if np.ptp(y) > 0 else 1.0


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Mean and deviation of each column; 1 for a column that is constant, whose computed deviation may be a rounding error."""
    return x.mean(axis=0), np.where(np.ptp(x, axis=0) > 0, x.std(axis=0), 1.0)


def _kernel(dimension: int) -> Kernel:
    """See the module. k1 is the cost, k2 the noise."""
    matern = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(np.full(dimension, 3.0), (0.1, 100.0), nu=2.5)
    line = ConstantKernel(1.0, (1e-3, 1e2)) * DotProduct(1.0, "fixed")
    return matern + line + WhiteKernel(1e-3, (1e-6, 1e-1))


def _priors(dimension: int) -> tuple[Floats, Floats]:
    """Mean and deviation of each of θ: s², ℓ, t², q²."""
    means = np.log(np.concatenate([[1.0], np.full(dimension, 3.0), [1.0, 1e-3]]))
    return means, np.concatenate([[1.5], np.full(dimension, 1.0), [1.5, 1.5]])


def _most_probable(x: Floats, y: Floats, seed: int) -> Floats:
    """θ with the greatest posterior density, given standardised observations."""
    means, deviations = _priors(x.shape[1])

    def ascend(negative_likelihood: Objective, start: Floats, bounds: Floats) -> tuple[Floats, float]:
        def objective(theta: Floats) -> tuple[float, Floats]:
            value, gradient = negative_likelihood(theta)
            away = (theta - means) / deviations
            return float(value + 0.5 * away @ away), gradient + away / deviations

        found = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
        return found.x, found.fun

    regressor = GaussianProcessRegressor(
        _kernel(x.shape[1]), optimizer=ascend, n_restarts_optimizer=RESTARTS, random_state=seed
    )
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # a parameter at its limit is an answer here: a length of 100 means that a feature has no say
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(x, y)
    return np.asarray(regressor.kernel_.theta)
