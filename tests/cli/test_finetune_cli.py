"""``qsearch finetune`` as it is called: what it prints and keeps, stops of every kind, and what is wrong in one line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from campaigns import Answer, call, plugin, settings, spawn, start, write

from qsearch import run as runs
from qsearch.config import parse
from qsearch.errors import StorageError
from qsearch.finetuned import CURVE, HISTORY, NETWORK, RESULT, read, read_history
from qsearch.finetuning.tuning import _Training
from qsearch.report.terminal import run_table
from qsearch.report.write import write_report
from qsearch.run import Run
from qsearch.sweep import run_sweep

Qsearch = Callable[..., Answer]
TAUGHT = Path(__file__).parents[1] / "finetuning" / "taught_plugins.py"
QUICK = ("--epochs", "3", "--set", "batch_size=50")


def a_run(root: Path, **changes: object) -> Run:
    given = {
        "workload": f"{TAUGHT}:Taught",
        "space": {"weight_bits": [2, 3], "activation_bits": [3]},
        "constraints": [],
        "budget": {"evaluations": 3},
        **changes,
    }
    return run_sweep(parse(settings(**given), "test"), root / "runs")[0]


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """The command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(capfd, *arguments)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A campaign that has ended, in ``runs/tiny``."""
    return a_run(tmp_path)


def check(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.line


# what it says


def test_a_training_from_its_first_line_to_its_files(qsearch: Qsearch, run: Run) -> None:
    assert run.best is not None
    answer = qsearch("finetune", "runs/tiny", *QUICK, "--format", "torch", "--format", "safetensors")
    assert (answer.code, answer.err) == (0, "")
    number = run.best.number
    folder = Path("runs/tiny/finetune") / f"trial-{number}"
    lines = answer.out.splitlines()
    assert [line.partition(":")[0] for line in lines[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "best 0." in lines[0]
    assert lines[3].split() == ["tiny,", "trial", str(number)]
    for word in ("accuracy, validation", "accuracy, test", "against float, test", "post-training", "fine-tuned", " ± "):
        assert word in answer.out
    assert "Costs: size " in answer.out
    assert f"network    {folder / NETWORK}" in answer.out
    assert f"course     {folder / CURVE}" in answer.out
    for name in (f"trial-{number}.pt2", f"trial-{number}.safetensors", NETWORK, CURVE, RESULT, HISTORY):
        assert (folder / name).is_file()
    assert answer.out.count("128 of 128 predictions the same (100.00%)") == 2
    assert max(map(len, lines[: lines.index(f"network    {folder / NETWORK}")])) <= 100


def test_a_trial_by_number_in_a_folder_of_its_own(qsearch: Qsearch, run: Run) -> None:
    answer = qsearch("finetune", "runs/tiny", "--trial", "1", "--output", "mine", *QUICK, "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert (found["trial"], found["folder"], found["epochs"], found["exports"]) == (1, "mine", 3, [])
    assert found["options"]["batch_size"] == 50
    assert found["float"]["validation"]["accuracy"] == run.float_quality.metric
    assert found["fine_tuned"]["test"]["samples"] == 64
    assert found["costs"] == dict(run.trials[1].cost.totals)
    history = read_history(Path("mine"))
    assert found["fine_tuned"]["validation"]["accuracy"] == max(epoch.metric for epoch in history)
    assert not Path("runs/tiny/finetune").exists()


def test_again_is_at_once_and_the_same(qsearch: Qsearch, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = qsearch("finetune", "runs/tiny", "--best", *QUICK, "--json")
    monkeypatch.setattr(_Training, "epoch", None)
    again = qsearch("finetune", "runs/tiny", *QUICK, "--json")
    assert (again.code, again.out) == (0, first.out)


def test_patience(qsearch: Qsearch, run: Run) -> None:
    still = ("--set", "rate=1e-12", "--set", "batch_norm=frozen", "--set", "augment=false")
    answer = qsearch("finetune", "runs/tiny", "--patience", "1", *still, "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["ended_early"]
    assert found["epochs"] == found["best_epoch"] + 1 < 60


def test_the_report_and_show_tell_of_it(qsearch: Qsearch, run: Run) -> None:
    assert "fine-tuned" not in qsearch("show", "runs/tiny").out
    assert json.loads(qsearch("show", "runs/tiny", "--json").out)["fine_tuned"] == []
    answer = qsearch("finetune", "runs/tiny", "--trial", "1", *QUICK, "--json")
    shown = qsearch("show", "runs/tiny").out
    assert "fine-tuned       trial 1: " in shown
    told = json.loads(qsearch("show", "runs/tiny", "--json").out)["fine_tuned"]
    assert [{**one, "exports": []} for one in told] == [json.loads(answer.out)]
    assert qsearch("report", "runs/tiny").code == 0
    page, text = Path("runs/tiny/report.html").read_text(), Path("runs/tiny/report.md").read_text()
    for content in (page, text):
        assert "Fine-tuned: trial 1" in content
        assert "post-training" in content
    assert "Training of trial 1" in page
    assert Path("runs/tiny/plots/report-fine-tuned-1.png").is_file()


def test_data_that_have_moved(qsearch: Qsearch, run: Run) -> None:
    check(qsearch("finetune", "runs/tiny", "--data", "there"), 2, "takes no options; got data")


# stops


def wait_for(lines: int, folder: Path, process: subprocess.Popen[str]) -> None:
    """Until so many epochs are in the history of a training."""
    history = folder / HISTORY
    while not history.is_file() or history.read_text().count("\n") <= lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_killed_with_force_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Killed twice, in the midst of an epoch, by a signal that nothing can catch."""
    arguments = ("--epochs", "4", "--set", "batch_size=50")
    whole = a_run(tmp_path / "whole", workload=f"{TAUGHT}:Unhurried")
    assert spawn("finetune", whole.folder, *arguments, cwd=tmp_path).code == 0
    stopped = a_run(tmp_path / "stopped", workload=f"{TAUGHT}:Unhurried")
    for epochs in (1, 2):
        process = start("finetune", stopped.folder, *arguments, cwd=tmp_path)
        wait_for(epochs, stopped.folder / "finetune" / f"trial-{stopped.best.number}", process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    answer = spawn("finetune", stopped.folder, *arguments, cwd=tmp_path)
    assert answer.code == 0, answer.err
    # an epoch enters the history just before the state that it is resumed from: the kill may fall between the two
    assert answer.out.startswith(("epoch 2/4: ", "epoch 3/4: "))
    ours, theirs = (one.folder / "finetune" / f"trial-{one.best.number}" for one in (stopped, whole))
    for name in (RESULT, NETWORK):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    alike = [[epoch.model_copy(update={"seconds": 0.0}) for epoch in read_history(folder)] for folder in (ours, theirs)]
    assert alike[0] == alike[1]


def test_an_interruption_is_no_failure(tmp_path: Path) -> None:
    run = a_run(tmp_path, workload=f"{TAUGHT}:Unhurried")
    folder = tmp_path / "there"
    process = start("finetune", run.folder, "--output", folder, "--set", "batch_size=50", cwd=tmp_path)
    wait_for(1, folder, process)
    for _ in range(3):  # Python drops an interrupt that arrives within a destructor
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            out, err = process.communicate(timeout=20)
            break
    answer = Answer(process.returncode, out, err)
    assert answer.code == 130
    assert answer.line == "interrupted; run the same command to go on"
    assert read(folder) is None
    assert len(read_history(folder)) >= 1


def limited(size: int) -> Callable[[], None]:
    """In a child: no file may grow beyond ``size`` bytes, and trying is an error rather than a signal."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on the size of files here")
def test_a_disk_that_is_full(qsearch: Qsearch, run: Run, tmp_path: Path) -> None:
    answer = spawn("finetune", run.folder, *QUICK, cwd=tmp_path, preexec_fn=limited(5_000))
    check(answer, 1, "must be writable; got", "File too large", "the same command goes on")
    folder = run.folder / "finetune" / f"trial-{run.best.number}"
    assert not [path for path in folder.iterdir() if path.name != ".lock"]
    assert qsearch("finetune", "runs/tiny", *QUICK).code == 0


# what is wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--trial", "99"), ["numbered 0..2", "got 99"]),
        (("--trial", "1", "--best"), ["--best and --trial choose a trial each", "leave one out"]),
        (("--epochs", "0"), ["--epochs", "greater than or equal to 1"]),
        (("--patience", "0"), ["--patience", "greater than or equal to 1"]),
        (("--set", "rat=0.1"), ["unknown option 'rat' in options of the training", "did you mean 'rate'?"]),
        (("--set", "rate=fast"), ["rate in options of the training", "got fast"]),
        (("--set", "quantizer=lsk"), ["unknown quantizer 'lsk'", "did you mean 'lsq'?"]),
        (("--format", "onxx"), ["unknown format 'onxx' of a network", "did you mean 'onnx'?"]),
        (("--format", "json"), ["unknown format 'json' of a network"]),
    ],
)
def test_arguments_that_are_wrong(qsearch: Qsearch, run: Run, arguments: tuple[str, ...], words: list[str]) -> None:
    check(qsearch("finetune", "runs/tiny", *arguments), 2, *words)
    assert not Path("runs/tiny/finetune").exists()


def test_a_folder_that_is_no_run(qsearch: Qsearch, tmp_path: Path) -> None:
    check(qsearch("finetune", tmp_path / "nowhere"), 2, "must hold campaign.yaml", "nowhere")


def test_a_run_without_a_best_trial(qsearch: Qsearch, tmp_path: Path) -> None:
    a_run(tmp_path, constraints=["accuracy>=1.0"], space={"weight_bits": [2], "activation_bits": [2]})
    check(qsearch("finetune", "runs/tiny"), 2, "no best one", "--trial")


def test_no_training_data(qsearch: Qsearch, tmp_path: Path) -> None:
    a_run(tmp_path, workload=plugin("Tiny"))
    check(qsearch("finetune", "runs/tiny"), 2, "workload 'tiny' must have training data")


def test_an_evaluator_without_a_network(qsearch: Qsearch, tmp_path: Path) -> None:
    a_run(tmp_path, evaluator=f"{TAUGHT}:Distance")
    check(qsearch("finetune", "runs/tiny"), 2, "hands out its network; got Distance", "'ptq' or 'qat'")


def test_another_training_in_the_folder(qsearch: Qsearch, run: Run) -> None:
    assert qsearch("finetune", "runs/tiny", *QUICK).code == 0
    check(qsearch("finetune", "runs/tiny", *QUICK, "--set", "rate=0.5"), 2, "rate: 0.01 there, 0.5 here", "--output")
    check(qsearch("finetune", "runs/tiny", "--epochs", "9", *QUICK[2:]), 2, "how many epochs there are", "3 there, 9")


def test_a_result_that_is_damaged(qsearch: Qsearch, run: Run) -> None:
    assert qsearch("finetune", "runs/tiny", "--trial", "0", *QUICK).code == 0
    Path("runs/tiny/finetune/trial-0/result.json").write_text("{}")
    for command in (("finetune", "runs/tiny", "--trial", "0"), ("show", "runs/tiny"), ("report", "runs/tiny")):
        check(qsearch(*command), 1, "what is kept of a training must be readable", "result.json", "makes it again")


def test_a_place_that_takes_no_folder(qsearch: Qsearch, run: Run) -> None:
    answer = qsearch("finetune", "runs/tiny", *QUICK, "--output", "/dev/null/there")
    check(answer, 1, "must be writable; got /dev/null/there: Not a directory", "--output FOLDER")


def test_a_history_that_is_damaged(run: Run, qsearch: Qsearch) -> None:
    assert qsearch("finetune", "runs/tiny", "--trial", "0", *QUICK).code == 0
    Path("runs/tiny/finetune/trial-0/history.csv").write_text("number,loss\n1,x\n")
    with pytest.raises(StorageError, match=r"must be readable; got .*history\.csv"):
        write_report(runs.load(run.folder))
    assert run_table(run) is not None, "a table needs no history"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['qsearch', 'finetune', '--help']\n"
        "from qsearch.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'optuna', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}
    )
    assert done.stdout.endswith("[]\n")
    assert "go on from where it was stopped" in done.stdout


def test_a_campaign_file_with_the_evaluator_of_training(qsearch: Qsearch, tmp_path: Path) -> None:
    """Its options are those of the fine-tuning, but for the epochs."""
    evaluator = {
        "name": "qsearch.evaluate.qat:QuantizationAware",
        "options": {"epochs": 1, "batch_size": 40, "threads": 1},
    }
    file = write(
        tmp_path / "c.yaml",
        settings(
            workload=f"{TAUGHT}:Taught",
            evaluator=evaluator,
            space={"weight_bits": [2, 3], "activation_bits": [3]},
            constraints=[],
            budget={"evaluations": 1},
        ),
    )
    assert qsearch("run", file).code == 0
    answer = qsearch("finetune", "runs/tiny", "--epochs", "2", "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert (found["options"]["batch_size"], found["epochs"]) == (40, 2)
