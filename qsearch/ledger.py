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

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from qsearch.assignment import BitAssignment
from qsearch.errors import StorageError
from qsearch.problem import Objective
from qsearch.search.optuna_quiet import quiet_optuna
from qsearch.serialise import cost_from_json, cost_to_json, quality_from_json, quality_to_json
from qsearch.space import SearchSpace, Variable
from qsearch.trial import Trial

log = logging.getLogger(__name__)

_STATES = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
}
_RECORD = "qsearch"
"""System attribute that holds what a replay needs; optuna-dashboard has a column for every user attribute, but not for it."""
_DASHBOARD_CONSTRAINTS = "constraints"
"""System attribute from which optuna-dashboard reads constraints; it does not know Optuna 5's named ones yet."""


def open_storage(url: str) -> BaseStorage:
    """The storage behind a URL: any of Optuna's, or ``journal:path/to/file.log``.

    Raises:
        StorageError: it cannot be opened.
    """
    with _guard(url):
        path = _file(url)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path is not None and url.startswith("journal:"):
            _cut_torn_line(path)
            return JournalStorage(JournalFileBackend(str(path)))
        storage = RDBStorage(url)
        if path is not None and storage.engine.url.database != str(path):
            raise StorageError(
                "the path of a ledger must fit into a URL",
                got=str(path),
                fix="install SQLAlchemy 2.1, or rename the folder",
            )
        return storage


def exists(url: str, name: str) -> bool:
    """Whether a storage holds a study of this name; unlike :class:`Ledger`, it makes none.

    Raises:
        StorageError: the storage cannot be opened.
    """
    path = _file(url)
    if path is not None and not path.is_file():
        return False
    storage = open_storage(url)
    with _guard(url):
        try:
            storage.get_study_id_from_name(name)
        except KeyError:
            return False
    return True


def _file(url: str) -> Path | None:
    """The file behind a URL; None for a server, and for what SQLite itself reads as a URI or keeps in memory."""
    if url.startswith("journal:"):
        return Path(url.removeprefix("journal:"))
    found = re.match(r"sqlite(?:\+\w+)?:///(?!:memory:|file:)([^?]+)", url)
    return Path(unquote(found[1])) if found else None


def _cut_torn_line(path: Path) -> None:
    """Cut off the half line that a writer left who died or met a full disk: nobody could read past it."""

    def whole(content: bytes) -> bool:
        return not content or content.endswith(b"\n")

    if path.is_file() and not whole(path.read_bytes()):
        lock = JournalFileSymlinkLock(str(path))
        lock.acquire()  # another process may be writing that line
        try:
            content = path.read_bytes()
            if not whole(content):
                os.truncate(path, content.rfind(b"\n") + 1)
                log.warning("%s ended in half a line, which was cut off", path)
        finally:
            lock.release()


@contextlib.contextmanager
def _guard(url: str) -> Iterator[None]:
    """Turn whatever a storage raises into one line."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # drivers of any database raise classes of their own
        cause = error.__cause__ or error
        reason = next(iter(str(getattr(cause, "orig", None) or cause).splitlines()), "")
        raise StorageError(
            f"the ledger at {url} must be readable and writable",
            got=f"{type(cause).__name__}: {reason}",
            fix=f"install {cause.name}"
            if isinstance(cause, ModuleNotFoundError)
            else "check the URL, the server and the free space; what is recorded stays, resume when it is mended",
        ) from error


class Ledger:
    """Trials of one campaign, in one Optuna study.

    Args:
        url: storage URL.
        name: name of the study.
        objectives: of the campaign; their directions must be those of a study that exists.
        space: names the parameters of trials to be recorded; not needed to read.

    Raises:
        StorageError: the storage cannot be opened, or holds another kind of study under this name.
    """

    def __init__(self, url: str, name: str, objectives: Sequence[Objective], space: SearchSpace | None = None) -> None:
        self.url, self.name = url, name
        storage = open_storage(url)
        directions: list[Any] = [objective.direction for objective in objectives]
        with _guard(url), quiet_optuna():  # the study it creates, and that metric names are new
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=directions, load_if_exists=True
            )
            if [direction.name.lower() for direction in self.study.directions] != directions:
                raise StorageError(
                    f"study {name!r} in {url} has other objectives", fix="choose another name, or another storage"
                )
            for trial in self._recorded():
                _check_ours(trial)
            if not self.study.user_attrs:
                self.study.set_metric_names([objective.metric for objective in objectives])
        self._objectives = tuple(objectives)
        self._variables = space.variables if space is not None else ()

    def trials(self) -> list[Trial]:
        """All trials, in order.

        Raises:
            StorageError: the storage cannot be read, or a trial is not one of qsearch's.
        """
        with _guard(self.url):
            return [self._read(trial) for trial in self._recorded()]

    def append(self, trial: Trial) -> None:
        """Record a trial in one transaction.

        Raises:
            StorageError: it could not be written.
        """
        with _guard(self.url):
            self.study.add_trial(self._to_frozen(trial))

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the study; values must be JSON."""
        with _guard(self.url):
            for key, value in attributes.items():
                self.study.set_user_attr(key, value)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes of the study."""
        with _guard(self.url):
            return dict(self.study.user_attrs)

    def _recorded(self) -> list[FrozenTrial]:
        """All trials as Optuna reads them; a value that is no JSON is found by reading them one by one."""
        try:
            return self.study.get_trials(deepcopy=False)
        except ValueError:
            storage = self.study._storage
            with contextlib.suppress(KeyError):  # the end of the trials: the damage lies elsewhere
                for number in itertools.count():
                    identity = storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
                    try:
                        storage.get_trial(identity)
                    except ValueError as error:
                        raise self._damaged(number, error) from error
            raise

    def _read(self, frozen: FrozenTrial) -> Trial:
        try:
            return _from_frozen(frozen)
        except StorageError:
            raise
        except Exception as error:  # a record may be damaged in any way
            raise self._damaged(frozen.number, error) from error

    def _damaged(self, number: int, error: Exception) -> StorageError:
        return StorageError(
            f"trial {number} of study {self.name!r} in {self.url} is damaged",
            got=f"{type(error).__name__}: {error}",
            fix="restore the ledger from a copy, or remove the run",
        )

    def _to_frozen(self, trial: Trial) -> FrozenTrial:
        violations = {label: float(value) for label, value in trial.violations.items()}
        shown = list(violations.values())
        complete = trial.state == "complete"  # what a pruned trial would have come to, nobody knows
        frozen = optuna.create_trial(
            state=_STATES[trial.state],
            values=[trial.value(objective.metric) for objective in self._objectives] if complete else None,
            params={variable.name: _parameter(variable, trial.assignment) for variable in self._variables},
            distributions={variable.name: _distribution(variable) for variable in self._variables},
            user_attrs=_attributes(trial),
            system_attrs={_RECORD: _record(trial), **({_DASHBOARD_CONSTRAINTS: shown} if shown else {})},
            intermediate_values={step: value for step, (_, value) in enumerate(trial.reports, 1)},
            constraints=violations,
        )
        frozen.datetime_complete = datetime.now()
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
        "assignment": trial.assignment.to_json(),
        "cost": None if trial.cost is None else cost_to_json(trial.cost),
        "quality": None if trial.quality is None else quality_to_json(trial.quality),
        "violations": dict(trial.violations),
        "reason": trial.reason,
        "seconds": trial.seconds,
        **({"reports": [list(report) for report in trial.reports]} if trial.reports else {}),
    }


def _check_ours(frozen: FrozenTrial) -> None:
    if _RECORD not in frozen.system_attrs:
        raise StorageError(f"trial {frozen.number} was not written by qsearch", fix="use a study of its own")


def _from_frozen(frozen: FrozenTrial) -> Trial:
    _check_ours(frozen)
    record = frozen.system_attrs[_RECORD]
    cost, quality = record["cost"], record["quality"]
    known = {value: key for key, value in _STATES.items() if key != "pruned"}  # ledgers from before trials were pruned
    return Trial(
        number=frozen.number,
        assignment=BitAssignment.from_json(record["assignment"]),
        state=record.get("state") or known[frozen.state],  # type: ignore[arg-type]  # the keys are the literals
        cost=None if cost is None else cost_from_json(cost),
        quality=None if quality is None else quality_from_json(quality),
        violations=record["violations"],
        reason=record["reason"],
        seconds=record["seconds"],
        reports=tuple((share, value) for share, value in record.get("reports", ())),
    )


def _parameter(variable: Variable, assignment: BitAssignment) -> float | int:
    bits = assignment[variable.name]
    return assignment.mean_bits(variable.name) if variable.length > 1 or not isinstance(bits, int) else bits


def _distribution(variable: Variable) -> BaseDistribution:
    choices = variable.choices
    if variable.length > 1:
        return FloatDistribution(choices[0], choices[-1])
    if choices == tuple(range(choices[0], choices[-1] + 1)):
        return IntDistribution(choices[0], choices[-1])
    return CategoricalDistribution(choices)
