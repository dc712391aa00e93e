"""Confidence sequences for the number of ones in a finite set: against enumeration, and by Monte Carlo over all looks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.search.finite import Stratum, count_bounds, likeliest_count, spread_of_count


def drawn(size: int, seen: int, ones: int, total: int) -> Fraction:
    """Probability of one sequence with ``ones`` ones, drawn without replacement from ``total`` among ``size``, step by step."""
    found, left, rest = Fraction(1), total, size
    for step in range(seen):
        is_one = step < ones
        found *= Fraction(left if is_one else rest - left, rest)
        left, rest = left - is_one, rest - 1
    return found


def urn(seen: int, ones: int, first: Fraction, second: Fraction) -> Fraction:
    """The same of Pólya's urn that begins with so many ones and zeros, step by step."""
    found = Fraction(1)
    for step in range(seen):
        count = first + step if step < ones else second + step - ones
        found *= count / (first + second + step)
    return found


def mixture(part: Stratum) -> Fraction:
    """Three urns: half a one and half a zero, and N/10 of either in place of a half."""
    half, alike = Fraction(1, 2), max(Fraction(1, 2), Fraction(part.size, 10))
    urns = [(2, half, half), (1, alike, half), (1, half, alike)]
    return sum((weight * urn(part.seen, part.ones, *start) for weight, *start in urns), Fraction(0)) / 4


def brute_bounds(strata: Sequence[Stratum], error: float) -> tuple[int, int]:
    """By trying every number of ones in every stratum."""
    kept = []
    for totals in product(*(range(part.size + 1) for part in strata)):
        ratio = 0.0
        for part, total in zip(strata, totals, strict=True):
            likelihood = drawn(part.size, part.seen, part.ones, total)
            ratio += math.log(mixture(part) / likelihood) if likelihood else math.inf
        if ratio < -math.log(error):
            kept.append(sum(totals))
    return min(kept), max(kept)


def every(size: int) -> Iterator[Stratum]:
    return (Stratum(size, seen, ones) for seen in range(size + 1) for ones in range(seen + 1))


@pytest.mark.parametrize("error", [0.3, 0.05])
def test_bounds_are_those_of_trying_every_count(error: float) -> None:
    for strata in product(every(5), every(3)):
        assert count_bounds(strata, error) == brute_bounds(strata, error), strata


def test_bounds_are_those_of_trying_every_count_where_priors_differ() -> None:
    for strata in product(every(12), [Stratum(2, 1, 1)]):
        assert count_bounds(strata, 0.2) == brute_bounds(strata, 0.2), strata


def test_a_settled_stratum_counts_for_nothing_but_its_ones() -> None:
    rest = [Stratum(300, 60, 57), Stratum(20, 9, 4)]
    low, high = count_bounds(rest, 0.05)
    assert count_bounds([Stratum(40, 40, 23, settled=True), *rest], 0.05) == (23 + low, 23 + high)
    wide = count_bounds([Stratum(40, 40, 23), *rest], 0.05)
    assert wide[0] < 23 + low < 23 + high < wide[1]


def in_turn(sizes: Sequence[int]) -> list[int]:
    return [stratum for look in range(max(sizes)) for stratum, size in enumerate(sizes) if look < size]


def miscovered(sizes: Sequence[int], totals: Sequence[int], error: float, order: Sequence[int], settles: bool) -> float:
    """Exact probability that bounds are wrong at any look; a walk over all counts.

    Args:
        order: the stratum of each draw.
        settles: whether the first stratum is settled when it is seen, with half the error before and after.
    """
    alive = {(0,) * len(sizes): 1.0}
    seen, wrong = [0] * len(sizes), 0.0
    for stratum in order:
        following: dict[tuple[int, ...], float] = {}
        for ones, weight in alive.items():
            chance = (totals[stratum] - ones[stratum]) / (sizes[stratum] - seen[stratum])
            for score, share in ((1, chance), (0, 1 - chance)):
                new = tuple(x + score * (place == stratum) for place, x in enumerate(ones))
                following[new] = following.get(new, 0.0) + weight * share
        seen[stratum] += 1
        alive = {}
        for ones, weight in following.items():
            if weight == 0:
                continue
            strata = [Stratum(*part) for part in zip(sizes, seen, ones, strict=True)]
            if settles:
                strata[0] = replace(strata[0], settled=seen[0] == sizes[0])
            low, high = count_bounds(strata, error / (1 + settles))
            if low <= sum(totals) <= high:
                alive[ones] = weight
            else:
                wrong += weight
    return wrong


@pytest.mark.parametrize("error", [0.4, 0.1])
def test_enumerated_over_all_looks_they_are_wrong_no_more_often_than_allowed(error: float) -> None:
    sizes = (8, 4)
    found = [miscovered(sizes, totals, error, in_turn(sizes), False) for totals in product(range(9), range(5))]
    assert max(found) <= error
    assert max(found) > 0  # so they can be wrong, and this test can fail


@pytest.mark.parametrize("error", [0.4, 0.1])
def test_they_are_not_where_a_stratum_settles_first(error: float) -> None:
    sizes = (4, 10)
    found = [miscovered(sizes, totals, error, [0] * 4 + [1] * 10, True) for totals in product(range(5), range(11))]
    assert 0 < max(found) <= error


def test_monte_carlo_over_all_looks() -> None:
    """400 samples of three kinds, a look every 20: wrong at any look in at most the share that is allowed, plus its noise."""
    rng, error, runs = np.random.default_rng(0), 0.2, 400
    kinds = np.repeat([0, 1, 2], [300, 60, 40])
    wrong = 0
    for _ in range(runs):
        scores = (rng.random(400) < np.asarray([0.99, 0.6, 0.1])[kinds]).astype(int)
        order = rng.permutation(400)
        for seen in range(20, 401, 20):
            at = order[:seen]
            strata = [
                Stratum(
                    int(np.sum(kinds == kind)), int(np.sum(kinds[at] == kind)), int(scores[at][kinds[at] == kind].sum())
                )
                for kind in range(3)
            ]
            low, high = count_bounds(strata, error)
            if not low <= scores.sum() <= high:
                wrong += 1
                break
    assert wrong / runs <= error + 3 * (error * (1 - error) / runs) ** 0.5


@st.composite
def some_strata(draw: st.DrawFn) -> list[Stratum]:
    found = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 500))
        seen = draw(st.integers(0, size))
        found.append(Stratum(size, seen, draw(st.integers(0, seen))))
    return found


@given(some_strata(), st.floats(1e-6, 0.9))
def test_bounds_are_within_what_is_certain_and_hold_what_is_likeliest(strata: list[Stratum], error: float) -> None:
    low, high = count_bounds(strata, error)
    ones, unseen = sum(part.ones for part in strata), sum(part.size - part.seen for part in strata)
    assert ones <= low <= high <= ones + unseen
    seen = [part for part in strata if part.seen]
    rest = [part for part in strata if not part.seen]
    if not rest:
        assert low - 1 <= likeliest_count(seen, [0.0] * len(seen)) <= high + 1
    assert (spread_of_count(strata) == 0) == (unseen == 0)


@given(some_strata())
def test_less_error_is_wider(strata: list[Stratum]) -> None:
    narrow, wide = count_bounds(strata, 0.2), count_bounds(strata, 0.01)
    assert wide[0] <= narrow[0] <= narrow[1] <= wide[1]


def test_bounds_close_in_on_the_truth() -> None:
    """The same share of ones in ever more samples: narrower each time, and a point at the end."""
    found = [count_bounds([Stratum(1000, seen, round(0.9 * seen))], 0.05) for seen in range(50, 1001, 50)]
    widths = [high - low for low, high in found]
    assert widths == sorted(widths, reverse=True)
    assert all(low <= 900 <= high for low, high in found)
    assert found[-1] == (900, 900)


def test_what_was_lost_nothing_makes_good() -> None:
    """Three zeros among 5 hard samples: certain, whatever the error; the other stratum may still be all ones."""
    assert count_bounds([Stratum(5, 5, 2), Stratum(95, 0, 0)], 1e-12) == (2, 97)


def test_the_likeliest_count_weighs_strata_by_their_size() -> None:
    assert likeliest_count([Stratum(10, 5, 4), Stratum(90, 9, 9), Stratum(4, 0, 0)], [1.0, 1.0, 0.5]) == 8 + 90 + 2


def test_its_spread_is_that_of_repeated_draws() -> None:
    """Against the standard deviation over draws, of a stratum so large that the half counts at its ends do not matter."""
    rng = np.random.default_rng(1)
    scores = np.repeat([1, 0], [1500, 500])
    drawn_counts = [int(rng.permutation(scores)[:400].sum()) for _ in range(4000)]
    spread = float(np.std([likeliest_count([Stratum(2000, 400, ones)], [0.0]) for ones in drawn_counts]))
    assert spread_of_count([Stratum(2000, 400, 300)]) == pytest.approx(spread, rel=0.05)
