"""N-MNIST's files: the archive and the 40-bit format, written here bit by bit, and what is wrong with bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import DataError
from qsearch.workloads.arrays import read_archive
from qsearch.workloads.event_files import (
    ARCHIVE,
    SENSOR,
    BinaryFiles,
    class_folders,
    nmnist_places,
    read_binary,
    read_events,
    read_nmnist,
)
from qsearch.workloads.events import Binning, Recordings, framed

Event = tuple[int, int, int, int]
"""x, y, p, t."""


def packed(events: list[Event]) -> bytes:
    """The format as its page describes it: 8 bits x, 8 bits y, 1 bit p, 23 bits t, the highest first."""
    bits = "".join(f"{x:08b}{y:08b}{p:b}{t:023b}" for x, y, p, t in events)
    return bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8))


EVENT = st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 2**23 - 1))


@given(st.lists(EVENT, min_size=1, max_size=20).map(lambda found: sorted(found, key=lambda event: event[3])))
def test_the_binary_format(tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
    path = tmp_path_factory.getbasetemp() / "one.bin"
    path.write_bytes(packed(events))
    found = read_binary(path)
    assert list(zip(found.x, found.y, found.p, found.t, strict=True)) == events


def test_a_clock_that_ran_over(tmp_path: Path) -> None:
    """It is no event; 2^13 µs are added to all that follow, again for each."""
    over = (0, 240, 0, 0)
    (tmp_path / "one.bin").write_bytes(packed([(1, 2, 1, 100), over, (3, 4, 0, 50), over, (5, 6, 1, 7)]))
    found = read_binary(tmp_path / "one.bin")
    assert found.t.tolist() == [100, 8192 + 50, 2 * 8192 + 7]
    assert found.x.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have events; got none"),
        (packed([(1, 1, 1, 1)]) + b"\0", "must hold events of 5 bytes; got 6 bytes; fetch it again"),
        (packed([(34, 0, 0, 1)]), r"x within 0\.\.33; got x = 34 at event 0"),
        (packed([(0, 0, 0, 9), (0, 0, 0, 8)]), "must not fall; got 8 µs after 9 µs at event 1"),
    ],
)
def test_binary_files_that_are_bad(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "one.bin").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_binary(tmp_path / "one.bin")
    assert "one.bin" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one\.bin must be readable; got No such file"):
        read_binary(tmp_path / "one.bin")


def write_folders(folder: Path, each: int) -> None:
    """Train and Test; file k of a class has its event in column k, a training file in row 0, a test file in row 1."""
    for row, split in enumerate(("Train", "Test")):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            for column in range(each):
                path = folder / split / str(label) / f"{column:05d}.bin"
                path.write_bytes(packed([(column, row, 1, 100 * label)]))


def test_class_folders(tmp_path: Path) -> None:
    write_folders(tmp_path, 3)
    train, test = read_nmnist([tmp_path])
    assert isinstance(test, BinaryFiles)
    assert train.labels.tolist() == test.labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert [int(train.recording(index).x[0]) for index in range(30)] == [0, 1, 2] * 10
    assert {int(train.recording(index).y[0]) for index in range(30)} == {0}
    assert {int(test.recording(index).y[0]) for index in range(30)} == {1}
    assert int(test.recording(5).t[0]) == 100


def test_a_class_without_recordings(tmp_path: Path) -> None:
    write_folders(tmp_path, 1)
    (tmp_path / "Test" / "6" / "00000.bin").unlink()
    with pytest.raises(DataError, match=r"Test/6 must hold recordings of class 6; got no \.bin files"):
        class_folders(tmp_path / "Test")


def archive(path: Path, count: int = 20, **changed: object) -> None:
    """Recordings of one event each, in column i modulo 34."""
    places = np.arange(count)
    arrays = {
        "x": (places % 34).astype(np.uint8),
        "y": np.zeros(count, np.uint8),
        "p": np.zeros(count, np.uint8),
        "t_us": np.full(count, 7, np.uint32),
        "offsets": np.arange(count + 1),
        "label": (places % 10).astype(np.uint8),
    }
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **{**arrays, **changed})


def test_the_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive(tmp_path / "nmnist" / ARCHIVE)
    found, none = read_nmnist(nmnist_places([tmp_path]))
    assert none is None
    assert isinstance(found, Recordings)
    assert found.recording(19).x.tolist() == [19]
    assert "is not the published file of this name" in caplog.text


def test_folders_go_before_the_archive(tmp_path: Path) -> None:
    archive(tmp_path / ARCHIVE)
    write_folders(tmp_path, 1)
    assert read_nmnist([tmp_path])[1] is not None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"label": np.full(20, 10)}, r"labels in .* must be within 0\.\.9; got 10\.\.10"),
        ({"t_us": np.zeros(20)}, "t of .* must be whole numbers"),
        ({"offsets": np.arange(20)}, "one more than its 20 labels"),
    ],
)
def test_archives_that_do_not_fit(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    archive(tmp_path / ARCHIVE, **changed)
    with pytest.raises(DataError, match=message):
        read_events(tmp_path / ARCHIVE, SENSOR, 10)


def test_an_archive_that_is_cut(tmp_path: Path) -> None:
    archive(tmp_path / ARCHIVE)
    (tmp_path / ARCHIVE).write_bytes((tmp_path / ARCHIVE).read_bytes()[:200])
    with pytest.raises(DataError, match="must be a NumPy archive with x, y, p, t_us, offsets, label"):
        read_events(tmp_path / ARCHIVE, SENSOR, 10)


def test_an_archive_of_another_kind_of_zip(tmp_path: Path) -> None:
    """Byte 6 of an entry of the directory is the version that it takes to unpack it."""
    path = tmp_path / ARCHIVE
    np.savez(path, x=np.zeros(1, np.uint8))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 76
    path.write_bytes(content)
    with pytest.raises(DataError, match="must be a NumPy archive with x; got NotImplementedError: zip file"):
        read_archive(path, ("x",))


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"N-MNIST must be in a data folder; got none in .*/NMNIST; put its folders Train"
    ):
        read_nmnist(nmnist_places([tmp_path]))


def test_the_real_recordings(real_data: Path) -> None:
    """Facts that were found by other means: 4,133,231 events; the first in column 18, row 16, brighter, at 893 µs."""
    path = real_data / "nmnist" / ARCHIVE
    if not path.is_file():
        pytest.skip(f"no {path}")
    found = read_events(path, SENSOR, 10)
    assert len(found.labels) == 1000
    assert len(found.x) == 4_133_231
    assert np.bincount(found.labels).tolist() == [97, 116, 99, 93, 105, 92, 94, 117, 87, 100]
    first = found.recording(0)
    assert (int(first.x[0]), int(first.y[0]), int(first.p[0]), int(first.t[0])) == (18, 16, 1, 893)
    every = [found.recording(index) for index in range(1000)]  # each is checked as it is read
    assert max(int(one.t[-1]) for one in every) == 315_109
    binning = Binning(10_000, 32)
    assert sum(int(framed(one, binning, SENSOR).sum()) for one in every) == 4_133_231
