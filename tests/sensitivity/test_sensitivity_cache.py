"""Tables are found again by content, never trusted when damaged, and cost the same either way."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_workload import Small, evaluator, space
from torch import Tensor, nn

from qsearch import registry
from qsearch.costs import NetworkCost
from qsearch.errors import EvaluationError, StorageError
from qsearch.evaluate.ptq import PostTraining
from qsearch.oracle import Budget, CampaignOracle, MemoryRecord
from qsearch.problem import Objective, Problem
from qsearch.protocols import SensitivityTable
from qsearch.sensitivity_cache import Priced, read, sensitivities, write
from qsearch.setting import layers_of
from qsearch.testing.problems import WeightSize, coupled


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    return tmp_path / "sensitivities"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the sensitivities that are computed, as that happens."""
    calls: list[str] = []
    for name in ("quantization-error", "one-at-a-time", "pairwise"):
        plugin = registry.load("sensitivities", name)

        def table(self, space, evaluator, name=name, original=plugin.table):
            calls.append(name)
            return original(self, space, evaluator)

        monkeypatch.setattr(plugin, "table", table)
    return calls


def same(left: Priced, right: Priced) -> None:
    assert left.table.samples == right.table.samples
    assert left.seconds == right.seconds
    for part in ("damage", "interactions"):
        ours, theirs = getattr(left.table, part), getattr(right.table, part)
        assert list(ours) == list(theirs)
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)


@pytest.mark.parametrize("name", ["quantization-error", "pairwise"])
def test_a_table_is_computed_once(name: str, computed: list[str], folder: Path) -> None:
    first = sensitivities(name, None, space(), evaluator())
    second = sensitivities(name, {}, space(), evaluator())  # another evaluator of the same content
    assert computed == [name]
    same(first, second)
    assert first.seconds > 0
    assert first.table.samples > 0
    assert len(list(folder.iterdir())) == 1


def test_options_spelt_out_or_left_to_their_defaults_are_the_same(computed: list[str]) -> None:
    for options in ({}, {"measure": "kl"}):
        sensitivities("one-at-a-time", options, space(), evaluator())
    assert len(computed) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda: ("quantization-error", {}, space(), evaluator(Small(factor=1.01))),
        lambda: ("quantization-error", {}, space(), evaluator(Small(seed=1))),
        lambda: ("quantization-error", {}, space(), evaluator(calibration_samples=16)),
        lambda: ("quantization-error", {}, space(), evaluator(correction=False)),
        lambda: ("quantization-error", {"normalise": "energy"}, space(), evaluator()),
        lambda: ("quantization-error", {}, space(weight_bits=[2, 3]), evaluator()),
        lambda: ("quantization-error", {}, space(granularity="kernel"), evaluator()),
        lambda: ("quantization-error", {}, space(fixed={"first": 8}), evaluator()),
        lambda: ("one-at-a-time", {}, space(), evaluator()),
    ],
    ids=["weights", "data", "samples", "correction", "options", "bits", "granularity", "fixed", "plug-in"],
)
def test_whatever_a_table_depends_on_makes_it_another(change, computed: list[str]) -> None:
    sensitivities("quantization-error", {}, space(), evaluator())
    sensitivities(*change())
    assert len(computed) == 2


def test_another_loss_on_the_same_network_is_another_content(computed: list[str]) -> None:
    class Other(Small):
        def loss(self, output: Tensor, target: Tensor) -> Tensor:
            return 2 * super().loss(output, target)

    for workload in (Small(), Other()):
        sensitivities("one-at-a-time", {"measure": "loss"}, space(), evaluator(workload))
    assert len(computed) == 2


def test_fingerprints_are_the_same_in_another_evaluator_and_after_use() -> None:
    first, second = evaluator(), evaluator()
    before = first.fingerprint()
    first.probe(space().uniform(2))
    assert before == first.fingerprint() == second.fingerprint()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "forged"])
def test_a_damaged_file_is_computed_again(
    damage: str, computed: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = sensitivities("quantization-error", {}, space(), evaluator())
    file = next(folder.iterdir())
    whole = file.read_bytes()
    if damage == "forged":  # a sound archive whose numbers are not what was written
        with np.load(file) as archive:
            arrays = {key: archive[key] for key in archive.files}
        arrays["damage 0"] = arrays["damage 0"] + 1
        np.savez(file, **arrays)
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        file.write_bytes({"cut": whole[:-40], "flipped": flipped, "empty": b"", "text": b"hello"}[damage])
    with caplog.at_level(logging.WARNING, logger="qsearch"):
        second = sensitivities("quantization-error", {}, space(), evaluator())
    assert computed == ["quantization-error"] * 2
    assert "must be whole" in caplog.text
    assert all((value == second.table.damage[name]).all() for name, value in first.table.damage.items())
    same(second, sensitivities("quantization-error", {}, space(), evaluator()))
    assert len(computed) == 2


def test_a_table_of_another_space_is_not_read(tmp_path: Path) -> None:
    table = sensitivities("quantization-error", {}, space(), evaluator())
    write(tmp_path / "x.npz", table)
    same(read(tmp_path / "x.npz", space()), table)
    with pytest.raises(StorageError, match="variables of another space"):
        read(tmp_path / "x.npz", space(weight_bits=[2, 3, 4]))


def test_a_folder_that_cannot_be_written_costs_only_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, logger="qsearch"):
        for _ in range(2):
            sensitivities("quantization-error", {}, space(), evaluator())
    assert len(computed) == 2
    assert "set QSEARCH_CACHE" in caplog.text


def test_what_nobody_can_fingerprint_is_computed_each_time(computed: list[str], folder: Path) -> None:
    class Changed(PostTraining):
        """Inherits its fingerprint, which knows nothing of what it does otherwise."""

    problem, quadratic = coupled(3)
    changed = Changed(Small(), layers_of(Small()), PostTraining.Options())
    for _ in range(2):
        sensitivities("one-at-a-time", {}, problem.space, quadratic)
        sensitivities("one-at-a-time", {}, space(), changed)
    assert len(computed) == 4
    assert not folder.exists()


def test_a_plugin_from_a_file_is_computed_each_time(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "from qsearch.protocols import SensitivityTable\n"
        "class Mine:\n"
        "    calls = 0\n"
        "    def table(self, space, evaluator):\n"
        "        Mine.calls += 1\n"
        "        damage = {v.name: np.full((v.length, len(v.choices)), Mine.calls) for v in space.variables}\n"
        "        return SensitivityTable(damage, 1)\n"
    )
    found = [sensitivities(f"{file}:Mine", {}, space(), evaluator()).table for _ in range(2)]
    assert [table.damage["0.weight"][0, 0] for table in found] == [1, 2]
    assert not folder.exists()


def test_the_oracle_counts_a_table_from_the_cache_as_spent(computed: list[str]) -> None:
    spent = []
    for _ in range(2):
        wide = space()
        problem = Problem(
            wide, NetworkCost(WeightSize(), layers_of(Small()), wide), (Objective("accuracy", "maximize"),)
        )
        oracle = CampaignOracle(problem, evaluator(), MemoryRecord(), Budget(evaluations=1))
        table: SensitivityTable = oracle.sensitivity("quantization-error")
        assert oracle.sensitivity("quantization-error") is table
        assert oracle.sensitivity_samples == table.samples > 0
        spent.append((oracle.sensitivity_samples, oracle.sensitivity_seconds))
    assert computed == ["quantization-error"]
    assert spent[0] == spent[1]


def test_steps_are_distances_of_levels() -> None:
    """What noise is scaled by, read off the quantised values themselves."""
    found = evaluator().float_network()
    for bits in (1, 2, 3, 8):
        values = found.quantized_weight("4.weight", bits)
        for kernel, step in zip(values, found.step("4.weight", bits), strict=True):
            gaps = kernel.double().unique().diff()
            assert float(gaps.min()) == pytest.approx(float(step), rel=1e-3)
        x = torch.linspace(-4, 4, 20001)
        levels = found.quantized_input("0.input", bits, x).double().unique()
        assert float(levels.diff().min()) == pytest.approx(float(found.step("0.input", bits)), rel=1e-3)


def test_a_kernel_of_zeros_has_no_step_and_a_pruned_one_the_power_it_loses() -> None:
    found = evaluator().float_network()
    for bits in (0, 1, 4):
        assert float(found.step("0.weight", bits)[1]) == 0
    weight = found.layers["4"].weight.detach()
    assert isinstance(weight, Tensor)
    assert found.step("4.weight", 0).square() / 12 == pytest.approx(weight.square().mean(1).numpy(), rel=1e-5)


class Step(nn.Module):
    """0 or 1, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).float()


class SoftStep(nn.Module):
    """The same outputs, with the gradient of a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.sigmoid(4 * x)
        return soft + ((x > 0).float() - soft).detach()


class Stepped(Small):
    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step

    def model(self) -> nn.Module:
        network = super().model()
        network[2] = self.step
        return network


def test_the_same_outputs_with_other_gradients_are_another_content(computed: list[str]) -> None:
    hard, soft = evaluator(Stepped(Step())), evaluator(Stepped(SoftStep()))
    assert hard.probe(space().uniform(2)) == soft.probe(space().uniform(2))
    assert hard.fingerprint() != soft.fingerprint()
    for found in (hard, soft):
        sensitivities("quantization-error", {}, space(), found)
    assert len(computed) == 2


def loaded(file: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class ``Made`` of a module whose text is given."""
    file.write_text(f"from small_workload import Small\nclass Made(Small):\n    {code}\n")
    spec = importlib.util.spec_from_file_location("made_for_a_fingerprint", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "made_for_a_fingerprint", module)
    spec.loader.exec_module(module)
    return module.Made


def test_other_code_is_another_content_whatever_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        evaluator(loaded(tmp_path / f"{stem}.py", code, monkeypatch)()).fingerprint()
        for stem, code in (("a", "one = 1"), ("b", "two = 2"))
    ]
    assert None not in found
    assert found[0] != found[1]


def test_code_without_a_source_is_computed_each_time(
    computed: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loaded(tmp_path / "gone.py", "pass", monkeypatch)
    (tmp_path / "gone.py").unlink()
    for _ in range(2):
        assert evaluator(made()).fingerprint() is None
        sensitivities("quantization-error", {}, space(), evaluator(made()))
    assert len(computed) == 2
    assert not folder.exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return SensitivityTable({v.name: np.ones((3, 3)) for v in space.variables}, 0)", r"of shape \(1, 2\)"),
        ("d['0.input'][0, 0] = np.nan; return SensitivityTable(d, 0)", r"'0\.input' must be finite.*1 not finite"),
        ("del d['4.weight']; return SensitivityTable(d, 0)", r"sensitivities of '4\.weight'"),
        ("return SensitivityTable(d, 0, {('4.weight', '0.weight'): np.ones((2, 2))})", "in the order of the space"),
        ("return SensitivityTable({**d, '0.input': 'much'}, 0)", "must give a table of numbers; got ValueError"),
        ("return d", "must give a table of numbers; got AttributeError"),
        ("raise ValueError('boom')", r"sensitivity '.*mine\.py:Mine' must give .*; got ValueError: boom"),
    ],
    ids=["shape", "nan", "missing", "pair", "words", "dict", "raises"],
)
def test_a_table_that_cannot_be_believed_is_told(body: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "from qsearch.protocols import SensitivityTable\n"
        "class Mine:\n"
        "    def table(self, space, evaluator):\n"
        "        d = {v.name: np.ones((v.length, len(v.choices))) for v in space.variables}\n"
        f"        {body}\n"
    )
    with pytest.raises(EvaluationError, match=words):
        sensitivities(f"{file}:Mine", None, space(), evaluator())


def test_a_table_that_cannot_be_believed_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.load("sensitivities", "quantization-error")
    monkeypatch.setattr(plugin, "table", lambda self, space, evaluator: SensitivityTable({}, 0))
    with pytest.raises(EvaluationError, match="must be finite"):
        sensitivities("quantization-error", {}, space(), evaluator())
    assert not folder.exists()
