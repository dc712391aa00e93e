"""``LearnedSearcher``: what searchers that learn bits by gradient have in common.

For each target a copy of the network is trained on training data while its bits learn against a penalty on what they
cost; then bits are rounded and settled within the limits, and the end point is evaluated like any other assignment. No
validation data is seen while learning. There are as many end points as targets, or as the budget allows; what is left of it is not spent.

End points are kept in the campaign's folder: one that is resumed does not learn them again, and counts what they took.
Trainings that diverged are not kept. Under a budget of minutes an end point whose training began in time is evaluated, however
long that took; no further training begins.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import EvaluationError, SpaceError, StorageError
from qsearch.files import write_atomically
from qsearch.learned.learning import LearnedOptions, Learning
from qsearch.learned.limits import Limit, limits_at, minimised_costs, require_tabulated, require_upper_bounds
from qsearch.learned.network import LearningNetwork, divided
from qsearch.learned.schemes import Scheme
from qsearch.learned.settling import evenly, settle
from qsearch.problem import Problem
from qsearch.protocols import Oracle, Searcher
from qsearch.space import SearchSpace
from qsearch.training.families import family
from qsearch.training.lessons import Lessons

log = logging.getLogger(__name__)

FOLDER = "learned"
"""Of end points, within a run's."""

START_SHARE = 1.2
"""Learning begins with bits that cost so many times the target: the penalty then takes them where they are missed least."""

FRONT = (1.0, 0.85, 0.7, 0.55, 0.4)
"""Targets where costs are minimised and bounded."""

FRONT_OF_REFERENCE = (0.75, 0.6, 0.5, 0.4, 0.3)
"""Targets where nothing is bounded, of uniform 8 bits."""


@dataclass(frozen=True)
class EndPoint:
    """What a training came to.

    Attributes:
        x: index vector of the assignment; none where the training diverged.
        bits: real-valued bits of every decision when they were settled.
        samples, seconds: that it took.
        diverged: why there is none.
    """

    x: list[int]
    bits: list[float]
    samples: int
    seconds: float
    diverged: str = ""


class LearnedSearcher(Searcher, ABC):
    """Base of the searchers; a subclass says what stands for bits and quantises under them.

    Args:
        options: how to learn.
    """

    Options = LearnedOptions

    def __init__(self, options: LearnedOptions | None = None) -> None:
        self.options = options or self.Options()

    @abstractmethod
    def scheme(self, lessons: Lessons) -> Scheme:
        """How bits learn on this network."""

    def limits(self, problem: Problem, target: float) -> tuple[Limit, ...]:
        """What bits may cost at a target."""
        return limits_at(problem, target)

    def check(self, problem: Problem) -> None:
        """Raise unless costs can be learned from.

        Raises:
            UserError: see :func:`require_tabulated` and :func:`require_upper_bounds`.
            ConfigError: the option ``quantizer`` is unknown.
        """
        require_tabulated(problem.cost)
        require_upper_bounds(problem)
        family(self.options.quantizer)

    def search(self, oracle: Oracle) -> None:
        """Learn and evaluate an end point for each target.

        Raises:
            UserError: see :meth:`check`.
            ConfigError, DataError: the evaluator has no network to train, or the workload no data for it.
            EvaluationError: the training diverged for every target.
        """
        problem = oracle.problem
        self.check(problem)
        lessons = oracle.lessons()
        found: list[EndPoint] = []
        for target in self.options.targets or _targets(problem):
            if oracle.remaining == 0:
                return
            found.append(self._end_point(oracle, lessons, target))
            if not found[-1].diverged:
                oracle.evaluate(problem.space.decode(found[-1].x))
        if all(end.diverged for end in found):
            raise EvaluationError(
                "learning bits must not diverge for every target",
                got=found[-1].diverged,
                fix="lower the options rate, bits_rate or penalty",
            )

    def _end_point(self, oracle: Oracle, lessons: Lessons, target: float) -> EndPoint:
        """What the training for a target comes to, from the campaign's folder where it is known."""
        limits = self.limits(oracle.problem, target)
        path = None if oracle.folder is None else oracle.folder / FOLDER / f"{self._key(oracle, limits)}.json"
        found = None if path is None else _read(path, oracle.problem.space)
        if found is None:
            found = self._learned(oracle, lessons, limits)
            if path is not None and not found.diverged:  # which may be chance, or mended
                _write(path, found)
        oracle.trained(found.samples, found.seconds)
        if found.diverged:
            log.warning("target %g is left out: %s", target, found.diverged)
        return found

    def _learned(self, oracle: Oracle, lessons: Lessons, limits: Sequence[Limit]) -> EndPoint:
        space, options = oracle.problem.space, self.options
        if not divided(space, limits, fill=options.fill)[0]:
            return EndPoint(evenly(space, limits, fill=options.fill).tolist(), [], 0, 0.0)
        start = time.perf_counter()
        scheme = self.scheme(lessons)
        network = LearningNetwork(
            lessons,
            space,
            limits,
            scheme,
            family(options.quantizer),
            weight=options.penalty,
            start=options.start_bits,
            share=START_SHARE,
            fill=options.fill,
        )
        learning = Learning(network, lessons, options, oracle.seed)
        try:
            bits, x = self._train(oracle, learning, limits)
        except EvaluationError as error:
            return EndPoint([], [], learning.samples, time.perf_counter() - start, str(error))
        return EndPoint(x.tolist(), bits.tolist(), learning.samples, time.perf_counter() - start)

    def _train(
        self, oracle: Oracle, learning: Learning, limits: Sequence[Limit]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """All epochs: real-valued bits when they were settled, and what they were settled to."""
        network, settled = learning.network, None
        while learning.done < self.options.epochs:
            if settled is None and not learning.mixed:
                settled = self._settled(network, limits)
                network.freeze(settled[1])
            loss = learning.epoch()
            oracle.note(epoch=learning.done, loss=loss, cost=network.overrun())
        return settled or self._settled(network, limits)

    def _settled(
        self, network: LearningNetwork, limits: Sequence[Limit]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        bits = network.real_bits()
        rounded = network.scheme.choices(network.space, bits)
        return bits, settle(network.space, limits, bits, rounded, fill=self.options.fill)

    def _key(self, oracle: Oracle, limits: Sequence[Limit]) -> str:
        """What an end point depends on, as a name."""
        space = oracle.problem.space
        parts: dict[str, Any] = {
            "searcher": type(self).__name__,
            "options": self.options.model_dump(mode="json", exclude={"targets"}),
            "seed": oracle.seed,
            "variables": [(v.name, v.sites, v.choices, v.length) for v in space.variables],
            "fixed": dict(space.fixed or {}),
            "limits": [(type(limit.cost.model).__name__, limit.metric, limit.most) for limit in limits],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _targets(problem: Problem) -> tuple[float, ...]:
    bounded = {bound.metric for bound in problem.cost_bounds if not bound.at_least}
    minimised = minimised_costs(problem)
    if bounded and not minimised:
        return (1.0,)
    return FRONT if bounded.intersection(minimised) else FRONT_OF_REFERENCE


def _read(path: Path, space: SearchSpace) -> EndPoint | None:
    """An end point that was kept; None where there is none.

    Raises:
        StorageError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        found = EndPoint(**json.loads(path.read_text(encoding="utf-8")))
        space.decode(found.x)
    except (OSError, ValueError, TypeError, SpaceError) as error:
        raise StorageError(
            "a learned end point must be whole", got=f"{path}: {error}", fix="remove the file"
        ) from error
    return found


def _write(path: Path, found: EndPoint) -> None:
    try:
        write_atomically(path, json.dumps(asdict(found)).encode())
    except OSError as error:
        raise StorageError("the run's folder must be writable", got=f"{path}: {error}") from error
