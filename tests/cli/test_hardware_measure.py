"""``qsearch hardware measure`` and ``qsearch report --measure``: what they print, keep and refuse."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from campaigns import Answer, call, plugin, settings, spawn, start, write

from qsearch import registry
from qsearch.hardware_tools.measure import asked_pairs
from qsearch.hardware_tools.measure_table import multiple, spread_text
from qsearch.layers import Layer
from qsearch.measurements import FILE

Qsearch = Callable[..., Answer]
ODD = Path(__file__).parents[1] / "targets" / "odd_targets.py"


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """The command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(capfd, *arguments)


def measure(qsearch: Qsearch, kind: str, *more: str) -> Answer:
    return qsearch("hardware", "measure", f"{ODD}:{kind}", "--workload", plugin("Tiny"), *more)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def test_the_table_of_a_target_and_the_line_that_uses_it(qsearch, tmp_path):
    answer = measure(qsearch, "Counted", "--repeats", "3", "--warm-up", "1")
    assert (answer.code, answer.err) == (0, "")
    for text in (
        "latency in ks: Tiny on Counted",
        "energy in kJ: Tiny on Counted",
        "W4A8",
        "W8A8",
        "W32A32",
        "median ± interquartile range",
    ):
        assert text in answer.out
    table = Path("runs/hardware/Counted/table.csv")
    assert f"hardware: {{name: lut, options: {{path: {table}, interpolation: wider}}}}" in answer.out
    found = rows(table)
    assert len(found) == 3 * len({row["layer"] for row in found})
    first = next(row for row in found if row["weight_bits"] == "8")
    readings = [float(first["latency [s]"]), float(first["latency spread [s]"])]
    assert readings[0] > 0
    assert readings[1] == 8, "readings 8 apart, of which the quartiles are 8 apart"


def test_tables_fit_80_columns_and_say_where_nothing_is_gained(qsearch):
    """FloatIsQuick: 3, 5 and 4 ns a multiply-accumulate at W4A8, W8A8 and float, the same at each reading."""
    answer = measure(qsearch, "FloatIsQuick")
    table = answer.out.partition("kept ")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert "0.75×" in table
    assert "1.25×" in table
    assert "×: of what float takes" in table
    assert "at W8A8 no layer runs faster than float" in table
    assert "at W4A8" not in table
    answer = measure(qsearch, "FloatIsQuick", "--weight-bits", "8,32", "--output", "slow")
    assert "no layer runs faster than float here" in answer.out


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.714, "1.71×"), (0.98, "0.98×"), (0.0164, "0.016×"), (12.34, "12.3×"), (1e-4, "<0.001×")]
)
def test_ratios_have_sensible_digits(ratio, text):
    assert multiple(ratio) == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [("4.38", 0.0081, "0.01"), ("245", 0.2, "1"), ("2.53", 0.05, "0.05"), ("1.00", 0.0, "0.00"), ("0", 0.02, "0.02")],
)
def test_a_spread_has_the_decimals_of_its_value_and_is_never_understated(value, spread, text):
    assert spread_text(value, spread) == text


def test_of_many_pairs_the_usual_ones_are_measured(qsearch):
    answer = qsearch("hardware", "measure", "bismo", "--workload", plugin("Tiny"))
    assert answer.code == 0
    assert "those at 2, 4, 8, 32 bits; --weight-bits and --activation-bits choose others" in answer.err
    assert {row["weight_bits"] for row in rows(Path("runs/hardware/bismo/table.csv"))} == {"2", "4", "8", "32"}


@pytest.mark.parametrize(
    ("weights", "activations", "number"),
    [(None, None, 16), ([3], None, 4), (None, [3, 5], 8), ([1, 2, 3], [8], 3), ([7], [40], 0)],
)
def test_bits_that_are_asked_for_replace_the_usual_ones(weights, activations, number):
    every = list(product((*range(1, 9), 16, 32), repeat=2))
    assert len(asked_pairs(every, weights, activations)) == number


@pytest.mark.parametrize("bits", [(4, 8), (2, 3, 4, 5, 6, 7)])
def test_of_few_bits_all_are_measured(bits):
    every = list(product(bits, bits))
    assert asked_pairs(every, None, None) == every


def test_bits_that_are_all_unusual_are_all_measured():
    every = list(product(range(9, 17), (32,)))
    assert asked_pairs(every, None, None) == every


def test_a_call_that_computes_nothing_is_told_and_not_subtracted(qsearch):
    answer = qsearch("hardware", "measure", "onnxruntime", "--workload", plugin("Tiny"), "--repeats", "2", "--json")
    found = json.loads(answer.out)
    assert 0 < found["floor"]["latency"] < 1e-3
    least = min(one["latency"] for one in found["measurements"])
    again = qsearch("hardware", "measure", "onnxruntime", "--workload", plugin("Tiny"), "--repeats", "2")
    assert "a call that computes nothing takes" in again.out
    assert min(float(row["latency [s]"]) for row in rows(Path("runs/hardware/onnxruntime/table.csv"))) == least


def test_the_cost_model_lut_reads_the_table(qsearch):
    """With the rule that the printed line names: exact where it was measured, at the next wider pair elsewhere."""
    assert measure(qsearch, "FloatIsQuick").code == 0
    path = Path("runs/hardware/FloatIsQuick/table.csv")
    model = registry.create("cost_models", "lut", {"path": str(path), "interpolation": "wider"})
    found = rows(path)[0]
    layer = Layer(found["layer"], "conv", 1, 4, (3, 3), (1, 1), 1, (8, 8), (8, 8))
    eight = model.layer_cost(layer, np.full(4, 8), 8)["latency"]
    four = model.layer_cost(layer, np.full(4, 3), 8)["latency"]
    by_pair = {(row["weight_bits"], row["activation_bits"]): float(row["latency [s]"]) for row in rows(path)[:3]}
    assert eight == min(by_pair["8", "8"], by_pair["32", "32"])
    assert four == by_pair["4", "8"]


def test_a_second_run_measures_only_what_is_missing(qsearch, tmp_path):
    notes = tmp_path / "notes"
    assert measure(qsearch, "Simulated", "--weight-bits", "8", "--set", f"notes={notes}").code == 0
    before = len(notes.read_text().splitlines())
    assert measure(qsearch, "Simulated", "--weight-bits", "8,32", "--set", f"notes={notes}").code == 0
    lines = notes.read_text().splitlines()
    assert before > 0
    assert {line.split()[1] for line in lines[before:]} == {"32"}
    assert len(lines) == 2 * before


def test_failures_are_listed_and_the_rest_is_kept(qsearch):
    answer = measure(qsearch, "Crashing")
    assert answer.code == 0
    assert "at W4A8: the process died (exit code 7)" in answer.out
    assert "the same command tries them again" in answer.out
    assert {row["weight_bits"] for row in rows(Path("runs/hardware/Crashing/table.csv"))} == {"8", "32"}


def test_a_target_that_fails_everywhere_is_an_error(qsearch):
    answer = measure(qsearch, "WrongType")
    assert answer.code == 1
    assert "failed at every point; got measure must return a mapping {metric: number}; got float" in answer.line


def test_a_target_that_keeps_dying_is_an_error(qsearch):
    answer = measure(qsearch, "Dead")
    assert answer.code == 1
    assert "died at 3 points in a row" in answer.line


def test_json_is_all_that_was_found(qsearch):
    answer = measure(qsearch, "Raising", "--json", "--output", "here")
    found = json.loads(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert found["units"] == {"latency": "s", "energy": "J"}
    assert {one["weight_bits"] for one in found["measurements"]} == {8, 32}
    assert {one["failure"] for one in found["failures"]} == {"ValueError: four bits are odd"}
    assert Path("here", FILE).is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--weight-bits", "5"), "must run some layer at the bits that are asked for; it does at: W4A8, W8A8, W32A32"),
        (("--weight-bits", "x"), "bits are given as 2-8 or as 2,4,8"),
        (("--set", "nots=1"), "unknown option 'nots'"),
        (("--set", "notes"), "an option is set by key=value"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_line(qsearch, arguments, words):
    answer = measure(qsearch, "Simulated", *arguments)
    assert answer.code == 2
    assert words in answer.line


def test_another_target_does_not_measure_into_the_folder(qsearch):
    assert measure(qsearch, "Simulated", "--output", "here").code == 0
    answer = measure(qsearch, "Counted", "--output", "here")
    assert answer.code == 1
    assert "holds other measurements" in answer.line


def test_an_unknown_target_is_told(qsearch):
    answer = qsearch("hardware", "measure", "zigzack")
    assert answer.code == 2
    assert "unknown target 'zigzack'; did you mean 'zigzag'?" in answer.line


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path):
    notes = tmp_path / "notes"
    target = ("hardware", "measure", f"{ODD}:Hanging", "--set", f"notes={notes}")
    arguments = (*target, "--workload", plugin("Tiny"), "--output", tmp_path / "kept")
    first = spawn(*arguments, "--weight-bits", "8", cwd=tmp_path)
    assert first.code == 0, first.err
    kept = (tmp_path / "kept" / FILE).read_text()
    process = start(*arguments, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 60
    while " 4 8" not in notes.read_text() and time.monotonic() < deadline:  # until it hangs
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "kept" / FILE).read_text().startswith(kept)


def test_a_report_measures_and_shows_it_again(qsearch):
    write(Path("tiny.yaml"), settings(hardware="bismo", constraints=[]))
    assert qsearch("run", "tiny.yaml").code == 0
    answer = qsearch("report", "runs/tiny", "--measure", "bismo", "--set", "platform=vu9p", "--top", "2")
    assert (answer.code, answer.err) == (0, "")
    text = Path("runs/tiny/report.md").read_text()
    assert "## Predicted and measured: bismo and bismo (platform: vu9p" in text
    kept = Path("runs/tiny/measured/bismo-platform-vu9p")
    before = (kept / FILE).read_bytes()
    assert qsearch("report", "runs/tiny").code == 0
    assert Path("runs/tiny/report.md").read_text() == text
    assert (kept / FILE).read_bytes() == before


def test_options_of_no_target_are_refused(qsearch):
    write(Path("tiny.yaml"), settings())
    assert qsearch("run", "tiny.yaml").code == 0
    answer = qsearch("report", "runs/tiny", "--set", "threads=2")
    assert answer.code == 2
    assert "add --measure TARGET" in answer.line
