"""Random draws from a search space, without repeats where the space is small enough to number; and uniform assignments.

Notation: x, an index vector of the space, shape (D,).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from qsearch.problem import Problem
from qsearch.projection import project
from qsearch.space import SearchSpace

NUMBERED = 2**20
"""Spaces up to this size are drawn as a random permutation of all their assignments (8 MiB of numbers)."""

REPEATS = 1000
"""In larger spaces, this many projected draws in a row that are all known end the draws."""


def draws(space: SearchSpace, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Index vectors, each uniform over the space; each assignment once, or for ever in spaces over ``NUMBERED``."""
    if space.size <= NUMBERED:
        counts = tuple(space.choice_counts.tolist())
        for number in rng.permutation(space.size):
            yield np.asarray(np.unravel_index(number, counts), dtype=np.int64)
        return
    while True:
        yield space.sample(rng, 1)[0]


def distinct_within_budget(problem: Problem, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Random draws projected onto the cost bounds, each result once.

    Ends when the space is exhausted; in a space too large to number, after ``REPEATS`` known results in a row.
    """
    seen: set[bytes] = set()
    repeats = 0
    for drawn in draws(problem.space, rng):
        x = project(problem, drawn)
        # a digest: of 10,000 kernels, the indices of each draw would take 80 kB
        key = hashlib.blake2b(x.astype(np.int8).tobytes(), digest_size=16).digest()
        if key not in seen:
            seen.add(key)
            repeats = 0
            yield x
        else:
            repeats += 1
            if repeats >= REPEATS and problem.space.size > NUMBERED:
                return


def uniform_vectors(space: SearchSpace) -> list[NDArray[np.int64]]:
    """Index vectors of the uniform assignments, highest first: where a search may begin."""
    union = {bits for variable in space.variables for bits in variable.choices}
    return [space.encode(space.uniform(bits)) for bits in sorted(union, reverse=True)]
