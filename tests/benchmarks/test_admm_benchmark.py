"""The compression benchmark: the order of its jobs, its counts of bits, its test, and a run that is taken up again."""

from __future__ import annotations

from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import admm_lenet5
import numpy as np
import pytest
import torch
from admm_lenet5 import Job, Point, jobs, mcnemar, run, sizes, table
from records import Records
from rich.console import Console

from qsearch.layers import Layer

LAYERS = (Layer("a", "conv", 1, 2, (2, 2)), Layer("b", "linear", 8, 4))
POINT = Point("pruned", 5065, 85.0, 64.0, 0.993, 0.994, -0.003, 0.001, 8, 3, 0.01, 60.0)


def test_what_is_published_is_run_first_with_its_comparison_beside_it() -> None:
    found = jobs(2, [20, 85, 167], 100, 1)
    assert [(job.method, job.compression, job.seed) for job in found[:3]] == [
        ("admm", 85, 0),
        ("magnitude", 85, 0),
        ("admm", 20, 0),
    ]
    assert len(set(found)) == 2 * 2 * 3


def test_mcnemar_by_hand() -> None:
    """Of three images that differ all lost: 2 · ½³."""
    assert mcnemar(3, 0) == pytest.approx(0.25)
    assert mcnemar(5, 5) == pytest.approx(1)
    assert mcnemar(0, 0) == 1
    assert replace(POINT, lost=3, gained=0).p == pytest.approx(0.25)


def test_bits_are_counted_with_and_without_indices() -> None:
    kept = {"a.weight": torch.tensor([4, 4]), "b.weight": torch.tensor([2, 0, 1, 1])}
    work: Any = SimpleNamespace(kept=kept)
    count, data, stored = sizes(LAYERS, work, quantised=True)
    assert count == 12
    assert data == pytest.approx(32 * 40 / (8 * 3 + 4 * 2))
    # a is dense; of b three rows are left, told by 4 flags: 4 weights with columns of 3 bits, 4 pointers to 0 … 4
    indices = 4 + 4 * 3 + 4 * 3
    assert stored == pytest.approx(32 * 40 / (8 * 3 + 4 * 2 + indices + 2 * 32))
    assert sizes(LAYERS, work, quantised=False)[1] == pytest.approx(40 / 12)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Job] = []

    class Fake:
        def run(self, job: Job) -> list[Point]:
            made.append(job)
            return [POINT, replace(POINT, stage="quantised", data=1234.5)]

    monkeypatch.setattr(admm_lenet5, "Bench", Fake)
    path, wanted = tmp_path / "records.jsonl", jobs(1, [85, 40], 100, 1)
    run(wanted[:1], Records(path))
    run(wanted, Records(path))
    assert made == wanted
    run(wanted, Records(path))
    assert made == wanted
    assert Point(**Records(path)[wanted[0].key][0]) == POINT
    text = shown(wanted, Records(path))
    assert "85×" in text
    assert "1234×" in text
    assert "-0.10 [-0.30, +0.10]" in text
    assert "0.23" in text


def shown(wanted: list[Job], records: Records) -> str:
    console = Console(width=160, record=True, file=StringIO())
    console.print(table(wanted, records))
    return console.export_text()


def test_seeds_are_tested_each_by_itself(tmp_path: Path) -> None:
    """The same three images lost twice are no six images, of which the test would make 2 · ½⁶ = 0.031."""
    records, wanted = Records(tmp_path / "records.jsonl"), [Job("admm", 85.0, seed, 100, 1) for seed in range(2)]
    for job, accuracy in zip(wanted, (0.993, 0.991), strict=True):
        point = replace(POINT, lost=3, gained=0, accuracy=accuracy)
        records.add(job.key, [asdict(point), asdict(replace(point, stage="quantised"))])
    rows = [line.split("│") for line in shown(wanted, records).splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows if len(row) > 3 and row[3].strip() == "pruned"]
    assert [row[4] for row in cells] == ["0", "1", "mean"]
    assert [row[8:10] for row in cells] == [
        ["-0.10 [-0.30, +0.10]", "0.25"],
        ["-0.30 [-0.30, +0.10]", "0.25"],
        ["-0.20", ""],
    ]


def test_a_record_is_of_its_recipe_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records, job = Records(tmp_path / "records.jsonl"), Job("admm", 85.0, 0, 100, 1)
    records.add(job.key, [])
    assert jobs(1, [85], 100, 1)[0].key in records, "as 85 and 85.0 are one"
    assert job.key in Records(tmp_path / "records.jsonl")
    assert replace(job, device="cuda").key not in records
    for name, changed in (("TRAINING", {"rate": 1e-3}), ("ADMM", {"iterations": 5}), ("BITS", {"conv": 4})):
        with monkeypatch.context() as patch:
            patch.setattr(admm_lenet5, name, {**getattr(admm_lenet5, name), **changed})
            assert job.key not in records, name


def test_both_methods_train_for_as_long() -> None:
    admm, magnitude = (Job(method, 85.0, 0, 100, 6) for method in ("admm", "magnitude"))
    assert magnitude.admm.iterations == 0
    assert magnitude.training.epochs == admm.training.epochs + admm.admm.iterations == 10
    assert admm.training.augment, "as in what was measured"


def test_the_share_of_each_bitwidth_gives_the_published_kind_of_number() -> None:
    """85 times fewer weights at 2.2 bits are some 1,230 times less data: 1,910 needs a sparser network."""
    kept = {"conv": 1034, "linear": 4030}
    bits = sum(admm_lenet5.BITS[kind] * count for kind, count in kept.items())
    assert 32 * 430_500 / bits == pytest.approx(1234, abs=3)
    assert np.isclose(1910 / 85, 22.5, atol=0.05)
    assert 32 / (1910 / 85) < 2
