"""How the tests make, drive and read back campaigns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from qsearch import run as runs
from qsearch.cli import main
from qsearch.trial import Trial

PLUGINS = Path(__file__).parent / "tiny_plugins.py"
COMMAND = [sys.executable, "-c", "from qsearch.cli import main; main()"]


def plugin(name: str) -> str:
    return f"{PLUGINS}:{name}"


def settings(**changes: Any) -> dict[str, Any]:
    """A campaign of a fraction of a second; ``changes`` replace whole settings."""
    return {
        "name": "tiny",
        "budget": {"evaluations": 6},
        "workload": plugin("Tiny"),
        "space": {"weight_bits": [2, 4, 8], "activation_bits": [4, 8]},
        "hardware": "size",
        "evaluator": {"name": "ptq", "options": {"threads": 1}},
        "searcher": "random",
        "constraints": ["size<=0.6"],
        **changes,
    }


def write(path: Path, value: Mapping[str, Any] | str) -> Path:
    """A campaign file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, str):
        path.write_text(value)
    else:
        YAML(typ="safe").dump(dict(value), path)
    return path


class Answer:
    """What a call of the command line gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def line(self) -> str:
        """The one line on standard error."""
        assert self.err.startswith("qsearch: "), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.endswith("\n"), self.err
        return self.err.removeprefix("qsearch: ").rstrip("\n")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error::UserWarning"}


def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """``qsearch …`` in a process of its own."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, env=environment(), **streams)


def spawn(*arguments: str | Path, **options: Any) -> Answer:
    """``qsearch …`` in a process of its own, to its end."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return Answer(process.returncode, out or "", err)


def call(capfd: Any, *arguments: str | Path) -> Answer:
    """``qsearch …`` in this process."""
    before = sys.argv
    sys.argv = ["qsearch", *map(str, arguments)]
    capfd.readouterr()
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    out, err = capfd.readouterr()
    return Answer(code, out, err)


def facts(trial: Trial) -> dict[str, Any]:
    """All of a trial but the time it took."""
    outcomes = None if trial.quality is None else trial.quality.outcomes
    found = {key: getattr(trial, key) for key in Trial.__dataclass_fields__ if key != "seconds"}
    return {**found, "outcomes": None if outcomes is None else (outcomes.dtype, outcomes.tolist())}


def ledger_facts(folder: Path) -> list[dict[str, Any]]:
    """The ledger of a run, without times."""
    return [facts(trial) for trial in runs.load(folder).trials]


def same(left: Trial, right: Trial) -> bool:
    """Equal in everything but time, NaN equal to itself."""
    np.testing.assert_equal(facts(left), facts(right))
    return True
