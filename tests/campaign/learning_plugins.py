"""Evaluators for the tests of pruning: post-training quantisation that pretends to learn, so that its effort grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.evaluate.ptq import PostTraining
from qsearch.pruning import Pruner
from qsearch.registry import PluginOptions
from qsearch.trial import Quality, Trial

SHARES = (0.25, 0.5, 1.0)


class Learns(PostTraining):
    """Gets the first samples wrong, at a quarter of the effort a fifth of them, at half a tenth.

    Attributes:
        interrupt_after: reports after which the user stops it; None for never.
        reported: reports so far.
    """

    interrupt_after: int | None = None
    reported = 0

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        final = self.evaluate(assignment, seed=seed)
        for share, wrong in zip(SHARES, (0.2, 0.1, 0.0), strict=True):
            outcomes = final.outcomes.copy()
            outcomes[: round(wrong * len(outcomes))] = 0
            self.reported += 1
            if self.reported == self.interrupt_after:
                raise KeyboardInterrupt
            yield share, replace(Quality.from_outcomes(outcomes, final.loss), details={"share": share})


class Remembers(Learns):
    """Writes down what it is told before a search."""

    class Options(Learns.Options):
        log: Path

    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        with self._options.log.open("a") as file:
            file.write(f"{folder} {[trial.state for trial in trials]}\n")


class FailsToRemember(Learns):
    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        raise OSError("no space left") if folder is None else KeyError("x")


class Stumbles(Learns):
    """Fails after its first report wherever the first weight has 2 bits."""

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        for share, quality in super().progress(assignment, seed=seed):
            yield share, quality
            if assignment["0.weight"] == 2 and set(assignment.values()) != {FLOAT_BITS}:
                raise RuntimeError("diverged")


class AtMost(Pruner):
    """Ends what is not above a limit; as a user's own file has it."""

    class Options(PluginOptions):
        limit: float

    def __init__(self, options: Options) -> None:
        self._limit = options.limit

    def verdict(self, trial: Trial, earlier: Sequence[Trial], problem: object) -> str:
        return f"{self._limit} needed" if trial.quality is not None and trial.quality.metric < self._limit else ""
