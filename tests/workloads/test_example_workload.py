"""The bring-your-own example: short, loaded by its path, and any good."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract

REPOSITORY = Path(__file__).parents[2]


class TestExample(WorkloadContract):
    @pytest.fixture(autouse=True)
    def _from_the_repository(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(REPOSITORY)

    def workload(self) -> Workload:
        return create("workloads", "examples/my_workload.py:MyWorkload")

    def test_it_is_short(self) -> None:
        assert len(Path("examples/my_workload.py").read_text().splitlines()) < 40

    def test_it_classifies(self) -> None:
        workload = self.workload()
        model = workload.model()
        with torch.no_grad():
            scores = torch.cat([workload.score(model(inputs), targets) for inputs, targets in workload.test()])
        assert scores.mean() > 0.93  # 63 % are of the larger class
