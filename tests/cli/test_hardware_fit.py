"""``qsearch hardware fit``: what it prints and writes, resuming, and its errors in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from campaigns import Answer, call, plugin

from qsearch import registry
from qsearch.assignment import BitAssignment
from qsearch.errors import SpaceError

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
    assert "surrogate of bops: 12 samples from " in answer.out
    assert re.search(r"bops \[.*\] +[0-9.]+ % \([0-9.]+ to [0-9.]+\) +[0-9.]+ % +[0-6] of 6 ", answer.out)
    assert max(len(line.rstrip()) for line in answer.out.splitlines()) <= 80
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
    assert 10 <= found["samples"] < 12
    assert found["metrics"]["bops"]["median"] <= 0.9
    assert "asked for  90 %: reached\n" in qsearch("bops", *FAST, "--error", "0.9").out


def test_it_says_that_the_error_was_not_reached(qsearch: Qsearch) -> None:
    answer = qsearch("bops", *FAST, "--error", "1e-9")
    assert (answer.code, answer.err) == (0, "")
    assert re.search(r"asked for  1e-07 %: not reached, the samples are spent at [0-9.]+ %\n", answer.out)


def test_without_held_out_points_no_error_is_claimed(qsearch: Qsearch) -> None:
    answer = qsearch("bops", *FAST, "--held-out", "0")
    assert (answer.code, answer.err) == (0, "")
    assert "errors     unknown: no points were held out" in answer.out
    assert "median" not in answer.out


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
        (("--samples", "2"), "a surrogate needs at least 3 samples; got 2"),
        (("--error", "nan"), "the error to stop at must be a finite number above 0; got --error nan"),
        (("--error", "-1"), "the error to stop at must be a finite number above 0; got --error -1"),
        (("--error", "0.1", "--held-out", "0"), "stopping at an error needs held-out points"),
        (("--source", "nowhere"), "a surrogate is surrogate.json with surrogate.npz beside it; got no nowhere"),
        (("--samples", "3", "--per-kind"), "a model for each of 2 kinds of layers needs at least 6 samples; got 3"),
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
    assert "at least 3 measurements must succeed to learn from, with costs greater than 0; got 0 of 10" in answer.err


def test_costs_of_zero_are_said_to_be_zero(qsearch: Qsearch, tmp_path: Path) -> None:
    (tmp_path / "chip.py").write_text(CHIP.replace("FAILS", "False").replace("1e-9 *", "0 *"))
    for held_out in ("6", "0"):
        answer = qsearch("chip.py:Chip", *FAST, "--held-out", held_out)
        assert (answer.code, answer.out) == (2, "")
        assert "costs, which must be greater than 0; got latency of 0 at " in answer.err


def test_a_small_pool_is_shared_out(qsearch: Qsearch, tmp_path: Path) -> None:
    """What fits into it is learned, and it is said; of too few points nothing is."""
    arguments = ("--workload", plugin("Tiny"))
    found = json.loads(qsearch(chip(tmp_path, "False"), *arguments, "--json").out)
    held = min(20, found["points"] // 4)
    assert (found["held_out"], found["samples"]) == (held, found["points"] - held)
    answer = qsearch(chip(tmp_path, "False"), *arguments)
    assert f"pool       {found['points']} points only: {held} held out, " in answer.out
    assert max(len(line.rstrip()) for line in answer.out.splitlines()) <= 80
    answer = qsearch(
        chip(tmp_path, "False"), *arguments, "--weight-bits", "8", "--activation-bits", "8", "--output", "b"
    )
    assert (answer.code, answer.out) == (2, "")
    assert "a pool must hold at least 6 points to learn from" in answer.err


def test_no_answer_where_every_measurement_failed(qsearch: Qsearch, tmp_path: Path) -> None:
    """A chip without a kernel for 8-bit weights says it has one: 4 bits are learned, 8 are refused."""
    found = json.loads(qsearch(chip(tmp_path, "weight_bits == 8"), *FAST, "--json").out)
    model = registry.create("cost_models", "surrogate", {"path": found["surrogate"]})
    layers, weights, activations = model.domain()
    assert (weights, activations) == ((2, 3, 4), tuple(range(2, 9)))
    with pytest.raises(SpaceError, match="it learned weights up to 4 bits"):
        model.layer_cost(layers[0], np.full(layers[0].kernels, 8), 8)
    assert found["networks"][0]["bits"] == 4


def test_peak_memory_is_not_added_up(qsearch: Qsearch) -> None:
    """Of a cost model whose network has the greatest of its layers'."""
    found = json.loads(
        qsearch("memory", *FAST, "--samples", "30", "--weight-bits", "2-8", "--activation-bits", "2-8", "--json").out
    )
    truth = registry.create("cost_models", "memory", {})
    model = registry.create("cost_models", "surrogate", {"path": found["surrogate"]})
    assert frozenset(model.maxima) == frozenset(truth.maxima) == {"peak_memory"}
    layers, *_ = model.domain()
    bits = {layer.weight_site: np.full(layer.kernels, 8) for layer in layers}
    assignment = BitAssignment(bits | {layer.activation_site: np.asarray([8]) for layer in layers})
    expected = truth.estimate(layers, assignment).totals["peak_memory"]
    assert model.estimate(layers, assignment).totals["peak_memory"] == pytest.approx(expected, rel=0.3)
    low, high = found["networks"][0]["intervals"]["peak_memory"]
    assert low < found["networks"][0]["totals"]["peak_memory"] < high


def test_a_surrogate_says_where_it_comes_from(qsearch: Qsearch, tmp_path: Path) -> None:
    qsearch(chip(tmp_path, "False"), *FAST, "--seed", "3")
    body = json.loads(Path("runs/hardware/Chip/surrogate.json").read_text())
    found = body["provenance"]
    assert found["target"] == "chip.py:Chip"
    assert (found["versions"], found["seed"], found["samples"], found["acquire"]) == (
        [{"chip": "1"}],
        3,
        12,
        "variance",
    )
    assert found["machines"]
    assert found["qsearch"]
    assert found["digest"]
    assert found["workloads"] == [plugin("Tiny")]
    lines = Path("runs/hardware/Chip/measurements.jsonl").read_text().splitlines()[1:]
    dates = sorted(json.loads(line)["date"] for line in lines)
    assert (found["first_measured"], found["last_measured"]) == (dates[0], dates[-1])


def test_what_a_peak_leaves_out_is_said(qsearch):
    asked = ("--weight-bits", "2-8", "--activation-bits", "2-8")
    answer = qsearch("memory", *FAST, *asked)
    assert "left out   of peak_memory: what branches keep alive" in answer.out
    assert "left out" not in qsearch("bops", *FAST, *asked, "--output", "bops").out
