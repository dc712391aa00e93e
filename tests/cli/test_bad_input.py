"""Whatever is wrong: one line on standard error, exit code 2 for the user's error and 1 for a failure, no trial lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from campaigns import Answer, call, facts, ledger_facts, plugin, settings, spawn, write
from filelock import FileLock

from qsearch import run as runs
from qsearch.config import parse
from qsearch.run import Run
from qsearch.sweep import run_sweep

Qsearch = Callable[..., Answer]


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """The command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(capfd, *arguments)


@pytest.fixture
def run(qsearch: Qsearch) -> Qsearch:
    """``qsearch run`` on the small campaign with some settings changed."""

    def go(*arguments: str, **changes: Any) -> Answer:
        return qsearch("run", write(Path("campaign.yaml"), settings(**changes)), *arguments)

    return go


@pytest.fixture
def done(tmp_path: Path) -> Run:
    """A campaign that has ended, in ``runs/tiny``."""
    return run_sweep(parse(settings(), "test"), tmp_path / "runs")[0]


def check(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.line


# plug-ins and their options


@pytest.mark.parametrize(
    ("setting", "name", "kind", "near"),
    [
        ("hardware", "bismoo", "cost model", "'bismo'"),
        ("workload", "digits-resent", "workload", "'digits-resnet'"),
        ("evaluator", "pqt", "evaluator", "'ptq'"),
        ("searcher", "optna", "searcher", "'optuna'"),
        ("searcher", ["random", "optna"], "searcher", "'optuna'"),
    ],
)
def test_an_unknown_plugin_is_answered_by_the_nearest(
    run: Qsearch, setting: str, name: Any, kind: str, near: str
) -> None:
    shown = name if isinstance(name, str) else name[-1]
    check(run(**{setting: name}), 2, f"unknown {kind} '{shown}'", f"did you mean {near}?", "known: ")


def test_an_unknown_sensitivity_is_answered_by_the_nearest(run: Qsearch) -> None:
    answer = run(searcher={"name": "ilp", "options": {"sensitivity": "one-at-time"}})
    check(answer, 2, "unknown sensitivity 'one-at-time'", "did you mean 'one-at-a-time'?")


@pytest.mark.parametrize("setting", ["hardware", "workload", "evaluator", "searcher"])
def test_a_plugin_by_path_that_is_not_there(run: Qsearch, setting: str) -> None:
    check(run(**{setting: "nowhere/mine.py:Mine"}), 2, "file must exist", "nowhere/mine.py")
    check(run(**{setting: "no_such_module:Mine"}), 2, "'no_such_module:Mine' cannot be imported")
    check(run(**{setting: plugin("Tny")}), 2, "no class 'Tny'", "did you mean 'Tiny'?")
    check(run(**{setting: plugin("number")}), 2, "must be a class", "got int")


def test_a_plugin_whose_file_is_broken(run: Qsearch, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    check(run(hardware="broken.py:Chip"), 2, "broken.py:Chip' cannot be imported", "SyntaxError")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluator": {"name": "ptq", "options": {"sample": 3}}}, ["unknown option 'sample'", "'ptq'", "'samples'"]),
        ({"evaluator": {"name": "ptq", "options": {"samples": 0}}}, ["samples in options of 'ptq'", "got 0"]),
        ({"hardware": {"name": "size", "options": {"lanes": 3}}}, ["'size'", "lanes"]),
        ({"searcher": {"name": "optuna", "options": {"sampler": "tbe"}}}, ["sampler", "'tpe'", "got tbe"]),
        (
            {"searcher": {"name": plugin("OptionSearcher"), "options": {"inner": {"dept": 2}}}},
            ["unknown option 'inner.dept'", "did you mean 'depth'?"],
        ),
        ({"serch": "random"}, ["unknown option 'serch'", "campaign.yaml", "did you mean 'searcher'?"]),
        ({"space": {"weight_bit": [2, 4]}}, ["unknown option 'space.weight_bit'", "did you mean 'weight_bits'?"]),
        ({"budget": {"evaluation": 4}}, ["unknown option 'budget.evaluation'", "did you mean 'evaluations'?"]),
        ({"constraints": [{"metric": "size", "atmost": 1}]}, ["unknown option 'constraints.0.atmost'"]),
        ({"objectives": [{"metrik": "loss", "direction": "minimize"}]}, ["metri"]),
    ],
)
def test_an_unknown_or_wrong_option_is_answered_by_its_path(
    run: Qsearch, changes: dict[str, Any], words: list[str]
) -> None:
    check(run(**changes), 2, *words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": {"weight_bits": [2, 33]}}, ["weight_bits", "33"]),
        ({"space": {"weight_bits": [-1, 4]}}, ["weight_bits", "-1"]),
        ({"space": {"weight_bits": []}}, ["weight_bits"]),
        ({"space": {"activation_bits": [0, 4]}}, ["activation", "at least 1"]),
        ({"space": {"weight_bits": "lots"}}, ["weight_bits", "lots"]),
        ({"space": {"granularity": "channel"}}, ["granularity", "'kernel'", "channel"]),
        ({"space": {"fixed": {"frist": 8}}}, ["unknown name 'frist'", "did you mean 'first'?"]),
        ({"space": {"fixed": {"first": 40}}}, ["first", "40"]),
        ({"space": {"ties": [["0.weight", "9.weight"]]}}, ["unknown site '9.weight'"]),
        ({"budget": {"evaluations": 0}}, ["evaluations", "greater than 0"]),
        ({"budget": {}}, ["needs evaluations or minutes"]),
        ({"budget": {"minutes": float("inf")}}, ["budget.minutes", "finite number"]),
        ({"budget": {"minutes": float("nan")}}, ["budget.minutes"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": [0, 0]}, ["different names"]),
        ({"name": "../elsewhere"}, ["name", "../elsewhere"]),
        ({"objectives": []}, ["objectives"]),
        ({"objectives": [{"metric": "latency", "direction": "minimize"}]}, ["unknown metric 'latency'", "size"]),
        ({"objectives": [{"metric": "loss", "direction": "down"}]}, ["direction", "minimize"]),
        ({"constraints": ["latency<=0.5"]}, ["unknown metric 'latency'", "size"]),
        ({"constraints": ["size<0.5"]}, ["METRIC<=NUMBER", "size<0.5"]),
        ({"constraints": ["size<=0.5*uniform-40"]}, ["relative_to", "uniform-40"]),
        ({"constraints": ["size<=100MB"]}, ["'size' is measured in", "MB"]),
        ({"constraints": ["accuracy>=0.9*uniform-8"]}, ["relative to float"]),
        ({"constraints": [{"metric": "size"}]}, ["exactly one of at_most and at_least"]),
        ({"storage": 5}, ["storage", "string", "got 5"]),
    ],
)
def test_a_setting_that_is_out_of_range(run: Qsearch, changes: dict[str, Any], words: list[str]) -> None:
    check(run(**changes), 2, *words)
    assert not Path("runs/tiny/campaign.yaml").exists()  # the corrected campaign may take the name


def test_a_constraint_that_nothing_can_meet_is_answered_by_the_floor_and_the_miss(run: Qsearch) -> None:
    check(run(constraints=["size<=0.1"]), 2, "no assignment meets size <= 0.1", "a floor of ", "above it")
    answer = run(constraints=["size<=0.2"], space={"weight_bits": [4, 8]}, hardware=plugin("Adder"))
    check(answer, 2, "got a floor of 1744 bit, 150.0 % above it", "raise the limit")  # 436 weights of 4 bits


# files and the command line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [tiny\n", ["valid YAML", "line 2"]),
        ("name: tiny\n\tseed: 0\n", ["valid YAML"]),
        ("seed: 1\nseed: 2\n", ["valid YAML", "seed"]),
        ("seed: 2024-13-45\n", ["valid YAML"]),
        ("a: \x00\n", ["valid YAML"]),
        ("- name\n", ["mapping of settings", "got list"]),
        ("", ["mapping of settings"]),
        ("1: 2\n", ["campaign.yaml"]),
        ("name: tiny\n", ["campaign.yaml", "required"]),
    ],
)
def test_a_campaign_file_that_is_none(qsearch: Qsearch, text: str, words: list[str]) -> None:
    check(qsearch("run", write(Path("campaign.yaml"), text)), 2, *words)


def test_a_campaign_file_that_cannot_be_read(qsearch: Qsearch, tmp_path: Path) -> None:
    check(qsearch("run", "nothing.yaml"), 2, "must be readable", "nothing.yaml", "qsearch init")
    check(qsearch("run", tmp_path), 2, "must be readable", str(tmp_path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    check(qsearch("run", "binary.yaml"), 2, "must be readable", "binary.yaml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("budget.evaluations", ["path.to.setting=value", "got budget.evaluations"]),
        ("budget.evaluations=many", ["budget.evaluations", "got many"]),
        ("budget.evaluation=5", ["unknown option 'budget.evaluation'"]),
        ("name.first=5", ["groups of settings", "name.first"]),
        ("seed=[0", ["the value of seed must be YAML"]),
        ("space.weight_bits=[2, 64]", ["weight_bits", "64"]),
        ("=5", ["unknown option"]),
    ],
)
def test_a_setting_on_the_command_line_that_is_not_valid(run: Qsearch, change: str, words: list[str]) -> None:
    check(run("--set", change), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weight-bits", "few"], ["2-8 or as 2,4,8", "got 'few'"]),
        (["--weight-bits", "2-4-8"], ["2-8 or as 2,4,8", "got '2-4-8'"]),
        (["--weight-bits", "8-2"], ["2-8 or as 2,4,8", "got '8-2'"]),
        (["--weight-bits", "2-64"], ["less than or equal to 32", "got 33"]),
        (["--activation-bits", ""], ["2-8 or as 2,4,8"]),
        (["--objective", "loss:down"], ["METRIC:min", "got loss:down"]),
        (["--objective", "speed"], ["unknown metric 'speed'"]),
        (["--constraint", "size=0.5"], ["METRIC<=NUMBER", "got size=0.5"]),
        (["--constraint", "size<=1.2.3"], ["must be a number", "1.2.3"]),
        (["--evaluations", "0"], ["evaluations", "greater than 0"]),
        (["--evaluations", "few"], ["--evaluations", "valid integer"]),
        (["--hardware", "sise"], ["did you mean 'size'?"]),
        (["--granularity", "row"], ["granularity", "row"]),
        (["--sercher", "ilp"], ["--sercher", "--searcher"]),
    ],
)
def test_a_search_that_is_not_valid(qsearch: Qsearch, arguments: list[str], words: list[str]) -> None:
    check(qsearch("search", plugin("Tiny"), "--hardware", "size", *arguments), 2, *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runn"], ["no command 'runn'", "did you mean 'run'?"]),
        (["foo"], ["no command 'foo'", "known: compare, dashboard, export, "]),
        (["run"], ["Missing argument"]),
        (["list", "serchers"], ["unknown kind 'serchers'", "did you mean 'searchers'?"]),
        (["show", "--nothing"], ["--nothing"]),
    ],
)
def test_a_command_that_is_not_valid(qsearch: Qsearch, arguments: list[str], words: list[str]) -> None:
    check(qsearch(*arguments), 2, *words)


def test_init_replaces_no_file(qsearch: Qsearch) -> None:
    write(Path("campaign.yaml"), "mine")
    check(qsearch("init"), 2, "replaces no file", "--force")
    assert Path("campaign.yaml").read_text() == "mine"
    check(qsearch("init", "no/such/folder.yaml"), 1, "No such file or directory", "no/such/folder.yaml")


# workloads, evaluators and cost models that break


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_a_workload_whose_loader_is_empty(run: Qsearch, split: str) -> None:
    check(run(workload=plugin(f"No{split.title()}")), 2, f"{split} loader of workload 'no-{split}'", "empty")


def test_a_workload_that_cannot_be_made(run: Qsearch) -> None:
    words = ["the workload", "Raises' raised an error", "RuntimeError: no weights to be found (tiny_plugins.py, line "]
    check(run(workload=plugin("Raises")), 1, *words)


def test_a_network_that_gives_nan(run: Qsearch) -> None:
    check(run(workload=plugin("NotANumber")), 1, "must be finite", "NaN (the float network itself does)")
    check(run(workload=plugin("NotAWeight")), 2, "weights of '0.weight' must be finite", "NaN")


@pytest.mark.parametrize("setting", ["hardware", "workload", "evaluator", "searcher"])
def test_a_plugin_of_another_seam(run: Qsearch, setting: str) -> None:
    other, kind = "Tiny" if setting == "hardware" else "Adder", {"hardware": "cost model"}.get(setting, setting)
    check(run(**{setting: plugin(other)}), 2, f"{other}' must be a", kind, "got a class without ", "qsearch.protocols")


def test_a_searcher_that_fails_loses_no_trial(run: Qsearch, tmp_path: Path) -> None:
    check(run(searcher=plugin("Stumbles")), 1, "the searcher", "Stumbles' raised an error", "IndexError: oops")
    assert len(runs.load(tmp_path / "runs" / "tiny").trials) == 1


@pytest.mark.parametrize("searcher", ["random", "ilp"])
@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Negative", ["size of layer '0' must be finite and at least 0", "got -1"]),
        ("CostNaN", ["size of layer '0' must be finite and at least 0", "got nan"]),
        ("NoUnit", ["'latency' has none", "add it to units, which has: size"]),
        ("NoMetric", ["nothing for latency"]),
        ("CostRaises", ["the cost model raised an error", "ZeroDivisionError: division by zero"]),
    ],
)
def test_a_cost_model_that_breaks_its_contract(run: Qsearch, model: str, words: list[str], searcher: str) -> None:
    check(run(hardware=plugin(model), searcher=searcher), 1, *words)
    check(run(hardware=plugin(model), searcher=searcher, constraints=[]), 1, *words)


def test_a_cost_model_that_is_half_written(run: Qsearch, tmp_path: Path) -> None:
    write(tmp_path / "half.py", "class Half:\n    units = {'size': 'bit'}\n")
    check(
        run(hardware="half.py:Half"), 2, "half.py:Half' must be a cost model", "without layer_cost, estimate, estimate_"
    )
    write(tmp_path / "bare.py", "from qsearch.protocols import CostModel\nclass Bare(CostModel):\n    pass\n")
    check(run(hardware="bare.py:Bare"), 2, "bare.py:Bare' must be a cost model", "without layer_cost")


def test_bounds_that_no_assignment_meets_together(run: Qsearch, qsearch: Qsearch) -> None:
    together = ["size<=0.5", "size>=0.51*uniform-8"]
    for searcher in ("random", "uniform", {"name": "optuna", "options": {"sampler": "tpe"}}):
        name = searcher if isinstance(searcher, str) else "optuna"
        answer = run(searcher=searcher, constraints=together, name=name)
        check(answer, 2, "assignments that the search tried", "size <= 0.5 x uniform-8, size >= 0.51", "'ilp'")
        assert runs.load(Path("runs") / name).info.status == "complete"
    check(run(searcher="ilp", constraints=together, name="ilp"), 2, "no assignment meets all cost bounds together")
    both = run(searcher=["random", "ilp"], constraints=together, name="both")
    assert (both.code, both.out) == (2, "")
    assert [line.split(":")[0] for line in both.err.splitlines()] == [
        "WARNING both/random-s0",
        "WARNING both/ilp-s0",
        "qsearch",
    ]


def test_a_searcher_of_a_sweep_that_meets_no_bound_does_not_end_the_others(run: Qsearch) -> None:
    window = ["size<=0.5", "size>=0.45*uniform-8"]  # 4 bits are a little over 0.5, 2 bits far below 0.45
    answer = run("--json", searcher=["uniform", "ilp"], constraints=window)
    assert answer.code == 0, answer.err
    assert answer.err.startswith("WARNING tiny/uniform-s0: none of the 3 assignments that the search tried")
    assert runs.load(Path("runs/tiny/ilp-s0")).best is not None


def test_a_lower_bound_that_nothing_can_reach(run: Qsearch) -> None:
    check(run(constraints=["size>=1.5*uniform-8"]), 2, "no assignment meets size >= 1.5", "a ceiling of ", "below it")


def test_a_budget_that_ends_before_the_first_evaluation(run: Qsearch) -> None:
    check(run(budget={"minutes": 1e-9}, constraints=[]), 1, "ended before its first evaluation", "raise the budget")


def test_an_evaluator_that_fails_before_the_search(run: Qsearch) -> None:
    check(run(evaluator=plugin("FailsOnFloat")), 1, "the evaluator", "FailsOnFloat' raised", "RuntimeError: no luck")
    check(run(evaluator=plugin("Odd")), 1, "must return the Quality 'accuracy'", "got 0.9")


def test_evaluations_that_fail_are_recorded_and_the_campaign_goes_on(run: Qsearch, tmp_path: Path) -> None:
    space = {"weight_bits": [3, 4], "activation_bits": [8], "fixed": {"last": 8}}
    answer = run("--json", evaluator=plugin("Fails"), space=space, searcher=plugin("Walk"), constraints=[])
    assert answer.code == 0
    assert "Traceback" not in answer.err
    assert answer.err.count("odd bits: 3") == 2
    trials = runs.load(tmp_path / "runs" / "tiny").trials
    assert [(trial.state, trial.reason) for trial in trials] == [
        ("failed", "RuntimeError: odd bits: 3"),
        ("failed", "RuntimeError: odd bits: 3"),
        ("complete", ""),
        ("complete", ""),
    ]


def test_a_campaign_gives_up_after_max_failures_and_can_be_resumed(
    run: Qsearch, qsearch: Qsearch, tmp_path: Path
) -> None:
    flag = write(tmp_path / "flag", "")
    evaluator = {"name": plugin("Fails"), "options": {"threads": 1, "while_exists": str(flag)}}
    space = {"weight_bits": [3, 5, 4], "activation_bits": [8], "fixed": {"last": 8}}
    answer = run(evaluator=evaluator, space=space, searcher=plugin("Walk"), constraints=[], max_failures=2)
    assert answer.code == 1
    assert answer.out == ""
    last = answer.err.splitlines()[-1]
    assert last.startswith("qsearch: 2 evaluations failed, the limit; got last: RuntimeError: odd bits: 3")
    assert "resume" in last
    assert [trial.state for trial in runs.load(tmp_path / "runs/tiny").trials] == ["failed", "failed"]
    flag.unlink()
    assert qsearch("resume", "runs/tiny").code == 0
    states = [trial.state for trial in runs.load(tmp_path / "runs/tiny").trials]
    assert states == ["failed", "failed", "complete", "complete", "complete", "complete"]


def test_a_test_that_fails_costs_no_result(run: Qsearch) -> None:
    answer = run("--json", evaluator=plugin("FailsOnTest"))
    assert answer.code == 0
    assert "not tested: RuntimeError: no luck" in " ".join(answer.err.split())
    found = runs.load(Path("runs/tiny"))
    assert (found.info.status, found.info.tested) == ("complete", {})
    assert found.best is not None


def test_a_run_in_which_nothing_was_feasible(run: Qsearch, qsearch: Qsearch) -> None:
    answer = run(constraints=["accuracy>=1.0"])
    assert (answer.code, answer.err) == (0, "")
    check(qsearch("export", "runs/tiny"), 2, "no best one", "--trial")
    assert qsearch("export", "runs/tiny", "--trial", "0").code == 0
    assert qsearch("show", "runs/tiny").code == 0


# sweeps


def left(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).glob("*")) if Path(folder).exists() else []


@pytest.mark.parametrize(
    ("searcher", "changes", "words"),
    [
        ({"name": "optuna", "options": {"sampler": "tbe"}}, {}, ["sampler", "got tbe"]),
        ({"name": "optuna", "options": {"sampler_options": {"n_startup": 3}}}, {}, ["unknown option 'n_startup'"]),
        (
            {"name": "optuna", "options": {"sampler": "cmaes"}},
            {"objectives": [{"metric": m, "direction": "minimize"} for m in ("loss", "size")]},
            ["'cmaes' takes one objective"],
        ),
        ("ilp", {"hardware": plugin("Coupled")}, ["Coupled, which is not additive"]),
        (
            "ilp",
            {"hardware": plugin("Adder"), "space": {"weight_bits": [2, 4], "granularity": "kernel"}},
            ["Adder, which does not say so (kernel_additive)"],
        ),
        ("ilp", {"objectives": [{"metric": "size", "direction": "maximize"}]}, ["got maximize size"]),
        ({"name": "ilp", "options": {"sensitivity": "one-at-time"}}, {}, ["did you mean 'one-at-a-time'?"]),
    ],
)
def test_a_later_searcher_that_cannot_run_is_found_before_the_first_one_runs(
    run: Qsearch, searcher: Any, changes: dict[str, Any], words: list[str]
) -> None:
    check(run(searcher=["random", searcher], **changes), 2, *words)
    assert left("runs/tiny") == []


def test_reports_are_written_as_each_run_ends(run: Qsearch) -> None:
    answer = run(searcher=["random", plugin("Stumbles")])
    assert answer.code == 1
    assert Path("runs/tiny/random-s0/report.html").is_file()


def test_a_sweep_that_is_refused_leaves_the_one_that_is_there(run: Qsearch, qsearch: Qsearch) -> None:
    assert run("--json", searcher=["random", "uniform"]).code == 0
    before = Path("runs/tiny/sweep.yaml").read_bytes()
    check(run(searcher=["random", "uniform"], constraints=["size<=0.7"]), 2, "holds another campaign", "constraints")
    check(run(searcher=["ilp", "uniform"], seed=[0, 1], constraints=["size<=0.7"]), 2, "runs/tiny/uniform-s0 holds")
    check(run(searcher=["ilp", plugin("Walk")], constraints=["size<=0.7"]), 2, "runs/tiny holds another campaign")
    check(run(searcher="random"), 2, "runs/tiny holds a sweep", "another name")
    assert Path("runs/tiny/sweep.yaml").read_bytes() == before
    assert left("runs/tiny") == [
        "artifacts",
        "comparison.html",
        "comparison.md",
        "plots",
        "random-s0",
        "study.db",
        "sweep.yaml",
        "uniform-s0",
    ]


def test_a_single_campaign_does_not_become_a_sweep(run: Qsearch, done: Run) -> None:
    before = left("runs/tiny")
    check(run(searcher=["random", "ilp"]), 2, "runs/tiny holds a single campaign", "another name")
    assert left("runs/tiny") == before


def test_a_sweep_may_grow_and_loses_no_run_when_it_shrinks(run: Qsearch, qsearch: Qsearch) -> None:
    assert run("--json", searcher=["random", "uniform"]).code == 0
    assert run("--json", searcher=["random", "uniform", "ilp"], seed=[0, 1]).code == 0
    names = ["ilp-s0", "random-s0", "random-s1", "uniform-s0"]
    assert left("runs/tiny")[3:] == [*names[:1], "plots", *names[1:3], "study.db", "sweep.yaml", names[3]]
    assert run("--json", searcher=["ilp", "uniform"]).code == 0
    assert run("--json", searcher="ilp", seed=[0, 1]).code == 0  # one campaign, but a member of the sweep
    shown = json.loads(qsearch("show", "runs/tiny", "--json").out)
    assert [found["name"] for found in shown] == [f"tiny/{name}" for name in names]
    assert len(json.loads(qsearch("resume", "runs/tiny", "--json").out)) == 3  # rows: one per searcher
    assert {path.parent.name for path in Path("runs/tiny").glob("*/campaign.yaml")} == set(names)


# storage


@pytest.mark.parametrize("name", ["what?", "50%20", "a#b", "{x}", "é ü"])
def test_a_folder_whose_name_means_something_in_a_url(run: Qsearch, qsearch: Qsearch, name: str) -> None:
    assert run("--runs", name, "--json").code == 0
    assert (Path(name) / "tiny" / "study.db").is_file()
    assert sorted(path.name for path in Path.cwd().iterdir()) == sorted(["campaign.yaml", name])
    assert qsearch("show", f"{name}/tiny", "--json").code == 0
    assert qsearch("resume", f"{name}/tiny", "--json").code == 0


@pytest.mark.parametrize("scheme", ["sqlite:///", "journal:"])
def test_a_relative_storage_is_the_same_from_anywhere(
    qsearch: Qsearch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    here = tmp_path / "what? 50%20"
    here.mkdir()
    monkeypatch.chdir(here)
    file = write(Path("campaign.yaml"), settings(storage=f"{scheme}ledgers/mine"))
    assert qsearch("run", file, "--json").code == 0
    assert (here / "ledgers" / "mine").is_file()
    before = ledger_facts(here / "runs" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert qsearch("resume", here / "runs" / "tiny", "--evaluations", "8", "--json").code == 0
    assert [path.name for path in tmp_path.iterdir()] == [here.name]
    after = ledger_facts(here / "runs" / "tiny")
    assert (after[: len(before)], len(after) > len(before)) == (before, True)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://localhost:1/nothing", ["postgresql://localhost:1/nothing", "must be readable and writable"]),
        ("nonsense", ["nonsense", "Could not parse", "check the URL"]),
        ("mongodb://localhost/x", ["mongodb://localhost/x"]),
        ("sqlite:////dev/null/below/study.db", ["/dev/null/below"]),
        ("journal:/dev/null/below/study.log", ["/dev/null/below"]),
    ],
)
def test_a_storage_that_cannot_be_reached(run: Qsearch, url: str, words: list[str]) -> None:
    check(run(storage=url), 1, *words)


def test_a_storage_whose_driver_is_missing(run: Qsearch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    check(run(storage="postgresql+psycopg2://localhost:1/nothing"), 1, "install psycopg2")


def test_a_postgresql_server_that_does_not_answer(run: Qsearch) -> None:
    pytest.importorskip("psycopg", reason="needs a PostgreSQL driver")
    check(run(storage="postgresql+psycopg://localhost:1/nothing"), 1, "localhost:1", "refused")


def test_runs_below_a_file(run: Qsearch) -> None:
    check(run("--runs", "/dev/null"), 1, "folder must be writable", "/dev/null")
    check(run("--runs", "/dev/null", searcher=["random", "ilp"]), 1, "folder must be writable", "/dev/null")


@pytest.mark.parametrize("content", [b"not a database, by any measure" * 100, b""])
def test_a_ledger_that_is_garbage(qsearch: Qsearch, done: Run, content: bytes) -> None:
    Path("runs/tiny/study.db").write_bytes(content)
    for command in ("show", "report", "export"):
        check(qsearch(command, "runs/tiny"), 1, "study")
    if content:
        check(qsearch("resume", "runs/tiny"), 1, "study.db", "not a database")


def test_a_ledger_that_is_cut_off(qsearch: Qsearch, done: Run) -> None:
    ledger = Path("runs/tiny/study.db")
    with ledger.open("r+b") as file:
        file.truncate(ledger.stat().st_size // 2)
    check(qsearch("show", "runs/tiny"), 1, "study.db", "malformed")


def test_a_ledger_whose_campaign_is_damaged(qsearch: Qsearch, done: Run) -> None:
    ledger = sqlite3.connect("runs/tiny/study.db")
    ledger.execute("update study_user_attributes set value_json = '{\"units\": 3}' where key = 'qsearch'")
    ledger.commit()
    ledger.close()
    check(qsearch("show", "runs/tiny"), 1, "record is damaged", "study 'tiny'")


@pytest.mark.parametrize("value", ['"{no json"', "[1]", '{"assignment": "{\\"0.weight\\": 77}"}', "null", "broken"])
def test_a_ledger_with_a_damaged_trial(qsearch: Qsearch, done: Run, value: str) -> None:
    ledger = sqlite3.connect("runs/tiny/study.db")
    ledger.execute(
        "update trial_system_attributes set value_json = ? where key = 'qsearch' and trial_id = "
        "(select trial_id from trials where number = 3)",
        (value,),
    )
    ledger.commit()
    ledger.close()
    for command in ("show", "resume"):
        check(qsearch(command, "runs/tiny"), 1, "trial 3 of study 'tiny'", "study.db", "is damaged")


def test_a_ledger_that_is_gone(qsearch: Qsearch, done: Run) -> None:
    Path("runs/tiny/study.db").unlink()
    check(qsearch("show", "runs/tiny"), 1, "the ledger of a run must exist", "qsearch resume runs/tiny")


@pytest.mark.parametrize("content", ["", "name: [", "name: tiny\nseeed: 3\n", "\x00\x01"])
def test_a_run_whose_campaign_is_damaged(qsearch: Qsearch, done: Run, content: str) -> None:
    write(Path("runs/tiny/campaign.yaml"), content)
    for command in ("show", "report", "export", "resume", "compare", "dashboard"):
        check(qsearch(command, "runs/tiny"), 2, "campaign.yaml")


def test_a_folder_that_is_no_run(qsearch: Qsearch, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        for command in ("show", "report", "export", "resume", "compare", "dashboard"):
            check(qsearch(command, folder), 2, str(folder), "qsearch run")


def test_a_trial_that_is_not_there(qsearch: Qsearch, done: Run) -> None:
    check(qsearch("show", "runs/tiny", "--trial", "99"), 2, "numbered 0..", "got 99")
    check(qsearch("export", "runs/tiny", "--trial", "-1"), 2, "numbered 0..", "got -1")
    check(qsearch("export", "runs/tiny", "--format", "jsn"), 2, "unknown format 'jsn'", "did you mean 'json'?")
    check(qsearch("export", "runs/tiny", "--output", "no/such/file"), 1, "No such file or directory")


def test_another_campaign_of_the_same_name(run: Qsearch, done: Run) -> None:
    before = ledger_facts(done.folder)
    check(run(seed=1), 2, "runs/tiny holds another campaign", "seed: 0 there, 1 here", "another name")
    check(run(constraints=[]), 2, "holds another campaign", "constraints")
    check(run(objectives=[{"metric": "loss", "direction": "minimize"}]), 2, "holds another campaign", "objectives")
    assert ledger_facts(done.folder) == before


def test_another_campaign_of_the_same_name_in_a_shared_storage(run: Qsearch, done: Run) -> None:
    storage = "sqlite:///shared.db"
    assert run("--runs", "first", "--json", storage=storage).code == 0
    where = f"study 'tiny' in sqlite:///{Path('shared.db').absolute()} holds another"
    check(run("--runs", "second", storage=storage, seed=1), 2, where)
    directions = [{"metric": "loss", "direction": "minimize"}]
    check(run("--runs", "third", storage=storage, objectives=directions), 1, "has other objectives", "another name")


def test_runs_of_different_problems_are_not_compared(qsearch: Qsearch, done: Run, tmp_path: Path) -> None:
    other = run_sweep(parse(settings(name="other", constraints=["size<=0.5"]), "test"), tmp_path / "runs")[0]
    answer = qsearch("compare", done.folder, other.folder)
    check(answer, 2, "must have the same constraints", "in other")


def test_a_run_that_another_process_drives(run: Qsearch, done: Run) -> None:
    with FileLock(done.folder / ".lock"):
        check(run(), 1, "one process at a time", "runs/tiny", "wait for the other")


def test_the_dashboard_needs_a_free_port(qsearch: Qsearch, done: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        check(qsearch("dashboard", "runs/tiny", "--port", port), 2, "free port", port)


# a disk that is full


def limited(size: int) -> Callable[[], None]:
    """In a child: no file may grow beyond ``size`` bytes, and trying is an error rather than a signal."""

    def limit() -> None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on the size of files here")
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_a_disk_that_fills_up_costs_no_trial(qsearch: Qsearch, tmp_path: Path, storage: str) -> None:
    url = None if storage == "sqlite" else f"journal:{tmp_path / 'study.log'}"
    campaign = settings(budget={"evaluations": 60}, constraints=[])
    file = write(tmp_path / "campaign.yaml", {**campaign, "storage": url} if url else campaign)
    size = 200_000 if storage == "sqlite" else 60_000
    answer = spawn("run", file, "--runs", tmp_path / "runs", preexec_fn=limited(size))
    check(answer, 1, "must be readable and writable", "resume when it is mended")
    before = ledger_facts(tmp_path / "runs" / "tiny")
    assert 0 < len(before) < 60
    assert qsearch("resume", "runs/tiny").code == 0
    after = ledger_facts(tmp_path / "runs" / "tiny")
    assert after[: len(before)] == before
    whole = run_sweep(parse(campaign, "test"), tmp_path / "whole")[0]
    assert after == [facts(trial) for trial in whole.trials]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limits on the size of files here")
def test_a_disk_that_is_full_for_the_report(qsearch: Qsearch, done: Run) -> None:
    before = ledger_facts(done.folder)
    check(spawn("report", done.folder, preexec_fn=limited(5_000)), 1, "report")
    assert not (done.folder / "report.html").exists()
    assert ledger_facts(done.folder) == before
    assert qsearch("report", done.folder).code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_onto_a_full_disk(qsearch: Qsearch, done: Run) -> None:
    check(qsearch("export", "runs/tiny", "--output", "/dev/full"), 1, "No space left on device")
    with Path("/dev/full").open("w") as full:
        answer = spawn("export", done.folder, stdout=full)
    assert (answer.code, "No space left on device" in answer.line) == (1, True)


def test_a_reader_that_leaves_early_is_no_error(done: Run) -> None:
    read, write_end = os.pipe()
    os.close(read)
    answer = spawn("export", done.folder, stdout=write_end)
    os.close(write_end)
    assert "Traceback" not in answer.err


def test_a_folder_that_was_moved_is_still_a_run(qsearch: Qsearch, done: Run, tmp_path: Path) -> None:
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    assert qsearch("show", "moved/tiny", "--json").code == 0
