"""Where ledgers are kept: a database or a journal file of Optuna's, and the trials of one study in it.

Optuna's own way to add a trial asks the database some ten questions per parameter, and keeps a copy of each trial for
good. Here a trial is a handful of statements in one transaction, into the tables that Optuna has made and reads, and
nothing is kept. What a study may be asked beside its trials goes through Optuna.

A trial is written only where it belongs: behind the one with the number before its own, or not at all. So two writers
of one study cannot both go on, and a trial whose writing was interrupted, nobody knows how late, is looked for before it
is written again.

A server that is gone is waited for, a disk that is full is not: see :func:`lost`.

A SQLite ledger is one file, to be copied as such, when its campaign has ended or was interrupted. While one runs, and after
one was killed, ``study.db-wal`` beside it holds the last trials: the two are copied together, or whatever opens the ledger
next (a resumed search, ``qsearch show``) brings them into one again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb import models  # the tables, which Optuna versions and migrates
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, and_, func, insert, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from qsearch.errors import StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")

RECORD = "qsearch"
"""System attribute that holds what a replay needs; optuna-dashboard has a column for every user attribute, but not for it."""
PATIENCE = 120.0
"""Seconds that a server which was there is waited for: a restart takes some, a recovery from a crash a minute."""
WAITS = (0.1, 5.0)
"""Seconds between two attempts: the first wait, which doubles, and the longest."""
PAGE = 200
"""Trials that are read at a time."""
_GONE = ("08", "57P", "40001", "40P01", "53300")
"""SQLSTATEs of connections that are lost, servers that go or come, deadlocks, and too many clients."""


_COLUMNS: Mapping[str, frozenset[str]] = {
    "trials": frozenset({"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"}),
    "trial_values": frozenset({"trial_value_id", "trial_id", "objective", "value", "value_type"}),
    "trial_params": frozenset({"param_id", "trial_id", "param_name", "param_value", "distribution_json"}),
    "trial_user_attributes": frozenset({"trial_user_attribute_id", "trial_id", "key", "value_json"}),
    "trial_system_attributes": frozenset({"trial_system_attribute_id", "trial_id", "key", "value_json"}),
    "trial_intermediate_values": frozenset(
        {"trial_intermediate_value_id", "trial_id", "step", "intermediate_value", "intermediate_value_type"}
    ),
}
"""Tables that a trial is written to, as Optuna 3.2 to 5.0 have them."""


class Trials(Protocol):
    """The trials of one study, in the order of their numbers."""

    def count(self) -> int:
        """How many there are.

        Raises:
            StorageError: one of them has no record of qsearch's.
        """
        ...

    def read(self, start: int = 0) -> Generator[tuple[int, TrialState, str], None, None]:
        """Number, state and record, as JSON, of the trials from ``start`` on."""
        ...

    def add(self, trial: FrozenTrial) -> bool:
        """Write a trial at its number, durably before it returns; False, and nothing, if it is not the next one."""
        ...

    def settle(self) -> None:
        """Bring all that is written into the storage's own file, if it is one."""
        ...


def open_storage(url: str) -> BaseStorage:
    """The storage behind a URL: any of Optuna's, or ``journal:path/to/file.log``.

    Raises:
        StorageError: it cannot be opened.
    """
    with guard(url):
        path = file_of(url)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path is not None and url.startswith("journal:"):
            cut_torn_line(path)
            return JournalStorage(Journal(path))
        storage = RDBStorage(url)
        weakref.finalize(storage, storage.engine.dispose)  # connections are closed, SQLite's log is written back
        if path is not None and storage.engine.url.database != str(path):
            raise StorageError(
                "the path of a ledger must fit into a URL",
                got=str(path),
                fix="install SQLAlchemy 2.1, or rename the folder",
            )
        return storage


def trials_in(storage: BaseStorage, url: str, name: str) -> Trials:
    """The trials of a study.

    Raises:
        KeyError: there is no such study.
        StorageError: the Optuna that is installed has other tables than those that are written here.
    """
    study = storage.get_study_id_from_name(name)
    path = file_of(url)
    if isinstance(storage, RDBStorage):
        _check_tables()
        return DatabaseTrials(storage, study)
    assert path is not None, "journals are files"
    return JournalTrials(path, study)


def _check_tables() -> None:
    """Another Optuna may keep trials in another way, and would read what is written here as something else.

    Raises:
        StorageError: it does.
    """
    known = models.BaseModel.metadata.tables
    for table, columns in _COLUMNS.items():
        found = frozenset(known[table].columns.keys()) if table in known else frozenset()
        if found != columns:
            raise StorageError(
                "the tables of Optuna must be those of version 5.0",
                got=f"optuna {optuna.__version__}, in whose {table} differ: {', '.join(sorted(found ^ columns))}",
                fix="pip install 'optuna==5.0.*', or use a journal (storage: journal:study.log)",
            )


def file_of(url: str) -> Path | None:
    """The file behind a URL; None for a server, and for what SQLite itself reads as a URI or keeps in memory."""
    if url.startswith("journal:"):
        return Path(url.removeprefix("journal:"))
    found = re.match(r"sqlite(?:\+\w+)?:///(?!:memory:|file:)([^?]+)", url)
    return Path(unquote(found[1])) if found else None


@contextlib.contextmanager
def guard(url: str) -> Iterator[None]:
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


def patiently(work: Callable[[bool], T], url: str, patience: float) -> T:
    """What ``work`` returns, tried again for ``patience`` seconds as long as the database is :func:`lost`.

    Args:
        work: told whether an earlier attempt was lost, and may have done what it was to do.

    Raises:
        StorageError: another error, or the time is over.
    """
    end, wait, again = time.monotonic() + patience, WAITS[0], False
    while True:
        with guard(url):
            try:
                return work(again)
            except Exception as error:
                left = end - time.monotonic()
                if left <= 0 or not lost(error):
                    raise
                if not again:
                    log.warning("the ledger at %s does not answer; trying again for %.0f s", url, left)
        again = True
        time.sleep(min(wait, left))
        wait = min(2 * wait, WAITS[1])


def lost(error: BaseException) -> bool:
    """Whether an error says that a database is gone or busy, so that it may answer later."""
    cause = error if isinstance(error, DBAPIError) else error.__cause__
    if not isinstance(cause, DBAPIError):
        return False
    state = getattr(cause.orig, "sqlstate", None) or getattr(cause.orig, "pgcode", None)
    if state is not None:
        return str(state).startswith(_GONE)
    if type(cause.orig).__module__.startswith("sqlite3"):
        return "locked" in str(cause.orig)  # by another process, which has had SQLite's own timeout to end
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)


class DatabaseTrials:
    """Trials of a study in the tables of a database."""

    def __init__(self, storage: RDBStorage, study: int) -> None:
        self._engine, self._study, self._logged = storage.engine, study, False
        self._trials = models.TrialModel.__table__
        self._records = models.TrialSystemAttributeModel.__table__

    def count(self) -> int:
        """See :meth:`Trials.count`."""
        trials, records = self._trials.c, self._records.c
        ours = and_(records.trial_id == trials.trial_id, records.key == RECORD)
        joined = self._trials.outerjoin(self._records, ours)
        mine = trials.study_id == self._study
        with self._engine.connect() as connection:
            strange = select(func.min(trials.number)).select_from(joined).where(mine, records.trial_id.is_(None))
            _refuse(connection.execute(strange).scalar())
            return int(connection.execute(select(func.count()).select_from(self._trials).where(mine)).scalar_one())

    def read(self, start: int = 0) -> Generator[tuple[int, TrialState, str], None, None]:
        """See :meth:`Trials.read`."""
        trials, records = self._trials.c, self._records.c
        query = (
            select(trials.trial_id, trials.number, trials.state, records.value_json)
            .join_from(self._trials, self._records, records.trial_id == trials.trial_id)
            .where(trials.study_id == self._study, records.key == RECORD, trials.number >= start)
            .order_by(trials.trial_id)
            .limit(PAGE)
        )
        last = -1
        while True:  # not one query for all: it would hold up a writer, or the whole ledger in memory
            with self._engine.connect() as connection:
                rows = connection.execute(query.where(trials.trial_id > last)).all()
            for _, number, state, text in rows:
                yield int(number), state, str(text)
            if len(rows) < PAGE:
                return
            last = rows[-1].trial_id

    def add(self, trial: FrozenTrial) -> bool:
        """See :meth:`Trials.add`. Readers see all of it or nothing; of two that add at a time, one waits for the other."""
        if not self._logged:
            write_ahead(self._engine)
            self._logged = True
        with self._engine.connect() as connection, connection.begin() as transaction:
            studies = models.StudyModel.__table__
            connection.execute(select(studies.c.study_id).where(studies.c.study_id == self._study).with_for_update())
            row = {
                "study_id": self._study,
                "number": trial.number,
                "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
            written = connection.execute(insert(self._trials), row)  # SQLite locks its file here
            identity = int(written.inserted_primary_key[0])  # type: ignore[index]  # there is one
            if self._last_before(connection, identity) != trial.number - 1:
                transaction.rollback()
                return False
            for table, rows in _rows(trial):
                if rows:
                    connection.execute(insert(table), [{"trial_id": identity, **row} for row in rows])
        return True

    def settle(self) -> None:
        """See :meth:`Trials.settle`."""
        all_in_one_file(self._engine)
        self._logged = False

    def _last_before(self, connection: Connection, identity: int) -> int:
        """Number of the trial before one, −1 of the first."""
        trials = self._trials.c
        earlier = select(trials.number).where(trials.study_id == self._study, trials.trial_id < identity)
        found = connection.execute(earlier.order_by(trials.trial_id.desc()).limit(1)).scalar()
        return -1 if found is None else int(found)


def write_ahead(engine: Engine) -> None:
    """Have SQLite keep a write-ahead log, where its file system allows it; no other database is asked.

    A transaction then waits for the disk once and not four times. It is on the disk when it has ended, as before: SQLite's
    ``synchronous`` stays FULL, so that neither a killed process nor a power failure takes a recorded trial along.
    """
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection, contextlib.suppress(OperationalError):  # it stays as it was, and as safe
            connection.exec_driver_sql("PRAGMA journal_mode=WAL").all()


def all_in_one_file(engine: Engine) -> None:
    """Have SQLite give up its log: a database that nobody writes is one file, to be copied, and read from a full disk.

    While others have it open the log stays, its content written back.
    """
    if engine.dialect.name != "sqlite":
        return
    engine.dispose()  # its own idle connections are others too
    with engine.connect() as connection, contextlib.suppress(OperationalError):
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
        patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql("PRAGMA busy_timeout=0").all()
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE").all()
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={patience}").all()


@lru_cache(maxsize=4096)
def _as_json(distribution: BaseDistribution) -> str:
    """The same of every trial, and slow to write."""
    return distribution_to_json(distribution)


def _rows(trial: FrozenTrial) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """Tables of Optuna and the rows that a trial has in them."""
    values = [models.TrialValueModel.value_to_stored_repr(value) for value in trial.values or ()]
    yield (
        models.TrialValueModel.__table__,
        [{"objective": i, "value": value, "value_type": kind} for i, (value, kind) in enumerate(values)],
    )
    yield (
        models.TrialParamModel.__table__,
        [
            {
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": _as_json(trial.distributions[name]),
            }
            for name, value in trial.params.items()
        ],
    )
    for table, attributes in (
        (models.TrialUserAttributeModel.__table__, trial.user_attrs),
        (models.TrialSystemAttributeModel.__table__, trial.system_attrs),
    ):
        yield table, [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    reports = [(step, *stored(value)) for step, value in trial.intermediate_values.items()]
    yield (
        models.TrialIntermediateValueModel.__table__,
        [{"step": step, "intermediate_value": value, "intermediate_value_type": kind} for step, value, kind in reports],
    )


def _utc(moment: datetime | None) -> datetime | None:
    """As Optuna stores it: universal time, without saying so."""
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


class JournalTrials:
    """Trials of a study in the lines of a journal."""

    def __init__(self, path: Path, study: int) -> None:
        self._path, self._study = path, study
        self._journal = Journal(path, kept=frozenset())
        self._storage = JournalStorage(self._journal)

    def count(self) -> int:
        """See :meth:`Trials.count`."""
        found = self._all()
        _refuse(next((trial.number for trial in found if RECORD not in trial.system_attrs), None))
        return len(found)

    def read(self, start: int = 0) -> Generator[tuple[int, TrialState, str], None, None]:
        """See :meth:`Trials.read`."""
        for trial in self._all()[start:]:
            yield trial.number, trial.state, json.dumps(trial.system_attrs[RECORD])

    def add(self, trial: FrozenTrial) -> bool:
        """See :meth:`Trials.add`."""
        with self._journal.lock:
            if self._has(trial.number) or not (trial.number == 0 or self._has(trial.number - 1)):
                return False
            self._storage.create_new_trial(self._study, template_trial=trial)
        return True

    def settle(self) -> None:
        """See :meth:`Trials.settle`; it is."""

    def _all(self) -> list[FrozenTrial]:
        """With their records, which are read anew: the storage that writes keeps none."""
        reader = JournalStorage(Journal(self._path, kept=frozenset({RECORD})))
        return reader.get_all_trials(self._study, deepcopy=False)

    def _has(self, number: int) -> bool:
        try:
            self._storage.get_trial_id_from_study_id_trial_number(self._study, number)
        except KeyError:
            return False
        return True


class ProcessLock(BaseJournalFileLock):
    """A lock of journals that a dead process does not hold, and that no clock declares stale."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.writer")

    def acquire(self) -> bool:
        """Wait for it; its holder may acquire it again."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Journal(JournalFileBackend):
    """Lines of a file; an append that fails leaves no half line behind, and one that another writer left is cut off.

    Args:
        kept: system attributes of a trial that readers are given, of all that it holds; None for everything.
    """

    def __init__(self, path: Path, kept: frozenset[str] | None = None) -> None:
        self.path, self.lock, self._kept = path, ProcessLock(path), kept
        super().__init__(str(path), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines durably, or none of them."""
        with self.lock:
            _cut(self.path)
            size = self.path.stat().st_size
            try:
                super().append_logs(logs)
            except BaseException:
                os.truncate(self.path, size)
                raise

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Lines from a number on."""
        for line in super().read_logs(log_number_from):
            yield line if self._kept is None or "system_attrs" not in line else self._stripped(line, self._kept)

    def _stripped(self, line: Mapping[str, Any], kept: frozenset[str]) -> dict[str, Any]:
        """The line of a new trial without what nobody asked for."""
        attributes = {key: value for key, value in line["system_attrs"].items() if key in kept}
        skeleton = ("op_code", "worker_id", "study_id", "state", "datetime_start")
        return {**{key: line[key] for key in skeleton if key in line}, "system_attrs": attributes}


def cut_torn_line(path: Path) -> None:
    """Cut off the half line that a writer left who died or met a full disk: nobody could read past it."""
    if path.is_file() and not _whole(path):
        with ProcessLock(path):  # another process may be writing that line
            _cut(path)


def _cut(path: Path) -> None:
    """The same, for who holds the lock."""
    if not _whole(path):
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        log.warning("%s ended in half a line, which was cut off", path)


def _whole(path: Path) -> bool:
    """Whether a file ends with a line, or is empty."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1))
        return file.read(1) in (b"", b"\n")


def _refuse(number: int | None) -> None:
    if number is not None:
        raise StorageError(f"trial {number} was not written by qsearch", fix="use a study of its own")
