"""The command line on spiking networks: what it shows of them, and the choices of their neurons."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from campaigns import Answer, call
from spiking_plugins import spiking

from qsearch import registry
from qsearch.config import SpaceConfig, load
from qsearch.run import load as read
from qsearch.run import read_config
from qsearch.setting import anatomy_of
from qsearch.sites import CONSTANT_BITS, STATE_BITS, build_space
from qsearch.workloads.base import ArrayWorkload

ROOT = Path(__file__).parents[2]
Qsearch = Callable[..., Answer]


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(capfd, *arguments)


def rows(text: str) -> dict[str, list[str]]:
    """First cell of each row of a table → the others, told apart by two spaces."""
    found = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in found if cells}


def test_neurons_and_their_spikes_are_shown(qsearch: Qsearch) -> None:
    answer = qsearch("inspect", spiking())
    assert answer.code == 0
    assert max(map(len, answer.out.splitlines())) <= 100
    found = rows(answer.out)
    assert found["lif"][:3] == ["neuron", "4×4×4 neurons, 5 steps", "leak, state"]
    assert found["fire"][:3] == ["neuron", "12 neurons, 5 steps", "state"]  # which forget nothing
    assert found["lif.threshold"] == ["threshold", "one for all", "threshold", "0", "1"]
    assert found["fire.threshold"][1] == "one per neuron"
    assert found["hidden"][2] == "weight, spikes"
    assert found["hidden"][5:] == found["lif"][-2:]  # what leaves the one reaches the other
    assert found["neurons"][0].startswith("79 that keep a state for 5 steps; ")
    assert "spikes per validation sample" in answer.out


def test_json_has_the_rates(qsearch: Qsearch) -> None:
    layers = {layer["name"]: layer for layer in json.loads(qsearch("inspect", spiking(), "--json").out)["layers"]}
    lif = layers["lif"]
    assert lif["rate"] == pytest.approx(lif["events"] / (64 * 5))
    assert layers["conv"]["rate"] == pytest.approx(layers["conv"]["events"] / (36 * 5))
    assert "rate" not in layers["out"]
    assert [site["role"] for site in layers["hidden"]["sites"]] == ["weight", "spikes"]


def test_choices_of_neurons_on_the_command_line(qsearch: Qsearch, tmp_path: Path) -> None:
    """They are written where they are given."""
    chosen = ("--weight-bits", "2,8", "--state-bits", "4-6", "--threshold-bits", "3")
    plain = ("search", spiking(), "--hardware", "size", "--searcher", "random", "--evaluations", "2")
    assert qsearch(*plain, *chosen, "--name", "chosen").code == 0
    space = read_config(tmp_path / "runs" / "chosen").space
    assert (space.state_bits, space.threshold_bits, space.leak_bits) == ((4, 5, 6), (3,), CONSTANT_BITS)
    text = (tmp_path / "runs" / "chosen" / "campaign.yaml").read_text()
    assert "state_bits: [4, 5, 6]" in text
    assert "leak_bits" not in text


def test_neurons_may_be_fixed_and_tied(qsearch: Qsearch, tmp_path: Path) -> None:
    """All states at once, a site alone; thresholds that agree."""
    changes = (
        "--set",
        "space.fixed={states: 12, out.state: 16}",
        "--set",
        "space.ties=[[lif.threshold, fire.threshold]]",
    )
    plain = ("search", spiking(), "--hardware", "size", "--searcher", "random", "--evaluations", "4")
    assert qsearch(*plain, *changes, "--name", "fixed").code == 0
    trials = read(tmp_path / "runs" / "fixed").trials
    assert {(trial.assignment["lif.state"], trial.assignment["out.state"]) for trial in trials} == {(12, 16)}
    assert all(trial.assignment["lif.threshold"] == trial.assignment["fire.threshold"] for trial in trials)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--state-bits", "6-4"), "bits are given as 2-8 or as 2,4,8; got '6-4'"),
        (("--state-bits", "1"), "state bits of 'lif.state' must be at least 2; got (1,)"),
        (("--leak-bits", "40"), "space.leak_bits"),
        (("--set", "space.fixed={state: 12}"), "unknown name 'state' in fixed; did you mean 'states'?"),
        (("--set", "space.fixed={lif.stat: 12}"), "did you mean 'lif.state'?"),
        (("--set", "space.fixed={thresholds: 0}"), "fixed bits of 'lif.threshold' must be within 1..32; got 0"),
    ],
)
def test_mistakes_in_one_line(qsearch: Qsearch, arguments: tuple[str, ...], line: str) -> None:
    answer = qsearch("search", spiking(), "--hardware", "size", *arguments)
    assert answer.code == 2
    assert line in answer.line


def test_choices_of_neurons_are_left_out_of_files_where_nobody_chose() -> None:
    """As most networks have none; what was written before there were any means the same."""
    assert not {"state_bits", "leak_bits", "threshold_bits"} & SpaceConfig().model_dump().keys()
    assert SpaceConfig(state_bits=STATE_BITS).model_dump(mode="json") == SpaceConfig().model_dump(mode="json")
    changed = SpaceConfig(leak_bits=(3,))
    assert SpaceConfig(**changed.model_dump(mode="json")) == changed
    assert changed.model_dump()["overlay"] is None


def test_the_example_is_a_campaign_of_a_spiking_network() -> None:
    sweep = load(ROOT / "examples" / "spiking.yaml")
    workload = registry.create("workloads", sweep.workload.name, sweep.workload.options)
    assert isinstance(workload, ArrayWorkload)
    registry.create("cost_models", sweep.hardware.name, sweep.hardware.options)
    assert [config.name for config in sweep.campaigns()] == ["spiking/uniform-s0", "spiking/auto-s0"]


@pytest.mark.slow
def test_the_space_of_the_example() -> None:
    """Its inputs are all spikes, and each of its neurons has what the file gives choices of."""
    sweep = load(ROOT / "examples" / "spiking.yaml")
    workload = registry.create("workloads", sweep.workload.name, sweep.workload.options)
    space = build_space(anatomy_of(workload).layers, **sweep.space.model_dump())
    assert {site.role for site in space.sites} == {"weight", "spikes", "leak", "state", "threshold"}
    assert {len(v.choices) for v in space.variables} == {3, 5}


@pytest.mark.slow
def test_the_example_runs(qsearch: Qsearch, tmp_path: Path) -> None:
    """A short one: what it found, and how often neurons spike, are in the report."""
    small = ("--set", "budget={evaluations: 3}", "--set", "searcher=random")
    assert qsearch("run", ROOT / "examples" / "spiking.yaml", *small).code == 0
    folder = tmp_path / "runs" / "spiking"
    found = json.loads(qsearch("show", folder, "--json").out)
    assert found["float"]["accuracy"] > 0.97
    assert found["float"]["details"]["spikes"] > 0
    assert found["best"]["quality"]["details"]["spikes"] > 0
    assert found["best"]["mean_state_bits"] >= 4
    assert "of the float network" in (folder / "report.md").read_text()


def test_the_commented_settings_of_the_template_are_those_of_a_spiking_network(tmp_path: Path) -> None:
    text = (ROOT / "qsearch" / "template.yaml").read_text()
    for name in ("state_bits", "leak_bits", "threshold_bits"):
        text = text.replace(f"# {name}", name)
    (tmp_path / "c.yaml").write_text(text)
    space = load(tmp_path / "c.yaml").space
    assert (space.state_bits, space.leak_bits, space.threshold_bits) == (STATE_BITS, CONSTANT_BITS, CONSTANT_BITS)
