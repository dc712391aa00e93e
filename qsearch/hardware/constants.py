"""``Constant``: a number of hardware with its unit and where it comes from, as data.

Sources end in a tag that says how certain they are: [V] read in the named source, [C] computed from such a number,
[D] derived, or a modelling choice of this project, [M] from memory, not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Platform = TypeVar("Platform", bound="DataclassInstance")


@dataclass(frozen=True)
class Constant:
    """A number of hardware.

    Attributes:
        value: the number.
        unit: its unit; "1" for counts and ratios.
        source: where it was read or how it was chosen, with its tag.
    """

    value: float
    unit: str
    source: str


def constants_of(platform: DataclassInstance) -> dict[str, Constant]:
    """The constants among the fields of a dataclass, by field name; those in a mapping by ``field[key]``."""
    found: dict[str, Constant] = {}
    for field in fields(platform):
        value: Any = getattr(platform, field.name)
        if isinstance(value, Constant):
            found[field.name] = value
        elif isinstance(value, Mapping):
            found.update({f"{field.name}[{key}]": item for key, item in value.items() if isinstance(item, Constant)})
    return found


def overridden(platform: Platform, values: Mapping[str, float | None]) -> Platform:
    """``platform`` with the constants that a user's options name replaced; None leaves one as it is."""
    chosen = {
        name: replace(getattr(platform, name), value=float(value), source="set by an option of the campaign")
        for name, value in values.items()
        if value is not None
    }
    return replace(platform, **chosen)
