"""A PostgreSQL server of a test's own, on loopback, that can be stopped, killed and started again."""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def command(name: str) -> str:
    """Path of a program of PostgreSQL's; the test is skipped where there is none."""
    installed = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)]
    found = shutil.which(name) or next(map(str, installed), None)
    if found is None:
        pytest.skip(f"needs PostgreSQL: {name} is not installed")
    return found


class Server:
    """It refuses to run as root, so root runs it as the user ``postgres``."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="qsearch-postgresql-"))  # pytest's own are closed to other users
        self.data = self._folder / "data"
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self._folder, "postgres")
        self.port = _free_port()
        user = "postgres" if self._as else getpass.getuser()
        self.url = f"postgresql+psycopg://{user}@127.0.0.1:{self.port}/postgres"
        self._run(command("initdb"), "-D", str(self.data), "-A", "trust", "-N")
        self.start()

    def _run(self, *arguments: str) -> None:
        subprocess.run([*self._as, *arguments], check=True, capture_output=True, timeout=60, cwd="/")

    def _control(self, *arguments: str) -> None:
        self._run(command("pg_ctl"), "-D", str(self.data), "-w", *arguments)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._control("-l", str(self.data / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self._control("-m", mode, "stop")

    def close(self) -> None:
        """Stop it for good."""
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def kill(self) -> None:
        """SIGKILL to the server and all its children; what they held is gone."""
        leader = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
        for process in (leader, *map(int, children)):
            os.kill(process, signal.SIGKILL)
        while any(map(_alive, (leader, *map(int, children)))):
            time.sleep(0.01)
        (self.data / "postmaster.pid").unlink()  # where nobody reaps a zombie, its number is still taken


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_port() -> int:
    """Below the ports that clients are given: one that tries again and again could be connected to itself, and keep it."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port from 20000 to 32000")
