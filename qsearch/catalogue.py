"""What is installed: plug-ins with their one-line description and options."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from qsearch import registry
from qsearch.errors import PluginError
from qsearch.registry import Seam


@dataclass(frozen=True)
class Entry:
    """One plug-in: its name, what it is, and its options with their defaults."""

    name: str
    description: str
    options: dict[str, Any]


def entries(seam: Seam) -> list[Entry]:
    """The plug-ins of a seam; one that cannot be imported is listed with the reason."""
    return [_entry(seam, name) for name in registry.names(seam)]


def _entry(seam: Seam, name: str) -> Entry:
    try:
        plugin = registry.load(seam, name)
    except PluginError as error:
        return Entry(name, str(error), {})
    schema: type[BaseModel] | None = getattr(plugin, "Options", None)
    options = {key: _default(field) for key, field in schema.model_fields.items()} if schema else {}
    first = (inspect.getdoc(plugin) or "").split("\n\n")[0].replace("\n", " ")
    return Entry(name, re.sub(r":\w+:`~?([^`]*)`|``([^`]*)``", r"\1\2", first), options)


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return "required" if value is PydanticUndefined else value
