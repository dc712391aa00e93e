"""Every command end to end, in a temporary folder."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from campaigns import COMMAND, Answer, call, environment, facts, plugin, settings, spawn, start, write

from qsearch import registry
from qsearch import run as runs
from qsearch.assignment import BitAssignment
from qsearch.run import Run

COMMANDS = [
    "run",
    "search",
    "resume",
    "report",
    "compare",
    "show",
    "export",
    "finetune",
    "dashboard",
    "list",
    "init",
    "sensitivity",
]
Qsearch = Callable[..., Answer]


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str]) -> Qsearch:
    return lambda *arguments: call(capfd, *arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """``qsearch run`` on a sweep, in a process of its own: its folder and its answer."""
    root = tmp_path_factory.mktemp("finished")
    file = write(root / "campaign.yaml", settings(searcher=["random", "ilp"]))
    return root / "runs" / "tiny", spawn("run", file, "--runs", root / "runs", cwd=root)


@pytest.fixture
def random(finished: tuple[Path, Answer]) -> Run:
    return runs.load(finished[0] / "random-s0")


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, again if need be: Python drops an interrupt that arrives within a destructor or a weak reference's callback."""
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)
    process.kill()
    return process.communicate()


class TestRun:
    def test_a_sweep(self, finished: tuple[Path, Answer]) -> None:
        folder, answer = finished
        assert (answer.code, answer.err) == (0, "")
        assert str(folder / "comparison.html") in answer.out.replace("\n", "")
        assert f"qsearch dashboard {folder}" in answer.out
        assert "\x1b" not in answer.out
        assert (folder / "comparison.html").is_file()
        assert (folder / "sweep.yaml").is_file()
        for name in ("random-s0", "ilp-s0"):
            assert (folder / name / "report.html").is_file()
            assert (folder / name / "report.md").is_file()
            assert runs.load(folder / name).info.status == "complete"
        assert not [path for path in folder.rglob("*") if path.suffix == ".tmp"]

    def test_one_campaign_with_changes_and_json(self, qsearch: Qsearch, tmp_path: Path) -> None:
        file = write(tmp_path / "c.yaml", settings())
        change = ("--set", "budget.evaluations=3", "--set", "name=other", "--set", "evaluator.options.samples=50")
        answer = qsearch("run", file, "--runs", tmp_path / "runs", *change, "--json")
        assert (answer.code, answer.err) == (0, "")
        found = json.loads(answer.out)
        assert (found["name"], found["status"], found["spent"]["evaluations"]) == ("other", "complete", 3)
        assert found["best"]["quality"]["samples"] == 50
        assert runs.load(tmp_path / "runs" / "other").config.budget.evaluations == 3

    def test_again_is_the_same(self, qsearch: Qsearch, finished: tuple[Path, Answer], random: Run) -> None:
        answer = qsearch("run", finished[0].parent.parent / "campaign.yaml", "--runs", finished[0].parent)
        assert answer.code == 0
        again = runs.load(random.folder)
        assert [facts(trial) for trial in again.trials] == [facts(trial) for trial in random.trials]
        assert again.info.tested == random.info.tested

    def test_an_interruption_is_no_failure(self, tmp_path: Path) -> None:
        slow = {"name": plugin("Slow"), "options": {"threads": 1, "seconds": 0.1}}
        file = write(tmp_path / "c.yaml", settings(evaluator=slow, budget={"evaluations": 1000}))
        process = start("run", file, "--runs", tmp_path)
        while not (tmp_path / "tiny" / "campaign.yaml").is_file():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        time.sleep(0.5)
        out, err = interrupted(process)
        answer = Answer(process.returncode, out, err)
        assert answer.code == 130
        assert answer.line == f"interrupted; go on with: qsearch resume {tmp_path / 'tiny'}"
        assert 0 < len(runs.load(tmp_path / "tiny").trials) < 216


class TestSearch:
    ARGUMENTS = ("--hardware", "size", "--weight-bits", "2,4,8", "--activation-bits", "4-5", "--evaluations", "3")

    def test_without_a_file(self, qsearch: Qsearch, tmp_path: Path) -> None:
        more = ("--searcher", "random", "--seed", "7", "--constraint", "size<=0.7", "--objective", "loss")
        answer = qsearch("search", plugin("Tiny"), *self.ARGUMENTS, *more, "--runs", tmp_path, "--json")
        assert (answer.code, answer.err) == (0, "")
        run = runs.load(tmp_path / "Tiny-size")
        assert json.loads(answer.out)["name"] == run.config.name == "Tiny-size"
        assert run.config.space.weight_bits == (2, 4, 8)
        assert run.config.space.activation_bits == (4, 5)
        assert (run.config.seed, run.info.evaluations) == (7, 3)
        assert [(item.metric, item.direction) for item in run.objectives] == [("loss", "minimize")]
        assert [bound.label for bound in run.info.bounds] == ["size <= 0.7 x uniform-8"]

    def test_several_searchers_and_seeds(self, qsearch: Qsearch, tmp_path: Path) -> None:
        more = ("--searcher", "random", "--searcher", "uniform", "--seed", "0", "--seed", "1", "--name", "mine")
        front = ("--objective", "accuracy", "--objective", "size:min", "--set", "evaluator.options.samples=20")
        answer = qsearch("search", plugin("Tiny"), *self.ARGUMENTS, *more, *front, "--runs", tmp_path, "--json")
        assert (answer.code, answer.err) == (0, "")
        rows = json.loads(answer.out)
        assert len(rows) == 2
        assert {path.name for path in (tmp_path / "mine").glob("*-s*")} == {"random-s0", "random-s1", "uniform-s0"}


class TestLater:
    """Commands on runs that are there."""

    def test_resume_with_more_evaluations(self, qsearch: Qsearch, tmp_path: Path) -> None:
        file = write(tmp_path / "c.yaml", settings(budget={"evaluations": 2}))
        assert qsearch("run", file, "--runs", tmp_path / "runs").code == 0
        before = runs.load(tmp_path / "runs" / "tiny").trials
        answer = qsearch("resume", tmp_path / "runs" / "tiny", "--evaluations", "4", "--json")
        assert (answer.code, answer.err) == (0, "")
        assert json.loads(answer.out)["spent"]["evaluations"] == 4
        after = runs.load(tmp_path / "runs" / "tiny")
        assert [facts(trial) for trial in after.trials[: len(before)]] == [facts(trial) for trial in before]
        assert after.config.budget.evaluations == 4

    def test_show(self, qsearch: Qsearch, random: Run) -> None:
        answer = qsearch("show", random.folder)
        assert (answer.code, answer.err) == (0, "")
        assert "accuracy" in answer.out
        found = json.loads(qsearch("show", random.folder, "--json").out)
        assert random.best is not None
        assert found["best"]["trial"] == random.best.number
        assert BitAssignment(found["best"]["bits"]) == random.best.assignment
        one = json.loads(qsearch("show", random.folder, "--trial", "1").out)
        assert (one["trial"], BitAssignment(one["bits"])) == (1, random.trials[1].assignment)

    def test_export_to_json(self, qsearch: Qsearch, random: Run, tmp_path: Path) -> None:
        answer = qsearch("export", random.folder)
        found = json.loads(answer.out)
        best = random.best
        assert best is not None
        assert best.quality is not None
        assert best.cost is not None
        assert BitAssignment(found["assignment"]) == best.assignment
        assert (found["run"], found["trial"], found["cost"]) == ("tiny/random-s0", best.number, dict(best.cost.totals))
        assert found["validation"] == best.quality.values
        assert found["units"] == {"size": "byte"}
        assert qsearch("export", random.folder, "--output", tmp_path / "out.json").out == ""
        assert (tmp_path / "out.json").read_text() == answer.out

    def test_export_to_csv(self, qsearch: Qsearch, random: Run) -> None:
        answer = qsearch("export", random.folder, "--format", "csv", "--trial", "2")
        rows = list(csv.DictReader(io.StringIO(answer.out)))
        expected = random.trials[2].assignment
        assert {row["site"]: int(row["bits"]) for row in rows} == dict(expected)
        assert [row["params"] for row in rows] == ["36", "36", "144", "144", "256", "256"]
        assert {row["kind"] for row in rows} == {"conv", "linear"}

    def test_report(self, qsearch: Qsearch, finished: tuple[Path, Answer]) -> None:
        folder = finished[0]
        pages = [folder / name / "report.html" for name in ("ilp-s0", "random-s0")]
        for page in pages:
            page.unlink(missing_ok=True)
        answer = qsearch("report", folder, "--json")
        assert (answer.code, answer.err) == (0, "")
        assert json.loads(answer.out) == [str(page) for page in pages]
        assert all(page.stat().st_size > 1000 for page in pages)

    def test_compare(self, qsearch: Qsearch, finished: tuple[Path, Answer], tmp_path: Path) -> None:
        folder = finished[0]
        answer = qsearch("compare", folder / "random-s0", folder / "ilp-s0", "--output", tmp_path / "out", "--json")
        assert (answer.code, answer.err) == (0, "")
        assert len(json.loads(answer.out)) == 2
        assert (tmp_path / "out" / "comparison.html").is_file()
        assert not (tmp_path / "out" / "random-s0").exists()

    def test_the_plots_are_artifacts_of_the_study(self, finished: tuple[Path, Answer], random: Run) -> None:
        from optuna.artifacts import get_all_artifact_meta

        from qsearch.ledger import Ledger
        from qsearch.report.artifacts import artifact_folder

        url = runs.storage_url(random.config, finished[0].parent)
        study = Ledger(url, random.config.name, random.objectives).study
        found = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study)}
        assert set(found) == {path.name for path in (random.folder / "plots").iterdir()}
        for name, identity in found.items():
            assert (artifact_folder(random) / identity).read_bytes() == (random.folder / "plots" / name).read_bytes()


class TestList:
    def test_everything(self, qsearch: Qsearch) -> None:
        answer = qsearch("list")
        assert (answer.code, answer.err) == (0, "")
        for seam in ("workloads", "cost_models", "searchers", "evaluators", "sensitivities"):
            for name in registry.names(seam):  # type: ignore[arg-type]  # the literals
                assert name in answer.out

    def test_options_and_descriptions(self, qsearch: Qsearch) -> None:
        found = json.loads(qsearch("list", "searchers", "--json").out)
        assert list(found) == ["searchers"]
        entries = {entry["name"]: entry for entry in found["searchers"]}
        assert entries["optuna"]["options"]["sampler"] == "tpe"
        assert all(entry["description"] for entry in found["searchers"])
        assert "bits per kernel: over kernels too (size, bops)" in entries["ilp"]["description"]
        assert "cannot be imported" not in json.dumps(found)


class TestInit:
    def test_what_it_writes_can_be_run(self, qsearch: Qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        answer = qsearch("init", "mine.yaml")
        assert (answer.code, answer.out) == (0, "wrote mine.yaml; run it with: qsearch run mine.yaml\n")
        tiny = ("--set", f"workload={plugin('Tiny')}", "--set", "budget.evaluations=2")
        answer = qsearch("run", "mine.yaml", *tiny, "--set", "constraints=[latency<=0.9]")
        assert (answer.code, answer.err) == (0, "")
        assert Path("runs/my-first-search/report.html").is_file()

    def test_force(self, qsearch: Qsearch, tmp_path: Path) -> None:
        file = write(tmp_path / "campaign.yaml", "mine")
        assert qsearch("init", file, "--force").code == 0
        assert "workload:" in file.read_text()


class TestQuick:
    """Help and the bare package do without heavy imports."""

    HEAVY = ("torch", "optuna", "scipy", "sklearn", "matplotlib", "pandas", "sqlalchemy")

    @pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
    def test_help_of_every_command(self, qsearch: Qsearch, arguments: list[str]) -> None:
        answer = qsearch(*arguments)
        assert (answer.code, answer.err) == (0, "")
        assert "Usage: qsearch" in answer.out

    def test_no_command_is_help(self, qsearch: Qsearch) -> None:
        answer = qsearch()
        assert (answer.code, answer.err) == (0, "")
        assert all(command in answer.out for command in COMMANDS)

    def test_help_takes_less_than_half_a_second(self) -> None:
        def cpu_seconds() -> float:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, env=environment())
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

        assert min(cpu_seconds() for _ in range(3)) < 0.5

    @pytest.mark.parametrize("module", ["qsearch", "qsearch.cli"])
    def test_imports(self, module: str) -> None:
        code = f"import sys, {module}; print([name for name in {self.HEAVY} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stdout == "[]\n"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """A bar per campaign with what is best so far; the table still goes to standard output."""
    file = write(tmp_path / "c.yaml", settings())
    ours, theirs = os.openpty()
    process: subprocess.Popen[Any] = start("run", file, "--runs", tmp_path, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    text = shown.decode()
    assert "tiny" in text
    assert "6/6" in text
    assert "best accuracy" in text
    assert "report" in out
