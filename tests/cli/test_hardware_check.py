"""``qsearch hardware check``: every rule told in words, and one clear line for whatever a user's class does wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from campaigns import Answer, call

from qsearch.testing.cost_model import CostModelContract

ROOT = Path(__file__).parents[2]
RULES = sum(name.startswith("test_") for name in vars(CostModelContract))
Check = Callable[..., Answer]


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """``qsearch hardware check`` in this process, 80 columns wide, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: call(capfd, "hardware", "check", *arguments)


@pytest.fixture
def chip(tmp_path: Path) -> Callable[..., str]:
    """A file with a cost model, by the body of its ``layer_cost``: the name to call it by."""

    def write(body: str, rest: str = 'units = {"latency": "s"}') -> str:
        text = f"""
import numpy as np
from qsearch.protocols import CostModel


class Chip(CostModel):
    {rest}

    def layer_cost(self, layer, weight_bits, activation_bits):
        {body}
"""
        (tmp_path / "chip.py").write_text(text, encoding="utf-8")
        return "chip.py:Chip"

    return write


def test_the_example_holds_every_rule(check: Check) -> None:
    answer = check(ROOT / "examples" / "my_accelerator.py:MyAccelerator", "--set", "lanes=64")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0].endswith("examples/my_accelerator.py:MyAccelerator")
    assert sum(line.startswith("✓ ") for line in lines) == RULES
    assert lines[-1] == f"{RULES} of {RULES} rules hold"
    assert "✓ A pruned kernel, of 0 bits, costs no more than one of any other bits" in lines
    assert all(len(line) <= 80 for line in lines[1:])


def test_a_built_in_by_name_and_with_an_option(check: Check) -> None:
    assert check("bismo", "--set", "platform=vu9p", "--set", "batch=4").code == 0


def test_it_needs_neither_pytest_nor_torch() -> None:
    code = (
        "import sys; from qsearch.hardware_tools.check import check; from qsearch.registry import create;"
        "found = check(create('cost_models', 'size'));"
        "print(all(f.outcome == 'holds' for f in found), 'pytest' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "False", "False"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [1.0]", "layer_cost must return a mapping {metric: number}, got list [1.0] for layer 'embed'"),
        ("return 'fast'", "must return a mapping {metric: number}, got str 'fast'"),
        ("pass", "must return a mapping {metric: number}, got None for layer 'embed'"),
        ("return {'latency': '1 ms'}", "latency of layer 'embed' must be a number, got str '1 ms'"),
        ("return {'latency': np.ones(3, dtype=int)}", "latency of layer 'embed' must be a number, got ndarray array([1, 1, 1])"),
        ("import torch; return {'latency': torch.tensor(2.0)}", "latency of layer 'embed' must be a number, got Tensor tensor(2.)"),
        ("return {'latency': float('nan')}", "latency of layer 'embed' at 0/1 bits must be finite, got nan"),
        ("return {'latency': -1.0}", "latency of layer 'embed' at 0/1 bits must be at least 0, got -1.0"),
        ("return {}", "costs and units must have the same metrics, got costs of nothing, units of latency"),
        ("return {'latency': 1.0, 'energy': 1.0}", "got costs of energy, latency, units of latency"),
        ("return {'latency': 1 / 0}", "ZeroDivisionError: division by zero (chip.py, line 10)"),
        ("return {'latency': 1.0 + 8 - weight_bits.max()}", "latency of layer 'embed' at 12/1 bits must be at least 0"),
        ("return {'latency': layer.macs / (1.0 + weight_bits.mean())}", "latency must not fall with more bits, got 960 then 480: layer 'conv1d' from 0/1 to 1/1 bits"),
        ("return {'latency': layer.macs * (weight_bits * weight_bits.dtype.type(40)).mean()}", "layer 'conv1d' with bits as int8: latency is"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_numbers(check: Check, chip: Callable[..., str], body: str, reason: str) -> None:
    answer = check(chip(body))
    assert answer.code == 1
    told = " ".join(answer.out.split())
    assert reason in told
    assert "✗" in told
    assert "Traceback" not in answer.out + answer.err
    assert answer.err.startswith("qsearch: chip.py:Chip breaks ")
    assert len(answer.err.splitlines()) == 1


VECTOR = """
import numpy as np
import torch
from qsearch.hardware.base import VectorCostModel


class Chip(VectorCostModel):
    units = {"latency": "s"}

    def layer_costs(self, layer, weight_bits, activation_bits):
        BODY
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return [1.0]", "layer_costs must return a mapping {metric: array}; got list [1.0]"),
        ("pass", "layer_costs must return a mapping {metric: array}; got None"),
        ("return {'latency': 3.0}", "as a NumPy array of shape (1,); got float 3.0"),
        ("return {'latency': '3 ms'}", "as a NumPy array of shape (1,); got str '3 ms'"),
        ("return {'latency': ['3 ms']}", "as a NumPy array of shape (1,); got list ['3 ms']"),
        ("return {'latency': weight_bits * 1.0}", "as a NumPy array of shape (1,); got numpy ndarray of shape (1, 50), float64"),
        ("return {'latency': activation_bits > 3}", "got numpy ndarray of shape (1,), bool"),
        ("return {'latency': torch.tensor(activation_bits * 1.0)}", "got torch Tensor of shape (1,), torch.float64"),
    ],
)  # fmt: skip
def test_what_a_vectorised_model_returns_is_told(check: Check, tmp_path: Path, body: str, reason: str) -> None:
    (tmp_path / "chip.py").write_text(VECTOR.replace("BODY", body), encoding="utf-8")
    answer = check("chip.py:Chip")
    assert answer.code == 1
    assert reason in " ".join(answer.out.split())
    assert f"{RULES - 1} were not checked" in answer.out


def test_rules_behind_a_broken_foundation_are_not_checked(check: Check, chip: Callable[..., str]) -> None:
    answer = check(chip("return {'latency': None}"))
    lines = answer.out.splitlines()
    assert sum(line.startswith("✗") for line in lines) == 1
    assert sum(line.startswith("–") for line in lines) == RULES - 1
    assert '    fix: return a dictionary such as {"latency": float(seconds)}; float() turns' in lines
    assert answer.err == f"qsearch: chip.py:Chip breaks 1 of the {RULES} rules that others rely on\n"


def test_units_that_are_no_mapping(check: Check, chip: Callable[..., str]) -> None:
    answer = check(chip("return {'latency': 1.0}", 'units = ["latency"]'))
    assert answer.code == 1
    assert "units must be a mapping {metric: unit}, got list ['latency']" in answer.out


@pytest.mark.parametrize(
    ("rest", "code", "line"),
    [
        ("nothing = 0", 2, "plug-in 'chip.py:Chip' must be a cost model; got a class without units"),
        (
            "def __init__(self): self.table = open_table()",
            1,
            "the class of 'chip.py:Chip' raised an error when it was made; got NameError: name 'open_table' is not defined (chip.py, line 7)",
        ),
    ],
)
def test_a_class_that_cannot_be_made(check: Check, chip: Callable[..., str], rest: str, code: int, line: str) -> None:
    answer = check(chip("return {'latency': 1.0}", rest))
    assert (answer.code, answer.out) == (code, "")
    assert answer.err.startswith(f"qsearch: {line}")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bizmo"], "unknown cost model 'bizmo'; did you mean 'bismo'?"),
        (["none.py:Chip"], "a plug-in's file must exist; got none.py"),
        (["bismo", "--set", "platfrom=vu9p"], "unknown option 'platfrom' in options of 'bismo'; did you mean 'platform'?"),
        (["bismo", "--set", "platform"], "an option is set by key=value; got 'platform'"),
        (["bismo", "--set", "rows=[1"], "an option's value must be YAML; got 'rows=[1'"),
        (["size", "--set", "scale_bits=many"], "scale_bits in options of 'size': "),
        (["lut"], "path in options of 'lut': field required"),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_is_one_line(check: Check, arguments: list[str], line: str) -> None:
    answer = check(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"qsearch: {line}")
    assert len(answer.err.splitlines()) == 1


def test_json_has_every_rule(check: Check, chip: Callable[..., str]) -> None:
    answer = check(chip("return {'latency': 1e-6 * (9.0 if activation_bits == 4 else activation_bits)}"), "--json")
    found = json.loads(answer.out)
    assert (answer.code, found["passed"], len(found["rules"])) == (1, False, RULES)
    broken = [rule for rule in found["rules"] if rule["outcome"] == "broken"]
    assert [rule["rule"] for rule in broken] == [
        "More bits for all weights of a layer, or for its input, are never cheaper"
    ]
    assert "got 9e-06 then 5e-06: layer 'embed' from" not in broken[0]["reason"], "an embedding's input has no bits"
    assert "got 9e-06 then 5e-06: layer 'conv1d' from 0/4 to 0/5 bits" in broken[0]["reason"]
    assert broken[0]["fix"]
    assert json.loads(check("size", "--json").out)["passed"]


def test_a_table_is_checked_on_its_own_layers_and_bits(check: Check, tmp_path: Path) -> None:
    rows = [f"{layer},{w},{a},{w * a}" for layer in ("a", "b") for w in (2, 8) for a in (4, 8)]
    text = "\n".join(["layer,weight_bits,activation_bits,latency [us]", *rows])
    (tmp_path / "good.csv").write_text(text, encoding="utf-8")
    assert check("lut", "--set", "path=good.csv").code == 0
    (tmp_path / "falling.csv").write_text(text.replace("b,8,8,64", "b,8,8,10"), encoding="utf-8")
    answer = check("lut", "--set", "path=falling.csv")
    assert answer.code == 1
    assert "layer 'b' from 2/8 to 8/8 bits" in " ".join(answer.out.split())
    assert check("lut", "--set", "path=falling.csv", "--set", "interpolation=wider").code == 0
    (tmp_path / "no8.csv").write_text("layer,weight_bits,activation_bits,latency [s]\na,4,4,1\n", encoding="utf-8")
    answer = check("lut", "--set", "path=no8.csv")
    assert answer.code == 1
    assert "no8.csv has no cost of layer 'a' at these bits (interpolation: none); got 8/8 bits" in " ".join(
        answer.out.split()
    )


TARGET = """
class Board:
    units = {"latency": "s"}
    definitions = {}
    deterministic = True

    def precisions(self, layer):
        return [(8, 8)]

    def versions(self):
        return {"board": "1"}

    def measure(self, layer, weight_bits, activation_bits):
        return {"latency": SECONDS}
"""


def test_a_class_that_lacks_what_ours_has_is_told_where_to_get_it(check: Check, tmp_path: Path) -> None:
    bare = TARGET.replace("    definitions = {}\n", "").replace("SECONDS", "1.0")
    (tmp_path / "board.py").write_text(bare, encoding="utf-8")
    answer = check("board.py:Board")
    assert answer.code == 1
    assert "fix: inherit from qsearch.protocols.Target, which has definitions" in answer.out


def test_a_target_is_held_to_the_contract_of_targets(check: Check, tmp_path: Path) -> None:
    (tmp_path / "board.py").write_text(TARGET.replace("SECONDS", "1e-3 * layer.params"), encoding="utf-8")
    good = check("board.py:Board")
    assert (good.code, good.err) == (0, "")
    (tmp_path / "broken.py").write_text(TARGET.replace("SECONDS", "-1e-3 * layer.params"), encoding="utf-8")
    answer = check("broken.py:Board")
    assert answer.code == 1
    assert "-0.4" in answer.out, "the number that was measured"


def test_the_example_is_found_by_an_entry_point(tmp_path: Path) -> None:
    """As an installed package has it: a module, and a line in the metadata beside it."""
    source = (ROOT / "examples" / "my_accelerator.py").read_text(encoding="utf-8")
    (tmp_path / "my_accelerator.py").write_text(source, encoding="utf-8")
    metadata = tmp_path / "my_accelerator-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-accelerator\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text(
        "[qsearch.cost_models]\nmy-accelerator = my_accelerator:MyAccelerator\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-c", "from qsearch.cli import main; main()", "hardware", "check", "my-accelerator"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("my-accelerator\n✓ ")
