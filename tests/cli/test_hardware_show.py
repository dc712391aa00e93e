"""``qsearch hardware show``: costs by layer at uniform bits, as a table, a page and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from campaigns import Answer, call, plugin

from qsearch.registry import create
from qsearch.setting import layers_of

ROOT = Path(__file__).parents[2]
EXAMPLE = f"{ROOT / 'examples' / 'my_accelerator.py'}:MyAccelerator"
PNG = b"\x89PNG\r\n\x1a\n"
Show = Callable[..., Answer]


@pytest.fixture
def show(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Show:
    """``qsearch hardware show`` of the small workload, in this process, 80 columns wide, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: call(capfd, "hardware", "show", *arguments, "--workload", plugin("Tiny"))


@pytest.fixture(scope="module")
def layers():
    return layers_of(create("workloads", plugin("Tiny")))


def cells(text: str, first: str) -> list[str]:
    """A row of a table by what it begins with."""
    return next(line for line in text.splitlines() if line.strip().startswith(first)).split()


def test_the_table_has_layers_shares_total_and_what_is_relative(show: Show, layers) -> None:
    answer = show(EXAMPLE, "--set", "lanes=64")
    assert (answer.code, answer.err) == (0, "")
    expected = {layer.name: [layer.macs * b * b / 64 / 200e6 * 1e6 for b in (2, 4, 8)] for layer in layers}
    total = np.sum(list(expected.values()), axis=0)
    assert answer.out.startswith("latency in µs: MyAccelerator")
    for name, costs in expected.items():
        row = cells(answer.out, f"{name} ")
        assert [float(cell) for cell in row[1:4]] == pytest.approx(costs, rel=5e-3)
        assert row[4:] == [f"{100 * costs[2] / total[2]:.1f}", "%"]
    assert [float(cell) for cell in cells(answer.out, "total")[1:]] == pytest.approx(list(total), rel=5e-3)
    assert cells(answer.out, "÷ 8 bits") == ["÷", "8", "bits", "0.062", "0.250", "1.000"]
    assert "share: of the total at 8 bits" in answer.out
    assert all(len(line) <= 80 for line in answer.out.splitlines())


def test_all_metrics_are_shown_or_the_one_that_is_asked_for(show: Show) -> None:
    everything = show("bismo").out
    assert [line.split(" in ")[0] for line in everything.splitlines() if ": bismo" in line] == [
        "latency",
        "energy",
        "size",
    ]
    assert "energy: BISMO: " in everything, "an energy says whose it is"
    assert show("bismo", "--metric", "size").out.startswith("size in ")


def test_models_that_define_a_metric_alike_stand_side_by_side(show: Show) -> None:
    answer = show("bismo", "bitfusion", "--metric", "latency", "--bits", "4,8")
    assert (answer.code, answer.err) == (0, "")
    alone = {
        name: cells(show(name, "--metric", "latency", "--bits", "4,8").out, "÷ 8")[3:]
        for name in ("bismo", "bitfusion")
    }
    assert cells(answer.out, "÷ 8")[3:] == [*alone["bismo"], *alone["bitfusion"]]
    assert answer.out.splitlines()[2].split() == ["bismo", "bitfusion"]
    assert all(len(line) <= 80 for line in answer.out.splitlines())


def test_many_models_are_shown_in_tables_that_fit(show: Show) -> None:
    names = ("bismo", "bitfusion", "roofline", "reram")
    answer = show(*names, "--metric", "latency", "--output", "page")
    assert answer.code == 0
    titles = [line.strip() for line in answer.out.splitlines() if line.startswith("latency in ")]
    assert [title.partition(": ")[2] for title in titles] == ["bismo, bitfusion", "roofline, reram"]
    assert "…" not in answer.out, "no number is cut"
    assert all(len(line) <= 80 for line in answer.out.splitlines())


def test_energies_of_two_definitions_never_share_a_table(show: Show) -> None:
    refused = show("bismo", "bitfusion", "--metric", "energy")
    assert (refused.code, refused.out) == (2, "")
    assert "got bismo: BISMO: " in refused.err
    assert "; bitfusion: BitFusion: " in refused.err
    everything = show("bismo", "bitfusion")
    assert everything.code == 0
    titles = [line.strip() for line in everything.out.splitlines() if ": bi" in line and " in " in line]
    assert [title.split(" in ")[0] for title in titles] == ["latency", "energy", "energy", "size"]
    assert "not side by side: bismo, bitfusion mean different things by energy" in everything.out


def test_a_greatest_is_no_total(show: Show, layers) -> None:
    answer = show("memory", "--metric", "peak_memory")
    rows = np.asarray([[float(cell) for cell in cells(answer.out, f"{layer.name} ")[1:4]] for layer in layers])
    assert [float(cell) for cell in cells(answer.out, "greatest")[1:]] == rows.max(axis=0).tolist()
    assert "share: of the greatest at 8 bits" in answer.out


def test_constants_are_printed_with_unit_and_source(show: Show) -> None:
    answer = show("bismo", "--constants", "--set", "frequency=1e8")
    told = " ".join(answer.out.split())
    assert "Numbers of bismo" in told
    assert "frequency 1e+08 Hz set by an option of the campaign" in told
    assert "rows 8 1 EECS-NTNU/bismo README, PYNQ-Z1 instance [V]" in told
    assert "the model does not say which it uses" in " ".join(show(EXAMPLE, "--constants").out.split())


def test_options_of_several_models_carry_their_names(show: Show) -> None:
    settings = ("--set", "bismo.platform=vu9p", "--set", "MyAccelerator.lanes=64")
    both = json.loads(show("bismo", EXAMPLE, *settings, "--metric", "latency", "--json").out)["models"]
    for name, setting in (("bismo", "platform=vu9p"), (EXAMPLE, "lanes=64")):
        alone = json.loads(show(name, "--set", setting, "--metric", "latency", "--json").out)["models"][name]
        assert both[name] == alone
    answer = show("bismo", EXAMPLE, "--set", "lanes=64")
    assert answer.code == 2
    assert "set by name.key=value; got lanes=64; bismo.lanes=64" in answer.err


def test_json_has_what_the_cost_model_says(show: Show, layers) -> None:
    found = json.loads(show("size", "--json", "--bits", "2-4,8", "--constants").out)
    assert found["workload"] == plugin("Tiny")
    model = found["models"]["size"]
    assert (model["bits"], model["relative_to"]) == ([2, 3, 4, 8], 8)
    metric, direct = model["metrics"]["size"], create("cost_models", "size")
    assert metric["unit"] == "byte"
    for layer in layers:
        expected = [direct.layer_cost(layer, np.full(layer.kernels, bits), bits)["size"] for bits in (2, 3, 4, 8)]
        assert metric["layers"][layer.name] == pytest.approx(expected)
    assert metric["totals"] == pytest.approx(np.sum(list(metric["layers"].values()), axis=0))
    assert metric["relative"][-1] == 1
    assert all(set(item) == {"value", "unit", "source"} for item in model["constants"].values())


def test_without_8_the_most_bits_are_the_reference(show: Show) -> None:
    assert cells(show("size", "--bits", "2,4").out, "÷ 4 bits")[-1] == "1.000"


def test_a_table_with_spreads_says_how_sure_it_is(show: Show, layers, tmp_path: Path) -> None:
    rows = [f"{layer.name},8,8,2,1.349" for layer in layers]
    text = "\n".join(["layer,weight_bits,activation_bits,latency [ms],latency spread [ms]", *rows])
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    answer = show("lut", "--set", "path=table.csv", "--bits", "8")
    assert (answer.code, answer.err) == (0, "")
    assert cells(answer.out, "total")[1:] == [f"{2 * len(layers)}.00"[:4], "±", f"{len(layers):.2g}"]


def test_a_table_that_does_not_answer_says_so_in_one_line(show: Show, layers, tmp_path: Path) -> None:
    header = "layer,weight_bits,activation_bits,latency [ms]"
    (tmp_path / "table.csv").write_text("\n".join([header, *(f"{x.name},8,8,2" for x in layers)]), encoding="utf-8")
    answer = show("lut", "--set", "path=table.csv")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"qsearch: table.csv has no cost of layer {layers[0].name!r} at these bits")
    (tmp_path / "table.csv").write_text(f"{header}\nconv9,8,8,2", encoding="utf-8")
    answer = show("lut", "--set", "path=table.csv", "--bits", "8")
    assert (
        answer.err
        == f"qsearch: table.csv has no layer {layers[0].name!r} of the network; nearest of its 1 layers: conv9\n"
    )


def test_the_page_has_plot_and_table_of_each_metric(show: Show, tmp_path: Path) -> None:
    answer = show("bismo", EXAMPLE, "--output", "page", "--constants")
    assert answer.code == 0
    assert answer.out.splitlines()[-1].split() == ["report", "page/hardware.html"]
    page = (tmp_path / "page" / "hardware.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    for text in ("latency in", "MyAccelerator 8 bits", "Numbers of bismo", "EECS-NTNU/bismo README"):
        assert text in page
    images = sorted((tmp_path / "page" / "plots").iterdir())
    assert len(images) == 3
    assert all(image.read_bytes().startswith(PNG) for image in images)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bismo", "--metric", "latncy"], "no cost model here gives the metric 'latncy'; did you mean 'latency'?"),
        (["bismo", "bismo"], "cost models side by side must differ; got bismo, bismo"),
        (["bismo", "--bits", "8-2"], "bits are given as 2-8 or as 2,4,8; got '8-2'"),
        (["bismo", "--bits", "0,8"], "activation bits of "),
        (["bismo", "--bits", "40"], "bits of "),
        (["bizmo"], "unknown cost model 'bizmo'"),
    ],
)
def test_a_request_that_is_wrong_is_one_line(show: Show, arguments: list[str], line: str) -> None:
    answer = show(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"qsearch: {line}")
    assert len(answer.err.splitlines()) == 1


def test_a_model_that_gives_totals_only(show: Show, tmp_path: Path) -> None:
    (tmp_path / "whole.py").write_text(
        """
from qsearch.protocols import CostModel
from qsearch.trial import Cost


class Whole(CostModel):
    units = {"latency": "s"}
    additive = False

    def estimate(self, layers, assignment):
        return Cost({"latency": 1e-3 * sum(assignment.mean_bits(layer.weight_site) for layer in layers)}, self.units)
""",
        encoding="utf-8",
    )
    answer = show("whole.py:Whole", "--output", "page")
    assert (answer.code, answer.err) == (0, "")
    assert cells(answer.out, "total")[1:] == ["6.00", "12.0", "24.0"]
    assert "<svg" not in (tmp_path / "page" / "hardware.html").read_text(encoding="utf-8")
