"""Evaluators as bytes: code that no installation brings goes along, in another process it is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from odd_evaluators import Locked, Plain, assignments

from qsearch import registry
from qsearch.errors import EvaluationError, PluginError
from qsearch.testing.problems import separable
from qsearch.trial import Quality

cloudpickle = pytest.importorskip("ray.cloudpickle")
shipping = pytest.importorskip("qsearch.workers.shipping")
portable = pytest.importorskip("qsearch.workers.actor").portable

ELSEWHERE = """
import sys
from pathlib import Path
from qsearch.assignment import BitAssignment
from qsearch.workers.shipping import unpacked
found = unpacked(Path(sys.argv[1]).read_bytes()).evaluate(BitAssignment({"w": 8}))
print(found.metric, sorted(set(sys.modules) & {"odd_evaluators", "helper_of_a_plugin"}))
"""


def elsewhere(content: bytes, folder: Path) -> str:
    """What an evaluator answers in a process that started in an empty folder."""
    (folder / "content").write_bytes(content)
    (folder / "empty").mkdir()
    command = [sys.executable, "-c", ELSEWHERE, str(folder / "content")]
    done = subprocess.run(command, cwd=folder / "empty", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_code_beside_the_evaluator_goes_along(tmp_path: Path) -> None:
    assert elsewhere(shipping.packed(Plain()), tmp_path) == "0.25 []"


def test_a_plugin_from_a_file_goes_along_with_its_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_a_plugin.py").write_text("def halved(x):\n    return x / 2\n")
    (tmp_path / "plugin.py").write_text(
        "from helper_of_a_plugin import halved\n"
        "from qsearch.trial import Quality\n"
        "class Mine:\n"
        "    def evaluate(self, assignment, *, fidelity=1.0, seed=0):\n"
        "        return Quality(halved(assignment['w']), 0.0, 1, 0.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    evaluator = registry.create("evaluators", f"{tmp_path / 'plugin.py'}:Mine", {})
    assert elsewhere(shipping.packed(evaluator), tmp_path) == "4.0 []"


def test_nothing_is_left_registered() -> None:
    before = set(cloudpickle.list_registry_pickle_by_value())
    shipping.packed(Plain())
    with pytest.raises(PluginError, match="must be picklable to go to workers; got TypeError: cannot pickle"):
        shipping.packed(Locked())
    assert set(cloudpickle.list_registry_pickle_by_value()) == before


def test_installed_code_is_named_only() -> None:
    problem, evaluator = separable(4)
    content = shipping.packed(evaluator)
    assert b"qsearch.testing.problems" in content
    assert b"made to fail" not in content  # a constant of its code
    assert shipping.unpacked(content).evaluate(problem.space.uniform(4)) == evaluator.evaluate(problem.space.uniform(4))


class Chatty(Exception):
    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"{what}, {why}")


def test_portable_answers() -> None:
    quality = Plain().evaluate(*assignments([8]))
    assert portable(quality) is quality
    error = EvaluationError("a rule", got={"bits": 3}, fix="mend it")
    assert portable(error) is error
    strange = portable(Chatty("this", why="that"))
    assert type(strange) is EvaluationError
    assert str(strange) == "Chatty: this, that"
    assert portable("no quality") == "no quality"
    assert isinstance(portable(Quality(0.0, 0.0, 1, 0.0)), Quality)
