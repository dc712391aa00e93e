from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel, Field, model_validator

from qsearch import registry
from qsearch.errors import ConfigError, PluginError
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.size import Size
from qsearch.registry import create, load, names, validate


@pytest.fixture
def plugin(tmp_path):
    """A file with a plug-in that has nested options, one that has none, and something that is no class."""
    path = tmp_path / "chip.py"
    path.write_text(
        textwrap.dedent(
            """
            from pydantic import BaseModel
            from qsearch.registry import PluginOptions

            class Cache(PluginOptions):
                kilobytes: int = 32
                ports: int = 1

            class Plain:
                def __init__(self, *given):
                    self.given = given

                def evaluate(self, assignment, *, fidelity=1.0, seed=0):
                    pass

            class Chip(Plain):
                class Options(PluginOptions):
                    lanes: int
                    cache: Cache = Cache()

            number = 3
            """
        )
    )
    return path


def test_built_in_cost_models_by_name():
    assert {"size", "bops", "roofline", "bitfusion", "bismo"} <= set(names("cost_models"))
    assert names("cost_models") == sorted(names("cost_models"))
    assert load("cost_models", "bismo") is Bismo


def test_module_and_class():
    assert load("cost_models", "qsearch.hardware.size:Size") is Size


def test_file_and_class(plugin):
    chip = load("cost_models", f"{plugin}:Chip")
    assert chip.__name__ == "Chip"
    assert load("cost_models", f"{plugin}:Chip") is chip


def test_two_files_of_the_same_name_are_two_modules(plugin, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "chip.py").write_text("class Chip: pass\n")
    assert load("cost_models", f"{plugin}:Chip") is not load("cost_models", f"{other / 'chip.py'}:Chip")


def test_options_arrive_validated_and_behind_the_context(plugin):
    made = create("evaluators", f"{plugin}:Chip", {"lanes": 4, "cache": {"ports": 2}}, "workload", "layers")
    assert made.given[:2] == ("workload", "layers")
    assert (made.given[2].lanes, made.given[2].cache.ports, made.given[2].cache.kilobytes) == (4, 2, 32)


def test_without_options_only_the_context_arrives(plugin):
    assert create("evaluators", f"{plugin}:Plain", None, "workload").given == ("workload",)
    assert create("evaluators", f"{plugin}:Plain", {}).given == ()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Chip", {"lanes": 4, "lane": 2}, "unknown option 'lane' in options of .*did you mean 'lanes'"),
        ("Chip", {"lanes": 4, "cache": {"port": 2}}, r"unknown option 'cache\.port' .*did you mean 'ports'"),
        ("Chip", {"lanes": "many"}, "lanes in options of .*valid integer.*; got many"),
        ("Chip", {"lanes": 4, "cache": {"kilobytes": "x"}}, r"cache\.kilobytes in options"),
        ("Chip", {}, "lanes in options of .*field required"),
        ("Plain", {"lanes": 4}, "takes no options; got lanes"),
    ],
)
def test_options_that_do_not_fit(plugin, name, options, message):
    with pytest.raises(ConfigError, match=message):
        create("evaluators", f"{plugin}:{name}", options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bsmo", "unknown cost model 'bsmo'; did you mean 'bismo'.*known: .*size"),
        ("qsearch.hardware.size:Sise", "qsearch.hardware.size has no class 'Sise'; did you mean 'Size'"),
        ("no_such_module:Class", "cannot be imported; got ModuleNotFoundError"),
        ("no/such/file.py:Class", "a plug-in's file must exist; got no/such/file.py"),
        (":Class", "cannot be imported"),
        ("qsearch.hardware.size:", "has no class ''"),
        ("math:pi", "must be a class; got float"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(PluginError, match=message):
        load("cost_models", name)


def test_no_such_class_in_a_file(plugin):
    with pytest.raises(PluginError, match=r"chip\.py has no class 'Chp'; did you mean 'Chip'"):
        load("cost_models", f"{plugin}:Chp")
    with pytest.raises(PluginError, match="must be a class; got int"):
        load("cost_models", f"{plugin}:number")


def test_a_file_that_fails_is_told_and_tried_again(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(PluginError, match="cannot be imported; got RuntimeError: no licence"):
        load("cost_models", f"{path}:Chip")
    path.write_text("class Chip: pass\n")
    assert load("cost_models", f"{path}:Chip").__name__ == "Chip"


def test_a_plug_in_that_says_what_it_lacks_is_taken_at_its_word(tmp_path, monkeypatch):
    (tmp_path / "needs_an_extra.py").write_text(
        "from qsearch.errors import PluginError\nraise PluginError('the target needs onnx', fix=\"pip install it\")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("wanting", "needs_an_extra:Target", "qsearch.targets")
    monkeypatch.setattr(registry, "_entries", lambda seam: {entry.name: entry})
    with pytest.raises(PluginError, match=r"^the target needs onnx; pip install it$"):
        load("targets", "wanting")


SEAMS = """
from qsearch.hardware.base import VectorCostModel
from qsearch.protocols import CostModel, Searcher

class Empty: pass

class Stub(CostModel): pass

class NoUnits(CostModel):
    def layer_cost(self, layer, weight_bits, activation_bits):
        return {}

class UnitsOfTheInstance(NoUnits):
    def __init__(self):
        self.units = {}

class Whole(CostModel):
    units = {}
    additive = False
    def estimate(self, layers, assignment):
        return None

class Abstract(VectorCostModel):
    units = {}

class NoSearch(Searcher): pass

class Nameless:
    def model(self): pass
    calibration = validation = loss = score = model
"""


@pytest.mark.parametrize(
    ("seam", "name", "rule", "missing"),
    [
        ("cost_models", "Empty", "must be a cost model", "layer_cost, estimate, estimate_many"),
        ("cost_models", "Stub", "must be a cost model", "layer_cost"),
        ("cost_models", "NoUnits", "must be a cost model", "units"),
        ("cost_models", "Abstract", "must be a cost model", "layer_costs"),
        ("workloads", "Empty", "must be a workload", "model, calibration, validation, loss, score"),
        ("workloads", "Nameless", "must be a workload", "name, metric"),
        ("evaluators", "Empty", "must be an evaluator", "evaluate"),
        ("searchers", "NoSearch", "must be a searcher", "search"),
        ("sensitivities", "Empty", "must be a sensitivity", "table"),
    ],
)
def test_a_class_that_does_not_fit_its_seam_is_told_what_it_lacks(tmp_path, seam, name, rule, missing):
    (tmp_path / "seams.py").write_text(SEAMS)
    with pytest.raises(PluginError, match=rf"{name}' {rule}; got a class without {missing}; see \w+ in qsearch.protoc"):
        create(seam, f"{tmp_path / 'seams.py'}:{name}")


@pytest.mark.parametrize("name", ["UnitsOfTheInstance", "Whole"])
def test_what_a_cost_model_may_do_without(tmp_path, name):
    (tmp_path / "seams.py").write_text(SEAMS)
    assert create("cost_models", f"{tmp_path / 'seams.py'}:{name}").units == {}


def test_a_rule_keeps_its_capitals_and_loses_the_words_of_pydantic():
    class Picky(BaseModel):
        pattern: str = Field(default="", pattern="^[A-Z]$")
        limit: float = 0.0

        @model_validator(mode="after")
        def _valid(self):
            if self.limit > 1:
                raise ValueError("TPE needs B in 1..32")
            return self

    with pytest.raises(ConfigError, match=r"pattern in test: string should match pattern '\^\[A-Z\]\$'; got a"):
        validate(Picky, {"pattern": "a"}, "test")
    with pytest.raises(ConfigError, match=r"value in test: TPE needs B in 1\.\.32"):
        validate(Picky, {"limit": 2}, "test")
