"""Several forward passes that advance together, so that they can share what they measure.

Each pass runs as a greenlet: one at a time, in one thread, in a fixed order. A pass that calls :func:`wait` goes on
when every other one has called it too, or has ended. A network that switches modes of torch inside its forward
(autocast, say) around a point of waiting must be given a single pass, as modes belong to the thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from greenlet import getcurrent, greenlet  # type: ignore[import-untyped]  # ships no annotations

Result = TypeVar("Result")


def in_lockstep(passes: Sequence[Callable[[], Result]]) -> list[Result]:
    """Run the passes to their ends; their results, in order. An exception in one of them ends all."""
    results: dict[int, Result] = {}

    def keep(position: int) -> None:
        results[position] = passes[position]()

    running = [(greenlet(keep), position) for position in range(len(passes))]
    for task, position in running:
        task.switch(position)
    while any(not task.dead for task, _ in running):
        for task, _ in running:
            if not task.dead:
                task.switch()
    return [results[position] for position in range(len(passes))]


def wait() -> None:
    """Let the other passes come to this point; nothing to do outside of :func:`in_lockstep`."""
    parent = getcurrent().parent
    if parent is not None:
        parent.switch()
