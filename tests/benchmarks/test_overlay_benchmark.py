"""The benchmark of overlays on a small network: its rows, and that sizes and limits are what they say."""

from __future__ import annotations

import overlay
import pytest
import torch
from torch import nn

from qsearch.overlay import PATTERNS
from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class Small(ArrayWorkload):
    """Drawn weights, and targets that are its own answers."""

    name = "small"
    classes = 4
    input_shape = (2, 6, 6)

    def load(self) -> Splits:
        x = torch.randn(192, 2, 6, 6, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            samples = Samples(x, self.model()(x).argmax(1).clone())
        calibration, validation, test = (samples.take(part) for part in torch.arange(192).split(64))
        return Splits(calibration, validation, test, None)

    def network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
                nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4),
            )  # fmt: skip


@pytest.fixture(scope="module")
def case() -> overlay.Case:
    return overlay.prepare(Small(), 16, [0, 1, 4])


def test_patterns_are_compared_at_one_density(case: overlay.Case) -> None:
    rows = list(overlay.patterns(case, [0, 4]))
    assert [row[:2] for row in rows] == [("0 of 16", "–"), *(("4 of 16", pattern) for pattern in PATTERNS)]
    errors = dict(zip([row[1] for row in rows], [float(row[-1]) for row in rows], strict=True))
    assert errors["unstructured"] <= errors["channels"] <= errors["blocks"] < errors["–"] < 100
    sizes = [float(row[2]) for row in rows]
    assert sizes[0] < sizes[1] < sizes[2] == sizes[3]


def test_searches_keep_their_limits(case: overlay.Case) -> None:
    rows = list(overlay.searches(case, 4))
    uniform = {row[1]: float(row[2]) for row in rows if row[0] == "–"}
    assert list(uniform) == ["uniform 2 bits", "uniform 3 bits", "uniform 4 bits"]
    searched = [row for row in rows if row[0] != "–"]
    assert len(searched) == len(overlay.LIMITS) * (1 + len(overlay.SEARCHERS))
    assert all(float(size) <= uniform[f"{limit} bits"] for limit, _, size, *_ in searched if size != "–")
    assert any(size != "–" for _, label, size, *_ in searched if label.startswith("overlays"))


def test_what_is_fixed_stays_plain(case: overlay.Case) -> None:
    assert [layer.overlay for layer in case.mixed.layers] == [0, 16, 16, 0]


def test_tables_are_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    overlay.show(("a", "b"), [("1", "2")])
    assert capsys.readouterr().out == "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
