"""Programs that torch runs alone."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from export_networks import EVERY_KIND, Case, agrees
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.export.program import FORMATS, Program

ALONE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "qsearch":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import torch
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
assert not any(name.partition(".")[0] == "qsearch" for name in sys.modules)
"""


@pytest.mark.parametrize("which", ["small", "attention"])
def test_gives_the_same_bits(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(which)
    bits = case.assignment((*EVERY_KIND, 28), (1, 4, 8, 20, 28, 32), by_kernel=True)
    exported = case.export(FORMATS, bits, tmp_path / "n.pt2")
    agrees(exported)
    assert (exported.runtime, exported.agreement.largest) == ("torch", 0)
    assert "takes any number of samples" in exported.notes
    with zipfile.ZipFile(exported.path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    assert str(Path(__file__).parent).encode() not in content
    assert sys.prefix.encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("by_kernel", [False, True])
def test_digits_run_where_qsearch_is_not(digits: Case, by_kernel: bool, tmp_path: Path) -> None:
    bits = digits.assignment(EVERY_KIND, (1, 2, 3, 5, 8, 12, 32), by_kernel=by_kernel)
    exported = digits.export(FORMATS, bits, tmp_path / "n.pt2")
    agrees(exported)
    given, found = tmp_path / "x.pt", tmp_path / "y.pt"
    torch.save(digits.samples, given)
    code = [sys.executable, "-c", ALONE, str(exported.path), str(given), str(found)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    y = digits.network(digits.samples)
    z = torch.load(found)
    assert float((y.argmax(1) == z.argmax(1)).float().mean()) >= 0.999


class _OneByOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(row) for row in x])


class _Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return self.head(x)
        return self.head(-x)


def test_a_graph_bound_to_one_sample_says_so(tmp_path: Path) -> None:
    from export_networks import case

    bound = case(_OneByOne(), torch.randn(20, 6))
    exported = bound.export(FORMATS, bound.assignment([8], [8]), tmp_path / "n.pt2")
    agrees(exported)
    assert any("one sample at a time" in note for note in exported.notes)


def test_a_branch_on_data_is_refused_with_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from export_networks import case

    branched = case(_Branch(), torch.randn(20, 6))
    deployment = branched.deploy(branched.assignment([8], [8]))
    with pytest.raises(ConfigError, match=r"if x\.sum\(\) > 1e6.*test_torch_program\.py.*try safetensors, json, csv"):
        Program().write(deployment, tmp_path / "n.pt2")
    assert capfd.readouterr().err == ""
