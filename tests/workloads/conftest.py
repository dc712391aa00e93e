"""Where the tests of workloads find real data; and that none of them asks the network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

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


@pytest.fixture
def mnist_data() -> Path:
    """The folder of MNIST; skips where there is none."""
    if not (REAL_DATA / "mnist" / "mnist_train_60000.npz").is_file():
        pytest.skip(f"no mnist/mnist_train_60000.npz in {REAL_DATA}: set QSEARCH_DATA")
    return REAL_DATA / "mnist"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was asked of the network: nothing, whatever became of the errors."""
    found: list[str] = []

    def refuse(*arguments: object, **_: object) -> NoReturn:
        found.append(str(arguments[-2:]))
        raise OSError("the network is not to be asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield found
    assert found == []
