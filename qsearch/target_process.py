"""A target in a process of its own, so that one that hangs or dies takes nothing with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from qsearch.errors import Failure, QSearchError
from qsearch.measurements import Point
from qsearch.protocols import Target
from qsearch.target_plugin import Plugin, checked

START_LIMIT = 120.0
"""Seconds that a target may take to be ready; imports of simulators are slow on a busy machine."""


@dataclass(frozen=True)
class Answer:
    """What came of one point.

    Attributes:
        readings: metric → readings; empty where it failed.
        failure: why.
        died: whether the process is gone by itself.
    """

    readings: Mapping[str, tuple[float, ...]]
    failure: str = ""
    died: bool = False


class TargetProcess:
    """Starts with the first question, and again after one that it did not survive.

    Args:
        plugin: the target.
    """

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin
        self._process: Any = None
        self._pipe: Connection | None = None

    def ask(self, point: Point, warm_up: int, repeats: int, timeout: float) -> Answer:
        """Readings of a point, after ``warm_up`` that are thrown away. The time limit leaves out the process's start.

        Raises:
            QSearchError: the target cannot be made there.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send((point, warm_up, repeats))
            if not pipe.poll(timeout):
                self.stop()
                return Answer({}, f"timed out after {timeout:g} s")
            readings, failure = pipe.recv()
        except (EOFError, OSError):
            return Answer({}, f"the process died ({self._ending()})", died=True)
        return Answer(readings, failure)

    def stop(self) -> None:
        """End the process, whatever it is at."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._plugin), daemon=True)
        with _Uninterrupted():
            self._process.start()
        theirs.close()
        self._pipe = ours
        try:
            error = ours.recv() if ours.poll(START_LIMIT) else Failure(f"it must be ready within {START_LIMIT:g} s")
        except (EOFError, OSError):
            error = Failure(
                f"target {self._plugin.name!r} must start in a process of its own", got=f"died: {self._ending()}"
            )
        if error is not None:
            self.stop()
            raise error
        return ours

    def _ending(self) -> str:
        """How the process ended; forgets it."""
        self._process.join(5)
        code = self._process.exitcode
        self.stop()
        if code is None:
            return "it closed its connection"
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


class _Uninterrupted:
    """A process started within never sees Ctrl-C: its parent decides what is to end."""

    def __enter__(self) -> None:
        self._before = None
        if threading.current_thread() is threading.main_thread():  # others may not touch signals
            self._before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def serve(pipe: Connection, plugin: Plugin) -> None:
    """The process: make the target, say so, and answer until nobody asks."""
    os.dup2(2, 1)  # standard output is for results, also where a target prints
    try:
        target = plugin.make()
        pipe.send(None)
    except QSearchError as error:
        pipe.send(type(error)(str(error)))
        return
    while True:
        try:
            point, warm_up, repeats = pipe.recv()
        except EOFError:
            return
        pipe.send(_readings(target, point, warm_up, repeats))


def _readings(target: Target, point: Point, warm_up: int, repeats: int) -> tuple[dict[str, tuple[float, ...]], str]:
    """Readings by metric, or why there are none."""
    try:
        taken = [checked(target.measure(*point), target.units) for _ in range(warm_up + repeats)][warm_up:]
    except QSearchError as error:
        return {}, str(error)
    except Exception as error:  # a target may fail in any way: it is kept as this point's failure, the next may do
        return {}, f"{type(error).__name__}: {error}"
    return {metric: tuple(reading[metric] for reading in taken) for metric in target.units}, ""
