"""Agents in campaigns are tested on the small campaigns of ``tests/campaign``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "campaign"))


@pytest.fixture(autouse=True)
def one_thread():
    """Small networks are faster on one thread, and the machine may have other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
