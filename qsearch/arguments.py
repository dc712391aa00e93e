"""From short texts on the command line to settings of a campaign."""

from __future__ import annotations

import re

from qsearch.errors import ConfigError


def bits(text: str) -> list[int]:
    """``2-8`` or ``2,4,8`` as a list.

    Raises:
        ConfigError: the text is of neither form.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:-(\d{1,2}))?\s*", part)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high:
            raise ConfigError("bits are given as 2-8 or as 2,4,8", got=repr(text))
        found.extend(range(low, high + 1))
    return found


def choices(**texts: str | None) -> dict[str, list[int]]:
    """Setting → its choices, of those that are given.

    Raises:
        ConfigError: as :func:`bits`.
    """
    return {name: bits(text) for name, text in texts.items() if text is not None}


def objective(text: str, quality: str) -> dict[str, str]:
    """The metric ``quality`` of the workload is maximised, any other minimised, unless ``:max`` or ``:min`` stands behind it.

    Raises:
        ConfigError: something else stands behind it.
    """
    metric, _, direction = text.partition(":")
    directions = {"max": "maximize", "min": "minimize", "": "maximize" if metric == quality else "minimize"}
    if direction not in directions:
        raise ConfigError("an objective is METRIC, METRIC:max or METRIC:min", got=text)
    return {"metric": metric, "direction": directions[direction]}


def plain_name(plugin: str) -> str:
    """A plug-in's name as part of a folder's name: the class of ``file.py:Class``."""
    return plugin.rpartition(":")[2] if ":" in plugin else plugin
