"""A network with a module for everything in it that can be quantised: functional calls and attention included.

The copy computes what the network computes; layers of the copy are modules with hooks and weights, whoever wrote the
network and however. Where nothing needs unfolding it is a plain copy, without any overhead. Otherwise its functional calls are
found by one forward pass (:mod:`qsearch.quantize.discovery`), modules that stand in for them are attached to the modules
that make them, under free names, and its forward passes send the calls there (:mod:`qsearch.quantize.routing`). The copy
then runs beside the network on the example: where they disagree, it is not used, and what was found is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qsearch.anatomy import LeftInFloat
from qsearch.quantize.attention import avoid_nested_tensors, open_attentions, why_closed
from qsearch.quantize.calls import Weighted, layer
from qsearch.quantize.copies import evaluation_copy
from qsearch.quantize.discovery import Findings, Key, Recipe, discover, named
from qsearch.quantize.modules import Inputs, forward, head
from qsearch.quantize.passes import frame
from qsearch.quantize.products import MatrixProduct
from qsearch.quantize.routing import route

SAMPLES = 8
"""Samples of the example that calls are looked for in: the same few, however large the batch."""

TOLERANCE = 1000.0
"""Roundings of the largest output by which the copy may differ from the network."""


@dataclass(frozen=True)
class Unfolding:
    """A network unfolded.

    Attributes:
        network: the copy, in evaluation mode.
        left: functional calls and attentions that stay in float.
        consumed: names of parameters that functional calls take: layers have copies, or ``left`` tells of them.
    """

    network: nn.Module
    left: tuple[LeftInFloat, ...] = ()
    consumed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Failure:
    """Why an attempt at unfolding came to nothing, and what it would have unfolded: name → weights in it."""

    why: str
    parts: Mapping[str, int] = field(default_factory=dict)
    left: tuple[LeftInFloat, ...] = ()
    consumed: frozenset[str] = frozenset()


@torch.inference_mode(False)
@torch.no_grad()
def unfold(model: nn.Module, example: Inputs) -> Unfolding:
    """Unfold a copy of a network; the one given is left as it is.

    Attentions are opened first. Where the network cannot do without them, as it reads their weights itself, only its
    functional calls are unfolded.

    Args:
        model: any network.
        example: an input of shape (B, …), or a tuple of them, of which the first samples are used.

    Raises:
        DataError: the network cannot be copied.
    """
    example = head(example, SAMPLES)
    found = _attempt(model, example, None)
    if isinstance(found, _Failure) and any(isinstance(module, nn.MultiheadAttention) for module in model.modules()):
        found = _attempt(model, example, found.why)
    if isinstance(found, Unfolding):
        return found
    if not _runs(_copy(model), example):  # which whoever runs the copy next is told, with the reason
        return Unfolding(_copy(model))
    parts = found.parts or {type(model).__name__: 0}
    given_up = [LeftInFloat(name, "call or attention", numbers, found.why) for name, numbers in parts.items()]
    return Unfolding(_copy(model), (*found.left, *given_up), found.consumed)


def _attempt(model: nn.Module, example: Inputs, closed: str | None) -> Unfolding | _Failure:
    """An unfolded copy that gives what the network gives, or why there is none.

    Args:
        closed: why no attention is opened; None where all are that can be.
    """
    scratch = _copy(model)
    shut = _shut(scratch, closed)
    matrices = {
        name: _matrices(module) for name, module in scratch.named_modules() if isinstance(module, nn.MultiheadAttention)
    }
    opened = {name: matrices[name] for name in ([] if closed else open_attentions(scratch))}
    try:
        found = discover(scratch, example)
    except Exception as error:  # a network may do anything
        return _Failure(f"the network does not run while it is watched: {_told(error)}", opened)
    left = (*(part for part in shut if part.name in found.ran), *found.left.values())
    consumed = frozenset(found.consumed)
    if not (opened or found.layers or found.products):
        return Unfolding(_copy(model), left, consumed)
    why = _disagreement(model, found, example, opening=closed is None)
    if why is not None:
        calls = {named(path, key[0]): 0 for path, key in found.products}
        for (path, key), recipe in found.layers.items():
            calls[named(path, key[0])] = calls.get(named(path, key[0]), 0) + math.prod(recipe.weight.shape)
        return _Failure(why, opened | calls, left, consumed)
    return Unfolding(_unfolded(model, found, opening=closed is None), left, consumed)


def _copy(model: nn.Module) -> nn.Module:
    network = evaluation_copy(model)
    avoid_nested_tensors(network)
    return network


def _unfolded(model: nn.Module, found: Findings, *, opening: bool) -> nn.Module:
    """A copy with modules for the calls that were found, and with attentions open if they were then."""
    network = _copy(model)
    if opening:
        open_attentions(network)
    if not (found.layers or found.products):
        return network
    frame(network)
    routes: dict[str, dict[Key, tuple[str, ...]]] = {}
    for path, key in found.left:
        routes.setdefault(path, {})[key] = ()
    for (path, key), recipe in found.layers.items():
        made = _made(recipe, network)
        routes.setdefault(path, {})[key] = (_attach(network.get_submodule(path), recipe.operation, made),)
    for (path, key), operation in found.products.items():
        owner = network.get_submodule(path)
        names = ("matmul",) if operation == "matmul" else ("scores", "context")
        routes.setdefault(path, {})[key] = tuple(_attach(owner, name, MatrixProduct().eval()) for name in names)
    route(network, _under_all_names(network, routes))
    return network


def _made(recipe: Recipe, network: nn.Module) -> nn.Module:
    weight, bias = recipe.weight.of(network), None if recipe.bias is None else recipe.bias.of(network)
    return layer(Weighted(recipe.operation, weight, weight, bias, recipe.geometry), weight, bias)


def _attach(owner: nn.Module, name: str, made: nn.Module) -> str:
    """Make a module a child under a free name, which is returned."""
    free, number = name, 0
    while hasattr(owner, free):
        number += 1
        free = f"{name}_{number}"
    owner.add_module(free, made)
    return free


def _under_all_names(
    network: nn.Module, routes: Mapping[str, Mapping[Key, tuple[str, ...]]]
) -> dict[str, dict[Key, tuple[str, ...]]]:
    """Routes by every name of a parameter: whoever works with the copy may give modules that share one each its own."""
    names: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    found: dict[str, dict[Key, tuple[str, ...]]] = {}
    for path, calls in routes.items():
        for (operation, which), children in calls.items():
            if which is None or isinstance(which, int):
                keys: list[Key] = [(operation, which)]
            else:
                aliases = names[id(network.get_parameter(which.name))]
                keys = [(operation, replace(which, name=name)) for name in aliases]
            found.setdefault(path, {}).update(dict.fromkeys(keys, children))
    return found


def _disagreement(model: nn.Module, found: Findings, example: Inputs, *, opening: bool) -> str | None:
    """Why the unfolded copy does not do for the network; None where it computes the same to rounding."""
    expected = _run(evaluation_copy(model), example)
    try:
        outputs = _run(_unfolded(model, found, opening=opening), example)
    except Exception as error:  # as in unfold
        return f"the network does not run with modules in their place: {_told(error)}"
    ours, theirs = tree_leaves(outputs), tree_leaves(expected)
    same = len(ours) == len(theirs) and all(map(close, ours, theirs))
    return None if same else "with modules in their place the network gives another output"


def close(ours: Any, theirs: Any) -> bool:
    """Whether tensors agree to rounding; what is no tensor is not compared."""
    if not isinstance(theirs, Tensor):
        return True
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
        return False
    if not theirs.is_floating_point() or not theirs.numel():
        return True
    finite = torch.where(theirs.isfinite(), theirs, 0).abs().max()
    bound = min(TOLERANCE * torch.finfo(theirs.dtype).eps, 0.05) * float(finite)
    return torch.allclose(ours, theirs, rtol=0, atol=max(bound, 1e-30), equal_nan=True)


def _shut(network: nn.Module, closed: str | None) -> list[LeftInFloat]:
    """Attentions that stay as they are."""
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention) and (why := closed or why_closed(module)) is not None:
            found.append(LeftInFloat(name, type(module).__name__, _matrices(module), why))
    return found


def _matrices(module: nn.Module) -> int:
    """Numbers in the matrices and kernels of a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)


def _runs(network: nn.Module, example: Inputs) -> bool:
    """Whether a network runs as it is."""
    try:
        _run(network, example)
    except Exception:  # only asked whether
        return False
    return True


def _run(network: nn.Module, example: Inputs) -> Any:
    with torch.random.fork_rng():
        return forward(network, example)


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
