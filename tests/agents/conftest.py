"""Agents in campaigns are tested on the small campaigns of ``tests/campaign``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))


@pytest.fixture(autouse=True)
def on_one_thread(one_thread):
    """All agents are small networks."""
