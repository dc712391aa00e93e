"""``qsearch sensitivity``: what it prints and writes, and its errors in one line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from campaigns import PLUGINS, Answer, call, plugin

Qsearch = Callable[..., Answer]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """``qsearch sensitivity`` on the small workload, in this process, in a folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: call(capfd, "sensitivity", plugin("Tiny"), *arguments)


SMALL = ("--weight-bits", "2,4", "--activation-bits", "4,8")
FAST = ("--sensitivity", "quantization-error", *SMALL)


def test_the_table_says_what_was_measured_and_what_it_cost(qsearch: Qsearch) -> None:
    answer = qsearch(*FAST)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("quantization-error sensitivity of tiny")
    for site in ("0.weight", "0.input", "2.weight", "5.weight", "5.input"):
        assert f" {site} " in answer.out
    assert "squared error / (numbers × largest²)" in answer.out
    assert re.search(r"cost +0\.0640 float passes over 1,000 samples, ", answer.out)
    name, at_2, at_4 = next(line for line in answer.out.splitlines() if " 0.weight " in line).split()
    assert name == "0.weight"
    assert float(at_2) > float(at_4.replace("−", "-"))  # nothing follows: weights are not asked for at 8 bits


def test_json_is_all_that_was_found(qsearch: Qsearch) -> None:
    answer = qsearch(*FAST, "--json", "--granularity", "kernel", "--set", "sensitivity.options.normalise=energy")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["sensitivity"] == {"name": "quantization-error", "options": {"normalise": "energy"}}
    assert found["samples"] == 64
    assert found["damage"]["0.weight"]["bits"] == [2, 4]
    assert np.shape(found["damage"]["0.weight"]["damage"]) == (4, 2)
    assert np.shape(found["damage"]["0.input"]["damage"]) == (1, 2)
    assert found["interactions"] == []


def test_a_second_call_answers_from_the_cache_with_the_same_cost(qsearch: Qsearch, tmp_path: Path) -> None:
    first, second = json.loads(qsearch(*FAST, "--json").out), json.loads(qsearch(*FAST, "--json").out)
    assert first == second  # seconds included, which no two computations share
    assert len(list((tmp_path / "cache" / "sensitivities").iterdir())) == 1


def test_files(qsearch: Qsearch, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    answer = qsearch("--sensitivity", "pairwise", *SMALL, "--set", "sensitivity.options.window=1", "--output", folder)
    assert (answer.code, answer.err) == (0, "")
    assert str(folder / "sensitivity.html") in answer.out.replace("\n", "")
    assert "5 interactions" in answer.out
    page = (folder / "sensitivity.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    for text in ("Damage of each choice", "Pairs", "nats", "float passes over 1,000 samples"):
        assert text in page
    assert "mathdefault" not in page
    for name in ("damage", "interactions"):
        assert (folder / "plots" / f"sensitivity-{name}.png").read_bytes().startswith(PNG)
    numbers = json.loads((folder / "sensitivity.json").read_text())
    with (folder / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2
    for row in rows:
        given = numbers["damage"][row["variable"]]
        assert float(row["damage"]) == given["damage"][0][given["bits"].index(int(row["bits"]))]
        assert row["kernel"] == ""


def test_kernels_are_summed_in_the_table_and_spelt_out_in_the_file(qsearch: Qsearch, tmp_path: Path) -> None:
    answer = qsearch(*FAST, "--granularity", "kernel", "--output", tmp_path / "out")
    assert "0.weight ×4" in answer.out
    assert "summed over kernels" in answer.out
    with (tmp_path / "out" / "sensitivity.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["variable"] == "0.weight"]
    assert [row["kernel"] for row in rows] == [str(kernel) for kernel in range(4) for _ in range(2)]


@pytest.mark.parametrize("bits", ["4", "32"])
def test_a_table_of_one_column_or_of_zeros_is_drawn(qsearch: Qsearch, tmp_path: Path, bits: str) -> None:
    given = ("--weight-bits", bits, "--activation-bits", bits, "--set", "space.fixed.first=8")
    answer = qsearch("--sensitivity", "quantization-error", *given, "--output", tmp_path / "out")
    assert (answer.code, answer.err) == (0, "")
    assert (tmp_path / "out" / "plots" / "sensitivity-damage.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--sensitivity", "hesian"), 2, ("unknown sensitivity 'hesian'", "did you mean 'hessian'?")),
        (("--set", "sensitivity.options.measur=kl"), 2, ("unknown option 'measur'", "did you mean 'measure'?")),
        (("--set", "sensitivity.options.measure=both"), 2, ("measure in options of 'one-at-a-time'", "got both")),
        (("--set", "sensitivty.options.measure=kl"), 2, ("unknown option 'sensitivty'", "did you mean 'sensitivity'?")),
        (("--set", "measure"), 2, ("path.to.setting=value", "got measure")),
        (("--set", "workload.name.x=1"), 2, ("must lead through groups",)),
        (("--set", "space.fixed=[1"), 2, ("the value of space.fixed must be YAML",)),
        (("--evaluator", "pqt"), 2, ("unknown evaluator 'pqt'", "did you mean 'ptq'?")),
        (("--set", "evaluator.options.sample=3"), 2, ("unknown option 'sample'", "did you mean 'samples'?")),
        (("--weight-bits", "8-2"), 2, ("bits are given as 2-8 or as 2,4,8",)),
        (("--weight-bits", "40"), 2, ("space.weight_bits",)),
        (("--granularity", "channel"), 2, ("space.granularity",)),
        (("--set", "space.fixed.nowhere=8"), 2, ("unknown name 'nowhere' in fixed",)),
        (("--set", "space.fixed={weights: 8, activations: 8}"), 2, ("at least one site that is not fixed",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_errors_in_one_line(qsearch: Qsearch, arguments: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    named = () if "--sensitivity" in arguments else ("--sensitivity", "one-at-a-time")
    answer = qsearch(*named, *arguments)
    assert answer.code == code, answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.line


def test_an_unknown_workload(capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "sensitivity", "digits-resnt")
    assert answer.code == 2
    assert "did you mean 'digits-resnet'?" in answer.line


def test_a_folder_that_cannot_be_written(qsearch: Qsearch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = qsearch(*FAST, "--output", tmp_path / "file")
    assert answer.code == 1
    assert answer.out == ""
    assert "folder of a survey must be writable" in answer.line


def test_a_network_that_gives_nan(capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "sensitivity", plugin("NotANumber"), "--sensitivity", "one-at-a-time")
    assert answer.code in (1, 2)
    assert "must be finite" in answer.line


def test_a_workload_whose_score_is_not_called_accuracy(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "regression.py"
    file.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('tiny_for_regression', {str(PLUGINS)!r})\n"
        "tiny = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(tiny)\n"
        "class Regression(tiny.Tiny):\n"
        "    metric = 'r2'\n"
    )
    answer = call(capfd, "sensitivity", f"{file}:Regression", *FAST)
    assert (answer.code, answer.err) == (0, "")
    assert " 0.weight " in answer.out


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_plugin_that_gives_nan_or_raises_is_one_line(
    qsearch: Qsearch, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "from qsearch.protocols import SensitivityTable\n"
        "class NotANumber:\n"
        "    def table(self, space, evaluator):\n"
        "        damage = {v.name: np.full((v.length, len(v.choices)), np.nan) for v in space.variables}\n"
        "        return SensitivityTable(damage, 0)\n"
        "class Raises:\n"
        "    def table(self, space, evaluator):\n"
        "        raise KeyError('boom')\n"
    )
    for name, words in (("NotANumber", "must be finite, of shape (1, 2)"), ("Raises", "got KeyError: 'boom'")):
        answer = qsearch("--sensitivity", f"{file}:{name}", *SMALL, *flags)
        assert (answer.code, answer.out) == (1, "")
        assert words in answer.line
