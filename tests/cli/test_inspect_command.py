"""``qsearch inspect``: what it prints, that JSON is all of it, and ``--data`` of every command that makes a workload."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from campaigns import Answer, call, plugin, settings, write
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from qsearch.anatomy import TIES, Anatomy, LeftInFloat
from qsearch.errors import DataError
from qsearch.inspection import Inspection
from qsearch.layers import Layer
from qsearch.registry import PluginOptions
from qsearch.report.inspection_table import inspection_json, shape, tables, tail, together
from qsearch.report.wording import abridged
from qsearch.run import load
from qsearch.sites import build_space
from qsearch.trial import Quality
from qsearch.workloads.base import ArrayWorkload, Samples, Splits

WIDTH = 100
Qsearch = Callable[..., Answer]


class Mixed(nn.Module):
    """An attention of two heads by the functional call, a residual addition, and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(8, 8) for _ in range(4))
        self.memory = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.heads(layer(x)) for layer in (self.query, self.key, self.value))
        x = x + self.output(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        found: Tensor = self.head(self.memory(x)[0].mean(1))
        return found


class Attending(ArrayWorkload):
    """:class:`Mixed` on sequences of 5 drawn vectors."""

    name = "attending"
    classes = 3
    input_shape = (5, 8)

    def load(self) -> Splits:
        inputs = torch.randn(48, 5, 8, generator=torch.Generator().manual_seed(0))
        samples = Samples(inputs, torch.arange(48) % 3)
        return Splits(samples, samples, None, None)

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Mixed()


class FromFolder(Attending):
    """A workload that reads its data from a folder."""

    name = "from-folder"

    class Options(PluginOptions):
        """Where the data are."""

        data: Path | None = None
        """A folder with a file seed.txt."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def load(self) -> Splits:
        folder = self.options.data
        if folder is None or not (folder / "seed.txt").is_file():
            raise DataError("the folder of the data must hold seed.txt", got=str(folder))
        return super().load()


@pytest.fixture
def qsearch(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Qsearch:
    """``qsearch …`` in this process, in a folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "cache"))
    return lambda *arguments: call(capfd, *arguments)


def own(name: str) -> str:
    """A workload of this file."""
    return f"{__file__}:{name}"


def row(text: str, name: str) -> list[str]:
    """The cells of the line that begins with a name."""
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{name} "))
    return re.split(r" {2,}", line.strip())


@pytest.mark.slow  # it is trained where no cache has its weights
def test_a_network_of_convolutions(capfd: pytest.CaptureFixture[str]) -> None:
    answer = call(capfd, "inspect", "digits-resnet")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("Layers of digits-resnet")
    # 16 · 54 multiply-accumulates a position of 8 × 8, and 12 · 6 · 9 at a quarter of them
    assert row(answer.out, "conv1") == ["conv1", "conv", "1→6, 3×3, 8×8", "weight, input", "3.46 k", "54"]
    assert row(answer.out, "stages.1.0.conv1")[2:] == ["6→12, 3×3, stride 2, 8×8", "weight, input", "10.4 k", "648"]
    assert row(answer.out, "16 layers") == ["16 layers", "32 sites", "234 k", "24.6 k"]
    assert row(answer.out, "left in float") == ["left in float", "nothing"]
    assert re.search(r"float accuracy +9\d\.\d % on 400 validation samples, loss 0\.\d+", answer.out)
    assert max(map(len, answer.out.splitlines())) <= WIDTH


def test_attention_and_what_stays_in_float(qsearch: Qsearch) -> None:
    """The two products have two inputs and no weights; the LSTM's two matrices of 32 × 8 are not quantised."""
    answer = qsearch("inspect", own("Attending"))
    assert (answer.code, [line for line in answer.err.splitlines() if "memory" not in line]) == (0, [])
    assert row(answer.out, "scores")[1:] == ["matmul", "5×4 · 4×5, ×2", "other, input", "200", "0"]
    assert row(answer.out, "context")[1:] == ["matmul", "5×5 · 5×4, ×2", "other, input", "200", "0"]
    assert row(answer.out, "query")[1:] == ["linear", "8→8, 5 positions", "weight, input", "320", "64"]
    assert row(answer.out, "memory")[1:3] == ["LSTM", "512"]
    assert "{query.input" in answer.out or "query.input, key.input" in answer.out


def test_json_is_all_of_it(qsearch: Qsearch) -> None:
    answer = qsearch("inspect", own("Attending"), "--json")
    found = json.loads(answer.out)
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert found["workload"] == "attending"
    assert layers["scores"]["sites"] == [
        {"name": "scores.other", "role": "activation", "operand": 1, "kernels": 1},
        {"name": "scores.input", "role": "activation", "operand": 0, "kernels": 1},
    ]
    assert layers["head"]["sites"][0] == {"name": "head.weight", "role": "weight", "operand": None, "kernels": 3}
    assert (layers["head"]["in_channels"], layers["head"]["macs"], layers["head"]["weights"]) == (8, 24, 24)
    assert found["totals"] == {
        "layers": 7,
        "macs": 4 * 320 + 2 * 200 + 24,
        "weights": 4 * 64 + 24,
        "sites": 14,
        "left_in_float": 512,
    }
    assert any({"query.input", "key.input", "value.input"} <= set(group) for group in found["ties"]["inputs"])
    assert [(part["name"], part["numbers"]) for part in found["left"]] == [("memory", 512)]
    assert found["float_quality"]["samples"] == 48
    assert 0 <= found["float_quality"]["accuracy"] <= 1
    assert found["float_quality"]["loss"] > 0


def test_settings_of_the_evaluator(qsearch: Qsearch) -> None:
    changed = qsearch("inspect", plugin("Tiny"), "--set", "evaluator.options.samples=50")
    assert "on 50 validation samples" in changed.out
    assert "on 128 validation samples" in qsearch("inspect", plugin("Tiny")).out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["no-such"], "unknown workload 'no-such'"),
        ([plugin("Tiny"), "--set", "evaluator.options.sample=5"], "did you mean 'samples'"),
        (["digits-resnet", "--set", "space.weight_bits=[4]"], "unknown option 'space'"),
        (["digits-resnet", "--data", "."], "unknown option 'data' in options of 'digits-resnet'"),
        ([plugin("Tiny"), "--data", "."], "takes no options; got data"),
    ],
)
def test_mistakes_in_one_line(qsearch: Qsearch, arguments: list[str], line: str) -> None:
    answer = qsearch("inspect", *arguments)
    assert answer.code == 2
    assert line in answer.line


@pytest.mark.parametrize("folder", ["data", "1", "a: [b", "été"])
def test_the_folder_of_the_data(qsearch: Qsearch, tmp_path: Path, folder: str) -> None:
    """Whatever it is called; without it the workload says what it misses."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "seed.txt").write_text("0")
    assert qsearch("inspect", own("FromFolder"), "--data", folder).code == 0
    assert qsearch("inspect", own("FromFolder")).line == "the folder of the data must hold seed.txt; got None"


@pytest.mark.slow
def test_the_folder_of_the_data_for_each_command(qsearch: Qsearch, tmp_path: Path) -> None:
    """A run records it by its absolute path, so that it resumes from anywhere."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "seed.txt").write_text("0")
    file = write(tmp_path / "campaign.yaml", settings(workload=own("FromFolder"), budget={"evaluations": 2}))
    small = ("--weight-bits", "2,8", "--activation-bits", "4,8")
    assert qsearch("run", file, "--data", "data").code == 0
    assert load(tmp_path / "runs" / "tiny").config.workload.options == {"data": str(tmp_path / "data")}
    searched = ("search", own("FromFolder"), "--hardware", "size", "--searcher", "uniform", "--evaluations", "2")
    assert qsearch(*searched, *small, "--name", "found", "--data", "data").code == 0
    surveyed = ("sensitivity", own("FromFolder"), "--sensitivity", "quantization-error")
    assert qsearch(*surveyed, *small, "--data", "data").code == 0
    assert qsearch("run", file, "--data", "nowhere").code == 2


# tables of networks made up

LAYERS = (
    Layer("embeddings.word", "embedding", 30522, 384, input_size=(128,), output_size=(128,)),
    Layer("scores", "matmul", 32, 128, input_size=(128,), output_size=(128,), uses=12),
    Layer("depthwise", "conv", 32, 32, (3, 5), (2, 1), 32, (16, 16), (8, 16)),
    Layer("grouped", "conv", 32, 64, (3,), (2,), 4, (16,), (8,), uses=2),
    Layer("head", "linear", 384, 6),
)


RIGHT = np.repeat(np.float32([1, 0]), [455, 45])
"""Outcomes of 500 samples."""


def made_up(layers: tuple[Layer, ...], **more: Any) -> Inspection:
    space = build_space(layers, weight_bits=(2, 8), activation_bits=(2, 8))
    return Inspection("made-up", Anatomy(layers, **more), space.sites, Quality.from_outcomes(RIGHT, 0.3))


def printed(found: Inspection) -> list[str]:
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    for table in tables(found):
        console.print(table)
    return console.export_text().splitlines()


SHAPES = (
    "30522→384, 128 positions",
    "128×32 · 32×128, ×12",
    "32→32, 3×5, stride 2×1, depthwise, 16×16",
    "32→64, 3, stride 2, 4 groups, 16, ×2",
    "384→6",
)


@pytest.mark.parametrize(("layer", "expected"), list(zip(LAYERS, SHAPES, strict=True)))
def test_shapes_in_words(layer: Layer, expected: str) -> None:
    assert shape(layer) == expected


def test_a_mess_prints_within_its_columns() -> None:
    """Long names, long reasons, long and many groups: nothing is wider than the page, and each layer keeps its numbers."""
    prefix = ".".join(["very_long_name_of_a_block"] * 8)
    layers = tuple(
        Layer(
            f"{prefix}.{index}.{'x' * 60}", "conv", 4096, 4096, (11, 11), (4, 4), 4, (1024, 1024), (256, 256), uses=99
        )
        for index in range(60)
    )
    sites = [layer.activation_site for layer in layers]
    groups = (tuple(sites), *(tuple(sites[i : i + 2]) for i in range(40)))
    left = tuple(
        LeftInFloat(f"{prefix}.lstm{i}", "Kind" * 20, 10**9, "it may do anything at all " * 9) for i in range(3)
    )
    lines = printed(made_up(layers, ties={"inputs": groups, "residual": ()}, left=left))
    assert max(map(len, lines)) <= WIDTH
    assert sum("weight, input" in line for line in lines) == len(layers)
    assert sum(line.startswith(" inputs ") for line in lines) == 12 + 1
    assert sum("and 29 more groups" in line for line in lines) == 1
    assert sum("and 56 more" in line for line in lines) == 1


def test_nothing_to_tie_and_nothing_left() -> None:
    lines = printed(made_up(LAYERS))
    assert [line.split(maxsplit=1)[0] for line in lines if line and not line.startswith(" ")] == [
        "Layers",
        "ties",
        "left",
        "float",
    ]
    assert lines[-1].rstrip().endswith("91.0 % on 500 validation samples, loss 0.300")


def test_what_the_table_shortens_json_does_not() -> None:
    group = tuple(layer.activation_site for layer in LAYERS[1:])
    left = (LeftInFloat("memory", "LSTM", 512, "it has a state"),)
    found = json.loads(json.dumps(inspection_json(made_up(LAYERS, ties={"inputs": (group,)}, left=left))))
    assert found["ties"] == {"inputs": [list(group)]}
    assert found["left"] == [{"name": "memory", "what": "LSTM", "numbers": 512, "why": "it has a state"}]
    assert [layer["weights"] for layer in found["layers"]] == [30522 * 384, 0, 32 * 15, 64 * 8 * 3, 384 * 6]
    rebuilt = [
        Layer(**{key: tuple(v) if isinstance(v, list) else v for key, v in layer.items() if key not in MORE})
        for layer in found["layers"]
    ]
    assert tuple(rebuilt) == LAYERS


MORE = {"macs", "weights", "sites"}
"""What JSON says of a layer beside its geometry."""


@given(st.text("abc.", min_size=1, max_size=40), st.integers(5, 30))
def test_a_long_name_keeps_its_end(name: str, width: int) -> None:
    found = tail(name, width)
    assert len(found) <= width
    assert found == name if len(name) <= width else name.endswith(found.removeprefix("…")) and found[0] == "…"


def test_of_a_long_path_whole_parts_are_kept() -> None:
    assert tail("encoder.layer.0.attention.self.query", 30) == "…layer.0.attention.self.query"
    assert tail("encoder.layer.0.attention.self.query", 29) == "…layer.0.attention.self.query"
    assert tail("encoder.layer.0.attention.self.query", 28) == "…0.attention.self.query"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b.query.input", "a.b.key.input"], "a.b.{query.input, key.input}"),
        (["a.input", "b.input"], "a.input, b.input"),
        (["a.input", "a.other"], "a.{input, other}"),
        (["a.b", "a.b.c"], "a.{b, b.c}"),
        ([f"n.{i}" for i in range(6)], "n.{0, 1, 2, 3, and 2 more}"),
    ],
)
def test_groups_say_what_is_alike_once(names: list[str], expected: str) -> None:
    assert together(names) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_999, "1.00 M"), (40_551_424, "40.6 M"), (10**13, "10.0 T")],
)
def test_counts_in_three_digits(number: int, expected: str) -> None:
    assert abridged(number) == expected


def test_every_kind_of_tie_that_may_be_shown_is_explained() -> None:
    groups = dict.fromkeys(TIES, (("scores.input", "scores.other"),))
    text = " ".join(" ".join(printed(made_up(LAYERS, ties=groups))).split())
    for said in TIES.values():
        assert said in text
