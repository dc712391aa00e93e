"""Sites that belong together: they read the same tensor, or lie on one residual stream.

Notation: a node is a tensor at one time, known by its memory, extents and version, so that what writes into a tensor makes
another node of it. Nodes are joined by

===========================  ==================================================================
sums a + b of one shape      a, b and the sum
pointwise activations, …     input and output: they can be folded into what comes before
===========================  ==================================================================

and a stream is all nodes that are joined. The sites that read one belong together, as a machine without rescaling adds
numbers only where their scales agree. So do the weights of layers that share one parameter, which is stored once where
their bits agree.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from qsearch.anatomy import Anatomy
from qsearch.layers import Layer

Node: TypeAlias = Hashable

SUMS = frozenset((torch.add, Tensor.add, Tensor.add_))
"""``a + b`` and ``a += b`` are the methods ``add`` and ``add_``."""

POINTWISE = frozenset(
    (
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        torch.sigmoid,
        Tensor.sigmoid,
        torch.tanh,
        Tensor.tanh,
        functional.relu,
        functional.relu6,
        functional.leaky_relu,
        functional.prelu,
        functional.elu,
        functional.selu,
        functional.celu,
        functional.gelu,
        functional.silu,
        functional.mish,
        functional.softplus,
        functional.hardtanh,
        functional.hardswish,
        functional.hardsigmoid,
        functional.sigmoid,
        functional.tanh,
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        torch.dropout,
        torch.clone,
        Tensor.clone,
        Tensor.contiguous,
    )
)
"""Functions of each number by itself, the tensor first."""


class Streams(TorchFunctionMode):
    """Watches one forward pass that runs within it, and the sites that its layers read; changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[Node, list[str]] = {}
        self._parents: dict[Node, Node] = {}
        self._summed: set[Node] = set()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function, and join what it joins."""
        named = kwargs or {}
        if func not in SUMS and func not in POINTWISE:
            return func(*args, **named)
        count = 2 if func in SUMS else 1
        parts = [part for part in (*args, *named.values()) if isinstance(part, Tensor)][:count]
        nodes = [node_of(part) for part in parts]  # before the function writes into them
        result: Tensor = func(*args, **named)
        made = node_of(result)
        if len(parts) == count and None not in (made, *nodes) and all(part.shape == result.shape for part in parts):
            for node in nodes:
                self._join(node, made)
            if func in SUMS:
                self._summed.add(made)
        return result

    def read(self, site: str, x: Tensor) -> None:
        """A layer reads ``x`` at a site."""
        node = node_of(x)
        if node is not None:
            readers = self._readers.setdefault(node, [])
            if site not in readers:
                readers.append(site)

    def ties(self, layers: Sequence[Layer], weights: Mapping[str, Hashable]) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Groups of two or more sites, in the order of the network; see :data:`qsearch.anatomy.TIES`.

        Args:
            weights: layer → what its weight is; the same of layers that share one.
        """
        summed = {self._root(node) for node in self._summed}
        streams: dict[Node, list[str]] = {}
        for node, sites in self._readers.items():
            if (root := self._root(node)) in summed:
                streams.setdefault(root, []).extend(sites)
        # spikes are not quantised: they share no scale with anything
        spikes = {layer.activation_site for layer in layers if layer.reads_spikes}
        found = {
            "inputs": _merged(_without(spikes, self._readers.values()), layers),
            "residual": _merged(_without(spikes, streams.values()), layers),
            "qkv": _merged(self._alike(layers), layers),
            "shared": _merged(_sharing(layers, weights), layers),
        }
        return {kind: groups for kind, groups in found.items() if groups}

    def _alike(self, layers: Sequence[Layer]) -> list[list[str]]:
        """Weight sites of linear layers of one shape that read the same tensors."""
        linear = {layer.activation_site: layer for layer in layers if layer.kind == "linear"}
        read: dict[str, set[Node]] = {}
        for node, sites in self._readers.items():
            for site in sites:
                read.setdefault(site, set()).add(node)
        groups: dict[Hashable, list[str]] = {}
        for site, layer in linear.items():
            key = frozenset(read.get(site, ())), layer.in_channels, layer.out_channels
            groups.setdefault(key, []).append(layer.weight_site)
        return list(groups.values())

    def _join(self, one: Node, other: Node) -> None:
        self._parents[self._root(one)] = self._root(other)

    def _root(self, node: Node) -> Node:
        while (parent := self._parents.get(node, node)) != node:
            node = parent
        return node


def _sharing(layers: Sequence[Layer], weights: Mapping[str, Hashable]) -> list[list[str]]:
    """Weight sites of layers whose weight is the same."""
    groups: dict[Hashable, list[str]] = {}
    for layer in layers:
        if layer.name in weights:
            groups.setdefault(weights[layer.name], []).append(layer.weight_site)
    return list(groups.values())


def node_of(x: Tensor) -> Node | None:
    """A tensor as it is now; None for one whose memory cannot be told."""
    try:
        memory = StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]  # torch leaves it without types
        version = 0 if x.is_inference() else x._version
        return memory, x.storage_offset(), tuple(x.shape), tuple(x.stride()), version
    except (NotImplementedError, RuntimeError):
        return None


def _without(left_out: Set[str], groups: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[site for site in group if site not in left_out] for group in groups]


def _merged(groups: Iterable[Sequence[str]], layers: Sequence[Layer]) -> tuple[tuple[str, ...], ...]:
    """Groups with those that share a site made one, of two or more sites, in the order of the network."""
    joined = Anatomy(tuple(layers)).groups([tuple(group) for group in groups])
    return tuple(group for group in joined if len(group) > 1)
