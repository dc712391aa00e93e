"""Intervals: how sure the report is of a number.

Notation

======  ==============================================================================
n       samples, or seeds
p       observed share of correct samples, x/n
z       standard normal quantile; 1.96 for 95 %
t       Student's quantile with n − 1 degrees of freedom
d       difference of two scores on the same sample, shape (n,); within −1..1 for shares
======  ==============================================================================

Scores of a classifier are 0 or 1, so the plain interval p ± z·√(p(1−p)/n) has no width at p = 1, which is where
good networks are. Wilson's interval (J. Am. Stat. Assoc. 22, 1927) does not have that flaw. The same happens to the
paired difference when two networks agree on every sample; Agresti and Min (Statistics in Medicine 24, 2005) add half a
sample to each of the four cells of the 2×2 table, and that is what :func:`paired_interval` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from qsearch.search.paired import score_interval
from qsearch.trial import Quality

LEVEL = 0.95
"""Confidence level of every interval in a report."""

_Z = float(ndtri(0.5 + LEVEL / 2))


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; ``low`` and ``high`` are None where one number gives no interval."""

    mean: float
    low: float | None = None
    high: float | None = None


def mean_interval(values: Sequence[float]) -> Interval:
    """Mean over n independent runs, with mean ± t·s/√n; no interval for a single run.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("a mean needs at least one value")
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean())
    if array.size == 1:
        return Interval(mean)
    half = float(stdtrit(array.size - 1, 0.5 + LEVEL / 2) * array.std(ddof=1) / array.size**0.5)
    return Interval(mean, mean - half, mean + half)


def wilson_interval(correct: int, samples: int) -> Interval:
    """Share of correct samples with Wilson's score interval.

    Raises:
        ValueError: no samples, or more correct than there are.
    """
    if not 0 <= correct <= samples or samples == 0:
        raise ValueError(f"correct must be within 0..samples, samples at least 1, got {correct} of {samples}")
    share = correct / samples
    weight = 1 + _Z**2 / samples
    centre = (share + _Z**2 / (2 * samples)) / weight
    half = _Z / weight * (share * (1 - share) / samples + _Z**2 / (4 * samples**2)) ** 0.5
    return Interval(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def is_share(quality: Quality) -> bool:
    """Whether the metric is a share of correct samples: every outcome is 0 or 1."""
    outcomes = quality.outcomes
    return outcomes is not None and bool(np.all((outcomes == 0) | (outcomes == 1)))


def quality_interval(quality: Quality) -> Interval:
    """The metric with Wilson's interval for a share of correct samples, else metric ± z·standard error."""
    if is_share(quality):
        assert quality.outcomes is not None
        return wilson_interval(int(np.count_nonzero(quality.outcomes)), quality.outcomes.size)
    half = _Z * quality.standard_error
    return Interval(quality.metric, quality.metric - half, quality.metric + half)


def paired_interval(differences: NDArray[np.float64], *, share: bool) -> Interval:
    """Mean paired difference with a 95 % interval.

    Args:
        differences: d, shape (n,).
        share: the scores are 0 or 1, or means of such over seeds. Then differences of −1, 0 and 1 have Tango's score
            interval (:mod:`qsearch.search.paired`), whose coverage holds where few samples differ. Means over seeds get
            two samples more: half of one at +1, half of one at −1, one at 0, after Agresti and Min. Of other scores
            the interval is mean ± z·s/√n.

    Raises:
        ValueError: no samples.
    """
    n = differences.size
    if n == 0:
        raise ValueError("a paired difference needs at least one sample")
    mean = float(differences.mean())
    if share and np.isin(differences, (-1, 0, 1)).all():
        losses, gains = int(np.sum(differences < 0)), int(np.sum(differences > 0))
        return Interval(mean, *score_interval(losses, gains, n, LEVEL))
    if not share:
        if n == 1:
            return Interval(mean)
        half = float(_Z * differences.std(ddof=1) / n**0.5)
        return Interval(mean, mean - half, mean + half)
    total = n + 2
    centre = float(differences.sum()) / total
    variance = (float(np.square(differences).sum()) + 1) / total - centre**2
    half = _Z * (variance / total) ** 0.5
    return Interval(mean, max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean)))


def paired_difference(found: Sequence[Quality], reference: Sequence[Quality]) -> Interval | None:
    """Quality less the reference's on the same samples, averaged over runs; None without per-sample outcomes.

    The interval is over samples: it says what other test data might have shown for these very runs.

    Args:
        found: quality of each run on the samples.
        reference: of the float network, for each run, on the same samples.
    """
    rows = []
    for ours, theirs in zip(found, reference, strict=True):
        if ours.outcomes is None or theirs.outcomes is None or ours.outcomes.shape != theirs.outcomes.shape:
            return None
        rows.append(ours.outcomes.astype(np.float64) - theirs.outcomes.astype(np.float64))
    if not rows or len({row.size for row in rows}) > 1:
        return None
    share = all(is_share(quality) for quality in (*found, *reference))
    return paired_interval(np.mean(rows, axis=0), share=share)
