"""Files: where they are looked for, and writes that are whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import platformdirs
import pytest

from qsearch.errors import DataError
from qsearch.files import cache_folder, write_atomically
from qsearch.workloads.files import data_roots, find, is_file, sha256, warn_unless_published


def test_a_write_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(owner, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEARCH_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("QSEARCH_CACHE", "")
    assert cache_folder() == platformdirs.user_cache_path("qsearch")


def test_data_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = platformdirs.user_data_path("qsearch")
    monkeypatch.delenv("QSEARCH_DATA", raising=False)
    assert data_roots() == (platform,)
    monkeypatch.setenv("QSEARCH_DATA", "somewhere")
    assert data_roots() == (Path("somewhere"), platform)
    assert data_roots(tmp_path) == (tmp_path,)
    with pytest.raises(DataError, match=r"option 'data' must name a folder; got .*missing"):
        data_roots(tmp_path / "missing")


def test_find_takes_the_first(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders[1:]:
        folder.mkdir()
        (folder / "file").touch()
    assert find("file", folders) == tmp_path / "b" / "file"
    assert find("other", folders) is None


def test_is_file_survives_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert is_file(tmp_path / "file")
    assert not is_file(tmp_path)

    def denied(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", denied)
    assert not is_file(tmp_path / "file")


def test_sha256_is_the_standard_one() -> None:
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


# of b"abc": RFC 1321, A.5, and FIPS 180-2, B.1
@pytest.mark.parametrize(
    "digest",
    ["900150983cd24fb0d6963f7d28e17f72", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"],
    ids=["MD5", "SHA-256"],
)
def test_a_file_that_is_not_the_published_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, digest: str
) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    warn_unless_published(tmp_path / "file", {"file": digest})
    warn_unless_published(tmp_path / "other", {"file": digest})
    assert caplog.messages == []
    (tmp_path / "file").write_bytes(b"abd")
    warn_unless_published(tmp_path / "file", {"file": digest})
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 'file'} is not the published file of this name: its digest is ")
    assert message.endswith(f"not {digest[:8]}…")
