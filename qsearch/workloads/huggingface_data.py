"""Rows of a data set of the package ``datasets``: of a folder, or by id from the package's cache.

A folder is what ``save_to_disk`` wrote, or holds files that ``load_dataset`` understands: csv, json, parquet, or images in
a folder per class. Code in it is never run; nothing is fetched unless the caller says so, and of a folder nothing is left
in the cache.
"""

from __future__ import annotations

import logging
import re
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from qsearch.errors import DataError, PluginError, nearest
from qsearch.workloads.dataset_addresses import check_card
from qsearch.workloads.dataset_folders import check_shards
from qsearch.workloads.huggingface_offline import offline_unless

try:
    import datasets
    from datasets.packaged_modules.cache.cache import Cache
except ImportError as error:
    raise PluginError(
        "the workload 'huggingface' needs the packages transformers and datasets",
        fix="pip install 'qsearch[huggingface]'",
    ) from error

Split = Literal["train", "validation", "test"]

SPLITS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Split → what data sets call it."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "img"),
    "text": ("text", "sentence", "question", "content", "review"),
    "label": ("label", "labels", "target", "class", "category"),
}
"""What a column holds → what data sets call it."""


@contextmanager
def opened(dataset: Path | str, subset: str | None, download: bool) -> Iterator[Mapping[str, Any]]:
    """The data set: name of a split → ``datasets.Dataset``, to be read within the context.

    Args:
        dataset: a folder, or an id.
        subset: one of several that it has, as "sst2" of GLUE.
        download: fetch what is not in the cache of ``datasets``.

    Raises:
        DataError: not found, or malformed.
    """
    place = Path(dataset).expanduser()
    with _quiet(), offline_unless(download), tempfile.TemporaryDirectory() as scratch:
        try:
            found = _load(place, subset, scratch) if place.exists() else _load_by_id(str(dataset), subset, download)
        except DataError:
            raise
        except Exception as error:  # files may be damaged in any way, and each reader has errors of its own
            raise DataError(
                f"the data set {str(dataset)!r} must load",
                got=_reason(error),
                fix=_fix(place, download),
            ) from error
        yield found


def find_splits(names: Collection[str], given: Mapping[Split, str | None], dataset: str) -> dict[Split, str]:
    """Split → its name in the data set, where it has one; at least "train".

    Args:
        names: the splits of the data set.
        given: names that the user gave; None where they are to be found.

    Raises:
        DataError: it has no split of a given name, or none for "train".
    """
    splits: dict[Split, str] = {}
    for split, known in SPLITS.items():
        wanted = given[split]
        if wanted is not None and wanted not in names:
            raise DataError(f"the data set {dataset!r} has no split {wanted!r}", fix=nearest(wanted, names))
        name = wanted or next((name for name in known if name in names), None)
        if name is not None:
            splits[split] = name
    if "train" not in splits:
        raise DataError(
            f"the data set {dataset!r} must have a training split, to calibrate with",
            got=", ".join(names),
            fix="name one by the option 'splits': {train: NAME}",
        )
    if len(set(splits.values())) < len(splits):
        raise DataError(f"the splits of the data set {dataset!r} must be different ones", got=str(splits))
    return splits


def find_column(data: Any, what: str, given: str | None, where: str) -> str:
    """The column that holds ``what``, one of :data:`COLUMNS`.

    Raises:
        DataError: there is none of the given name, or of those that are usual.
    """
    columns: Sequence[str] = data.column_names
    if given is not None and given not in columns:
        raise DataError(f"{where} has no column {given!r}", fix=nearest(given, columns))
    found = given or next((name for name in COLUMNS[what] if name in columns), None)
    if found is None:
        raise DataError(
            f"{where} must have a column {' or '.join(COLUMNS[what])}",
            got=", ".join(columns) or "none",
            fix=f"name it by the option '{what if what == 'label' else 'input'}_column'",
        )
    return found


def _load(place: Path, subset: str | None, scratch: str) -> Mapping[str, Any]:
    """What a folder holds; what its files become on the way is kept in ``scratch``."""
    if not place.is_dir():
        raise NotADirectoryError(place)
    if not ((place / "dataset_dict.json").is_file() or (place / "state.json").is_file()):
        check_card(place)
        check_shards(place.rglob("*-of-*"))
        found: Mapping[str, Any] = datasets.load_dataset(str(place), subset, cache_dir=scratch)
        return found
    saved = datasets.load_from_disk(str(place))
    return saved if isinstance(saved, Mapping) else {"train": saved}


def _load_by_id(name: str, subset: str | None, download: bool) -> Mapping[str, Any]:
    if download:
        found: Mapping[str, Any] = datasets.load_dataset(name, subset)
        return found
    # load_dataset asks the network first, even for what it has
    cached = Cache(dataset_name=name.rpartition("/")[2], repo_id=name, config_name=subset, version="auto", hash="auto")
    kept: Mapping[str, Any] = cached.as_dataset()
    return kept


def _reason(error: Exception) -> str:
    empty = re.search(r'Instruction "(.+)" corresponds to no data', str(error))
    return f"no rows in split {empty[1]!r}" if empty else f"{type(error).__name__}: {error}"[:300]


def _fix(place: Path, download: bool) -> str:
    if place.exists():
        return "give a folder of csv, json or parquet files, of images in a folder per class, or one by save_to_disk"
    if download:
        return "check the id, the option 'subset' and the network"
    return "give the folder that holds it, or set download: true to fetch it by its id"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars, messages and warnings of ``datasets`` inside; as before afterwards."""
    bars, level = datasets.are_progress_bars_disabled(), datasets.utils.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        datasets.disable_progress_bars()
        datasets.utils.logging.set_verbosity(logging.CRITICAL)
        try:
            yield
        finally:
            datasets.utils.logging.set_verbosity(level)
            if not bars:
                datasets.enable_progress_bars()
