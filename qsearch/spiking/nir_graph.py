"""A NIR graph as it is drawn: nested graphs opened, recurrent weights at their neurons, the rest in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nir

from qsearch.errors import DataError

RECURRENT = (nir.Linear, nir.Affine, nir.Conv1d, nir.Conv2d)
"""Nodes through which spikes may come back to their neurons."""


@dataclass
class Drawing:
    """Nodes by name, and edges between them.

    Attributes:
        recurrent: node of a neuron → the weights through which its spikes come back.
    """

    nodes: dict[str, nir.NIRNode] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)
    recurrent: dict[str, nir.NIRNode] = field(default_factory=dict)

    def before(self, name: str) -> list[str]:
        """The nodes that a node reads, by name."""
        return sorted(source for source, target in self.edges if target == name)

    def behind(self, name: str) -> list[str]:
        """The nodes that read a node, by name."""
        return sorted(target for source, target in self.edges if source == name)

    def only(self, kind: type[nir.NIRNode]) -> str:
        """The one node of a kind.

        Raises:
            DataError: none, or several.
        """
        found = [name for name, node in self.nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise DataError(f"a NIR graph must have one {kind.__name__}", got=f"{len(found)} ({', '.join(found)})")
        return found[0]

    def remove(self, name: str) -> None:
        """Take a node and its edges away."""
        del self.nodes[name]
        self.edges = {edge for edge in self.edges if name not in edge}


def drawn(graph: nir.NIRGraph) -> Drawing:
    """A graph with its nested graphs opened and its recurrent weights at their neurons.

    Raises:
        DataError: an edge to a node that is not there; no Input or Output, or several; a node of the name that one of a
            nested graph has once that is opened.
    """
    drawing = Drawing()
    _open(graph, "", drawing)
    for name in [name for name, node in drawing.nodes.items() if _passes_on(node) and name not in graph.nodes]:
        passed = {(a, b) for a in drawing.before(name) for b in drawing.behind(name)}
        drawing.remove(name)
        drawing.edges |= passed
    drawing.only(nir.Input), drawing.only(nir.Output)
    _attach_recurrent(drawing)
    return drawing


def in_order(drawing: Drawing) -> list[str]:
    """All nodes, each after those it reads.

    Raises:
        DataError: a cycle; a node that the input does not reach, or that does not reach the output.
    """
    waiting, found = {name: set(drawing.before(name)) for name in drawing.nodes}, list[str]()
    while ready := sorted(name for name, before in waiting.items() if before.issubset(found)):
        found += ready
        waiting = {name: before for name, before in waiting.items() if name not in found}
    if waiting:
        raise DataError(
            "a NIR graph must be feed-forward, but for spikes of an IF or LIF that come back to it through one Linear, "
            "Affine or convolution",
            got=f"a cycle through {_listed(_circling(drawing, waiting))}",
        )
    _check_connected(drawing)
    return found


def safe_names(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Names of nodes → names of modules: letters, digits and underscores, different, none of those taken."""
    used, found = set(taken), dict[str, str]()
    for name in names:
        safe = re.sub(r"\W", "_", name) or "_"
        while safe in used:
            safe += "_"
        used.add(safe)
        found[name] = safe
    return found


def _open(graph: nir.NIRGraph, prefix: str, drawing: Drawing) -> None:
    """Add a graph's nodes, and those of graphs within it as PREFIX.NAME; their Inputs and Outputs take its edges."""
    entries, exits = dict[str, str](), dict[str, str]()
    for name, node in graph.nodes.items():
        whole = prefix + name
        entries[name] = exits[name] = whole
        if isinstance(node, nir.NIRGraph):
            inner = Drawing(dict(node.nodes))
            entries[name], exits[name] = (f"{whole}.{inner.only(kind)}" for kind in (nir.Input, nir.Output))
            _open(node, f"{whole}.", drawing)
        elif whole in drawing.nodes:
            raise DataError("nodes of a NIR graph, and of those within it, must have different names", got=repr(whole))
        else:
            drawing.nodes[whole] = node
    for edge in graph.edges:
        source, target = (str(end) for end in edge)
        for end in (source, target):
            if end not in graph.nodes:
                raise DataError("an edge of a NIR graph must join two of its nodes", got=f"{source!r} to {target!r}")
        drawing.edges.add((exits[source], entries[target]))


def _passes_on(node: nir.NIRNode) -> bool:
    return isinstance(node, nir.Input | nir.Output)


def _attach_recurrent(drawing: Drawing) -> None:
    """Put weights that lead from a neuron back to it alone at that neuron, where there is one such."""
    for name, node in list(drawing.nodes.items()):
        before, behind = drawing.before(name), drawing.behind(name)
        returns = isinstance(node, RECURRENT) and len(before) == 1 and before == behind
        neuron = before[0] if returns else ""
        if returns and isinstance(drawing.nodes[neuron], nir.IF | nir.LIF) and neuron not in drawing.recurrent:
            drawing.recurrent[neuron] = node
            drawing.remove(name)


def _circling(drawing: Drawing, waiting: Mapping[str, Any]) -> list[str]:
    """Those of the nodes that lie on a cycle."""
    return [name for name in waiting if name in _reached(drawing, drawing.behind(name), forwards=True)]


def _check_connected(drawing: Drawing) -> None:
    """Raise unless every node lies between input and output."""
    reached = _reached(drawing, [drawing.only(nir.Input)], forwards=True)
    reaching = _reached(drawing, [drawing.only(nir.Output)], forwards=False)
    loose = [name for name in drawing.nodes if name not in reached & reaching]
    if loose:
        raise DataError("every node of a NIR graph must lie between its Input and its Output", got=_listed(loose))


def _reached(drawing: Drawing, starts: Iterable[str], *, forwards: bool) -> set[str]:
    """Nodes that edges lead to from some, those included."""
    found, waiting = set[str](), list(starts)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += drawing.behind(name) if forwards else drawing.before(name)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
