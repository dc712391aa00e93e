"""``qsearch hardware fit``: what it prints and writes, resuming, and its errors in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from campaigns import Answer, call, plugin

from qsearch import registry

Qsearch = Callable[..., Answer]

FAST = (
    *("--workload", plugin("Tiny"), "--samples", "12", "--held-out", "6"),
    *("--weight-bits", "2,4,8", "--activation-bits", "2,4,8"),
)

CHIP = '''"""A chip of which some points cannot be measured, and which counts what it was asked."""

from pathlib import Path

from qsearch.protocols import Target


class Chip(Target):
    units = {"latency": "s"}
    deterministic = True

    def precisions(self, layer):
        return [(w, a) for w in (2, 4, 8) for a in (2, 4, 8)]

    def versions(self):
        return {"chip": "1"}

    def measure(self, layer, weight_bits, activation_bits):
        with Path("asked.txt").open("a") as file:
            file.write(f"{layer.name} {weight_bits} {activation_bits}\\n")
        if FAILS:
            raise RuntimeError("no such kernel")
        return {"latency": 1e-9 * layer.macs * weight_bits * activation_bits}
'''


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """``qsearch hardware fit`` in this process, in a folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: call(capfd, "hardware", "fit", *arguments)


def chip(folder: Path, fails: str) -> str:
    """The chip, with a condition on which a point fails."""
    (folder / "chip.py").write_text(CHIP.replace("FAILS", fails))
    return "chip.py:Chip"


def test_it_learns_a_cost_model_and_says_how_well(qsearch: Qsearch, tmp_path: Path) -> None:
    answer = qsearch("bops", *FAST)
    assert (answer.code, answer.err) == (0, "")
    assert "surrogate of bops: 12 of " in answer.out
    assert re.search(r"bops \[.*\] +│ +12 │ +[0-9.]+ % │ +[0-9.]+–[0-9.]+ % │ +[0-9.]+ % │ +[0-9]+ % ", answer.out)
    path = Path("runs/hardware/bops/surrogate.json")
    assert answer.out.endswith(f"hardware: {{name: surrogate, options: {{path: {path}}}}}\n")
    assert path.with_suffix(".npz").is_file()
    model = registry.create("cost_models", "surrogate", {"path": path})
    assert list(model.units) == ["bops"]


def test_json_is_all_that_is_printed(qsearch: Qsearch) -> None:
    answer = qsearch("bops", *FAST, "--json", "--output", "here")
    found = json.loads(answer.out)
    assert (found["samples"], found["failed"], found["surrogate"]) == (12, 0, "here/surrogate.json")
    metric = found["metrics"]["bops"]
    assert metric["interval"][0] <= metric["median"] <= metric["interval"][1] <= metric["ninetieth"] * 10
    assert metric["median"] < 0.2
    assert metric["transferred"] is False


def test_it_stops_at_the_error_asked_for(qsearch: Qsearch) -> None:
    found = json.loads(qsearch("bops", *FAST, "--error", "0.9", "--json").out)
    assert found["samples"] == 10
    assert found["metrics"]["bops"]["median"] <= 0.9


def test_a_second_run_measures_nothing_anew(qsearch: Qsearch, tmp_path: Path) -> None:
    name = chip(tmp_path, "False")
    first = qsearch(name, *FAST, "--json")
    asked = (tmp_path / "asked.txt").read_text()
    assert len(asked.splitlines()) == 18
    assert qsearch(name, *FAST, "--json").out == first.out
    assert (tmp_path / "asked.txt").read_text() == asked
    more = json.loads(qsearch(name, *FAST, "--samples", "14", "--json").out)
    assert more["samples"] == 14
    assert len((tmp_path / "asked.txt").read_text().splitlines()) == 20


def test_points_that_fail_are_passed_over(qsearch: Qsearch, tmp_path: Path) -> None:
    answer = qsearch(chip(tmp_path, "weight_bits == 4"), *FAST, "--json")
    found = json.loads(answer.out)
    assert found["samples"] == 12
    assert found["failed"] > 0
    asked = (tmp_path / "asked.txt").read_text().splitlines()
    assert len(asked) == len(set(asked))


def test_a_source_is_used_where_it_helps(qsearch: Qsearch, tmp_path: Path) -> None:
    qsearch("bops", *FAST, "--samples", "40", "--weight-bits", "2-8", "--activation-bits", "2-8", "--output", "source")
    answer = qsearch("bops", *FAST, "--source", "source", "--output", "target", "--json")
    assert answer.err == ""
    assert json.loads(answer.out)["metrics"]["bops"]["median"] < 0.2


def test_one_model_for_each_kind(qsearch: Qsearch) -> None:
    found = json.loads(qsearch("bops", *FAST, "--per-kind", "--json").out)
    body = json.loads(Path(found["surrogate"]).read_text())
    assert len(body["models"]["bops"]["kinds"]) == len({layer["kind"] for layer in body["layers"]}) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--acquire", "varience"), "unknown acquisition 'varience'; did you mean 'variance'?"),
        (("--acquire", "ehvi"), "ehvi needs at least two metrics; got bops; acquire by ei"),
        (("--samples", "5000"), "the pool must hold 5000 samples and 6 held-out points; got "),
        (("--error", "0.1", "--held-out", "0"), "stopping at an error needs held-out points"),
        (("--source", "nowhere"), "a surrogate is surrogate.json with surrogate.npz beside it; got no nowhere"),
        (("--samples", "2", "--per-kind"), "a model for each of 2 kinds of layers needs at least 6 samples; got 2"),
    ],
)
def test_what_cannot_be_carried_out_is_said_in_one_line(
    qsearch: Qsearch, arguments: tuple[str, ...], message: str
) -> None:
    answer = qsearch("bops", *FAST, *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_bits_that_the_target_does_not_run_at(qsearch: Qsearch, tmp_path: Path) -> None:
    answer = qsearch(chip(tmp_path, "False"), *FAST, "--weight-bits", "3")
    assert (answer.code, answer.out) == (2, "")
    assert "the target runs no layer at the bits asked for; it does at: W2A2, W2A4" in answer.err


def test_too_few_successes(qsearch: Qsearch, tmp_path: Path) -> None:
    answer = qsearch(chip(tmp_path, "True"), *FAST)
    assert answer.code == 2
    assert "at least one held-out point must be measured; got 0 of 6" in answer.err
    answer = qsearch(chip(tmp_path, "True"), *FAST, "--held-out", "0")
    assert "at least 3 measurements must succeed to learn from; got 0 of 10" in answer.err
