"""``BitAssignment``: one choice of bits for every site.

Bits are integers in 0..32. 0 prunes, 1 is binary, ``FLOAT_BITS`` (32) leaves the tensor in floating point.
A site holds one number for the whole tensor, or one per kernel (output channel); a list whose entries are
all equal is the same choice as the single number, and is stored as such.

A campaign remembers every assignment that it has tried, and networks have 10^4 kernels: bits per kernel are kept as bytes,
one each, and become tuples and arrays where they are asked for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import SpaceError

FLOAT_BITS = 32
"""The bitwidth that stands for "not quantised"."""

Bits: TypeAlias = int | tuple[int, ...]
BitArray: TypeAlias = NDArray[np.int64]
Packed: TypeAlias = int | bytes
"""Bits of a site as they are stored: one number, or a byte per kernel where kernels differ."""

_ALLOWED = bytes(range(FLOAT_BITS + 1))


def _canonical(site: str, bits: object) -> Packed:
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
    return low if low == high else array.astype(np.uint8).tobytes()


def _one(packed: bytes) -> Packed:
    """The one form of a byte per kernel: a number where all are the same."""
    if not packed:
        raise SpaceError("bits per kernel must be at least one", got="none")
    return packed[0] if packed.count(packed[0]) == len(packed) else packed


def _shown(packed: Packed) -> Bits:
    return packed if isinstance(packed, int) else tuple(packed)


class BitAssignment(Mapping[str, Bits]):
    """Bits for every site; immutable, hashable, JSON both ways.

    Args:
        bits: site name → bits of the tensor, or one number per kernel.

    Raises:
        SpaceError: bits that are not integers, or outside 0..32.
    """

    def __init__(self, bits: Mapping[str, int | Sequence[int] | BitArray]) -> None:
        self._bits: dict[str, Packed] = {site: _canonical(site, value) for site, value in bits.items()}

    @classmethod
    def unpacked(cls, packed: Mapping[str, Packed]) -> BitAssignment:
        """An assignment from the bits of its sites as :meth:`packed` gives them; they are checked as any others.

        Raises:
            SpaceError: bits outside 0..32.
        """
        found = cls({})
        found._bits = {site: value if isinstance(value, int) else _one(value) for site, value in packed.items()}
        for site, value in found._bits.items():
            if not 0 <= value <= FLOAT_BITS if isinstance(value, int) else value.translate(None, _ALLOWED):
                raise SpaceError(f"bits of {site!r} must be within 0..{FLOAT_BITS}", got=_shown(value))
        return found

    def packed(self, site: str) -> Packed:
        """Bits of ``site`` as they are stored: one number, or a byte per kernel where kernels differ."""
        return self._bits[site]

    def __getitem__(self, site: str) -> Bits:
        return _shown(self._bits[site])

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    @cached_property
    def _hash(self) -> int:
        return hash(frozenset(self._bits.items()))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Packed]], BitAssignment], tuple[dict[str, Packed]]]:
        # the cached hash must not travel: another process hashes strings with another seed
        return BitAssignment.unpacked, (self._bits,)

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
        return np.frombuffer(bits, dtype=np.uint8).astype(np.int64)

    def highest(self, site: str) -> int:
        """The highest bits among the kernels of ``site``; float where the assignment does not name it."""
        bits = self._bits.get(site, FLOAT_BITS)
        return bits if isinstance(bits, int) else max(bits)

    def mean_bits(self, site: str) -> float:
        """Mean over the kernels of ``site`` (all kernels of a layer have the same size)."""
        bits = self._bits[site]
        return float(bits) if isinstance(bits, int) else sum(bits) / len(bits)

    def replace(self, bits: Mapping[str, int | Sequence[int] | BitArray]) -> BitAssignment:
        """The same assignment with other bits at some of its sites."""
        unknown = set(bits) - set(self._bits)
        if unknown:
            raise SpaceError("only known sites can be replaced", got=", ".join(sorted(unknown)))
        return BitAssignment.unpacked({**self._bits, **BitAssignment(bits)._bits})

    def to_json(self) -> str:
        """Compact JSON: ``{"conv1.weight": 4, "conv2.weight": [4, 3, …]}``."""
        return json.dumps(dict(self), separators=(",", ":"))

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

    def to_record(self) -> dict[str, int | str]:
        """JSON values, a third as long and made in a tenth of the time: bits per kernel as base64 of a byte each."""
        return {
            site: bits if isinstance(bits, int) else base64.b64encode(bits).decode()
            for site, bits in self._bits.items()
        }

    @classmethod
    def from_record(cls, record: Mapping[str, int | str]) -> BitAssignment:
        """Inverse of :meth:`to_record`.

        Raises:
            SpaceError: bits that are no base64, or outside 0..32.
        """
        try:
            found = {
                site: bits if type(bits) is int else base64.b64decode(bits, validate=True)  # type: ignore[arg-type]  # no bool
                for site, bits in record.items()
            }
        except (binascii.Error, TypeError, ValueError) as error:
            raise SpaceError("bits per kernel must be recorded as base64", got=str(error)) from None
        return cls.unpacked(found)

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this content, the same on every machine."""
        text = json.dumps(dict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]
