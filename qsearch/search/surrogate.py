"""``Surrogate``: a Gaussian process over assignments whose prior mean is the damage that sensitivities predict.

Notation

=========  ==========================================================================================
x          index vector, shape (D,); X, a batch of A of them
d_v        predicted damage of variable v at its bits in x, summed over its kernels
z_v        feature of variable v: √(d_v / greatest d_v of its choices), in [0, 1]; z, shape (V,)
y          a metric, its sign turned so that less is better; N of them are known
m(x)       prior mean, a·Σ_v d_v + b, and no worse than the worst y
=========  ==========================================================================================

    y − m(x) ~ GP(0, s²·Matérn₅⸝₂(‖z − z'‖ / ℓ) + q²·(z·z' + t²)² + jitter)

Why these features. √d_v is the size of the perturbation that quantising v puts on the output. Perturbations add up as
vectors: the damage of all is Σ_v d_v + 2 Σ_{v<w} ρ_vw·√(d_v·d_w), a quadratic form in z with unknown correlations ρ
(the second-order picture of HAWQ and CLADO). The quadratic kernel is the Bayesian model of just that form, Matérn of
what is beyond second order. Matérn alone on six coupled layers, fitted to the accuracy of 48 random assignments of 4,096:
the error of prediction is 1.2 to 5 times smaller with z than with indices scaled to [0, 1], and larger with logarithms
of d. With the quadratic kernel a loss of second order was learnt exactly from 6 of 8
draws of 40 assignments, to 3 and 14 % of its range from the others.

Without sensitivities z_v is 2^(−bits), the quantisation step, and m is a constant.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from qsearch.search.damage import Damage, blind_damage
from qsearch.space import SearchSpace

X = NDArray[np.int64]
Floats = NDArray[np.float64]

RESTARTS = 1
"""Further starts of the likelihood's ascent, from points drawn with the fit's seed."""
PAIRS = 512
"""Observations beyond which the prior's slope is found from every other, every third, …"""


class Features:
    """Index vectors as the surrogate sees them: z, and the predicted damage.

    Args:
        damage: of the space; None where no sensitivities are at hand.
    """

    def __init__(self, space: SearchSpace, damage: Damage | None) -> None:
        self._space, self._damage = space, damage
        single = (damage if damage is not None else blind_damage(space)).single
        self._table = np.zeros((space.dimension, int(space.choice_counts.max(initial=1))))
        for row, values in zip(self._table, single, strict=True):
            row[: len(values)] = np.maximum(values, 0.0)
        tops = [self._table[v.slice].max(axis=1).sum() for v in space.variables]
        self._tops = np.where(np.asarray(tops) > 0, tops, 1.0)
        self._starts = np.asarray([v.start for v in space.variables], dtype=np.int64)

    def __call__(self, x: X) -> Floats:
        """z of a batch, shape (A, D) → (A, V)."""
        if not len(self._starts):
            return np.zeros((len(x), 1))
        values = self._table[np.arange(self._space.dimension), x]
        return np.asarray(np.sqrt(np.add.reduceat(values, self._starts, axis=1) / self._tops))

    def predicted(self, x: X) -> Floats:
        """Predicted damage of a batch, shape (A,); 0 without sensitivities."""
        return np.zeros(len(x)) if self._damage is None else self._damage(x)


@dataclass(frozen=True)
class PriorMean:
    """m: a line through the predicted damage that ends at the worst value seen."""

    slope: float
    offset: float
    worst: float

    @classmethod
    def fit(cls, predicted: Floats, values: Floats) -> PriorMean:
        """Theil–Sen: the median of the slopes between pairs, not below 0, and the median of what is left.

        Medians, as a few assignments at the lowest bits may be off any line.
        """
        stride = -(-len(values) // PAIRS)
        apart, rise = (part[::stride, None] - part[::stride] for part in (predicted, values))
        slopes = rise[apart > 0] / apart[apart > 0]
        slope = max(float(np.median(slopes)), 0.0) if slopes.size else 0.0
        return cls(slope, float(np.median(values - slope * predicted)), float(values.max()))

    def __call__(self, predicted: Floats) -> Floats:
        """m of predicted damages, shape (A,)."""
        return np.minimum(self.slope * predicted + self.offset, self.worst)


@dataclass(frozen=True)
class Surrogate:
    """Posterior of one metric; ``kernel`` has its fitted parameters."""

    features: Features
    prior: PriorMean
    scale: float
    process: GaussianProcessRegressor
    x: X
    values: Floats

    @classmethod
    def fit(cls, features: Features, x: X, values: Floats, *, seed: int, kernel: Kernel | None = None) -> Surrogate:
        """Fit to N ≥ 1 values of index vectors, shape (N, D).

        Args:
            kernel: with parameters that are known already; None to find the likeliest.
        """
        predicted = features.predicted(x)
        prior = PriorMean.fit(predicted, values)
        rest = values - prior(predicted)
        scale = float(rest.std()) or 1.0
        process = GaussianProcessRegressor(
            kernel if kernel is not None else _kernel(),
            optimizer=None if kernel is not None else "fmin_l_bfgs_b",
            n_restarts_optimizer=0 if kernel is not None else RESTARTS,
            random_state=seed,
        )
        with threadpool_limits(limits=1), warnings.catch_warnings():
            # a parameter at its limit is an answer here: a length of 100 means linear, no jitter an exact evaluator
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(features(x), rest / scale)
        return cls(features, prior, scale, process, x, values)

    @property
    def kernel(self) -> Kernel:
        """The kernel with its fitted parameters."""
        return self.process.kernel_

    def predict(self, x: X) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the metric at a batch, shape (A, D) → two of (A,); jitter not included."""
        with threadpool_limits(limits=1):
            mean, deviation = self.process.predict(self.features(x), return_std=True)
        variance = np.maximum(deviation**2 - self.process.kernel_.k2.noise_level, 0.0)
        return self.prior(self.features.predicted(x)) + self.scale * mean, self.scale * np.sqrt(variance)

    def believe(self, x: X) -> Surrogate:
        """The posterior if its own mean were observed at a batch, shape (A, D): the kriging believer."""
        mean, _ = self.predict(x)
        values = np.concatenate([self.values, mean])
        return Surrogate.fit(self.features, np.concatenate([self.x, x]), values, seed=0, kernel=self.kernel)


def _kernel() -> Kernel:
    """See the module; of standardised residuals."""
    matern = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(1.0, (0.05, 100.0), nu=2.5)
    quadratic = ConstantKernel(1.0, (1e-6, 1e3)) * DotProduct(1.0, (1e-2, 1e2)) ** 2
    return matern + quadratic + WhiteKernel(1e-3, (1e-6, 1.0))
