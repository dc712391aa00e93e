"""Evaluators for the tests of workers: in closed form, and some that slow down, fail or die on purpose.

Assignments have one site, ``w``; the bits say what happens.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError
from qsearch.trial import Quality


def assignments(bits: Sequence[int]) -> list[BitAssignment]:
    return [BitAssignment({"w": value}) for value in bits]


def quality(bits: int, **details: float | int | str) -> Quality:
    outcomes = (np.arange(100) < bits).astype(np.float32)
    return Quality(bits / 32, 1 / (1 + bits), 100, 0.01, outcomes=outcomes, details=details)


class Plain:
    """Answers at once, and says which process did with how many threads."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return quality(assignment["w"], seed=seed, process=os.getpid(), threads=torch.get_num_threads())


class Uneven(Plain):
    """Takes from 0 to 30 ms, the longest first, and writes a line for each evaluation that it begins."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        with self.log.open("a") as file:
            file.write(f"{assignment['w']}\n")
        time.sleep((32 - assignment["w"]) / 1000)
        return super().evaluate(assignment, seed=seed)


class TwoParts(Exception):
    """Cannot be unpickled: it is made from two arguments, and knows one."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Fails(Plain):
    """Fails in four ways."""

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        if assignment["w"] == 1:
            raise EvaluationError("one bit is too few", got=1, fix="take two")
        if assignment["w"] == 2:
            raise KeyError("two bits")
        if assignment["w"] == 3:
            raise TwoParts("three", "bits")
        if assignment["w"] == 4:
            raise EvaluationError("a lock stays at home", got=threading.Lock())
        return super().evaluate(assignment, seed=seed)


class Dies(Plain):
    """Kills its process at the given bits, the first ``times`` of them."""

    def __init__(self, folder: Path, bits: int, times: int) -> None:
        self.folder, self.bits, self.times = folder, bits, times

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        died = len(list(self.folder.iterdir()))
        if assignment["w"] == self.bits and died < self.times:
            (self.folder / str(died)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.005)
        return super().evaluate(assignment, seed=seed)


class Together(Plain):
    """Answers several at once, and says how many."""

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Quality | Exception]:
        for assignment in assignments:
            yield quality(assignment["w"], together=len(assignments))


class NeedsMore(Plain):
    """Cannot be loaded where it does not come from."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __setstate__(self, state: dict[str, int]) -> None:
        if state["home"] != os.getpid():
            raise ImportError("no module named 'far_away'")
        self.__dict__.update(state)


class Locked(Plain):
    """Cannot be pickled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
