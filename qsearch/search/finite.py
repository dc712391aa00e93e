"""What part of a finite set of samples says of all of it, however often one looks.

Notation, for each stratum s of the samples, drawn in random order without replacement

=======  ===========================================================================================
N, k     samples, and those seen so far
x        of these, the ones that score 1
M        all that score 1: unknown, x ≤ M ≤ N − k + x
a        max(½, N/10)
m(x)     probability of one sequence of k scores with x ones, averaged over a prior of M: beta-binomial(N; ½, ½) to one half,
         (N; a, ½) and (N; ½, a) to a quarter each
h(x|M)   the same for one M: M···(M − x + 1) · (N − M)···(N − M − k + x + 1) / (N···(N − k + 1))
R(M)     m(x) / h(x|M), a martingale of expectation 1 in k if M is the truth
T        Σ_s M, the number of ones that is asked for
C(T)     the least Σ_s log R(M) over all M with Σ_s M = T
=======  ===========================================================================================

Each sample comes once, so that M is known at k = N. By Ville's inequality Π_s R(M) ever reaches 1/ε with a probability of
at most ε, and so the set of T with C(T) < log 1/ε holds the truth at all looks together with a probability of at least 1 − ε:
a confidence sequence, by the prior-posterior ratio of Waudby-Smith & Ramdas (NeurIPS 2020, "Confidence sequences for
sampling without replacement", theorem 2.1), here as a product over strata. No look costs anything, and it depends on counts
alone. Limits that are certain, x ≤ M ≤ N − k + x, are part of it: elsewhere R is infinite.

log R is convex in M, as h is log-concave. So C is the infimal convolution of convex sequences: its slopes are theirs, in
ascending order.

Any prior of M is sound, and what it is costs the logarithm of how little it gives the truth. Jeffreys' alone, ½ and ½,
takes ½·log(π·k) to learn that nearly all score alike, as is the rule for samples that are easy; the other two hardly anything,
and all three together log 4 at most.

A stratum that is always seen in full before the first sample of the others is ``settled`` by then: its M is known, and
what follows is a sequence of its own, with an ε of its own, in which it counts for nothing but its ones.

Strata may be any that are known beforehand. Those of what another network gets right and wrong pair the samples with it:
where the two hardly ever differ, x is near 0 or k and R steep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, gammaln

Floats = NDArray[np.float64]

_PRIOR = 0.5
"""Jeffreys': no count costs much more to learn than the best prior for it, those near 0 and N included."""
_ALIKE = 0.1
"""Share of N that the priors of strata whose samples score alike count as seen."""
_SLACK = 1e-9
"""Of sums of logarithms; in favour of keeping a count."""


@dataclass(frozen=True)
class Stratum:
    """Samples of a kind, of which some are seen.

    Attributes:
        size: N.
        seen: k.
        ones: x.
        settled: whether all of it was seen, by design, before any of those that are not.
    """

    size: int
    seen: int
    ones: int
    settled: bool = False

    def ratios(self) -> Floats:
        """log R(M) for M = x..N − k + x, shape (N − k + 1,); convex. 0 where settled."""
        if self.settled:
            return np.zeros(1)
        size, seen, ones = self.size, self.seen, self.ones
        zeros = seen - ones
        total = np.arange(ones, size - zeros + 1, dtype=np.float64)
        alike = max(_PRIOR, _ALIKE * size)
        for_ones, for_zeros = np.asarray([_PRIOR, alike, _PRIOR]), np.asarray([_PRIOR, _PRIOR, alike])
        priors = betaln(for_ones + ones, for_zeros + zeros) - betaln(for_ones, for_zeros)
        mixture = np.logaddexp.reduce(priors + np.log([0.5, 0.25, 0.25]))
        likelihood = _falling(total, ones) + _falling(size - total, zeros) - _falling(np.float64(size), seen)
        return np.asarray(mixture - likelihood)


def count_bounds(strata: Sequence[Stratum], error: float) -> tuple[int, int]:
    """The least and the greatest T that the samples seen do not rule out.

    Args:
        error: ε, the probability that the truth is ever outside, over all looks.
    """
    ratios = [stratum.ratios() for stratum in strata]
    least = float(sum(ratio.min() for ratio in ratios))
    lowest = sum(stratum.ones for stratum in strata)
    slopes = np.sort(np.concatenate([np.diff(ratio) for ratio in ratios]))
    start = float(sum(ratio[0] for ratio in ratios))
    falling, rising = np.cumsum(slopes[slopes < 0]), np.cumsum(slopes[slopes >= 0])
    bottom = lowest + len(falling)
    threshold = max(-np.log(error), least) + _SLACK  # what is likeliest stays
    low = lowest + int(np.sum(start + falling > threshold)) + int(start > threshold)
    return min(low, bottom), bottom + int(np.sum(least + rising <= threshold))


def likeliest_count(strata: Sequence[Stratum], guesses: Sequence[float]) -> float:
    """Σ_s N·x/k, the mean of each stratum times its size; where none of it is seen, times a guess of its mean."""
    return float(
        sum(
            stratum.size * (stratum.ones / stratum.seen if stratum.seen else guess)
            for stratum, guess in zip(strata, guesses, strict=True)
        )
    )


def spread_of_count(strata: Sequence[Stratum]) -> float:
    """Standard deviation of :func:`likeliest_count` around T, what is unseen being like what is seen."""
    variance = 0.0
    for stratum in strata:
        share = (stratum.ones + _PRIOR) / (stratum.seen + 2 * _PRIOR)
        unseen = stratum.size - stratum.seen
        variance += stratum.size * unseen / max(stratum.seen, _PRIOR) * share * (1 - share)
    return float(variance**0.5)


def _falling(start: Floats | np.float64, count: int) -> Floats:
    """log of start·(start − 1)···(start − count + 1)."""
    return np.asarray(gammaln(start + 1) - gammaln(start - count + 1))
