"""A workload that calls its score by a name of its own: what a class does not say is not guessed in silence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from qsearch.arguments import objective
from qsearch.config import parse, quality_name
from qsearch.errors import ConfigError
from qsearch.setting import Setting, prepare

BODY = """
import torch
from torch import nn

from qsearch.workloads.base import ArrayWorkload, Samples, Splits


class Plain(ArrayWorkload):
    name, classes, input_shape = "plain", 2, (3,)

    def network(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def load(self):
        samples = Samples(torch.arange(36.0).view(12, 3) / 36, torch.arange(12) % 2)
        return Splits(samples, samples, None, None)


class Named(Plain):
    metric = "iou"


class Property(Plain):
    @property
    def metric(self):
        return "iou"


class Nothing(Plain):
    metric = None

    def __init__(self):
        self.metric = "iou"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.py"
    path.write_text(BODY)
    return path


def prepared(workload: str, objectives: Sequence[str] = ()) -> Setting:
    """As the command line has it."""
    given = {"objectives": [objective(text, quality_name(workload)) for text in objectives]} if objectives else {}
    settings = {"name": "test", "budget": {"evaluations": 1}, "workload": workload, "hardware": "size", **given}
    (config,) = parse({**settings, "searcher": "random"}, "test").campaigns()
    return prepare(config)


@pytest.mark.parametrize(
    ("kind", "name"), [("Plain", "accuracy"), ("Named", "iou"), ("Property", "accuracy"), ("Nothing", "accuracy")]
)
def test_a_name_is_a_string_on_the_class(file: Path, kind: str, name: str) -> None:
    assert quality_name(f"{file}:{kind}") == name


def test_a_name_on_the_class_is_the_objective(file: Path) -> None:
    problem = prepared(f"{file}:Named").problem
    assert [(item.metric, item.direction) for item in problem.objectives] == [("iou", "maximize")]
    assert [item.direction for item in prepared(f"{file}:Named", ["iou", "size"]).problem.objectives] == [
        "maximize",
        "minimize",
    ]


@pytest.mark.parametrize("kind", ["Property", "Nothing"])
def test_a_name_that_the_class_does_not_say_is_told(file: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown metric 'accuracy' in an objective; the score .* is 'iou': say iou:max"
    ):
        prepared(f"{file}:{kind}")
    with caplog.at_level(logging.WARNING):
        prepared(f"{file}:{kind}", ["iou:max"])
        assert caplog.messages == []
        prepared(f"{file}:{kind}", ["iou"])
    assert caplog.messages == ["the search minimises iou, of which more is better; iou:max maximises it"]
