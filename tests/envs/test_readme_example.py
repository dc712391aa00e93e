"""The README's example of an environment runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_environment_of_the_readme(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (block,) = [block for block in blocks if "gymnasium.make" in block]
    template = (ROOT / "qsearch" / "template.yaml").read_text(encoding="utf-8")
    (tmp_path / "campaign.yaml").write_text(template, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block, names)
    env = names["env"]
    env.reset(seed=0)
    done, info = False, {}
    while not done:
        _, reward, done, _, info = env.step(np.asarray([0.5], dtype=np.float32))
    assert info["trial"].feasible
    assert np.isfinite(reward)
