"""Where the tests of workloads find real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# read before a test changes the environment
REAL_DATA = Path(os.environ.get("QSEARCH_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real data, also set as ``QSEARCH_DATA``; skips where there is none."""
    if not (REAL_DATA / "cifar10" / "resnet20-12fca82f.th").is_file():
        pytest.skip(f"no cifar10/resnet20-12fca82f.th in {REAL_DATA}: set QSEARCH_DATA")
    monkeypatch.setenv("QSEARCH_DATA", str(REAL_DATA))
    return REAL_DATA
