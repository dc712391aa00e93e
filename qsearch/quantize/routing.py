"""Sending functional calls of a network to the modules that stand in for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import nn

from qsearch.errors import DataError
from qsearch.quantize.calls import Attention, Call, Product, Weighted, run
from qsearch.quantize.discovery import Key, key_of, named
from qsearch.quantize.passes import Pass, Running
from qsearch.quantize.products import scaled_dot_product_attention
from qsearch.quantize.views import View

Routes = Mapping[str, Mapping[Key, tuple[str, ...]]]
"""Path of a module → call → names of its children that stand in for it; none where the call stays in float."""


class _Router(Pass):
    """Sends the calls of one forward pass where they belong."""

    def __init__(self, network: nn.Module, routes: Routes) -> None:
        super().__init__(network)
        self._routes = routes
        self._fewer: list[DataError] = []

    def called(self, now: Running, call: Call, original: Callable[[], Any]) -> Any:
        """The result of a call by its stand-ins.

        Raises:
            DataError: a call that the network did not make on the example.
        """
        key = key_of(now, call, self.constants)
        names = self._routes.get(now.path, {}).get(key)
        if names is None:
            raise _differs(now.path, f"another {key[0]}")
        stand_ins = [now.module.get_submodule(name) for name in names]
        if not stand_ins:
            return original()
        if isinstance(call, Weighted):
            return run(stand_ins[0], call)
        if isinstance(call, Attention):
            scores, context = stand_ins
            return scaled_dot_product_attention(scores, context, *call.args, **call.kwargs)
        assert isinstance(call, Product)
        return stand_ins[0](call.a, call.b)

    def left(self, now: Running) -> None:
        """Note a run that made fewer products than on the example: their numbers do not tell one from another."""
        for operation in ("matmul", "attention"):
            if (operation, now.made[operation]) in self._routes.get(now.path, {}):
                self._fewer.append(_differs(now.path, f"fewer calls of {operation}"))

    def finish(self) -> None:
        """The pass has ended well.

        Raises:
            DataError: a call is missing that the network made on the example.
        """
        self.left(self.running[0])
        if self._fewer:
            raise self._fewer[0]


def _differs(path: str, got: str) -> DataError:
    return DataError(
        f"{path or 'the network'} must make the same calls on all data as on the example",
        got=got,
        fix="make modules of functional calls that depend on the data",
    )


def route(network: nn.Module, routes: Routes) -> None:
    """From now on, send the calls of a network with frames to their stand-ins.

    What is set is a method with the network, not a closure over it, so that a deep copy routes its own calls.
    """
    network._qsearch_routed = routes, network.forward  # type: ignore[assignment]  # any attribute but a tensor
    network.forward = MethodType(_routed, network)


def stand_ins(network: nn.Module) -> dict[str, View]:
    """Stand-in with a weight → what of which parameter its weight is a copy of; of all names, the parameter's first."""
    routes: Routes = getattr(network, "_qsearch_routed", ({}, None))[0]
    found: dict[str, View] = {}
    for path, calls in routes.items():
        for (_, weight), names in calls.items():
            if isinstance(weight, View) and names:
                found.setdefault(named(path, names[0]), weight)
    return found


def _routed(network: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward of a network, with its calls routed."""
    routes, original = network._qsearch_routed  # type: ignore[misc]  # as above
    with _Router(network, routes) as router:
        output = original(*args, **kwargs)
    router.finish()
    return output
