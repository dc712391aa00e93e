"""Records of long benchmarks: a line of JSON each, so that one that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Records:
    """Results by what they are of.

    Args:
        path: the file; it is made with the first result.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_file() and not (content := path.read_bytes()).endswith(b"\n"):  # of a writer that was killed
            path.write_bytes(content[: content.rfind(b"\n") + 1])
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._found = {_key(record["job"]): record["result"] for record in map(json.loads, lines)}

    def __contains__(self, job: Mapping[str, Any]) -> bool:
        return _key(job) in self._found

    def __getitem__(self, job: Mapping[str, Any]) -> Any:
        return self._found[_key(job)]

    def add(self, job: Mapping[str, Any], result: Any) -> None:
        """Keep a result; JSON both."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": job, "result": result}) + "\n")
        self._found[_key(job)] = result


def _key(job: Mapping[str, Any]) -> str:
    return json.dumps(job, sort_keys=True)
