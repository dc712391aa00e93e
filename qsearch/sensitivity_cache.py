"""Tables of sensitivities on disk, by the content they were computed from.

A table is found again under a digest of everything that it depends on: the evaluator's fingerprint, the plug-in's code
and options, the variables of the space and their choices. Kept are tables of installed plug-ins on an evaluator that is
:class:`qsearch.protocols.Fingerprinted`; a class from a file may use anything, so its tables are computed each time.

A file is an ``.npz`` archive with a SHA-256 over its arrays. One that is damaged is computed again.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
import time
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch import registry
from qsearch.errors import EvaluationError, QSearchError, StorageError
from qsearch.files import cache_folder, content_digest, write_atomically
from qsearch.protocols import Evaluator, Fingerprinted, Sensitivity, SensitivityTable
from qsearch.sensitivity_tables import check_table
from qsearch.space import SearchSpace

log = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Priced:
    """A table and what it took to compute, whenever that was.

    Attributes:
        table: damages and interactions, and the samples passed for them.
        seconds: wall time of the computation.
    """

    table: SensitivityTable
    seconds: float


def sensitivities(name: str, options: Mapping[str, Any] | None, space: SearchSpace, evaluator: Evaluator) -> Priced:
    """The table of a plug-in: from the cache where it is known and whole, else computed and put there.

    Raises:
        UserError: an unknown plug-in, options that are not valid, an evaluator that does not serve it.
        EvaluationError: a sensitivity that cannot be found; a table that is not finite, or does not fit the space.
    """
    estimator = registry.create("sensitivities", name, options)
    path = _path(name, options, space, evaluator)
    if path is not None and path.is_file():
        try:
            return read(path, space)
        except StorageError as error:
            log.warning("%s; computing it again", error)
    start = time.perf_counter()
    found = Priced(_table(name, estimator, space, evaluator), time.perf_counter() - start)
    if path is not None:
        try:
            write(path, found)
        except OSError as error:
            log.warning("cannot keep sensitivities in %s: %s; set QSEARCH_CACHE to a folder", path.parent, error)
    return found


def _table(name: str, estimator: Sensitivity, space: SearchSpace, evaluator: Evaluator) -> SensitivityTable:
    """A table that fits; whatever a plug-in raises becomes one line that says whose it is."""
    try:
        table = estimator.table(space, evaluator)
        check_table(space, table)
    except (QSearchError, OSError):
        raise
    except Exception as error:
        raise EvaluationError(
            f"sensitivity {name!r} must give a table of numbers", got=f"{type(error).__name__}: {error}"[:300]
        ) from error
    return table


def write(path: Path, found: Priced) -> None:
    """Keep a table.

    Raises:
        OSError: the folder cannot be written.
    """
    table = found.table
    arrays: Arrays = {f"damage {i}": np.asarray(value) for i, value in enumerate(table.damage.values())}
    arrays |= {f"interaction {i}": np.asarray(value) for i, value in enumerate(table.interactions.values())}
    facts = {
        "variables": list(table.damage),
        "pairs": [list(pair) for pair in table.interactions],
        "samples": table.samples,
        "seconds": found.seconds,
    }
    arrays["facts"] = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
    arrays["sha256"] = np.frombuffer(_checksum(arrays).encode(), dtype=np.uint8)
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_atomically(path, content.getvalue())


def read(path: Path, space: SearchSpace) -> Priced:
    """A table that :func:`write` kept.

    Raises:
        StorageError: the file is damaged, or holds the table of another space.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays: Arrays = {key: archive[key] for key in archive.files}
        if arrays.pop("sha256").tobytes().decode() != _checksum(arrays):
            raise ValueError("a checksum that does not match")
        facts = json.loads(arrays["facts"].tobytes())
        damage = {name: arrays[f"damage {i}"] for i, name in enumerate(facts["variables"])}
        pairs = {(first, second): arrays[f"interaction {i}"] for i, (first, second) in enumerate(facts["pairs"])}
        found = Priced(SensitivityTable(damage, int(facts["samples"]), pairs), float(facts["seconds"]))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error
    if {name: value.shape for name, value in damage.items()} != {
        variable.name: (variable.length, len(variable.choices)) for variable in space.variables
    }:
        raise _damaged(path, "variables of another space")
    return found


def _path(name: str, options: Mapping[str, Any] | None, space: SearchSpace, evaluator: Evaluator) -> Path | None:
    """Where the table of an installed plug-in lies; None if nobody can say what it depends on."""
    if name not in registry.names("sensitivities") or not isinstance(evaluator, Fingerprinted):
        return None
    if "fingerprint" not in vars(type(evaluator)):  # inherited: it does not know what a subclass does otherwise
        return None
    plugin = registry.load("sensitivities", name)
    code = _code(plugin)
    content = None if code is None else evaluator.fingerprint()
    if content is None:
        return None
    schema = getattr(plugin, "Options", None)
    settings = {} if schema is None else registry.validate(schema, options or {}, name).model_dump(mode="json")
    key = {
        "qsearch": metadata.version("qsearch"),
        "plugin": f"{plugin.__module__}:{plugin.__qualname__}",
        "code": code,
        "options": settings,
        "sites": [[site.name, site.layer, site.role, site.choices, site.kernels] for site in space.sites],
        "ties": space.ties,
        "fixed": dict(space.fixed or {}),
        "evaluator": content,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "sensitivities" / f"{name}-{digest[:32]}.npz"


def _code(plugin: type[Any]) -> str | None:
    """A digest of a class's module and of those beside it in its package; None where it has no source."""
    module = sys.modules[plugin.__module__]
    if not module.__file__:
        return None
    source = Path(module.__file__)
    return content_digest(source.parent.glob("*.py") if module.__package__ else [source])


def _checksum(arrays: Arrays) -> str:
    """SHA-256 over arrays in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        value = arrays[name]
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    return total.hexdigest()


def _damaged(path: Path, got: str) -> StorageError:
    return StorageError(f"cached sensitivities {path} must be whole", got=got)
