"""``Anatomy``: what a network consists of, as far as bits go. Found by :mod:`qsearch.quantize.trace`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qsearch.errors import SpaceError, nearest
from qsearch.layers import Layer

TIES: Mapping[str, str] = {
    "inputs": "layers that read the same tensor",
    "residual": "layers that read sums along one residual stream, whose operands a machine without rescaling adds as they are",
    "qkv": "weights of linear layers of one shape that read the same tensor, as of queries, keys and values",
    "shared": "weights of layers that share one parameter",
}
"""Kinds of ties that are found, and what they join; a campaign file names them among its ``ties``."""


@dataclass(frozen=True)
class LeftInFloat:
    """A part of a network that is not quantised.

    Attributes:
        name: the module, or the module and the operation within it ("encoder.attention.einsum").
        what: what it is ("LSTM", "einsum of two activations").
        numbers: weights in it.
        why: the reason, as a clause.
    """

    name: str
    what: str
    numbers: int
    why: str


@dataclass(frozen=True)
class Anatomy:
    """A network's layers, the sites among them that belong together, and what stays in float.

    A parameter that several layers share, such as a table that embeds and projects, is a weight of each of them, with bits
    of its own unless they are tied ("shared"). Its size counts once per layer in either case.

    Attributes:
        layers: in the order in which they first run.
        ties: kind, one of :data:`TIES` → groups of site names, each of two or more.
        left: what is not quantised.
    """

    layers: tuple[Layer, ...]
    ties: Mapping[str, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    left: tuple[LeftInFloat, ...] = ()

    def groups(self, ties: Iterable[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
        """Groups of sites that must agree, those with a site in common made one; in the order of the network.

        Args:
            ties: kinds of :data:`TIES`, and groups of site names.

        Raises:
            SpaceError: a kind that is unknown.
        """
        named: list[Sequence[str]] = []
        for tie in ties:
            if not isinstance(tie, str):
                named += [tie] if tie else []
            elif tie in TIES:
                named.extend(self.ties.get(tie, ()))
            else:
                raise SpaceError(f"unknown kind of tie {tie!r}", fix=nearest(tie, TIES))
        joined: list[set[str]] = []
        for group in named:
            touching = [other for other in joined if not other.isdisjoint(group)]
            joined = [other for other in joined if other.isdisjoint(group)]
            joined.append(set(group).union(*touching))
        places = {name: place for place, name in enumerate(self._sites())}
        ordered = [tuple(sorted(group, key=lambda name: (places.get(name, len(places)), name))) for group in joined]
        return tuple(sorted(ordered, key=lambda group: (places.get(group[0], len(places)), group[0])))

    def _sites(self) -> list[str]:
        return [name for layer in self.layers for name in (layer.weight_site, layer.activation_site)]
