"""A session with Ray: processes of its own on this machine, or a cluster that is named by its address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import worker as ray_worker

from qsearch.errors import Failure

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""How long the machine behind an address has to answer."""

_QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # how Ray 3 will do it; without it, Ray warns
}
"""Environment of Ray's processes; what the user has set stays."""


@contextmanager
def session(address: str | None, cores: int | None = None) -> Iterator[None]:
    """Inside, this process is connected to Ray; one that was before stays as it is.

    Args:
        address: "auto" for the cluster on this machine, HOST:PORT or ray://HOST:PORT for any other; None to start Ray's
            processes here, for this session only.
        cores: how many Ray is to believe that this machine has, where it starts them; as many as there are if None.

    Raises:
        Failure: there is no cluster at the address, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    if address is None:
        rule, fix = "Ray must start on this machine", "look into /tmp/ray/session_latest/logs"
        _connect("local", rule, fix, num_cpus=cores, include_dashboard=False)
    else:
        _check_reachable(address)
        _connect(address, f"a Ray cluster must answer at {address}", _start_it(address))
    try:
        with _off_the_terminal():
            yield
    finally:
        ray.shutdown()


@contextmanager
def _off_the_terminal() -> Iterator[None]:
    """Ray prints what its processes complain of to standard output, which is ours; there is no setting against it."""
    before = getattr(ray_worker, "print_to_stdstream", None)
    ray_worker.print_to_stdstream = lambda data, *args, **options: log.debug("Ray says: %s", data.get("lines"))
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _connect(address: str, rule: str, fix: str, **options: Any) -> None:
    before = dict(os.environ)
    os.environ.update({key: value for key, value in _QUIET.items() if key not in before})
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:  # of many classes, from the sockets' to Ray's own
        ray.shutdown()
        lines = str(error).strip().splitlines() or [""]
        got = "none on this machine" if isinstance(error, ConnectionError) else f"{type(error).__name__}: {lines[0]}"
        raise Failure(rule, got=got, fix=fix) from error
    finally:
        for key in _QUIET.keys() - before.keys():
            del os.environ[key]


def _check_reachable(address: str) -> None:
    """Ray itself would try for a minute, and tell at length.

    Raises:
        Failure: nobody listens there.
    """
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise Failure(f"a Ray cluster must answer at {address}", got=str(error), fix=_start_it(address)) from error


def _start_it(address: str) -> str:
    port = "6379" if address == "auto" or address.startswith("ray://") else address.rpartition(":")[2]
    return f"start it there with ray start --head --port {port}, or use the cores of this machine: --workers ray"
