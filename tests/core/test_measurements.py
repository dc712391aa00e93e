"""The file of measurements: exact, readable after any interruption, and refused where it is damaged or of another."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import StorageError
from qsearch.layers import Layer
from qsearch.measured_table import table_csv, write_table
from qsearch.measurements import FILE, Measurement, MeasurementStore, Subject, geometry, unnamed

SUBJECT = Subject("chip", {"threads": 1, "shape": (2, 3)}, {"latency": "s", "energy": "J"}, {"energy": "board"})
CONV = Layer("conv1", "conv", 3, 8, (3, 3), (1, 1), 1, (8, 8), (8, 8), bias=True)
FC = Layer("fc, last", "linear", 8, 2, alive=5)


def measured(layer: Layer, weight: int, activation: int, *latencies: float, failure: str = "") -> Measurement:
    readings = {} if failure else {"latency": latencies, "energy": tuple(2 * one for one in latencies)}
    return Measurement(layer, weight, activation, readings, "2026-01-01T00:00:00+00:00", "pc", {"a": "1"}, 0.5, failure)


def filled(folder: Path) -> MeasurementStore:
    store = MeasurementStore(folder, SUBJECT, "0.1")
    store.add(measured(CONV, 8, 8, 1.0, 3.0, 2.0))
    store.add(measured(FC, 8, 8, 0.1))
    store.add(measured(FC, 4, 8, failure="it broke"))
    return store


def test_what_is_kept_is_read_back(tmp_path):
    written, read = filled(tmp_path), MeasurementStore(tmp_path, SUBJECT)
    assert read.all == written.all
    assert read.failures == written.failures
    assert [found.layer.name for found in read.all] == ["conv1", "fc, last"]


def test_lookup_is_by_geometry_and_gives_the_layers_own_name(tmp_path):
    store = filled(tmp_path)
    twin = replace(CONV, name="conv9", alive=64)
    found = store.find(twin, 8, 8)
    assert found is not None
    assert (found.layer, found.value("latency"), found.spread("latency")) == (twin, 2.0, 1.0)
    assert geometry(twin) == geometry(CONV)
    assert store.find(CONV, 8, 4) is None
    assert store.find(replace(CONV, bias=False), 8, 8) is None
    assert store.find(FC, 4, 8) is None, "a failure is no answer"


def test_a_failure_that_was_measured_since_is_none(tmp_path):
    filled(tmp_path).add(measured(FC, 4, 8, 7.0))
    read = MeasurementStore(tmp_path, SUBJECT)
    assert not read.failures
    found = read.find(FC, 4, 8)
    assert found is not None
    assert found.value("energy") == 14.0


@given(cut=st.integers(min_value=1))
def test_a_file_cut_off_anywhere_loses_its_last_line_at_most(tmp_path_factory, cut):
    """Reading, going on and reading again works, whatever byte the power failed at."""
    folder = tmp_path_factory.mktemp("cut")
    filled(folder)
    content = (folder / FILE).read_bytes()
    kept = content[: cut % len(content)]
    (folder / FILE).write_bytes(kept)
    store = MeasurementStore(folder, SUBJECT)
    assert len(store.all) + len(store.failures) == max(0, kept.count(b"\n") - 1)
    store.add(measured(CONV, 2, 2, 5.0))
    found = MeasurementStore(folder, SUBJECT).find(CONV, 2, 2)
    assert found is not None
    assert found.value("latency") == 5.0


def test_a_line_cut_off_is_told_when_it_is_dropped(tmp_path, caplog):
    filled(tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-5])
    store = MeasurementStore(tmp_path, SUBJECT)
    with caplog.at_level(logging.WARNING):
        store.add(measured(FC, 2, 2, 1.0))
        store.add(measured(FC, 3, 3, 1.0))
    assert caplog.text.count("dropped its last line, which was cut off") == 1


def test_reading_writes_nothing(tmp_path):
    """Another process may be in the middle of a line."""
    filled(tmp_path)
    path = tmp_path / FILE
    with path.open("ab") as other:
        other.write(b'{"layer":{"na')
        other.flush()
        before = path.read_bytes(), path.stat().st_ino
        MeasurementStore(tmp_path, SUBJECT)
        assert (path.read_bytes(), path.stat().st_ino) == before


@pytest.mark.parametrize("content", [b"my notes", b"my notes\nlast line", b'{"format":1}', b"\x00\xff", b"{"])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path, content):
    path = tmp_path / FILE
    path.write_bytes(content)
    if content == b"{":  # as any beginning of our own first line
        MeasurementStore(tmp_path, SUBJECT)
    else:
        with pytest.raises(StorageError, match=r"measurements\.jsonl(, line 1, is damaged| must hold measurements)"):
            MeasurementStore(tmp_path, SUBJECT)
    assert path.read_bytes() == content


def test_a_failure_takes_no_readings_away(tmp_path):
    filled(tmp_path).add(measured(CONV, 8, 8, failure="no power"))
    read = MeasurementStore(tmp_path, SUBJECT)
    found = read.find(CONV, 8, 8)
    assert found is not None
    assert found.value("latency") == 2.0


def test_what_a_layer_is_kept_under_may_be_chosen(tmp_path):
    store = MeasurementStore(tmp_path, SUBJECT, key=unnamed)
    store.add(measured(FC, 8, 8, 1.0))
    assert store.find(replace(FC, name="other"), 8, 8) is not None
    assert store.find(replace(FC, alive=6), 8, 8) is None
    twin = replace(FC, name="twin")
    assert len(table_csv([FC, replace(FC, alive=6), twin], store).splitlines()) == 2 + 2


def test_headers_of_older_files_fit(tmp_path):
    filled(tmp_path)
    path = tmp_path / FILE
    text = path.read_text().replace(',"maxima":[],"source":""', "").replace('"target":"chip"', '"target":"a/chip.py:C"')
    path.write_text(text)
    newer = replace(SUBJECT, target="chip.py:C", maxima=("energy",), source="12ab")
    assert len(MeasurementStore(tmp_path, newer).all) == 2


def test_a_target_whose_file_changed_is_refused(tmp_path):
    store = MeasurementStore(tmp_path, replace(SUBJECT, source="12ab"))
    store.add(measured(CONV, 8, 8, 1.0))
    with pytest.raises(StorageError, match="measurements of chip, whose file has changed since; measure into another"):
        MeasurementStore(tmp_path, replace(SUBJECT, source="34cd"))
    with pytest.raises(StorageError, match=r"got maxima \[\] there, \['energy'\] here"):
        MeasurementStore(tmp_path, replace(SUBJECT, source="12ab", maxima=("energy",)))


@pytest.mark.parametrize(
    "line",
    [
        b"{not json}",
        b"[]",
        b"\xff\xfe",
        b'{"layer": {}}',
        json.dumps({"layer": 3}).encode(),
        b"[" * 100_000,
    ],
)
def test_damage_within_is_told_by_file_and_line(tmp_path, line):
    filled(tmp_path)
    path = tmp_path / FILE
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(StorageError, match=r"measurements\.jsonl, line 3, is damaged"):
        MeasurementStore(tmp_path, SUBJECT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"latency":[1.0,3.0,2.0]', '"latency":[1.0,NaN,2.0]'),
        ('"latency":[1.0,3.0,2.0]', '"latency":[1.0,-3.0,2.0]'),
        ('"latency":[1.0,3.0,2.0]', '"latency":[]'),
        ('"latency":[1.0,3.0,2.0]', '"speed":[1.0,3.0,2.0]'),
        ('"weight_bits":8', '"weight_bits":88'),
        ('"kind":"conv"', '"kynd":"conv"'),
        ('"in_channels":3', '"in_channels":0'),
    ],
)
def test_values_that_cannot_be_are_damage(tmp_path, old, new):
    filled(tmp_path)
    path = tmp_path / FILE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StorageError, match="line 2, is damaged"):
        MeasurementStore(tmp_path, SUBJECT)


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (replace(SUBJECT, target="other"), "got target 'chip' there, 'other' here"),
        (replace(SUBJECT, options={"threads": 2}), "got options"),
        (replace(SUBJECT, units={"latency": "ms", "energy": "J"}), "got units"),
        (replace(SUBJECT, definitions={}), "got definitions"),
    ],
)
def test_a_store_of_another_subject_is_refused(tmp_path, subject, words):
    filled(tmp_path)
    with pytest.raises(StorageError, match=f"holds other measurements; {words}"):
        MeasurementStore(tmp_path, subject)


def test_another_format_is_refused(tmp_path):
    filled(tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(StorageError, match="got format 2 there, 1 here"):
        MeasurementStore(tmp_path, SUBJECT)


def test_the_table_has_a_row_for_each_name_and_exact_numbers(tmp_path):
    store = filled(tmp_path)
    third = measured(CONV, 4, 8, 1 / 3)
    store.add(third)
    twin = replace(CONV, name="conv2")
    first, *lines = table_csv([CONV, twin, FC], store).splitlines(keepends=True)
    assert first == "# energy: board\n"
    rows = list(csv.DictReader(lines))
    assert [(row["layer"], row["weight_bits"]) for row in rows] == [
        ("conv1", "4"),
        ("conv1", "8"),
        ("conv2", "4"),
        ("conv2", "8"),
        ("fc, last", "8"),
    ]
    assert list(rows[0])[3:] == ["latency [s]", "latency spread [s]", "energy [J]", "energy spread [J]"]
    assert float(rows[0]["latency [s]"]) == 1 / 3
    assert (float(rows[3]["energy [J]"]), float(rows[3]["energy spread [J]"])) == (4.0, 2.0)
    write_table(tmp_path / "table.csv", [CONV, twin, FC], store)
    assert (tmp_path / "table.csv").read_text() == table_csv([CONV, twin, FC], store)
