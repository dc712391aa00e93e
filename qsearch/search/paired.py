"""Paired decisions: whether a network keeps a limit on its metric, judged sample by sample against the float network.

Notation

======  ==============================================================================================
n       samples
q, f    scores of the quantised and of the float network on each sample, shape (n,)
d       q − f, shape (n,)
b, c    losses and gains of scores 0 and 1: samples that only the float, only the quantised network has right
θ       true mean difference; (c − b)/n is what was observed
δ       difference that the limit leaves: limit − mean f; −0.01 allows a drop of one point
z, t    score statistic and Student's statistic; both are ≥ 0 exactly where the observed metric meets the limit
======  ==============================================================================================

99.99 % of an accuracy is less than one sample of most validation sets, so a point estimate says little; and the two
networks agree on nearly all samples, so that intervals of the two accuracies by themselves are far too wide. The
confidence that θ ≥ δ is

- for scores 0 and 1, Φ(z) of Tango's score statistic (Statistics in Medicine 17, 1998, eq. 4), the variance being that of
  the most likely table with θ = δ. It needs no discordant pair: for b = c = 0 and δ < 0, z² = n·|δ| / (1 − |δ|), so that n
  samples without one certify a drop of z²/(n + z²) and none below (the exact rule of three has 3.0/n for z²/n = 2.7/n at
  95 % on one side, 3.7/n for 3.8/n at 97.5 %);
- for other scores, that of Student's t on d. Differences that do not vary say nothing of their spread: then, as with a
  single sample, the point estimate decides;
- without scores of each sample, Φ((metric − limit) / standard error) of the metric by itself, which is not paired; the
  point estimate where the standard error is 0.

A limit that is relative to the float network is taken as a fixed number of points below it. Confidences are approximate
where few samples differ: by enumeration (300 samples, up to a dozen expected to differ, a true drop equal to the limit),
a limit is wrongly certified in at most 2.8 % of cases for 2.5 % nominal, 6.8 % for 5 %, and wrongly refuted in 5.4 % and 9.1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from qsearch.problem import Bound, Problem
from qsearch.search.aims import quality_bounds
from qsearch.trial import Quality, Trial

Scores = NDArray[np.float32]

_BELOW_HALF = float(np.nextafter(0.5, 0.0))


def score_statistic(losses: int, gains: int, samples: int, difference: float) -> float:
    """z of Tango's test that θ = δ, the observed difference being (gains − losses) / samples.

    Args:
        difference: δ, within −1..1.

    Returns:
        Infinite, with the sign of what was observed less δ, where the difference cannot be δ at all.
    """
    excess = gains - losses - samples * difference
    a = 2 * samples
    b = (2 * samples + losses - gains) * difference - losses - gains
    c = -losses * difference * (1 - difference)
    loss_share = (np.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # the most likely one if θ = δ
    variance = samples * (2 * loss_share + difference * (1 - difference))
    if variance <= 1e-12 * samples:
        return float(np.sign(excess)) * np.inf if excess else 0.0
    return float(excess / np.sqrt(variance))


def score_interval(losses: int, gains: int, samples: int, level: float) -> tuple[float, float]:
    """The differences that Tango's test does not reject at a two-sided confidence level, as (low, high)."""
    z = float(ndtri(0.5 + level / 2))
    observed = (gains - losses) / samples

    def end(limit: float, quantile: float) -> float:
        if abs(observed - limit) < 1e-12:
            return limit
        root = bisect(lambda d: score_statistic(losses, gains, samples, d) - quantile, limit, observed, xtol=1e-12)
        return float(root)

    return end(-1.0, z), end(1.0, -z)


def certifiable_drop(samples: int, level: float) -> float:
    """The smallest drop that so many samples certify at a two-sided level, should not one of them differ."""
    squared = float(ndtri(0.5 + level / 2)) ** 2
    return squared / (samples + squared)


def samples_to_certify(drop: float, level: float) -> int | None:
    """The fewest samples that can certify a drop, should not one of them differ; None where no number can.

    Args:
        drop: what may be lost, as a share of the samples; 0 and below is certified by none.
    """
    squared = float(ndtri(0.5 + level / 2)) ** 2
    return max(1, int(np.ceil(squared * (1 - drop) / drop))) if drop > 0 else None


def discordant(scores: Scores, reference: Scores) -> tuple[int, int] | None:
    """Losses and gains of scores that are 0 or 1; None for others."""
    if not all(np.all((part == 0) | (part == 1)) for part in (scores, reference)):
        return None
    return int(np.sum(reference > scores)), int(np.sum(scores > reference))


def difference_interval(scores: Scores, reference: Scores, level: float) -> tuple[float, float] | None:
    """Two-sided interval of the mean difference θ; None where differences of other scores do not vary.

    Args:
        scores, reference: q and f, shape (n,) each.
    """
    counts = discordant(scores, reference)
    if counts is not None:
        return score_interval(*counts, scores.size, level)
    mean, error = _mean_difference(scores, reference)
    if error == 0:
        return None
    half = float(stdtrit(scores.size - 1, 0.5 + level / 2)) * error
    return mean - half, mean + half


def confidence(quality: Quality, reference: Scores | None, limit: float) -> float:
    """Confidence, within 0..1, that the metric is at least ``limit``; 0.5 and above where the observed one is.

    Args:
        reference: f, shape (n,); None, or another shape than the quality's outcomes, for a test that is not paired.
    """
    found = _confidence(quality, reference, limit)
    return max(found, 0.5) if quality.metric >= limit else min(found, _BELOW_HALF)


def _confidence(quality: Quality, reference: Scores | None, limit: float) -> float:
    """The same, but for a rounding error around 0.5."""
    above, scores = quality.metric - limit, quality.outcomes
    if scores is None or reference is None or scores.shape != reference.shape:
        return _normal(above, quality.standard_error)
    counts = discordant(scores, reference)
    if counts is None:
        _, error = _mean_difference(scores, reference)
        return float(stdtr(scores.size - 1, above / error)) if error > 0 else _normal(above, 0.0)
    difference = limit - float(np.mean(reference, dtype=np.float64))
    if abs(difference) > 1:
        return _normal(above, 0.0)
    return float(ndtr(score_statistic(*counts, scores.size, difference)))


def _mean_difference(scores: Scores, reference: Scores) -> tuple[float, float]:
    """Mean of d and its standard error, 0 for a single sample."""
    d = scores.astype(np.float64) - reference.astype(np.float64)
    return float(d.mean()), float(d.std(ddof=1) / d.size**0.5) if d.size > 1 else 0.0


def _normal(above: float, error: float) -> float:
    """Φ(above / error); of an error of 0 the point estimate: 0, a half or 1."""
    return float(ndtr(above / error)) if error > 0 else 0.5 * (1 + float(np.sign(above)))


@dataclass(frozen=True)
class Target:
    """What a search that lowers bits must keep: the bounds on quality of a problem.

    A lower bound on the metric is met with the confidence asked for; a bound on the loss, of which samples are not
    recorded one by one, by its point estimate.

    Attributes:
        confidence: 0.5 is the point estimate on these samples, so that what is accepted is feasible in the ledger; 0.95
            accepts only what the samples certify, 0.05 all that they do not refute.
    """

    problem: Problem
    confidence: float = 0.5

    def keeps(self, trial: Trial) -> bool:
        """Whether bits may go down to those of a trial.

        Upper bounds on costs do not count: fewer bits mend them. So a trial that was not evaluated for no other reason is
        good to go on from; one that failed or was pruned is not.
        """
        if trial.state in ("failed", "pruned"):
            return False
        cost_bounds = [bound for bound in self.problem.cost_bounds if bound.at_least]
        if any(trial.violations.get(bound.label, 0.0) > 0 for bound in cost_bounds):
            return False
        return trial.quality is None or all(self._met(bound, trial.quality) for bound in quality_bounds(self.problem))

    def _met(self, bound: Bound, quality: Quality) -> bool:
        if bound.metric == self.problem.quality_name and bound.at_least:
            return confidence(quality, self.problem.float_outcomes, bound.limit) >= self.confidence
        return bool(bound.violation(quality.values[bound.metric]) <= 0)
