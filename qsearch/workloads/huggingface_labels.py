"""From the labels of a data set to the classes of a model.

Notation: C classes, 0 … C − 1. Either side may have names for its numbers. Where both have, names decide: the same number
often means different things.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import DataError


def class_names(config: Any) -> dict[str, int]:
    """Name → class of a model's configuration; empty where it only numbers them.

    Raises:
        DataError: two classes of one name.
    """
    numbers = {int(number): str(name) for number, name in config.id2label.items()}
    if all(re.fullmatch(r"label_\d+", name, re.IGNORECASE) for name in numbers.values()):
        return {}
    names = {name: number for number, name in numbers.items()}
    if len(names) < len(numbers):
        raise DataError(
            "classes of the model must have different names",
            got=", ".join(numbers.values()),
            fix="say which label is which class by the option 'labels'",
        )
    return names


def class_numbers(
    values: Sequence[Any],
    names: Sequence[str] | None,
    model_names: Mapping[str, int],
    classes: int,
    where: str,
    given: Mapping[str, int] | None = None,
) -> NDArray[np.int64]:
    """Labels as classes of the model, shape (N,).

    Args:
        values: N labels: numbers, or names.
        names: the data set's name of each number, where it has them.
        model_names: as of :func:`class_names`.
        classes: C.
        where: what the labels are of, for messages.
        given: the user's own: name of a label, or its number as a string → class.

    Raises:
        DataError: a label that is missing, no class of the model, or of a name that the model does not know.
    """
    labels = [_named(value, names, where) for value in values]
    if given is not None:
        found = [_looked_up(str(label), given, "the option 'labels'", where) for label in labels]
    elif all(isinstance(label, str) for label in labels) and (model_names or names is None):
        found = [_looked_up(str(label), model_names, "the model", where) for label in labels]
    else:
        found = [_whole(value, where) for value in values]
    numbers = np.asarray(found, dtype=np.int64)
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= classes):
        raise DataError(
            f"labels of {where} must be classes of the model, 0..{classes - 1}",
            got=f"{numbers.min()}..{numbers.max()}",
            fix="give a model of this data set, or a split that has labels",
        )
    return numbers


def _named(value: Any, names: Sequence[str] | None, where: str) -> Any:
    """A label by its name, where the data set has names."""
    if names is None:
        return value
    number = _whole(value, where)
    if not 0 <= number < len(names):
        raise DataError(
            f"labels of {where} must be within 0..{len(names) - 1}", got=number, fix="choose a split that has labels"
        )
    return names[number]


def _looked_up(name: str, known: Mapping[str, int], whose: str, where: str) -> int:
    """The class of a name: of the very name, else of the only one that differs from it in case alone."""
    alike = {number for other, number in known.items() if other.casefold() == name.casefold()}
    number = known.get(name, next(iter(alike)) if len(alike) == 1 else None)
    if number is None:
        shown = ", ".join(f"{number}: {other}" for other, number in list(known.items())[:10]) or "no names"
        raise DataError(
            f"every label of {where} must be a class that {whose} knows",
            got=name,
            fix=f"{whose} has {shown}; say which is which by the option 'labels': {{{name}: 0, …}}",
        )
    return number


def _whole(value: Any, where: str) -> int:
    if isinstance(value, float) and value.is_integer():  # a csv column with a gap in another split
        return int(value)
    if not isinstance(value, int | np.integer):
        raise DataError(f"labels of {where} must be whole numbers or names", got=f"{type(value).__name__} {value!r}")
    return int(value)
