"""Passes on their way through a flow: which calls they do without, and what they leave at cuts for others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from greenlet import getcurrent  # type: ignore[import-untyped]  # ships no annotations
from torch import nn

from qsearch.quantize.flow import Cut, Flow, called, intercepted
from qsearch.quantize.snapshots import Missing, Output


class Part(Protocol):
    """A part of a network that is corrected in a pass."""

    @property
    def module(self) -> nn.Module:
        """Whose statistics, bias or thresholds are corrected."""
        ...

    def reset(self) -> None:
        """Bring back what training stored."""
        ...

    def state(self) -> Any:
        """What a pass has found so far, and stored."""
        ...

    def restore(self, state: Any) -> None:
        """Take on such a state, after :meth:`reset`."""
        ...


class Way:
    """One pass on its way through the flow.

    Attributes:
        left: position of a cut → the outputs that are kept there, of those it has come by.
        states: position of a cut → what the parts had found.
        last: position of the last call that it has to see.

    Args:
        given: outputs of calls that are not made.
        until: position of the cut at which they were kept.
        cuts: at which outputs are to be kept.
        parts: whose states are to be noted.
    """

    def __init__(
        self, flow: Flow, given: Mapping[int, Output], until: int, cuts: Sequence[Cut], parts: Sequence[Part]
    ) -> None:
        self.left: dict[int, Mapping[int, Output]] = {}
        self.states: dict[int, tuple[Any, ...]] = {}
        self.last = max([until, *(cut.position for cut in cuts)])
        self._calls, self._given, self._until, self._parts = flow.calls, given, until, parts
        self._cuts = {cut.position: cut for cut in cuts}
        self._needed: Collection[int] = frozenset().union(*(cut.needed for cut in cuts))
        self._skipped: Collection[int] = frozenset().union(*(cut.skipped for cut in cuts))
        self._seen = dict(given)
        self._position = 0
        self._astray = False

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The output of a call, which is made if need be."""
        position = self._position
        if self._astray or not self._expected(module):
            return called(module, args, kwargs)
        if position in self._cuts:
            self._keep(self._cuts[position])
        call = self._calls[position]
        if position in self._given and position < self._until:
            self._position = call.end
            return self._given[position].give()
        self._position += 1
        output = called(module, args, kwargs)
        if self._position != call.end:
            self._stray()
        elif position in self._skipped and not self._astray:
            needed = position in self._needed
            self._seen[position] = Output.of(output, needed=needed, rewritten=call.rewritten)
        return output

    def _expected(self, module: nn.Module) -> bool:
        if self._position < len(self._calls) and self._calls[self._position].module is module:
            return True
        self._stray()
        return False

    def _stray(self) -> None:
        """The pass does not make the calls of the flow: whatever it computes from here on is not kept."""
        if self._position < self._until:
            raise Missing("other calls than there were")
        self._astray = True

    def _keep(self, cut: Cut) -> None:
        self.left[cut.position] = {i: self._seen[i] if i in cut.needed else self._seen[i].absent for i in cut.skipped}
        self.states[cut.position] = tuple(part.state() for part in self._parts)


def on_their_ways(
    flow: Flow,
    ways: Sequence[Way],
    passes: Sequence[Callable[[], Any]],
    run: Callable[[Sequence[Callable[[], Any]]], list[Any]],
) -> list[Any]:
    """Run passes, each on its way."""
    current: dict[Any, Way] = {}

    def answer(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return current[getcurrent()].call(module, args, kwargs)

    def go(way: Way, one: Callable[[], Any]) -> Any:
        current[getcurrent()] = way
        return one()

    last = max(way.last for way in ways)
    with intercepted({call.module for call in flow.calls[: last + 1]}, answer):
        return run([partial(go, way, one) for way, one in zip(ways, passes, strict=True)])
