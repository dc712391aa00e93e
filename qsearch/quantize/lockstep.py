"""Several forward passes that advance together, so that they can share what they measure.

A forward pass stops inside hooks, deep in code that is not ours, so each needs a stack of its own: a generator has
none below its own frame, and threads would run in no fixed order, each with torch's modes set anew. So a pass is a
greenlet: one at a time, in one thread, in a fixed order. A pass that calls :func:`wait` goes on when every other one has
called it too, or has ended. A network that switches modes of torch inside its forward (autocast, say) around a point
of waiting must be given a single pass, as modes belong to the thread.

An exception in one pass surfaces in the caller. The others are first unwound where they wait, by an exception of
their own that ``except Exception`` does not catch, so that what they hold is released and none of them is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # ships no annotations

Result = TypeVar("Result")


class _Pass(greenlet):  # type: ignore[misc]  # as above
    """A forward pass; a class of its own, as the caller may itself be some greenlet."""


def in_lockstep(passes: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run the passes to their ends; their results, in order. An exception in one of them ends all."""
    results: dict[int, Result] = {}

    def keep(position: int) -> None:
        results[position] = passes[position]()

    running = [_Pass(keep) for _ in passes]
    try:
        for position, task in enumerate(running):
            task.switch(position)
        while any(not task.dead for task in running):
            for task in running:
                if not task.dead:
                    task.switch()
    finally:
        for task in running:
            if not task.dead:
                task.throw()
    return [results[position] for position in range(len(passes))]


def wait() -> None:
    """Let the other passes come to this point; nothing to do outside of :func:`in_lockstep`."""
    current = getcurrent()
    if isinstance(current, _Pass):
        current.parent.switch()
