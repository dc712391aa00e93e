"""``Past``: the trials of a search as a study in memory, of which Optuna's pruners are asked.

Notation

=====  ==================================================================================
s      share of the full effort at a report
u      share at the first report of the first trial that makes any on its way: the unit of resources
r      resource of a report, s / u to the nearest whole number; 1 at the first
R      resource of the full effort
=====  ==================================================================================

Resources are the integer steps of the study, so that it makes no difference to a pruner whether an evaluator reports
after every epoch or at every tripling of its effort.

Some of Optuna's pruners keep notes of their own beside the trials that they are asked of. Every recorded report is put to
them again, in order, so that these notes are a function of the record, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from qsearch.problem import Problem
from qsearch.pruning import required
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.trial import Report, Trial

STUDY = "qsearch"
"""Hyperband deals trials out to its brackets by the name of the study and their numbers."""


class Past:
    """Trials of a search, one of which may still go on.

    Args:
        make: makes Optuna's pruner, given u and R.
        unit: u.
        problem: says from which value on more is worth nothing.
    """

    def __init__(self, make: Callable[[float, int], BasePruner], unit: float, problem: Problem) -> None:
        self._unit, self._required = unit, required(problem)
        pruner = make(unit, max(1, round(1 / unit)))
        self._study = optuna.create_study(study_name=STUDY, direction="maximize", pruner=pruner)
        self._entered: list[Trial] = []
        self._open: tuple[optuna.Trial, int, bool] | None = None
        self._going: Trial | None = None

    def leads_to(self, trials: Sequence[Trial]) -> bool:
        """Whether these trials, the last of which goes on, are what was entered and what comes after it."""
        count = len(self._entered)
        if len(trials) <= count or list(trials[:count]) != self._entered:
            return False
        going, last = self._going, trials[count]
        if going is None:
            return True
        return going.assignment == last.assignment and going.reports == last.reports[: len(going.reports)]

    def ends(self, trial: Trial, earlier: Sequence[Trial]) -> bool:
        """Whether Optuna's pruner ends a trial at its last report, after the ``earlier`` ones."""
        for other in earlier[len(self._entered) :]:
            self._report(other.reports)
            self._close(other)
        self._going = trial
        return self._report(trial.reports)

    def _report(self, reports: Sequence[Report]) -> bool:
        """Report what is new to the trial that goes on; what the pruner says, or has said, to the last of it."""
        asked, last, ends = self._open or (self._study.ask(), 0, False)
        for share, value in reports:
            resource = max(1, round(share / self._unit))
            if share >= 1:  # at full effort nothing is ended, and nothing to be compared with
                ends = False
            elif last < resource:
                asked.report(min(value, self._required), resource)
                ends, last = asked.should_prune(), resource
        self._open = (asked, last, ends)
        return ends

    def _close(self, trial: Trial) -> None:
        """End the trial that goes on as it was recorded."""
        assert self._open is not None
        asked, _, _ = self._open
        if trial.state == "complete" and trial.quality is not None:
            self._study.tell(asked, trial.quality.metric)
        else:
            self._study.tell(asked, state=TrialState.PRUNED if trial.state == "pruned" else TrialState.FAIL)
        self._entered.append(trial)
        self._open = self._going = None


class Memory:
    """Asks Optuna's pruner, and remembers what it was told of earlier trials.

    Args:
        make: makes Optuna's pruner, given u and R.
    """

    def __init__(self, make: Callable[[float, int], BasePruner]) -> None:
        self._make = make
        self._past: Past | None = None

    def ends(self, trial: Trial, earlier: Sequence[Trial], problem: Problem) -> bool:
        """Whether the pruner ends a trial at its last report, after the ``earlier`` ones."""
        with quiet_optuna():
            if self._past is None or not self._past.leads_to((*earlier, trial)):
                unit = next(share for other in (*earlier, trial) for share, _ in other.reports[:1] if share < 1)
                self._past = Past(self._make, unit, problem)
            return self._past.ends(trial, earlier)


def least_resource(min_share: float, unit: float) -> int:
    """The resource of the first report at ``min_share`` of the effort or later."""
    return max(1, math.ceil(min_share / unit - 1e-9))
