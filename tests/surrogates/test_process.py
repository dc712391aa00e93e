"""The Gaussian process against formulas written out, and against itself with a point left out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm

from qsearch.surrogates.process import Process

Floats = NDArray[np.float64]


def data(count: int, dimension: int = 3, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(count, dimension))
    return x, 5 + 3 * x[:, 0] + np.sin(2 * x[:, 1]) + 0.01 * rng.standard_normal(count)


def prior(process: Process, x: Floats, other: Floats) -> Floats:
    """s²·Matérn₅⸝₂ + t²·(1 + x·x'), written out, in the units of y."""
    scale, dimension = process.y.std(), process.x.shape[1]
    centre, spread = process.x.mean(axis=0), process.x.std(axis=0)
    parameters = np.exp(process.theta)
    a, b = (x - centre) / spread, (other - centre) / spread
    distance = np.sqrt((((a[:, None] - b[None]) / parameters[1 : 1 + dimension]) ** 2).sum(axis=2)) * np.sqrt(5)
    matern = parameters[0] * (1 + distance + distance**2 / 3) * np.exp(-distance)
    return scale**2 * (matern + parameters[1 + dimension] * (1 + a @ b.T))


def test_posterior_by_the_textbook() -> None:
    """Rasmussen & Williams 2006, equations 2.23 and 2.24, with the kernel written out."""
    x, y = data(25)
    new = data(6, seed=1)[0]
    process = Process.fit(x, y, seed=0)
    inverse = np.linalg.inv(prior(process, x, x) + process.noise * np.eye(len(x)))
    mean = y.mean() + prior(process, new, x) @ inverse @ (y - y.mean())
    covariance = prior(process, new, new) - prior(process, new, x) @ inverse @ prior(process, x, new)
    found_mean, found_covariance = process.joint(new)
    np.testing.assert_allclose(found_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found_covariance, covariance, atol=1e-6)
    np.testing.assert_allclose(process.predict(new)[1], np.diag(covariance), atol=1e-6)
    np.testing.assert_allclose(process.cross(new, new[:2]), covariance[:, :2], atol=1e-6)


def test_leave_one_out_by_leaving_one_out() -> None:
    x, y = data(12)
    process = Process.fit(x, y, seed=0)
    covariance = prior(process, x, x) + process.noise * np.eye(len(x))
    densities = []
    for row in range(len(x)):
        rest = np.delete(np.arange(len(x)), row)
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, row])
        mean = y.mean() + weights @ (y[rest] - y.mean())
        deviation = np.sqrt(covariance[row, row] - weights @ covariance[rest, row])
        densities.append(norm.logpdf(y[row], mean, deviation))
    assert process.leave_one_out() == pytest.approx(np.mean(densities), rel=1e-5)


def test_parameters_are_the_most_probable() -> None:
    """No step away from θ raises log likelihood + log prior, both written out."""
    x, y = data(25)
    process = Process.fit(x, y, seed=0)
    means = np.log([1, 3, 3, 3, 1, 1e-3])
    deviations = np.asarray([1.5, 1, 1, 1, 1.5, 1.5])

    def log_density(theta: Floats) -> float:
        moved = Process(x, y, theta)
        covariance = prior(moved, x, x) + moved.noise * np.eye(len(x))
        likelihood = multivariate_normal(np.full(len(y), y.mean()), covariance).logpdf(y)
        return float(likelihood - 0.5 * (((theta - means) / deviations) ** 2).sum())

    best = log_density(process.theta)
    for axis in range(len(means)):
        for step in (-0.1, 0.1):
            moved = process.theta.copy()
            moved[axis] += step
            assert log_density(moved) < best


def test_the_same_seed_gives_the_same_fit() -> None:
    x, y = data(20)
    assert Process.fit(x, y, seed=3).theta.tolist() == Process.fit(x, y, seed=3).theta.tolist()


def test_known_parameters_are_kept() -> None:
    x, y = data(20)
    first = Process.fit(x[:15], y[:15], seed=0)
    assert Process.fit(x, y, seed=0, theta=first.theta).theta is first.theta


def test_constant_columns_and_constant_costs_are_no_trouble() -> None:
    x, _ = data(8)
    x[:, 1] = 4.0
    mean, variance = Process.fit(x, np.full(8, 2.5), seed=0).predict(x)
    np.testing.assert_allclose(mean, 2.5)
    assert np.isfinite(variance).all()


def test_a_fit_of_200_points_takes_half_a_second() -> None:
    x, y = data(200, dimension=6)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        Process.fit(x, y, seed=0)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


def test_a_feature_that_never_changes_stays_a_rounding_error() -> None:
    """log2 of 9 in every row: its computed deviation is not 0, but no unit to measure another value in."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(-1, 1, size=13), np.full(13, np.log2(9.0))])
    process = Process.fit(x, 2 * x[:, 0], seed=0)
    assert abs(process.mean(np.asarray([[0.5, 0.0]]))[0] - 1.0) < 10.0
