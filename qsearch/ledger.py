"""``Ledger``: the record of trials, an Optuna study in a storage URL.

==================  ==============================================================================
Optuna              qsearch
==================  ==============================================================================
parameter           a variable's bits, by the name of its (first) site; mean bits if kernel-wise
value               an objective, in the order of the campaign
constraint          a bound's violation, ≤ 0 when met
COMPLETE            evaluated
PRUNED              over a cost bound and not evaluated, or ended early; the record tells which
FAIL                failed, with its reason
intermediate value  the quality's metric as the effort grew; its step is the number of the report, from 1
user attributes     cost, quality and how it was found, violations, reason, effort, seconds: for people
system attribute    state, assignment, cost with its breakdown, quality with outcomes, reports: for the replay
study attributes    what the campaign was, and how it ended
==================  ==============================================================================
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from qsearch.assignment import BitAssignment
from qsearch.errors import StorageError
from qsearch.problem import Objective
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.serialise import cost_from_json, cost_to_json, quality_from_json, quality_to_json
from qsearch.space import SearchSpace, Variable
from qsearch.storage import PATIENCE, RECORD, file_of, guard, patiently, trials_in
from qsearch.storage import open_storage as open_storage
from qsearch.trial import Trial

T = TypeVar("T")

_STATES = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
}
_DASHBOARD_CONSTRAINTS = "constraints"
"""System attribute from which optuna-dashboard reads constraints; it does not know Optuna 5's named ones yet."""


def exists(url: str, name: str) -> bool:
    """Whether a storage holds a study of this name; unlike :class:`Ledger`, it makes none.

    Raises:
        StorageError: the storage cannot be opened.
    """
    path = file_of(url)
    if path is not None and not path.is_file():
        return False
    storage = open_storage(url)
    with guard(url):
        try:
            storage.get_study_id_from_name(name)
        except KeyError:
            return False
    return True


class Ledger:
    """Trials of one campaign, in one Optuna study.

    It is the only writer of its study as long as it is open: a trial is written behind those that it knows, or not at all.

    Args:
        url: storage URL.
        name: name of the study.
        objectives: of the campaign; their directions must be those of a study that exists.
        space: names the parameters of trials to be recorded; not needed to read.
        patience: seconds to wait for a database that does not answer any more.

    Raises:
        StorageError: the storage cannot be opened, or holds another kind of study under this name.
    """

    def __init__(
        self,
        url: str,
        name: str,
        objectives: Sequence[Objective],
        space: SearchSpace | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.url, self.name, self._patience = url, name, patience
        storage = open_storage(url)
        directions: list[Any] = [objective.direction for objective in objectives]
        with guard(url), quiet_optuna():  # the study it creates, and that metric names are new
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
            if [direction.name.lower() for direction in self.study.directions] != directions:
                raise StorageError(
                    f"study {name!r} in {url} has other objectives", fix="choose another name, or another storage"
                )
            self._trials = trials_in(storage, url, name)
            self._count = self._trials.count()
            if not self.study.user_attrs:
                self.study.set_metric_names([objective.metric for objective in objectives])
        self._objectives = tuple(objectives)
        self._parameters = {} if space is None else {v.name: _distribution(v) for v in space.variables}

    def trials(self) -> list[Trial]:
        """All trials, in order.

        Raises:
            StorageError: the storage cannot be read, or a trial is not one of qsearch's.
        """
        return self._patiently(lambda again: [self._read(*row) for row in self._trials.read()])

    def append(self, trial: Trial) -> None:
        """Record a trial in one transaction, behind those that are recorded.

        Where the database was lost on the way, nobody knows whether that came before or after the trial was written: it
        is looked for before it is written again.

        Raises:
            StorageError: it could not be written; another process has written to the study.
        """
        frozen = self._to_frozen(trial)

        def write(again: bool) -> None:
            if not self._trials.add(frozen) and not (again and self._is_recorded(frozen)):
                raise StorageError(
                    f"study {self.name!r} in {self.url} may be written by one process at a time",
                    got=f"another one's trial {frozen.number}",
                    fix="stop the other, or give one of the two another name; then resume",
                )

        self._patiently(write)
        self._count += 1

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the study; values must be JSON.

        Raises:
            StorageError: they could not be written.
        """
        for key, value in attributes.items():
            self._patiently(partial(self._annotate, key, value))
        self._patiently(lambda again: self._trials.settle())

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the study."""
        return self._patiently(lambda again: dict(self.study.user_attrs))

    def _annotate(self, key: str, value: Any, again: bool) -> None:
        self.study.set_user_attr(key, value)  # twice is as good as once

    def _patiently(self, work: Callable[[bool], T]) -> T:
        return patiently(work, self.url, self._patience)

    def _is_recorded(self, frozen: FrozenTrial) -> bool:
        """Whether this very trial is in the storage, by its number."""
        with closing(self._trials.read(frozen.number)) as found:
            _, _, text = next(found, (0, None, ""))
        return text == json.dumps(frozen.system_attrs[RECORD])

    def _read(self, number: int, state: TrialState, text: str) -> Trial:
        try:
            return _from_record(number, state, json.loads(text))
        except StorageError:
            raise
        except Exception as error:  # a record may be damaged in any way
            raise StorageError(
                f"trial {number} of study {self.name!r} in {self.url} is damaged",
                got=f"{type(error).__name__}: {error}",
                fix="restore the ledger from a copy, or remove the run",
            ) from error

    def _to_frozen(self, trial: Trial) -> FrozenTrial:
        violations = {label: float(value) for label, value in trial.violations.items()}
        shown = list(violations.values())
        complete = trial.state == "complete"  # what a pruned trial would have come to, nobody knows
        frozen = optuna.create_trial(
            state=_STATES[trial.state],
            values=[trial.value(objective.metric) for objective in self._objectives] if complete else None,
            user_attrs=_attributes(trial),
            system_attrs={RECORD: _record(trial), **({_DASHBOARD_CONSTRAINTS: shown} if shown else {})},
            intermediate_values={step: value for step, (_, value) in enumerate(trial.reports, 1)},
            constraints=violations,
        )
        frozen.params = {
            name: trial.assignment.mean_bits(name)
            if isinstance(distribution, FloatDistribution)
            else _bits(trial, name)
            for name, distribution in self._parameters.items()
        }
        frozen.distributions = self._parameters
        frozen.number = self._count
        frozen.datetime_complete = datetime.now(UTC).astimezone()  # local times jump, and may begin after their end
        frozen.datetime_start = frozen.datetime_complete - timedelta(seconds=trial.seconds)
        return frozen


def _attributes(trial: Trial) -> dict[str, Any]:
    """User attributes of a trial: what a person may want to read or to plot."""
    shown: dict[str, Any] = (
        {} if trial.cost is None else {key: float(value) for key, value in trial.cost.totals.items()}
    )
    if trial.quality is not None:
        shown.update(trial.quality.values)
        shown["standard_error"] = trial.quality.standard_error
        shown.update({f"detail {name}": value for name, value in trial.quality.details.items()})
    if trial.reports:
        shown["effort"] = trial.effort
    shown.update({f"violation of {label}": float(value) for label, value in trial.violations.items()})
    return {**shown, "seconds": trial.seconds, "reason": trial.reason}


def _record(trial: Trial) -> dict[str, Any]:
    """What a replay needs, exactly."""
    return {
        "state": trial.state,
        "assignment": trial.assignment.to_record(),
        "cost": None if trial.cost is None else cost_to_json(trial.cost),
        "quality": None if trial.quality is None else quality_to_json(trial.quality),
        "violations": dict(trial.violations),
        "reason": trial.reason,
        "seconds": trial.seconds,
        **({"reports": [list(report) for report in trial.reports]} if trial.reports else {}),
    }


def _from_record(number: int, state: TrialState, record: Mapping[str, Any]) -> Trial:
    cost, quality, assignment = record["cost"], record["quality"], record["assignment"]
    known = {value: key for key, value in _STATES.items() if key != "pruned"}  # ledgers from before trials were pruned
    as_json = isinstance(assignment, str)  # ledgers from before bits per kernel were packed
    return Trial(
        number=number,
        assignment=BitAssignment.from_json(assignment) if as_json else BitAssignment.from_record(assignment),
        state=record.get("state") or known[state],  # type: ignore[arg-type]  # the keys are the literals
        cost=None if cost is None else cost_from_json(cost),
        quality=None if quality is None else quality_from_json(quality),
        violations=record["violations"],
        reason=record["reason"],
        seconds=record["seconds"],
        reports=tuple((share, value) for share, value in record.get("reports", ())),
    )


def _bits(trial: Trial, name: str) -> int | float:
    bits = trial.assignment.packed(name)
    return bits if isinstance(bits, int) else trial.assignment.mean_bits(name)


def _distribution(variable: Variable) -> BaseDistribution:
    choices = variable.choices
    if variable.length > 1:
        return FloatDistribution(choices[0], choices[-1])
    if choices == tuple(range(choices[0], choices[-1] + 1)):
        return IntDistribution(choices[0], choices[-1])
    return CategoricalDistribution(choices)
