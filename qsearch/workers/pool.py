"""``Pool``: divides assignments among workers, and gives their answers in the order of asking.

Each worker has up to ``IN_FLIGHT`` tasks: while it works on one, the next is there already. The rest of a batch waits
here, so that nothing grows with the size of a batch but the answers that came before their turn.

A worker that is lost, by a kill or with its machine, loses its tasks to the others, and another is hired in its place; Ray
starts it as soon as there is room. Evaluations have no effect but their answer, so one that is made twice does no harm:
the first answer counts. What was on a lost worker is tried again one by one, each alone on its worker: if that one is lost
too, it is known which assignment was there.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError, Failure
from qsearch.protocols import Batching
from qsearch.workers.actor import Answer, versions

log = logging.getLogger(__name__)

IN_FLIGHT = 2


class _Batch:
    """Assignments that were asked for together, and the answers so far by position."""

    def __init__(self, assignments: Sequence[BitAssignment], seed: int, together: int) -> None:
        self.assignments, self.seed = assignments, seed
        self.answers: dict[int, Answer] = {}
        self.losses = [0] * len(assignments)
        everything = range(len(assignments))
        self.waiting = deque(_Task(self, everything[at : at + together]) for at in everything[::together])


@dataclass(eq=False)
class _Task:
    """What a worker is asked for at once.

    Attributes:
        positions: in the batch.
        suspect: a worker was lost with it, so it goes where nothing else is.
        reference: Ray's, to the answers.
    """

    batch: _Batch
    positions: range
    suspect: bool = False
    reference: Any = None


@dataclass(eq=False)
class _Worker:
    """An actor, and its tasks in the order in which it does them."""

    actor: Any
    ready: bool = False
    tasks: list[_Task] = field(default_factory=list)

    def takes(self, task: _Task) -> bool:
        """Whether another task may be put behind those that it has."""
        if not self.ready or any(other.suspect for other in self.tasks):
            return False
        return len(self.tasks) < (1 if task.suspect else IN_FLIGHT)


@dataclass(frozen=True)
class _Event:
    """Something has come of a task; of loading the evaluator where there is none."""

    worker: _Worker
    task: _Task | None
    found: Future[Any]


class Pool(Batching):
    """Workers of one evaluator.

    Args:
        hire: makes an actor: its handle, and a reference to what it says when it is ready.
        count: how many.
        together, retries, patience: see :class:`qsearch.workers.ray.RayWorkers.Options`.
    """

    def __init__(
        self, hire: Callable[[], tuple[Any, Any]], count: int, together: int, retries: int, patience: float
    ) -> None:
        self._hire, self._count = hire, count
        self._together, self._retries, self._patience = together, retries, patience
        self._workers: list[_Worker] = []
        self._events: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._stillborn = 0
        self._alone_since = time.monotonic()
        self._reason = "the cluster has no room for one"

    def open(self) -> None:
        """Hire all, and wait for the first.

        Raises:
            Failure: none has come.
        """
        self._fill()
        while not self._present:
            self._take()

    def close(self) -> None:
        """Let all workers go, whatever they are doing."""
        while self._workers:
            self._dismiss(self._workers[-1])

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Answer]:
        """See :class:`qsearch.protocols.Batching`."""
        batch = _Batch(assignments, seed, self._together)
        try:
            for position in range(len(assignments)):
                while position not in batch.answers:
                    self._give(batch)
                    self._take()
                yield batch.answers.pop(position)
        finally:
            self._withdraw(batch)

    @property
    def _present(self) -> bool:
        return any(worker.ready for worker in self._workers)

    @property
    def _left(self) -> float:
        """Seconds of patience, while nobody is ready."""
        return self._alone_since + self._patience - time.monotonic()

    def _fill(self) -> None:
        """Hire as many as are missing."""
        while len(self._workers) < self._count:
            self._add()

    def _add(self) -> None:
        actor, ready = self._hire()
        worker = _Worker(actor)
        self._workers.append(worker)
        self._watch(worker, None, ready)

    def _watch(self, worker: _Worker, task: _Task | None, reference: Any) -> None:
        """Put what comes of a reference into the queue of events."""
        reference.future().add_done_callback(lambda found: self._events.put(_Event(worker, task, found)))

    def _give(self, batch: _Batch) -> None:
        """Hand out tasks until all are given or no worker takes the next, to the least busy first."""
        while batch.waiting:
            task = batch.waiting[0]
            free = [worker for worker in self._workers if worker.takes(task)]
            if not free:
                return
            batch.waiting.popleft()
            worker = min(free, key=lambda one: len(one.tasks))
            task.reference = worker.actor.answer.remote([batch.assignments[at] for at in task.positions], batch.seed)
            worker.tasks.append(task)
            self._watch(worker, task, task.reference)

    def _take(self) -> None:
        """Wait until something has come of a task, and take it in."""
        event = self._next_event()
        if event.worker not in self._workers:  # given up meanwhile, and others were asked
            return
        error = event.found.exception()
        if error is not None and not isinstance(error, RayTaskError | TaskCancelledError):
            self._lose(event.worker, error)
        elif event.task is None:
            self._arrive(event.worker, event.found)
        else:
            event.worker.tasks.remove(event.task)
            self._enter(event.task, error, event.found)

    def _next_event(self) -> _Event:
        """The next event, however long an evaluation takes; without any worker as long as patience lasts.

        Raises:
            Failure: nobody has come.
        """
        if self._present:
            return self._events.get()
        with suppress(queue.Empty):
            if self._workers:
                return self._events.get(timeout=max(0.0, self._left))
        raise Failure(
            "workers must be there to evaluate",
            got=f"none of {self._count}; {self._reason}",
            fix="start machines, or ask for fewer cores and GPUs for each; what is recorded stays, resume then",
        )

    def _arrive(self, worker: _Worker, loaded: Future[Any]) -> None:
        """A worker has the evaluator, or cannot load it."""
        error = loaded.exception()
        if error is not None:
            self._reason = f"the evaluator cannot be loaded there: {_told(error)}"
            log.warning("a worker is left out: %s", self._reason)
            self._dismiss(worker)
            return
        worker.ready, self._stillborn = True, 0
        self._fill()
        here, there = versions(), loaded.result()
        if there != here:
            log.warning("a worker has other versions, answers may differ: %s there, %s here", there, here)

    def _enter(self, task: _Task, error: BaseException | None, found: Future[Any]) -> None:
        """Take in the answers to a task; a call that failed is the failure of each of its assignments."""
        answers: list[Answer] = found.result() if error is None else []
        missing = EvaluationError(
            "a worker must answer each assignment", got=_told(error) if error else "fewer answers"
        )
        for place, position in enumerate(task.positions):
            task.batch.answers.setdefault(position, answers[place] if place < len(answers) else missing)

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """A worker is lost: others get its tasks, and another one its place."""
        self._reason = f"the last was lost: {_told(error)}"
        log.warning("a worker was lost with %d tasks, others get them: %s", len(worker.tasks), _told(error))
        self._stillborn += not worker.ready
        tasks = worker.tasks
        self._dismiss(worker)
        for task in reversed(tasks):
            self._put_back(task)
        if worker.ready or self._stillborn < self._retries or (not self._workers and self._left > 0):
            self._add()

    def _put_back(self, task: _Task) -> None:
        """Let others try, the assignments one by one; give up one that was lost too often."""
        batch = task.batch
        for position in reversed(task.positions):
            batch.losses[position] += task.suspect
            if batch.losses[position] < self._retries:
                batch.waiting.appendleft(_Task(batch, range(position, position + 1), suspect=True))
            else:
                batch.answers[position] = EvaluationError(
                    f"an assignment that was alone on its worker ended it {self._retries} times in a row",
                    got=self._reason,
                )

    def _dismiss(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        with suppress(RayError):  # it may be dead already
            ray.kill(worker.actor)
        if worker.ready and not self._present:
            self._alone_since = time.monotonic()

    def _withdraw(self, batch: _Batch) -> None:
        """Nobody needs the rest of a batch; a worker ends what it is doing, and begins nothing more of it."""
        batch.waiting.clear()
        for worker in self._workers:
            for task in worker.tasks:
                if task.batch is batch:
                    ray.cancel(task.reference)


def _told(error: BaseException) -> str:
    """What Ray says of an error in the first sentence of its last line; around it stand traces, addresses and advice."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {cause}"
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1].strip().partition('. ')[0]}"
