"""Several forward passes that advance together, so that they can share what they measure.

A forward pass stops inside hooks, deep in code that is not ours, so each needs a stack of its own: a generator has
none below its own frame, and threads would run in no fixed order, each with torch's modes set anew. So a pass is a
greenlet: one at a time, in one thread, in a fixed order. A pass that calls :func:`wait` goes on when every other one has
called it too, or has ended. Modes that torch asks before each function, and autocast, belong to the thread; each pass is
given its own when it goes on. A network that switches other modes of torch inside its forward around a point of waiting must
be given a single pass.

An exception in one pass surfaces in the caller. The others are first unwound where they wait, by an exception of
their own that ``except Exception`` does not catch, so that what they hold is released and none of them is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # ships no annotations

Result = TypeVar("Result")


Autocast = tuple[bool, torch.dtype, bool, torch.dtype]
"""Of processors, then of CUDA devices: whether autocast is on, and to what."""


@dataclass(slots=True)  # not frozen, which is slower to make: there are thousands a second
class _Settings:
    """What torch keeps for a thread: modes for functions, the innermost last, and autocast."""

    modes: list[Any]
    autocast: Autocast


class _Pass(greenlet):  # type: ignore[misc]  # as above
    """A forward pass; a class of its own, as the caller may itself be some greenlet.

    Attributes:
        settings: its own while it waits; those of the caller at first.
    """

    settings: _Settings


def in_lockstep(passes: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run the passes to their ends; their results, in order. An exception in one of them ends all."""
    results: dict[int, Result] = {}

    def keep(position: int) -> None:
        results[position] = passes[position]()

    running = [_Pass(keep) for _ in passes]
    ours = _Settings(_exchange_modes([]), _autocast())
    _exchange(ours)
    for task in running:
        task.settings = ours
    try:
        for position, task in enumerate(running):
            _proceed(task, position)
        while any(not task.dead for task in running):
            for task in running:
                if not task.dead:
                    _proceed(task)
    finally:
        for task in running:
            if not task.dead:
                _exchange(task.settings)  # which it takes off as it unwinds
                task.throw()
        _exchange(ours)
    return [results[position] for position in range(len(passes))]


def wait() -> None:
    """Let the other passes come to this point; nothing to do outside of :func:`in_lockstep`."""
    current = getcurrent()
    if isinstance(current, _Pass):
        current.parent.switch()


def _proceed(task: _Pass, *args: int) -> None:
    """Let a pass go on, with its own settings, until it waits or ends."""
    ours = _exchange(task.settings)
    task.switch(*args)
    task.settings = _exchange(ours)


def _exchange(settings: _Settings) -> _Settings:
    """Put others in the place of this thread's settings; those that were there."""
    found = _Settings(_exchange_modes(settings.modes), _autocast())
    if settings.autocast != found.autocast:
        cpu, cpu_type, cuda, cuda_type = settings.autocast
        for kind, enabled, dtype in (("cpu", cpu, cpu_type), ("cuda", cuda, cuda_type)):
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
    return found


def _autocast() -> Autocast:
    on, to = torch.is_autocast_enabled, torch.get_autocast_dtype
    return on("cpu"), to("cpu"), on("cuda"), to("cuda")


def _exchange_modes(modes: list[Any]) -> list[Any]:
    """Put others in the place of this thread's modes for functions, the innermost last; those that were there."""
    count = torch._C._len_torch_function_stack()
    if not count and not modes:
        return []
    found = [torch._C._pop_torch_function_stack() for _ in range(count)]
    for mode in modes:
        torch._C._push_on_torch_function_stack(mode)
    return found[::-1]
