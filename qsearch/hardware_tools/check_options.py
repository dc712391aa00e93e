"""``--set key=value`` on the command line, and the plug-in that it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from qsearch import registry
from qsearch.arguments import plain_name
from qsearch.errors import ConfigError, Failure, QSearchError, told


def make(seam: registry.Seam, name: str, options: Mapping[str, Any]) -> Any:
    """A plug-in by name.

    Raises:
        UserError: no such class, it does not fit the seam, or an option is not valid.
        Failure: the class raised an error of its own when it was made.
    """
    try:
        return registry.create(seam, name, options)
    except (QSearchError, OSError):
        raise
    except Exception as error:  # the user's class may fail in any way
        raise Failure(f"the class of {name!r} raised an error when it was made", got=told(error)) from error


def options_of(names: Sequence[str], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Options of each of several plug-ins, from ``key=value`` for one, ``name.key=value`` for several.

    Several keys lead into nested options: ``peaks.4=1e9``. Values are YAML.

    Raises:
        ConfigError: a setting of another form, or of a plug-in that is not named.
    """
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting in settings:
        path, sign, text = setting.partition("=")
        if not sign or not path:
            raise ConfigError("an option is set by key=value", got=repr(setting), fix="platform=zynq-7020")
        owner, key = _owner(names, path)
        if owner is None:
            raise ConfigError(
                "an option of one of several cost models is set by name.key=value",
                got=setting,
                fix=f"{names[0]}.{setting}",
            )
        _put(found[owner], key.split("."), _value(text, setting))
    return found


def _owner(names: Sequence[str], path: str) -> tuple[str | None, str]:
    """Whose option it is, and its path there; the class alone will do for file.py:Class."""
    for name in names:
        for known in (name, plain_name(name)):
            if path.startswith(f"{known}."):
                return name, path.removeprefix(f"{known}.")
    return (names[0] if len(names) == 1 else None), path


def _put(options: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = options.get(key)
        options[key] = inner if isinstance(inner, dict) else {}
        options = options[key]
    options[keys[-1]] = value


def _value(text: str, setting: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:  # ruamel.yaml lets the errors of Python's own types through
        raise ConfigError("an option's value must be YAML", got=repr(setting)) from error
