"""What the digest of an evaluator reads of the code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from qsearch.evaluate import fingerprint


@pytest.mark.parametrize("room", ["spiking", "quantize", "evaluate"])
def test_the_code_that_steps_quantises_and_evaluates_enters(room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another digest of one room's files is another digest of the whole."""
    before = fingerprint.digest({}, "settings")
    assert fingerprint.digest({}, "settings") == before

    def touched(paths: Iterable[Path]) -> str:
        files = list(paths)
        assert files
        return "touched" if files[0].parent.name == room else real(files)

    real = fingerprint.content_digest
    monkeypatch.setattr(fingerprint, "content_digest", touched)
    assert fingerprint.digest({}, "settings") != before
