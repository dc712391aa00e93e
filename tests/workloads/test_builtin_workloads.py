"""The contract, on the workloads that come with the product."""

from __future__ import annotations

import pytest

from qsearch.protocols import Workload
from qsearch.registry import create
from qsearch.testing.workload import WorkloadContract


class TestDigits(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "digits-resnet")


@pytest.mark.usefixtures("real_data")
class TestCifar10(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "cifar10-resnet20")


@pytest.mark.usefixtures("real_data")
class TestCifar10WithoutTestSplit(WorkloadContract):
    def workload(self) -> Workload:
        return create("workloads", "cifar10-resnet20", {"split": "all", "calibration": 20})
