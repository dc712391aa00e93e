"""A fitted surrogate in two files: ``surrogate.json`` says what it is, ``surrogate.npz`` holds its arrays.

Only observations, kernel parameters and κ are kept, bit for bit; the rest follows from them. The JSON holds the digest of
itself and of the arrays, so that a file that was cut off, edited or swapped is told from a good one. Nothing in either can
run code: no pickles.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError, SpaceError, StorageError
from qsearch.files import write_atomically
from qsearch.layers import Layer
from qsearch.surrogates.features import FEATURES
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.model import LogCost
from qsearch.surrogates.process import Process

FORMAT = 3
"""Of the files; to be raised when features or kernels change, as the parameters then mean something else."""
NAME = "surrogate.json"
ARRAYS = "surrogate.npz"

Arrays = dict[str, NDArray[np.float64]]


def save(fitted: Fitted, folder: Path) -> Path:
    """Write both files; the path of the JSON.

    Raises:
        StorageError: the folder cannot be written.
    """
    arrays: Arrays = {}
    body = {
        "format": FORMAT,
        "features": list(FEATURES),
        "target": fitted.target,
        "units": dict(fitted.units),
        "definitions": dict(fitted.definitions),
        "layers": [asdict(layer) for layer in fitted.layers],
        "pairs": {kind: [list(pair) for pair in pairs] for kind, pairs in fitted.pairs.items()},
        "maxima": sorted(fitted.maxima),
        "facts": dict(fitted.facts),
        "provenance": dict(fitted.provenance),
        "models": {metric: _put(model, metric, arrays) for metric, model in fitted.models.items()},
    }
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # its stub takes the names for allow_pickle
    body["arrays"] = hashlib.sha256(packed.getvalue()).hexdigest()
    body["checksum"] = _digest(body)
    try:
        write_atomically(folder / ARRAYS, packed.getvalue())
        write_atomically(folder / NAME, (json.dumps(body, indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError("a surrogate's folder must be writable", got=f"{folder}: {error}") from error
    return folder / NAME


def load(path: Path) -> Fitted:
    """Read what :func:`save` wrote; ``path`` is the JSON or its folder.

    Raises:
        DataError: it is missing, damaged, or of another format.
    """
    path = path / NAME if path.is_dir() else path
    try:
        body = json.loads(path.read_bytes())
        _check(body, path)
        packed = (path.parent / ARRAYS).read_bytes()
        if hashlib.sha256(packed).hexdigest() != body["arrays"]:
            raise ValueError(f"{ARRAYS} is not the one it was written with")
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            return _fitted(body, dict(arrays))
    except FileNotFoundError as error:
        raise DataError(
            f"a surrogate is {NAME} with {ARRAYS} beside it",
            got=f"no {error.filename}",
            fix="qsearch hardware fit writes both",
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SpaceError, zipfile.BadZipFile) as error:
        raise DataError(
            f"the surrogate {path} is damaged", got=str(error)[:200], fix="fit it again: measurements are kept"
        ) from error


def _check(body: Any, path: Path) -> None:
    """The format first: a file of another version may look in any way."""
    if not isinstance(body, dict):
        raise ValueError("no JSON object")
    if body.get("format") != FORMAT:
        raise DataError(
            f"the surrogate {path} must be of format {FORMAT}",
            got=f"format {body.get('format')!r}, of another version",
            fix="fit it again: measurements are kept",
        )
    if body.get("checksum") != _digest(body):
        raise ValueError("its checksum does not hold")


def _digest(body: Mapping[str, Any]) -> str:
    text = json.dumps({key: value for key, value in body.items() if key != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _put(model: LogCost, where: str, arrays: Arrays) -> dict[str, Any]:
    for kind, process in model.parts.items():
        arrays.update(
            {f"{where}/{kind}/x": process.x, f"{where}/{kind}/y": process.y, f"{where}/{kind}/theta": process.theta}
        )
    source = None if model.source is None else _put(model.source, f"{where}/source", arrays)
    widenings = dict(model.widenings)
    return {"kinds": list(model.parts), "slope": model.slope, "widenings": widenings, "source": source}


def _take(body: Mapping[str, Any], where: str, arrays: Arrays) -> LogCost:
    parts = {
        kind: Process(*(arrays[f"{where}/{kind}/{name}"] for name in ("x", "y", "theta"))) for kind in body["kinds"]
    }
    source = None if body["source"] is None else _take(body["source"], f"{where}/source", arrays)
    widenings = {kind: float(value) for kind, value in body["widenings"].items()}
    return LogCost(parts, source, float(body["slope"]), widenings)


def _fitted(body: Mapping[str, Any], arrays: Arrays) -> Fitted:
    layers: list[dict[str, Any]] = [
        {key: tuple(part) if isinstance(part, list) else part for key, part in layer.items()}
        for layer in body["layers"]
    ]
    return Fitted(
        target=body["target"],
        units=body["units"],
        definitions=body["definitions"],
        models={metric: _take(part, metric, arrays) for metric, part in body["models"].items()},
        layers=tuple(Layer(**layer) for layer in layers),
        pairs={
            kind: tuple((int(weight), int(activation)) for weight, activation in pairs)
            for kind, pairs in body["pairs"].items()
        },
        maxima=frozenset(body["maxima"]),
        facts=body["facts"],
        provenance=body["provenance"],
    )
