"""``ray``: workers in a Ray cluster, on this machine or on many.

Each worker is an actor of Ray: a process that holds the evaluator, network and data included, once, and is asked for one
assignment after the other. The evaluator travels once to each machine, through Ray's object store.

Which worker answers, and in which order answers come in, leaves no trace: see :mod:`qsearch.workers.pool`. Answers are
those of the campaign's own process to the last bit where workers run the same software on the same kind of processor with
as many threads; where they do not, they differ by rounding.

No cluster is used unless its address is given. RAY_ADDRESS counts for ``auto`` only.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from qsearch.errors import PluginError
from qsearch.protocols import Batching, Evaluator, Workers
from qsearch.registry import PluginOptions

try:
    import ray

    from qsearch.workers.actor import Holder
    from qsearch.workers.pool import Pool
    from qsearch.workers.session import session
    from qsearch.workers.shipping import packed
except ImportError as error:
    raise PluginError("the workers 'ray' need the package ray", fix="pip install 'qsearch[cluster]'") from error

log = logging.getLogger(__name__)

SETTLING = 3.0
"""Seconds that a cluster which is not all free is given to tell that it is."""


class RayWorkers(Workers):
    """Actors of a Ray cluster, one per core, or per GPU where it has any."""

    class Options(PluginOptions):
        """Where the workers are, how many, and what each has."""

        address: str | None = None
        """Of the cluster: HOST:PORT, ray://HOST:PORT, or auto for the one on this machine. null: Ray is started here."""
        actors: int | None = Field(default=None, ge=1)
        """How many workers. null: as many as the cluster has room for, beside what others hold, when the search
        begins; campaigns that are to share a cluster say how many each."""
        cpus: float = Field(default=1, gt=0)
        """Cores of each."""
        gpus: float | None = Field(default=None, ge=0)
        """GPUs of each, or a part of one. null: one where the cluster has any, else none."""
        threads: int | None = Field(default=None, ge=1)
        """Processor threads of each, unless the evaluator says. null: as many as its cores."""
        together: int = Field(default=1, ge=1)
        """Assignments that a worker is asked for at once: more pay where evaluations take less than milliseconds, and it
        should be at least the ``assignments_at_once`` of an evaluator that has such an option."""
        retries: int = Field(default=3, ge=1)
        """An assignment that ends its worker so many times in a row, alone there, has failed."""
        patience: float = Field(default=120.0, gt=0)
        """Seconds without any worker, while machines come back or are added, after which the campaign gives up."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()

    @contextmanager
    def start(self, evaluator: Evaluator) -> Iterator[Batching]:
        """Connect to Ray, or start it; hire workers, wait for the first, and let all of them go afterwards.

        Raises:
            PluginError: the evaluator cannot be pickled.
            Failure: there is no cluster at the address, or no worker has come within the patience.
        """
        options = self.options
        content = packed(evaluator)
        cores = None if options.actors is None else math.ceil(options.actors * options.cpus)
        with session(options.address, cores):
            gpus = options.gpus if options.gpus is not None else float(ray.cluster_resources().get("GPU", 0) > 0)
            count = options.actors or room_for(available(), options.cpus, gpus)
            pool = Pool(
                hire=self._hiring(ray.put(content), gpus),
                count=count,
                together=options.together,
                retries=options.retries,
                patience=options.patience,
            )
            log.info("%d workers, each with an evaluator of %.3g MB", count, len(content) / 1e6)
            del content
            try:
                pool.open()
                yield pool
            finally:
                pool.close()

    def _hiring(self, content: Any, gpus: float) -> Callable[[], tuple[Any, Any]]:
        """Makes an actor: its handle, and a reference to what it says once it has the evaluator."""
        options = self.options
        kind = ray.remote(Holder).options(num_cpus=options.cpus, num_gpus=gpus, scheduling_strategy="SPREAD")
        threads = options.threads or max(1, int(options.cpus))

        def hire() -> tuple[Any, Any]:
            actor = kind.remote()
            return actor, actor.load.remote(content, threads)

        return hire


def available(seconds: float = SETTLING) -> dict[str, float]:
    """What nobody holds of a cluster's resources; Ray learns some time later that a worker has gone."""
    end, everything = time.monotonic() + seconds, ray.cluster_resources()
    while True:
        free: dict[str, float] = ray.available_resources()
        if time.monotonic() > end or all(free.get(name, 0) >= everything.get(name, 0) for name in ("CPU", "GPU")):
            return free
        time.sleep(0.1)


def room_for(resources: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers a cluster has room for, at least one."""
    by_core = resources.get("CPU", 0) // cpus
    return max(1, int(min(by_core, resources.get("GPU", 0) // gpus) if gpus else by_core))
