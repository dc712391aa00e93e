"""The campaign file: what it may say, what it becomes, and what is written back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from campaigns import PLUGINS, plugin, settings, write
from hypothesis import example, given
from hypothesis import strategies as st

from qsearch.config import CampaignConfig, Sweep, dump, load, merged, override, parse
from qsearch.errors import ConfigError, PluginError, StorageError

ROOT = Path(__file__).parents[2]
finite = st.floats(allow_nan=False, allow_infinity=False)


def names(sweep: Sweep) -> list[str]:
    return [config.name for config in sweep.campaigns()]


def sweep(**changes: Any) -> Sweep:
    return parse(settings(**changes), "test")


class TestSweeps:
    def test_one_searcher_and_one_seed_are_one_campaign_of_that_name(self) -> None:
        (config,) = sweep(seed=3).campaigns()
        assert (config.name, config.seed, config.searcher.name) == ("tiny", 3, "random")

    def test_every_combination_and_seeds_only_for_searchers_that_use_chance(self) -> None:
        found = sweep(searcher=["uniform", "random", {"name": "optuna", "options": {"sampler": "gp"}}], seed=[4, 7])
        expected = ["uniform-s4", "random-s4", "random-s7", "optuna-gp-s4", "optuna-gp-s7"]
        assert names(found) == [f"tiny/{name}" for name in expected]

    def test_several_seeds_of_a_searcher_without_chance(self) -> None:
        assert names(sweep(searcher="ilp", seed=[0, 1, 2])) == ["tiny/ilp-s0"]

    def test_all_else_is_shared(self) -> None:
        campaigns = sweep(searcher=["random", "ilp"], max_failures=3).campaigns()
        assert len(campaigns) == 2
        for config in campaigns:
            for key in ("budget", "workload", "hardware", "space", "evaluator", "objectives", "constraints"):
                assert getattr(config, key) == getattr(sweep(), key)
            assert config.max_failures == 3

    def test_the_stochastic_of_a_searcher_of_ones_own(self) -> None:
        found = sweep(searcher=[plugin("Walk"), plugin("OptionSearcher")], seed=[0, 1])
        assert names(found) == ["tiny/Walk-s0", "tiny/OptionSearcher-s0", "tiny/OptionSearcher-s1"]

    def test_the_same_searcher_with_other_options(self) -> None:
        searchers = [{"name": "optuna", "options": {"sampler": sampler}} for sampler in ("tpe", "nsga2")]
        assert names(sweep(searcher=searchers)) == ["tiny/optuna-tpe-s0", "tiny/optuna-nsga2-s0"]

    def test_options_that_are_no_part_of_a_folders_name(self) -> None:
        searchers = [{"name": "ilp", "options": {"sensitivity": value}} for value in ("a b/c.py:D", "../é", "")]
        assert names(sweep(searcher=searchers)) == ["tiny/ilp-a-b-c.py-D-s0", "tiny/ilp-..-é-s0", "tiny/ilp-s0"]

    @pytest.mark.parametrize(("searcher", "seed"), [(["ilp", "ilp"], 0), ("random", [1, 1])])
    def test_names_must_differ(self, searcher: Any, seed: Any) -> None:
        with pytest.raises(ConfigError, match="must have different names"):
            sweep(searcher=searcher, seed=seed).campaigns()

    def test_a_sweep_within_a_sweep_is_none(self) -> None:
        assert names(sweep(name="a/b")) == ["a/b"]
        with pytest.raises(ConfigError, match="must have one part; got a/b"):
            sweep(name="a/b", seed=[0, 1]).campaigns()

    def test_an_unknown_searcher(self) -> None:
        with pytest.raises(PluginError, match="unknown searcher 'ipl'; did you mean 'ilp'"):
            sweep(searcher="ipl").campaigns()


class TestPlugins:
    def test_a_bare_name_is_enough(self) -> None:
        assert sweep(hardware="size").hardware == sweep(hardware={"name": "size"}).hardware

    def test_files_are_looked_up_beside_the_campaign_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "mine.py").write_text(PLUGINS.read_text())
        names_ = {"workload": "mine.py:Tiny", "hardware": "mine.py:Adder", "evaluator": "mine.py:Slow"}
        file = write(tmp_path / "there" / "c.yaml", settings(**names_, searcher=["mine.py:Walk", "ilp"]))
        monkeypatch.chdir(tmp_path)
        found = load(file)
        folder = tmp_path / "there"
        assert found.workload.name == f"{folder / 'mine.py'}:Tiny"
        assert found.hardware.name == f"{folder / 'mine.py'}:Adder"
        assert found.evaluator.name == f"{folder / 'mine.py'}:Slow"
        assert [item.name for item in found.searcher] == [f"{folder / 'mine.py'}:Walk", "ilp"]

    def test_then_in_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine.py").write_text("")
        file = write(tmp_path / "there" / "c.yaml", settings(workload="mine.py:Tiny"))
        monkeypatch.chdir(tmp_path)
        assert load(file).workload.name == f"{tmp_path / 'mine.py'}:Tiny"

    def test_a_file_that_is_nowhere_keeps_its_name_for_the_error(self) -> None:
        assert sweep(workload="nowhere.py:Tiny").workload.name == "nowhere.py:Tiny"


class TestConstraints:
    @pytest.mark.parametrize(
        ("text", "fields"),
        [
            ("latency<=0.4", {"metric": "latency", "at_most": 0.4, "relative_to": "auto"}),
            ("latency <= 0.4*uniform-4", {"metric": "latency", "at_most": 0.4, "relative_to": "uniform-4"}),
            ("size<=100kB", {"metric": "size", "at_most": 100.0, "unit": "kB"}),
            ("accuracy>=0.99*float", {"metric": "accuracy", "at_least": 0.99, "relative_to": "float"}),
        ],
    )
    def test_one_line_is_the_same_as_its_fields(self, text: str, fields: dict[str, Any]) -> None:
        assert sweep(constraints=[text]).constraints == sweep(constraints=[fields]).constraints

    def test_a_number_without_a_unit_is_relative_in_either_form(self) -> None:
        fields = {"metric": "latency", "at_most": 0.4}
        assert sweep(constraints=[fields]).constraints == sweep(constraints=["latency<=0.4"]).constraints
        assert sweep(constraints=[{**fields, "unit": None}]).constraints[0].relative_to == "auto"
        assert (
            sweep(constraints=[{**fields, "unit": "s"}]).constraints == sweep(constraints=["latency<=0.4s"]).constraints
        )

    def test_an_absolute_number_of_an_old_run_stays_absolute(self, tmp_path: Path) -> None:
        old = {"metric": "latency", "at_most": 0.4, "at_least": None, "relative_to": None, "unit": None}
        found = sweep(constraints=[old])
        assert found.constraints[0].relative_to is None
        dump(found, tmp_path / "c.yaml")
        assert load(tmp_path / "c.yaml") == override(found, ["max_failures=10"], "test") == found

    def test_what_is_given_twice_or_not_at_all(self) -> None:
        for fields in ({"metric": "size"}, {"metric": "size", "at_most": 1, "at_least": 1}):
            with pytest.raises(ConfigError, match="exactly one of at_most and at_least"):
                sweep(constraints=[fields])


class TestStorage:
    @pytest.mark.parametrize(
        ("given_", "found"),
        [
            ("journal:a/b.log", "journal:/here/a/b.log"),
            ("journal:/a/b.log", "journal:/a/b.log"),
            ("sqlite:///a/b.db", "sqlite:////here/a/b.db"),
            ("sqlite+pysqlite:///b.db?timeout=3", "sqlite+pysqlite:////here/b.db?timeout=3"),
            ("sqlite:///50%25.db", "sqlite:////here/50%25.db"),
            ("sqlite:////a/b.db", "sqlite:////a/b.db"),
            ("sqlite:///:memory:", "sqlite:///:memory:"),
            ("sqlite:///file:b.db?uri=true", "sqlite:///file:b.db?uri=true"),
            ("sqlite://", "sqlite://"),
            ("postgresql://user@host/base", "postgresql://user@host/base"),
            ("nonsense", "nonsense"),
            (None, None),
        ],
    )
    def test_a_relative_path_becomes_absolute_once(
        self, monkeypatch: pytest.MonkeyPatch, given_: str | None, found: str | None
    ) -> None:
        monkeypatch.setattr(Path, "absolute", lambda path: Path("/here") / path)
        once = sweep(storage=given_)
        assert once.storage == found
        assert override(once, ["max_failures=4"], "test").storage == found


class TestPathsInOptions:
    """What a campaign reads is found again from any folder."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "campaigns" / "learnt").mkdir(parents=True)
        (tmp_path / "campaigns" / "chip.csv").write_text("")
        for name in ("linear", "table", "W4"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("hardware", "written", "found"),
        [
            ("lut", "chip.csv", "campaigns/chip.csv"),
            ("lut", "campaigns/chip.csv", "campaigns/chip.csv"),
            ("surrogate", "learnt", "campaigns/learnt"),
            ("surrogate", "learnt/", "campaigns/learnt"),
        ],
    )
    def test_are_looked_up_beside_the_file_then_in_the_working_folder(
        self, folder: Path, hardware: str, written: str, found: str
    ) -> None:
        value = settings(hardware={"name": hardware, "options": {"path": written}})
        once = parse(value, "test", Path("campaigns"))
        assert once.hardware.options == {"path": str(folder / found)}
        assert override(once, ["max_failures=4"], "test").hardware == once.hardware

    def test_other_options_stay_as_they_are_though_a_folder_has_their_name(self, folder: Path) -> None:
        options = {"path": "missing.csv", "interpolation": "linear", "definition": "table", "metric": "W4"}
        found = parse(settings(hardware={"name": "lut", "options": options}), "test", folder)
        assert found.hardware.options == options

    def test_of_a_plugin_that_does_not_exist_is_told_later(self, folder: Path) -> None:
        assert sweep(hardware={"name": "lot", "options": {"path": "table"}}).hardware.options == {"path": "table"}

    def test_of_a_searcher_show_their_last_two_parts_in_a_folders_name(self, folder: Path) -> None:
        searcher = {"name": "ddpg", "options": {"init": "campaigns/learnt"}}
        assert names(sweep(searcher=[searcher, "random"])) == ["tiny/ddpg-campaigns-learnt-s0", "tiny/random-s0"]


class TestMerged:
    def test_keeps_what_was_there_and_adds_what_is_new(self) -> None:
        earlier, later = (
            sweep(searcher=["random", "uniform"], seed=[0, 1]),
            sweep(searcher=["ilp", "random"], seed=[1, 2]),
        )
        found = merged(later, earlier)
        assert [item.name for item in found.searcher] == ["random", "uniform", "ilp"]
        assert found.seed == (0, 1, 2)

    def test_takes_the_later_options_and_budget(self) -> None:
        def build(population: int, evaluations: int) -> Sweep:
            options = {"sampler": "nsga2", "sampler_options": {"population_size": population}}
            return sweep(searcher=[{"name": "optuna", "options": options}], budget={"evaluations": evaluations})

        assert merged(build(8, 9), build(16, 6)) == build(8, 9)


class TestOverride:
    def test_settings_by_path(self) -> None:
        found = override(sweep(), ["budget.evaluations=9", "space.weight_bits=[2, 4]", "seed=[1, 2]"], "test")
        assert (found.budget.evaluations, found.space.weight_bits, found.seed) == (9, (2, 4), (1, 2))
        assert found.workload == sweep().workload

    def test_options_of_a_plugin(self) -> None:
        found = override(sweep(searcher="optuna"), ["searcher.options.sampler=gp", "evaluator.options.samples=7"], "")
        assert found.searcher[0].options == {"sampler": "gp"}
        assert found.evaluator.options == {"threads": 1, "samples": 7}

    def test_whole_plugins_and_lists(self) -> None:
        found = override(sweep(), ["searcher=[ilp, random]", "constraints=[size<=0.7]", "hardware=bops"], "test")
        assert names(found) == ["tiny/ilp-s0", "tiny/random-s0"]
        assert found.constraints[0].at_most == 0.7
        assert found.hardware.name == "bops"

    def test_the_last_change_counts(self) -> None:
        assert override(sweep(), ["seed=1", "seed=2"], "test").seed == (2,)

    def test_nothing_to_change(self) -> None:
        assert override(sweep(seed=[0, 1]), [], "test") == sweep(seed=[0, 1])

    def test_what_is_not_touched_stays_as_it_is(self) -> None:
        whole = sweep(searcher=["random", "ilp"], seed=[3, 4], storage="journal:x.log", constraints=["size<=0.5"])
        assert override(whole, ["max_failures=4"], "test") == whole.model_copy(update={"max_failures": 4})


class TestFiles:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"seed": [0, 1], "searcher": ["random", {"name": "optuna", "options": {"sampler": "tpe"}}]},
            {"budget": {"minutes": 0.5}, "storage": "journal:here.log", "evaluate_infeasible": True},
            {
                "constraints": ["size<=100kB", "accuracy>=0.9*float"],
                "space": {"fixed": {"first": 8}, "ties": [["a", "b"]]},
            },
        ],
    )
    def test_dump_and_load(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        found = sweep(**changes)
        dump(found, tmp_path / "sub" / "c.yaml")
        assert load(tmp_path / "sub" / "c.yaml") == found

    def test_a_single_campaign_is_a_campaign_file_too(self, tmp_path: Path) -> None:
        for config in sweep(searcher=["random", "ilp"], seed=[0, 5]).campaigns():
            dump(config, tmp_path / "c.yaml")
            assert load(tmp_path / "c.yaml").campaigns() == [config]

    @given(st.dictionaries(st.text(max_size=9), st.text(max_size=30) | st.none() | finite | st.integers()))
    @example({"a": "?0", "b": "null", "c": "1e3", "d": "0x1", "e": "2024-01-01", "f": "on"})
    def test_any_option_survives(self, tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
        found = sweep(searcher={"name": "ilp", "options": options})
        path = tmp_path_factory.mktemp("dump") / "c.yaml"
        dump(found, path)
        assert load(path) == found

    def test_a_folder_that_cannot_be_written(self) -> None:
        with pytest.raises(StorageError, match="folder must be writable"):
            dump(sweep(), Path("/dev/null/c.yaml"))

    @pytest.mark.parametrize("file", ["examples/demo.yaml", "qsearch/template.yaml"])
    def test_the_files_that_are_shipped(self, file: str) -> None:
        found = load(ROOT / file)
        assert found.campaigns()
        assert found.constraints[0].metric == "latency"

    def test_the_template_names_every_setting(self) -> None:
        text = (ROOT / "qsearch/template.yaml").read_text()
        for name in Sweep.model_fields:
            assert f"{name}:" in text

    def test_the_defaults(self) -> None:
        least = {key: settings()[key] for key in ("name", "budget", "workload", "hardware", "searcher")}
        (config,) = parse(least, "test").campaigns()
        assert isinstance(config, CampaignConfig)
        assert config.space.weight_bits == config.space.activation_bits == (2, 3, 4, 5, 6, 7, 8)
        assert (config.evaluator.name, config.seed, config.constraints, config.max_failures) == ("ptq", 0, (), 10)
        assert [(item.metric, item.direction) for item in config.objectives] == [("accuracy", "maximize")]
