"""Which functional calls of a network can become layers: found by one forward pass.

A call with a weight is known by the module that makes it and by its weight, so that a weight that is used again is one
layer with all its uses. A product of activations is known by the module that makes it and by its number among those that
the module makes in one run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.anatomy import LeftInFloat
from qsearch.quantize.calls import Attention, Call, Product, Weighted
from qsearch.quantize.modules import Inputs, forward
from qsearch.quantize.passes import Pass, Running, frame, tensors
from qsearch.quantize.views import Constants, View

Key: TypeAlias = tuple[str, View | int | None]
"""Of a call within its module: the operation, and the weight, the number, or None for all calls with computed weights."""

Place: TypeAlias = tuple[str, Key]
"""Path of the module, and the key of the call within it."""


@dataclass(frozen=True)
class Recipe:
    """What a stand-in for calls with a weight is made of; see :class:`qsearch.quantize.calls.Weighted`."""

    operation: str
    weight: View
    bias: View | None
    geometry: tuple[tuple[str, Any], ...]
    finish: str


@dataclass
class Findings:
    """What a discovery found, by place, in the order of the first run.

    Attributes:
        layers: recipes of layers with a weight.
        products: operations that become matrix products: "matmul" or "attention".
        left: calls that stay in float.
        consumed: parameters that the calls take.
        ran: paths of the modules that ran.
    """

    layers: dict[Place, Recipe] = field(default_factory=dict)
    products: dict[Place, str] = field(default_factory=dict)
    left: dict[Place, LeftInFloat] = field(default_factory=dict)
    consumed: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)


class _Discovery(Pass):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.found = Findings()
        self._counts: dict[tuple[str, str], int] = {}

    def called(self, now: Running, call: Call, original: Callable[[], Any]) -> Any:
        """Note a call, and make it."""
        key = key_of(now, call, self.constants)
        place = now.path, key
        for part in tensors(call):
            if (view := self.constants.view(part)) is not None:
                self.found.consumed.add(view.name)
        if place in self.found.left:
            return original()
        why = self._why_left(call)
        if why is None and isinstance(call, Weighted):
            why = self._layer(place, call)
        elif why is None:
            self.found.products[place] = key[0]
        if why is not None:
            self._leave(place, call, why)
        return original()

    def left(self, now: Running) -> None:
        """Products of modules whose runs differ stay in float: their numbers do not tell one from another."""
        self.found.ran.add(now.path)
        for operation in ("matmul", "attention"):
            count = now.made[operation]
            if self._counts.setdefault((now.path, operation), count) != count:
                for place in [at for at in self.found.products if at[0] == now.path and at[1][0] == operation]:
                    self._leave(place, None, "runs of its module differ in their products")

    def _layer(self, place: Place, call: Weighted) -> str | None:
        """Note a layer; why it cannot be one."""
        weight = self.constants.view(call.weight)
        assert weight is not None
        bias = None if call.bias is None else self.constants.view(call.bias)
        recipe = Recipe(call.operation, weight, bias, call.geometry, call.finish)
        if self.found.layers.setdefault(place, recipe) != recipe:
            return "calls with its weight differ in their bias or geometry"
        return None

    def _why_left(self, call: Call) -> str | None:
        """Why a call cannot be quantised, whatever the others are."""
        if isinstance(call, Weighted):
            if not self.constants.parameter(call.weight):
                return "its weight is computed in the forward pass"
            if self.constants.parameter(call.x):
                return "it multiplies two parameters"
            if call.bias is not None and not (self.constants.parameter(call.bias) and call.bias.dim() <= 1):
                return "its bias is computed in the forward pass"
            return None
        if isinstance(call, Attention):
            return None
        if isinstance(call, Product):
            if call.addend is not None:
                return "what is added has a factor, or no weight beside it"
            return self._why_no_product(call.a, call.b)
        return "operations of this kind are not quantised"

    def _why_no_product(self, a: Tensor, b: Tensor) -> str | None:
        if self.constants.parameter(a) or self.constants.parameter(b):
            return "its weight is no matrix"
        if self.constants.buffer(a) or self.constants.buffer(b):
            return "one side is a buffer, neither weight nor activation"
        return None if a.is_floating_point() else "it multiplies integers"

    def _leave(self, place: Place, call: Call | None, why: str) -> None:
        path, (operation, _) = place
        self.found.layers.pop(place, None)
        self.found.products.pop(place, None)
        views = [view for part in tensors(call) if (view := self.constants.view(part)) is not None] if call else []
        numbers = {view.name: view.numbers for view in views}  # of a parameter on both sides, once
        what = f"functional {operation}" if views or isinstance(call, Weighted) else f"{operation} of activations"
        self.found.left.setdefault(place, LeftInFloat(named(path, operation), what, sum(numbers.values()), why))


def discover(network: nn.Module, example: Inputs) -> Findings:
    """What a network calls; it is given hooks, and must be a copy."""
    frame(network)
    watch = _Discovery(network)
    with torch.random.fork_rng(), watch:
        forward(network, example)
    return watch.found


def named(path: str, name: str) -> str:
    """The name of something within a module."""
    return f"{path}.{name}" if path else name


def key_of(now: Running, call: Call, constants: Constants) -> Key:
    """How a call is known within the module that makes it."""
    if isinstance(call, Weighted):
        return call.operation, constants.view(call.weight)
    if isinstance(call, Attention):
        return "attention", now.next("attention")
    if isinstance(call, Product):
        return "matmul", now.next("matmul")
    return call.name, None
