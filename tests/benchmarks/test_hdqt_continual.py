"""The benchmark of ``hdqt`` on tasks, at its smallest: every row learns, and its table can be read."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch

from qsearch.report.statistics import Interval
from qsearch.training.continual import Learned
from qsearch.workloads.base import Samples
from qsearch.workloads.continual import ContinualDigits
from qsearch.workloads.training import Recipe

PATH = Path(__file__).parents[2] / "benchmarks" / "hdqt_continual.py"


class TinyDigits(ContinualDigits):
    """A narrow network, few images and large batches."""

    widths: ClassVar[tuple[int, ...]] = (4,)
    blocks: ClassVar[int] = 1
    recipe: ClassVar[Recipe] = Recipe(epochs=1, batch_size=64, rotation=0, scaling=0, shift=0)

    def lessons(self) -> Samples:
        """The first 200."""
        return super().lessons().take(torch.arange(200))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hdqt_continual", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_row_has_numbers(script: Any) -> None:
    lines = list(script.table(TinyDigits(TinyDigits.Options()), list(script.ROWS), 1, [0, 1]))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    assert [row[0] for row in rows[2:]] == list(script.ROWS)
    for name, *cells in rows[2:]:
        assert re.fullmatch(r"\d+\.\d \[-?\d+\.\d, \d+\.\d\]", cells[0]), name
        if name == "float":
            assert cells[1] == "–"
            assert cells[3:6] == ["–"] * 3
        else:
            assert re.fullmatch(r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\]", cells[1]), name
            assert all(cell.endswith(" %") for cell in cells[3:6])
            assert "12" not in name or cells[3:6] == ["0.000 %"] * 3  # 32·7·7 = 1,568 fits 12 bits


def test_a_row_says_what_its_runs_found(script: Any) -> None:
    def run(*last: float, clamped: dict[str, float]) -> Any:
        return script.Run(Learned(((1.0, 0.0), last)), clamped, 4.0)

    floats = [run(0.8, 1.0, clamped={}), run(0.6, 1.0, clamped={})]
    rates = {"forward": 0.01, "input": 0.0, "weight": 0.001}
    runs = [run(0.6, 1.0, clamped=rates), run(0.4, 1.0, clamped=rates)]
    accuracy, difference, forgetting, *clamped, seconds = script.cells(runs, floats)
    assert accuracy.startswith("75.0 [")
    assert difference == "-10.0 [-10.0, -10.0]"
    assert forgetting.startswith("50.0 [")
    assert clamped == ["1.000 %", "0.000 %", "0.100 %"]
    assert seconds == "4"


def test_one_seed_has_no_interval(script: Any) -> None:
    assert script.interval(Interval(0.125)) == "12.5"
