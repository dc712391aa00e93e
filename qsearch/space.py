"""``Site`` and ``SearchSpace``: which tensors may take which bits.

Notation

=====  =================================================================================
S      sites of the space, in network order
V      variables: what is left to decide once ties and fixed sites are taken into account
D      decisions: one per variable, or one per kernel of a kernel-wise variable
x      index vector, shape (D,): position of each decision's bits among its choices
X      batch of A index vectors, shape (A, D)
=====  =================================================================================

A tie makes sites agree, so a tie is one variable. A fixed site is none. ``decode`` and ``encode`` translate
between index vectors and assignments; ``bits`` decodes a whole batch to arrays without building assignments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.assignment import FLOAT_BITS, BitArray, BitAssignment, Packed
from qsearch.errors import SpaceError, nearest
from qsearch.overlay import ALL

Role = Literal["weight", "activation", "overlay", "pattern", "state", "leak", "threshold", "spikes"]
Granularity = Literal["layer", "kernel"]
SPIKE_BITS = 1
"""Bits of an input that is nothing but spikes: each says that it happened."""
SiteBits = Mapping[str, BitArray]
"""Site → bits of a batch, shape (A, kernels); (A, 1) for a site with one bitwidth. Integers of any width: 8 bits hold them."""

FEWEST: Mapping[str, int] = {"activation": 1, "state": 2, "leak": 1, "threshold": 1, "spikes": 1}
"""Role → its fewest bits; 0, which prunes, where it is not named. A state has a sign and something beside it."""


@dataclass(frozen=True)
class Site:
    """One quantisable tensor.

    Attributes:
        name: unique name ("layer1.0.conv1.weight").
        layer: name of the layer it belongs to.
        role: "weight", or "activation" for the layer's input, "spikes" where that is nothing else; "state", "leak" and
            "threshold" of neurons; "overlay" and "pattern" are no tensors but say how a weight is put together
            (:mod:`qsearch.overlay`), and their choices are no bits.
        choices: allowed bits, ascending and distinct, each within 0..32.
        kernels: 1 for one bitwidth per tensor, else the number of kernels with bits of their own.
        operand: which of the layer's inputs an activation is; 1 for the second operand of a matrix product.
    """

    name: str
    layer: str
    role: Role
    choices: tuple[int, ...]
    kernels: int = 1
    operand: int = 0

    def __post_init__(self) -> None:
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise SpaceError(
                f"bit choices of {self.name!r} must be distinct, ascending, at least one", got=self.choices
            )
        if self.choices[0] < 0 or self.choices[-1] > FLOAT_BITS:
            raise SpaceError(f"bits of {self.name!r} must be within 0..{FLOAT_BITS}", got=self.choices)
        if self.choices[0] < (fewest := FEWEST.get(self.role, 0)):
            raise SpaceError(f"{self.role} bits of {self.name!r} must be at least {fewest}", got=self.choices)
        if self.kernels < 1:
            raise SpaceError(f"site {self.name!r} must have at least one kernel", got=self.kernels)


@dataclass(frozen=True)
class Variable:
    """One thing to decide: the bits of a site, or of all sites of a tie. ``start`` is its first decision in x."""

    name: str
    sites: tuple[str, ...]
    choices: tuple[int, ...]
    length: int
    start: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True)
class SearchSpace:
    """Sites, ties and fixed sites.

    Args:
        sites: all sites, in network order.
        ties: groups of site names that must agree.
        fixed: site name → bits that are not searched; tied sites are fixed together.

    Raises:
        SpaceError: a name twice or unknown, ties of different shapes, choices or fixed bits, a site in two ties,
            fixed bits outside 0..32 (fewer than :data:`FEWEST` of its role).
    """

    sites: tuple[Site, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    fixed: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if not names or len(set(names)) != len(names):
            raise SpaceError("a space needs at least one site, each name once", got=f"{len(names)} sites")
        for name in [*(self.fixed or {}), *(name for tie in self.ties for name in tie)]:
            if name not in set(names):
                raise SpaceError(f"unknown site {name!r}", fix=nearest(name, names))
        tied = [name for tie in self.ties for name in tie]
        if len(set(tied)) != len(tied):
            raise SpaceError(
                "a site may be in one tie only", got=", ".join(sorted({n for n in tied if tied.count(n) > 1}))
            )
        for tie in self.ties:
            shapes = {(self._by_name[name].choices, self._by_name[name].kernels) for name in tie}
            pins = {(self.fixed or {}).get(name) for name in tie}
            if len(shapes) > 1:
                raise SpaceError("tied sites must have the same choices and kernels", got=", ".join(tie))
            if len(pins) > 1:
                raise SpaceError(
                    "tied sites must have the same fixed bits",
                    got=", ".join(f"{name}: {(self.fixed or {}).get(name, 'not fixed')}" for name in tie),
                    fix="fix all of them at the same bits, or leave one out of the tie",
                )
        for name, bits in (self.fixed or {}).items():
            fewest = FEWEST.get(self._by_name[name].role, 0)
            if not fewest <= bits <= FLOAT_BITS:
                raise SpaceError(f"fixed bits of {name!r} must be within {fewest}..{FLOAT_BITS}", got=bits)

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    def site(self, name: str) -> Site:
        """The site of that name.

        Raises:
            SpaceError: no such site.
        """
        if name not in self._by_name:
            raise SpaceError(f"unknown site {name!r}", fix=nearest(name, self._by_name))
        return self._by_name[name]

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """V, in network order of their first site."""
        group = {name: tie for tie in self.ties for name in tie}
        found: list[Variable] = []
        seen: set[str] = set()
        start = 0
        for site in self.sites:
            if site.name in seen or site.name in (self.fixed or {}):
                continue
            members = group.get(site.name, (site.name,))
            seen.update(members)
            found.append(Variable(site.name, members, site.choices, site.kernels, start))
            start += site.kernels
        return tuple(found)

    @cached_property
    def owners(self) -> Mapping[str, Variable]:
        """Site → its variable; fixed sites have none."""
        return {name: variable for variable in self.variables for name in variable.sites}

    @cached_property
    def dimension(self) -> int:
        """D: length of an index vector."""
        return sum(variable.length for variable in self.variables)

    @cached_property
    def choice_counts(self) -> NDArray[np.int64]:
        """Number of choices of each decision, shape (D,)."""
        counts = [np.full(v.length, len(v.choices), dtype=np.int64) for v in self.variables]
        return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)

    @cached_property
    def size(self) -> int:
        """Number of assignments, exactly."""
        return math.prod(len(v.choices) ** v.length for v in self.variables)

    def bits(self, x: NDArray[np.int64]) -> dict[str, BitArray]:
        """Decode index vectors, shape (A, D), to bits per site, shape (A, kernels).

        Raises:
            SpaceError: wrong shape, or an index out of range.
        """
        if x.ndim != 2 or x.shape[1] != self.dimension:
            raise SpaceError(f"index vectors of this space have shape (A, {self.dimension})", got=x.shape)
        if np.any(x < 0) or np.any(x >= self.choice_counts):
            raise SpaceError("every index must be within the choices of its decision", got=f"{x.min()}..{x.max()}")
        batch = len(x)
        found: dict[str, BitArray] = {
            name: np.full((batch, 1), bits, dtype=np.int8) for name, bits in (self.fixed or {}).items()
        }
        for variable in self.variables:
            table = np.asarray(variable.choices, dtype=np.int8)  # an eighth of the memory to write, and to read again
            value: NDArray[Any] = table[x[:, variable.slice]]
            found.update(dict.fromkeys(variable.sites, value))
        return {site.name: found[site.name] for site in self.sites}

    def decode(self, x: NDArray[np.int64] | Sequence[int]) -> BitAssignment:
        """Assignment of one index vector, shape (D,).

        Raises:
            SpaceError: wrong length, or an index out of range.
        """
        x = np.asarray(x, dtype=np.int64)
        if x.shape != (self.dimension,):
            raise SpaceError(f"an index vector of this space has shape ({self.dimension},)", got=x.shape)
        if np.any(x < 0) or np.any(x >= self.choice_counts):
            raise SpaceError("every index must be within the choices of its decision", got=f"{x.min()}..{x.max()}")
        chosen = self.bits_of(x).tobytes()
        found: dict[str, Packed] = {name: int(bits) for name, bits in (self.fixed or {}).items()}
        for variable in self.variables:
            found.update(dict.fromkeys(variable.sites, chosen[variable.start : variable.start + variable.length]))
        return BitAssignment.unpacked({site.name: found[site.name] for site in self.sites})

    def encode(self, assignment: BitAssignment) -> NDArray[np.int64]:
        """Index vector of an assignment, shape (D,).

        Raises:
            SpaceError: the assignment is not in the space.
        """
        self._check_names(assignment)
        return self._indices(assignment)

    def check(self, assignment: BitAssignment) -> None:
        """Raise :class:`SpaceError` unless the assignment lies in the space."""
        self._check_names(assignment)
        self._indices(assignment)

    def _check_names(self, assignment: BitAssignment) -> None:
        """Sites, fixed sites and ties; what is left can be wrong in its bits only."""
        if set(assignment) != set(self._by_name):
            missing, extra = set(self._by_name) - set(assignment), set(assignment) - set(self._by_name)
            raise SpaceError(
                "an assignment must name every site of the space, and no other",
                got=f"missing {sorted(missing)[:3]}, unknown {sorted(extra)[:3]}",
            )
        for name, bits in (self.fixed or {}).items():
            if assignment.packed(name) != bits:
                raise SpaceError(f"site {name!r} is fixed at {bits} bits", got=assignment[name])
        for variable in self.variables:
            for name in variable.sites[1:]:
                if assignment.packed(name) != assignment.packed(variable.name):
                    raise SpaceError(f"sites {variable.name!r} and {name!r} are tied", got="different bits")

    def _indices(self, assignment: BitAssignment) -> NDArray[np.int64]:
        """Position of each decision's bits among its choices, shape (D,); all decisions are looked up at once."""
        parts = [assignment.packed(variable.name) for variable in self.variables]
        for variable, part in zip(self.variables, parts, strict=True):
            if not isinstance(part, int) and len(part) != variable.length:
                assignment.vector(variable.name, variable.length)  # which says what is wrong
        one = (
            bytes((part,)) * v.length if isinstance(part, int) else part
            for v, part in zip(self.variables, parts, strict=True)
        )
        bits = np.frombuffer(b"".join(one), dtype=np.uint8)
        found = self._index_of.take(self._rows + bits)
        if self.dimension and found.min() < 0:
            wrong = int(np.argmin(found))
            variable = next(v for v in self.variables if v.start <= wrong < v.start + v.length)
            raise SpaceError(f"site {variable.name!r} allows {list(variable.choices)} bits", got=int(bits[wrong]))
        return found.astype(np.int64)

    def bits_of(self, x: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Bits of each decision of an index vector that is known to be one, shape (D,)."""
        return self._bits_of.take(self._rows + x)

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """Where the table of each decision's variable begins in :attr:`_bits_of` and :attr:`_index_of`, shape (D,)."""
        lengths = np.asarray([variable.length for variable in self.variables], dtype=np.int64)
        return np.repeat(np.arange(len(lengths), dtype=np.int64) * (FLOAT_BITS + 1), lengths)

    @cached_property
    def _bits_of(self) -> NDArray[np.uint8]:
        """Index → bits of each variable, one row of 33 after the other; 0 beyond its choices."""
        table = np.zeros((len(self.variables), FLOAT_BITS + 1), dtype=np.uint8)
        for row, variable in zip(table, self.variables, strict=True):
            row[: len(variable.choices)] = variable.choices
        return table.ravel()

    @cached_property
    def _index_of(self) -> NDArray[np.int8]:
        """Bits → index of each variable, one row of 33 after the other; −1 for bits that are no choice."""
        table = np.full((len(self.variables), FLOAT_BITS + 1), -1, dtype=np.int8)
        for row, variable in zip(table, self.variables, strict=True):
            row[list(variable.choices)] = range(len(variable.choices))
        return table.ravel()

    def __contains__(self, assignment: object) -> bool:
        if not isinstance(assignment, BitAssignment):
            return False
        try:
            self.check(assignment)
        except SpaceError:
            return False
        return True

    def uniform(self, bits: int) -> BitAssignment:
        """Every free site at ``bits``, or at its nearest choice (the lower one on a tie).

        Weights that may be overlaid are as plain as their choices allow.
        """
        x = np.empty(self.dimension, dtype=np.int64)
        for variable in self.variables:
            aim = _plain(self._by_name[variable.name].role, bits)
            distance = np.abs(np.asarray(variable.choices) - aim)
            x[variable.slice] = int(np.argmin(distance))
        return self.decode(x)

    def reference(self, bits: int) -> BitAssignment:
        """Every site at ``bits``, no weight overlaid, whatever the space allows: what relative budgets refer to.

        Spikes stay at 1 bit, and so does the leak of neurons that forget nothing.
        """
        whole = (SPIKE_BITS,)
        return BitAssignment(
            {
                site.name: SPIKE_BITS if site.role == "leak" and site.choices == whole else _plain(site.role, bits)
                for site in self.sites
            }
        )

    @property
    def lowest(self) -> NDArray[np.int64]:
        """Index vector of the fewest bits everywhere."""
        return np.zeros(self.dimension, dtype=np.int64)

    @property
    def highest(self) -> NDArray[np.int64]:
        """Index vector of the most bits everywhere."""
        return self.choice_counts - 1

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """``count`` index vectors, each decision uniform over its choices, shape (count, D)."""
        return rng.integers(0, self.choice_counts, size=(count, self.dimension))

    def enumerate(self) -> Iterator[BitAssignment]:
        """Every assignment, in lexicographic order of its index vector."""
        for x in np.ndindex(*self.choice_counts.tolist()):
            yield self.decode(np.asarray(x, dtype=np.int64))


def _plain(role: Role, bits: int) -> int:
    """What a site has in a network of plain weights at ``bits``."""
    return {"overlay": ALL, "pattern": 0, "spikes": SPIKE_BITS}.get(role, bits)
