"""``qsearch export`` from a finished run to a file that was checked."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from campaigns import Answer, call, settings, write
from export_networks import Case, agrees
from torch import Tensor

from qsearch import run as runs
from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError
from qsearch.export import FORMATS, NETWORKS, TEXTS, writing
from qsearch.export.deployment import Deployment
from qsearch.export.packed import Packed
from qsearch.export.writing import outputs, write_agreeing
from qsearch.run import Run
from qsearch.trial import Cost, Quality

Qsearch = Callable[..., Answer]


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str]) -> Qsearch:
    return lambda *arguments: call(capfd, *arguments)


@pytest.fixture
def finished(qsearch: Qsearch, tmp_path: Path) -> Run:
    file = write(tmp_path / "campaign.yaml", settings(name="tiny"))
    assert qsearch("run", file, "--runs", tmp_path / "runs").code == 0
    return runs.load(tmp_path / "runs" / "tiny")


@pytest.mark.parametrize(
    ("name", "suffix", "runtime"),
    [
        ("safetensors", ".safetensors", "codes unpacked, in torch"),
        ("torch", ".pt2", "torch"),
        pytest.param("onnx", ".onnx", "onnxruntime", marks=pytest.mark.slow),
        pytest.param("qonnx", ".qonnx.onnx", "qonnx", marks=pytest.mark.slow),
    ],
)
def test_writes_checks_and_says_so(
    name: str, suffix: str, runtime: str, finished: Run, qsearch: Qsearch, tmp_path: Path
) -> None:
    assert finished.best is not None
    answer = qsearch("export", finished.folder, "--format", name)
    assert (answer.code, answer.err) == (0, "")
    file = finished.folder / "export" / f"trial-{finished.best.number}{suffix}"
    assert answer.out.startswith(f"wrote      {file} ({file.stat().st_size:,} bytes)\n")
    assert f"checked    {runtime}: 128 of 128 predictions the same (100.00%)" in answer.out
    assert list(file.parent.iterdir()) == [file]
    chosen = tmp_path / "chosen.bin"
    assert qsearch("export", finished.folder, "--format", name, "--trial", "2", "--output", chosen).code == 0
    assert chosen.is_file()


def test_an_unknown_format(finished: Run, qsearch: Qsearch) -> None:
    answer = qsearch("export", finished.folder, "--format", "onxx")
    assert answer.code == 2
    assert "unknown format 'onxx'; did you mean 'onnx'?" in answer.line


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("there", "must be a file; got the folder there; name one in it: there/trial-2.safetensors"),
        ("no/such/n.bin", "must stand in a folder that exists; got no/such/n.bin; make the folder no/such"),
        ("file/n.bin", "must stand in a folder that exists; got file/n.bin; make the folder file"),
        ("pipe", "must be a file that can be replaced; got pipe"),
    ],
)
def test_the_output_is_checked_first(
    place: str, said: str, finished: Run, qsearch: Qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any of the work: the campaign is not even prepared."""
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(writing, "prepare", None)
    answer = qsearch("export", finished.folder, "--format", "safetensors", "--trial", "2", "--output", place)
    assert answer.code == 2
    assert said in answer.line


def test_a_folder_that_takes_no_files(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(writing.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(ConfigError, match=r"takes files; got .*n\.bin \(Permission denied\); name a file elsewhere"):
        writing.export_network(finished, finished.trials[2], "safetensors", tmp_path / "n.bin")


def test_an_interrupt_leaves_nothing(
    finished: Run, qsearch: Qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Packed, deployment: Deployment, path: Path) -> list[str]:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Packed, "write", interrupted)
    folder = tmp_path / "out"
    folder.mkdir()
    answer = qsearch("export", finished.folder, "--format", "safetensors", "--output", folder / "n.safetensors")
    assert (answer.code, answer.line) == (130, "interrupted; nothing was kept; start it again")
    assert list(folder.iterdir()) == []


def test_the_promise_is_what_the_run_reckoned_with(finished: Run, qsearch: Qsearch) -> None:
    answer = qsearch("export", finished.folder, "--format", "safetensors", "--trial", "2")
    cost = finished.trials[2].cost
    assert cost is not None
    assert f"the run's cost model promised {cost.totals['size']:,.1f}" in answer.out


def test_promises_that_are_none(finished: Run) -> None:
    trial = finished.trials[2]
    assert writing.promised_bytes(replace(trial, cost=None)) is None
    assert writing.promised_bytes(replace(trial, cost=Cost({"size": 9.0}, {"size": "bit"}))) is None
    assert writing.promised_bytes(replace(trial, cost=Cost({"latency": 9.0}, {"latency": "s"}))) is None
    assert writing.promised_bytes(replace(trial, cost=Cost({"size": 9.0}, {"size": "byte"}))) == 9.0


class Distance:
    """Judges bits by their sum: no network, no data."""

    def __init__(self, workload: object, layers: object) -> None:
        pass

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        return Quality.from_outcomes(np.full(4, float(sum(map(assignment.highest, assignment)))), 1.0, "accuracy")


def test_an_evaluator_without_a_network(qsearch: Qsearch, tmp_path: Path) -> None:
    file = write(tmp_path / "campaign.yaml", settings(name="tiny", evaluator=f"{__file__}:Distance"))
    assert qsearch("run", file, "--runs", tmp_path / "runs").code == 0
    answer = qsearch("export", tmp_path / "runs" / "tiny", "--format", "torch")
    assert answer.code == 2
    assert "must have a network" in answer.line


def test_formats_are_named_once() -> None:
    assert set(FORMATS) == {"json", "csv", "onnx", "qonnx", "safetensors", "torch", "nir"}
    assert not set(TEXTS) & set(NETWORKS)


class _Careless(Packed):
    """Forgets the signs of scales."""

    def write(self, deployment: Deployment, path: Path) -> list[str]:
        weights = {site: replace(stored, scales=stored.scales.abs()) for site, stored in deployment.weights.items()}
        return super().write(replace(deployment, weights=weights), path)


@pytest.fixture
def mirrored(small: Case) -> tuple[Deployment, Tensor]:
    """A deployment with negative scales, and the outputs that it must give."""
    deployment = small.deploy(small.assignment([4], [8], seed=3))
    assert sum(int((stored.scales < 0).sum()) for stored in deployment.weights.values()) > 5
    return deployment, outputs(small.network, small.data)


def test_a_file_that_does_not_agree_is_not_left_behind(
    small: Case, mirrored: tuple[Deployment, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match=r"at least 99\.9%.*scales of 32 bits do not agree"):
        write_agreeing((_Careless(32),), mirrored[0], small.data, mirrored[1], tmp_path / "n.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_next_format_is_taken_where_the_first_does_not_agree(
    small: Case, mirrored: tuple[Deployment, Tensor], tmp_path: Path
) -> None:
    formats = (_Careless(16), Packed(32))
    found = write_agreeing(formats, mirrored[0], small.data, mirrored[1], tmp_path / "n.safetensors")
    assert "scales of 16 bits do not agree" in found.notes[0]
    agrees(found)


def confused(expected: Tensor, count: int) -> Tensor:
    """Outputs with another class ahead in the first samples: every evaluation of the network changes them."""
    found = expected.clone()
    found[:count] = found[:count].roll(1, dims=1)
    return found


def test_what_the_network_does_not_decide_is_left_out_and_counted(
    small: Case, mirrored: tuple[Deployment, Tensor], tmp_path: Path
) -> None:
    deployment, expected = mirrored
    found = write_agreeing((Packed(32),), deployment, small.data, confused(expected, 10), tmp_path / "n.safetensors")
    agreement = found.agreement
    assert (agreement.same, agreement.compared) == (190, 200)
    assert "10 of 200 predictions (5.00%) are within rounding of another class" in found.notes[-1]
    assert "of the others 190 of 190 are the same" in found.notes[-1]
    with pytest.raises(EvaluationError, match=r"at least 99\.9%.*of the others \d+ of 190 are the same"):
        write_agreeing((_Careless(32),), deployment, small.data, confused(expected, 10), tmp_path / "n.safetensors")


def test_a_network_must_decide_nine_in_ten(small: Case, mirrored: tuple[Deployment, Tensor], tmp_path: Path) -> None:
    deployment, expected = mirrored
    with pytest.raises(EvaluationError, match=r"at least 90%.*got 200 of 200 predictions \(100\.00%\) are within"):
        write_agreeing((Packed(32),), deployment, small.data, confused(expected, 200), tmp_path / "n.safetensors")
    assert list(tmp_path.iterdir()) == []
