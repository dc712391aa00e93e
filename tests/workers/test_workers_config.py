"""Who evaluates: in campaign files, on the command line, and what is refused before anything is spent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qsearch import registry
from qsearch import setting as setting_module
from qsearch.campaign import check_same
from qsearch.config import CampaignConfig, PluginConfig, parse
from qsearch.errors import ConfigError, PluginError
from qsearch.registry import PluginOptions
from qsearch.setting import build_workers, prepare

TINY = Path(__file__).parents[1] / "campaign" / "tiny_plugins.py"


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "budget": {"evaluations": 2},
        "workload": f"{TINY}:Tiny",
        "hardware": "size",
        "evaluator": {"name": "ptq", "options": {"threads": 1}},
        "searcher": "random",
        **changes,
    }


def config(**changes: Any) -> CampaignConfig:
    (found,) = parse(settings(**changes), "test").campaigns()
    return found


@pytest.mark.parametrize(
    ("written", "name", "options"),
    [
        ("none", "none", {}),
        ("ray", "ray", {}),
        ("auto", "ray", {"address": "auto"}),
        ("10.0.0.1:6379", "ray", {"address": "10.0.0.1:6379"}),
        ("head.example:6379", "ray", {"address": "head.example:6379"}),
        ("[::1]:6379", "ray", {"address": "[::1]:6379"}),
        ("ray://head:10001", "ray", {"address": "ray://head:10001"}),
        ("package.module:Mine", "package.module:Mine", {}),
        ({"name": "ray", "options": {"actors": 2}}, "ray", {"actors": 2}),
    ],
)
def test_short_forms(written: Any, name: str, options: dict[str, Any]) -> None:
    assert config(workers=written).workers == PluginConfig(name=name, options=options)


def test_nobody_else_evaluates_by_default() -> None:
    assert config().workers == PluginConfig(name="none")
    assert build_workers(config()) is None
    with pytest.raises(ConfigError, match="workers: ray"):
        registry.create("workers", "none").start(object())


def test_runs_go_on_with_other_workers() -> None:
    check_same(config(), config(workers="ray"), "test")
    with pytest.raises(ConfigError, match="evaluator"):
        check_same(config(), config(workers="ray", evaluator="ptq"), "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"actor": 2}, "unknown option 'actor' in options of 'ray'; did you mean 'actors'"),
        ({"actors": 0}, "actors in options of 'ray': input should be greater than or equal to 1"),
        ({"patience": 0}, "patience"),
    ],
)
def test_options_are_checked_before_anything_is_spent(options: dict[str, Any], message: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=message):
        prepare(config(workers={"name": "ray", "options": options}))


def test_an_unknown_kind_is_answered_by_the_nearest() -> None:
    with pytest.raises(PluginError, match="unknown kind of workers 'rai'; did you mean 'ray'"):
        prepare(config(workers="rai"))


class Crew:
    """Workers that are never started here."""

    class Options(PluginOptions):
        pass

    def __init__(self, options: Options) -> None:
        pass

    def start(self, evaluator: object) -> Any:
        raise AssertionError("nothing is started to be checked")


class Willing(Crew):
    """One worker: the evaluator itself."""

    @contextmanager
    def start(self, evaluator: Any) -> Iterator[Any]:
        yield evaluator


@pytest.mark.parametrize("batches", [(), (1, 1), (1, 2)])
def test_workers_that_had_nothing_to_divide_are_told_of(
    batches: tuple[int, ...], caplog: Any, monkeypatch: Any
) -> None:
    willing = config()
    monkeypatch.setattr(setting_module, "build_workers", lambda config: Willing(Crew.Options()))
    posed = prepare(config())
    with setting_module.staffed(willing, posed) as setting:
        assert setting.batching is not None
        for count in batches:
            asked = [posed.problem.space.uniform(8)] * count
            assert len(list(setting.batching.evaluate_many(asked))) == count
    assert ("no search asked for more than one assignment" in caplog.text) == (max(batches, default=0) < 2)


class Reminded:
    """An evaluator that may start from what it has trained before."""

    class Options(PluginOptions):
        warm_start: bool = False

    def __init__(self, workload: Any, layers: Any, options: Options) -> None:
        self.evaluate = registry.create("evaluators", "ptq", {"threads": 1}, workload, layers).evaluate

    def remember(self, folder: Path | None, trials: Any) -> None:
        pass

    def evaluate(self, assignment: Any, *, fidelity: float = 1.0, seed: int = 0) -> Any:
        raise AssertionError("hidden by the instance's own")

    def progress(self, assignment: Any, *, seed: int = 0) -> Any:
        raise AssertionError("nothing is evaluated in steps")


def test_evaluations_that_start_from_earlier_ones_are_refused() -> None:
    here = f"{__file__}:"
    evaluator = {"name": f"{here}Reminded", "options": {"warm_start": True}}
    with pytest.raises(ConfigError, match=r"start from earlier ones run one after the other.*warm_start: false"):
        prepare(config(workers=f"{here}Crew", evaluator=evaluator))
    prepare(config(workers=f"{here}Crew", evaluator=f"{here}Reminded"))
    prepare(config(evaluator=evaluator))


def test_evaluations_that_a_pruner_watches_are_refused() -> None:
    here = f"{__file__}:"
    with pytest.raises(ConfigError, match=r"a pruner watches run one after the other.*pruner: none"):
        prepare(config(workers=f"{here}Crew", evaluator=f"{here}Reminded", pruner="median"))


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
sys.argv = ["qsearch", *sys.argv[1:]]
from qsearch.cli import main
main()
"""


def test_without_ray_one_line_says_what_to_install(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_RAY, "search", f"{TINY}:Tiny", "--workers", "ray", "--hardware", "size"]
    done = subprocess.run([*command, "--runs", str(tmp_path / "runs")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "qsearch: the workers 'ray' need the package ray; pip install 'qsearch[cluster]'\n"
    assert not (tmp_path / "runs").exists()


def test_everything_but_workers_works_without_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, "list", "workers"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'qsearch[cluster]'" in done.stdout
