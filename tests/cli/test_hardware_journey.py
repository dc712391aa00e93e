"""One user's way with hardware of their own, end to end: measure it, search on it, measure what was found; learn it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from campaigns import Answer, call, plugin, settings, write

from qsearch import registry, run
from qsearch.remeasured import read

Qsearch = Callable[..., Answer]
EXAMPLE = Path(__file__).parents[2] / "examples" / "my_target.py"

BOARD = '''

class Board(MyBoard):
    """It runs every layer, at three pairs of bits, with readings that are a hundredth apart."""

    readings = 0

    def precisions(self, layer):
        return (4, 8), (8, 8), (32, 32)

    def measure(self, layer, weight_bits, activation_bits):
        self.readings += 1
        return {"latency": 1e-9 * layer.macs * weight_bits * activation_bits * (1 + 0.01 * (self.readings % 3))}
'''


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """The command line in this process, in a folder of its own, where all is well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))

    def well(*arguments: str | Path) -> Answer:
        answer = call(capfd, *arguments)
        assert answer.code == 0, answer.err
        return answer

    return well


def campaign(name: str, hardware: object) -> Path:
    """Six evaluations, at most 0.7 of the time that 8 bits take."""
    constraint = {"metric": "latency", "at_most": 0.7, "relative_to": "uniform-8"}
    return write(Path(f"{name}.yaml"), settings(name=name, hardware=hardware, searcher="ilp", constraints=[constraint]))


def test_the_example_measures_what_it_runs(qsearch: Qsearch) -> None:
    answer = qsearch("hardware", "measure", f"{EXAMPLE}:MyBoard", "--workload", plugin("Tiny"), "--output", "board")
    assert "latency in" in answer.out
    with Path("board/table.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["layer"], row["weight_bits"], row["activation_bits"]) == ("5", "32", "32")
    assert float(row["latency [s]"]) > 0


def test_measure_then_search_then_measure_again(qsearch: Qsearch) -> None:
    Path("board.py").write_text(EXAMPLE.read_text() + BOARD)
    answer = qsearch(
        "hardware", "measure", "board.py:Board", "--workload", plugin("Tiny"), "--repeats", "3", "--warm-up", "0"
    )
    table = Path("runs/hardware/Board/table.csv")
    assert f"{{name: lut, options: {{path: {table}, interpolation: wider}}}}" in answer.out

    hardware = {"name": "lut", "options": {"path": str(table), "interpolation": "wider"}}
    qsearch("run", campaign("measured", hardware))
    best = run.load(Path("runs/measured")).best
    assert best is not None
    model = registry.create("cost_models", "lut", hardware["options"])
    assert (
        best.cost.totals["latency"]
        == model.estimate(run.load(Path("runs/measured")).info.layers, best.assignment).totals["latency"]
    )

    qsearch("report", "runs/measured", "--measure", "board.py:Board", "--top", "1")
    (found,) = read(run.load(Path("runs/measured")))
    one, eight = found.assignments
    assert one.predicted["latency"] <= 0.7 * eight.predicted["latency"]
    assert one.measured["latency"] == pytest.approx(one.predicted["latency"], rel=0.05), (
        "its readings, a hundredth apart"
    )
    text = Path("runs/measured/report.md").read_text()
    assert "## Predicted and measured: lut" in text
    assert "±" in text.partition("## Predicted and measured")[2]


def test_learn_then_search_and_the_report_says_how_sure_it_is(qsearch: Qsearch) -> None:
    bits = ("--weight-bits", "2,4,8", "--activation-bits", "4,8")
    points = ("--workload", plugin("Tiny"), "--samples", "10", "--held-out", "4", *bits)
    answer = qsearch("hardware", "fit", "bismo", *points, "--output", "learnt", "--json")
    assert json.loads(answer.out)
    hardware = {"name": "surrogate", "options": {"path": "learnt/surrogate.json"}}
    qsearch("run", campaign("surrogate", hardware))
    best = run.load(Path("runs/surrogate")).best
    assert best is not None
    assert best.cost.deviations["latency"] > 0
    assert "±" in Path("runs/surrogate/report.md").read_text()
