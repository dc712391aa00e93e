"""Surrogates on disk: exact, and refused in one line where anything is wrong."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_costs import fitted, points, roofline, saved

from qsearch.errors import DataError, StorageError
from qsearch.surrogates.fitted import Fitted
from qsearch.surrogates.model import Batch, LogCost
from qsearch.surrogates.saved import ARRAYS, load, save

BATCH = Batch.of(points())


def test_a_saved_surrogate_answers_the_same(tmp_path: Path) -> None:
    before = fitted(per_kind=True, count=200)
    calibrated = {metric: model.calibrated(0) for metric, model in before.models.items()}
    before = replace(before, models=calibrated)
    after = load(save(before, tmp_path))
    assert after.layers == before.layers
    assert (after.units, after.definitions, after.pairs, after.facts, after.maxima, after.provenance) == (
        before.units, before.definitions, before.pairs, before.facts, before.maxima, before.provenance
    )  # fmt: skip
    for part in (0, 1):
        old, new = (one.models["latency"].joint(BATCH)[part] for one in (before, after))
        assert old.tolist() == new.tolist()
    old, new = (one.models["latency"] for one in (before, after))
    assert new.widenings == old.widenings
    assert max(new.widenings.values()) > 1
    assert new.deviation(BATCH).tolist() == old.deviation(BATCH).tolist()


def test_so_does_its_source(tmp_path: Path) -> None:
    source = fitted()
    rows = np.arange(0, len(BATCH), 9)
    y = np.log([2 * roofline(points()[row]) + 1 for row in rows])
    model = LogCost.fit(BATCH[rows], y, seed=0, source=source.models["latency"])
    before = Fitted("twice", {"latency": "s"}, {}, {"latency": model}, source.layers, source.pairs)
    after = load(save(before, tmp_path)).models["latency"]
    assert after.source is not None
    assert after.mean(BATCH).tolist() == model.mean(BATCH).tolist()


def test_the_folder_will_do(tmp_path: Path) -> None:
    saved(tmp_path)
    assert load(tmp_path).target == "roofline"


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match=r"must be of format 3; got format 99, of another version; fit it again"):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", ["surrogate.json", ARRAYS])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    path = saved(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="is damaged") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(path.read_text().replace('"latency": "s"', '"latency": "h"'))
    with pytest.raises(DataError, match="checksum"):
        load(path)


def test_the_arrays_of_another_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "one")
    saved(tmp_path / "other", seed=1)
    (tmp_path / "one" / ARRAYS).write_bytes((tmp_path / "other" / ARRAYS).read_bytes())
    with pytest.raises(DataError, match="not the one it was written with"):
        load(path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    """Even with digests that hold."""
    path = saved(tmp_path)
    packed = io.BytesIO()
    np.savez(packed, **{f"latency/all/{name}": np.asarray([{}], dtype=object) for name in ("x", "y", "theta")})
    (tmp_path / ARRAYS).write_bytes(packed.getvalue())
    body: dict[str, Any] = json.loads(path.read_text())
    del body["checksum"]
    body["arrays"] = hashlib.sha256(packed.getvalue()).hexdigest()
    body["checksum"] = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(body))
    with pytest.raises(DataError, match="is damaged"):
        load(path)


@pytest.mark.parametrize("content", ["", "[]", "no JSON", '"format"'])
def test_what_is_no_surrogate_is_refused(tmp_path: Path, content: str) -> None:
    path = saved(tmp_path)
    path.write_text(content)
    with pytest.raises(DataError, match="is damaged"):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no .*surrogate\.json"):
        load(tmp_path)
    path = saved(tmp_path)
    (tmp_path / ARRAYS).unlink()
    with pytest.raises(DataError, match=r"no .*surrogate\.npz"):
        load(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="must be writable"):
        saved(tmp_path / "file")
