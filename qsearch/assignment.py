"""``BitAssignment``: one choice of bits for every site.

Bits are integers in 0..32. 0 prunes, 1 is binary, ``FLOAT_BITS`` (32) leaves the tensor in floating point.
A site holds one number for the whole tensor, or one per kernel (output channel); a list whose entries are
all equal is the same choice as the single number, and is stored as such.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import SpaceError

FLOAT_BITS = 32
"""The bitwidth that stands for "not quantised"."""

Bits: TypeAlias = int | tuple[int, ...]
BitArray: TypeAlias = NDArray[np.int64]


def _canonical(site: str, bits: object) -> Bits:
    """Validate the bits of one site and bring them to their one stored form."""
    if isinstance(bits, str) or not isinstance(bits, int | np.integer | Sequence | np.ndarray):
        raise SpaceError(f"bits of {site!r} must be an integer or a list of integers", got=bits)
    try:
        array = np.asarray(bits)
    except ValueError:  # lists of unequal length within the list
        raise SpaceError(
            f"bits of {site!r} must be an integer or a flat list of integers", got=repr(bits)[:80]
        ) from None
    if array.ndim > 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise SpaceError(f"bits of {site!r} must be an integer or a flat list of integers", got=repr(bits)[:80])
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > FLOAT_BITS:
        raise SpaceError(f"bits of {site!r} must be within 0..{FLOAT_BITS}", got=low if low < 0 else high)
    return low if low == high else tuple(array.tolist())


class BitAssignment(Mapping[str, Bits]):
    """Bits for every site; immutable, hashable, JSON both ways.

    Args:
        bits: site name → bits of the tensor, or one number per kernel.

    Raises:
        SpaceError: bits that are not integers, or outside 0..32.
    """

    def __init__(self, bits: Mapping[str, int | Sequence[int] | BitArray]) -> None:
        self._bits: dict[str, Bits] = {site: _canonical(site, value) for site, value in bits.items()}

    def __getitem__(self, site: str) -> Bits:
        return self._bits[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self._bits.items()))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[BitAssignment], tuple[dict[str, Bits]]]:
        # the cached hash must not travel: another process hashes strings with another seed
        return BitAssignment, (self._bits,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BitAssignment) and self._bits == other._bits

    def __repr__(self) -> str:
        shown = ", ".join(f"{site}: {self.mean_bits(site):g}" for site in list(self)[:6])
        return f"BitAssignment({shown}{', …' if len(self) > 6 else ''})"

    def vector(self, site: str, kernels: int = 1) -> BitArray:
        """Bits of ``site`` as an array of shape ``(kernels,)``.

        Raises:
            SpaceError: the site holds a list of another length.
        """
        bits = self._bits[site]
        if isinstance(bits, int):
            return np.full(kernels, bits, dtype=np.int64)
        if len(bits) != kernels:
            raise SpaceError(f"site {site!r} has {kernels} kernels", got=f"{len(bits)} bitwidths")
        return np.asarray(bits, dtype=np.int64)

    def highest(self, site: str) -> int:
        """The highest bits among the kernels of ``site``; float where the assignment does not name it."""
        bits = self._bits.get(site, FLOAT_BITS)
        return bits if isinstance(bits, int) else max(bits)

    def mean_bits(self, site: str) -> float:
        """Mean over the kernels of ``site`` (all kernels of a layer have the same size)."""
        return float(np.mean(self._bits[site]))

    def replace(self, bits: Mapping[str, int | Sequence[int] | BitArray]) -> BitAssignment:
        """The same assignment with other bits at some of its sites."""
        unknown = set(bits) - set(self._bits)
        if unknown:
            raise SpaceError("only known sites can be replaced", got=", ".join(sorted(unknown)))
        return BitAssignment({**self._bits, **bits})

    def to_json(self) -> str:
        """Compact JSON: ``{"conv1.weight": 4, "conv2.weight": [4, 3, …]}``."""
        return json.dumps(self._bits, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> BitAssignment:
        """Inverse of :meth:`to_json`.

        Raises:
            SpaceError: the text is not a JSON object of bits.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpaceError("an assignment must be valid JSON", got=str(error)) from None
        if not isinstance(value, dict):
            raise SpaceError("an assignment must be a JSON object {site: bits}", got=text[:80])
        return cls(value)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this content, the same on every machine."""
        text = json.dumps(self._bits, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
