"""A pool whose workers come and go as the test says, without Ray's processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from odd_evaluators import assignments, quality

from qsearch.errors import Failure
from qsearch.workers.actor import versions

pool_module = pytest.importorskip("qsearch.workers.pool")
Died = pytest.importorskip("ray.exceptions").RayActorError


class Actor:
    """Stands for Ray's handle of an actor, and for what it is asked for."""

    def __init__(self) -> None:
        self.ready: Future[Any] = Future()
        self.calls: list[Future[Any]] = []
        self.answer = SimpleNamespace(remote=self._asked)

    def _asked(self, items: list[Any], seed: int) -> Any:
        self.calls.append(Future())
        return reference(self.calls[-1])

    def arrive(self) -> None:
        self.ready.set_result(versions())

    def die(self) -> None:
        for future in (self.ready, *self.calls):
            if not future.done():
                future.set_exception(Died())


def reference(future: Future[Any]) -> Any:
    return SimpleNamespace(future=lambda: future)


class Staff:
    """A pool and all actors that it has hired."""

    def __init__(self, count: int, on_hire: Callable[[Actor], None] = lambda actor: None, patience: float = 30) -> None:
        self.actors: list[Actor] = []
        self.on_hire = on_hire
        self.pool = pool_module.Pool(self._hire, count, 1, 3, patience)

    def _hire(self) -> tuple[Actor, Any]:
        actor = Actor()
        self.actors.append(actor)
        self.on_hire(actor)
        return actor, reference(actor.ready)

    def take(self) -> None:
        while not self.pool._events.empty():
            self.pool._take()

    @property
    def present(self) -> int:
        return sum(worker.ready for worker in self.pool._workers)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ray", SimpleNamespace(kill=lambda actor: None, cancel=lambda task: None))


def test_the_pool_is_whole_again_after_many_died_while_they_loaded() -> None:
    staff = Staff(8)
    staff.pool._fill()
    for actor in staff.actors[:5]:
        actor.die()
    staff.take()
    hired = len(staff.actors)
    for actor in staff.actors[5:8]:
        actor.arrive()
    staff.take()
    for actor in staff.actors[hired - 2 :]:
        if not actor.ready.done():
            actor.arrive()
    staff.take()
    assert staff.present == len(staff.pool._workers) == 8


def test_a_worker_that_was_ready_is_replaced_however_many_were_stillborn() -> None:
    staff = Staff(2)
    staff.pool._fill()
    for actor in staff.actors:
        actor.arrive()
    staff.take()
    staff.actors[0].die()
    for _ in range(3):
        answers = staff.pool.evaluate_many(assignments([5]))
        del answers
    staff.actors[0].ready = Future()  # its loss is told once, by a task that it has
    staff.pool._lose(staff.pool._workers[0], Died())
    for _ in range(3):
        staff.actors[-1].die()
        staff.take()
    assert len(staff.pool._workers) == 1  # those who never came are not asked for again at once
    staff.pool._lose(staff.pool._workers[0], Died())
    assert len(staff.pool._workers) == 1
    staff.actors[-1].arrive()
    staff.take()
    assert staff.present == len(staff.pool._workers) - 1 == 1
    staff.actors[-1].arrive()
    staff.take()
    assert staff.present == 2


def test_a_batch_ends_well_when_a_machine_comes_back_within_the_patience() -> None:
    """Nobody can be hired for a while: each worker dies while it loads. Then one comes, and answers."""
    down = threading.Event()

    def die_or_work(actor: Actor) -> None:
        if down.is_set():
            actor.die()
            time.sleep(0.01)
        else:
            actor.arrive()

    staff = Staff(2, die_or_work)
    staff.pool.open()
    staff.take()
    answers = staff.pool.evaluate_many(assignments([5]))

    def play() -> None:
        while not any(actor.calls for actor in staff.actors):
            time.sleep(0.01)
        down.set()
        for actor in list(staff.actors[:2]):
            for worker in [worker for worker in staff.pool._workers if worker.actor is actor]:
                task = worker.tasks[0] if worker.tasks else None
                lost: Future[Any] = Future()
                lost.set_exception(Died())
                staff.pool._events.put(pool_module._Event(worker, task, lost))
        time.sleep(0.3)
        down.clear()
        while not any(actor.calls for actor in staff.actors[2:]):
            time.sleep(0.01)
        next(actor for actor in staff.actors[2:] if actor.calls).calls[0].set_result([quality(5)])

    player = threading.Thread(target=play)
    player.start()
    try:
        assert list(answers) == [quality(5)]
    finally:
        player.join()
    assert len(staff.actors) > 2 + 3


def test_patience_ends_where_nobody_ever_comes() -> None:
    begin = time.monotonic()
    with pytest.raises(Failure, match=r"none of 2; the last was lost: ActorDiedError|none of 2; the last was lost"):
        Staff(2, lambda actor: (time.sleep(0.01), actor.die())[-1], patience=0.5).pool.open()
    assert 0.5 <= time.monotonic() - begin < 5
