"""``Bench``: measures layers on a target, one point at a time, and keeps every answer.

A point is a layer at a pair of weight and activation bits. The target runs in a process of its own with a time limit
for each point: one that hangs or dies is started again and costs its point only, which is kept as failed and tried again by
the next bench.
"""

from __future__ import annotations

import logging
import operator
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qsearch.assignment import FLOAT_BITS
from qsearch.errors import ConfigError, Failure, PluginError, StorageError
from qsearch.layers import Layer
from qsearch.measurements import (
    Measurement,
    MeasurementStore,
    Point,
    Subject,
    geometry,
    short_name,
    unnamed,
)
from qsearch.target_plugin import ModelTarget, Plugin, ask
from qsearch.target_process import Answer, TargetProcess
from qsearch.units import check_columns

log = logging.getLogger(__name__)

MAX_DEATHS = 3
"""Times in a row that a target may die before nothing more is asked of it."""

Pair = tuple[int, int]
"""Weight bits and activation bits."""


class Bench:
    """A target in a process of its own, and the store of what it answered.

    Use it as a context manager: the process ends with it, and nobody else measures into the folder meanwhile.

    Args:
        name: of a target, or of a cost model to be measured in its place; or ``file.py:Class``.
        options: its options.
        folder: where measurements are kept.
        repeats, warm_up: readings of a point, and those before that are thrown away; a deterministic target gives one.
            A point that is known from fewer readings is measured again.
        timeout: seconds that a point may take, warm-up included.

    Attributes:
        target: made here too, for what is known without measuring: ``units``, ``definitions``, ``deterministic``.
        store: what was measured, by this bench or earlier.

    Raises:
        UserError: an unknown target, options that are not valid, or a unit that no table can hold.
        Failure: the target raised an error of its own.
        StorageError: the folder holds measurements of something else, of another state of the target's file, or damaged
            ones.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        folder: Path,
        repeats: int = 20,
        warm_up: int = 5,
        timeout: float = 120.0,
    ) -> None:
        plugin = Plugin(name, dict(options))
        self.name, self.folder = name, folder
        self.target = plugin.make()
        check_columns(self.units, f"target {name!r}")
        self._machine, self._versions = machine(), self._read_versions()
        self.store = MeasurementStore(folder, self._subject(plugin), metadata.version("qsearch"), self.geometry)
        self._repeats, self._warm_up = (1, 0) if self.deterministic else (repeats, warm_up)
        self._timeout = timeout
        self._process = TargetProcess(plugin)
        self._failed: dict[Point, Measurement] = {}
        self._deaths = 0
        self._made: list[Path] = []
        self._lock = FileLock(folder / ".measuring.lock")

    @property
    def units(self) -> Mapping[str, str]:
        """Metric → unit."""
        return self.target.units

    @property
    def definitions(self) -> Mapping[str, str]:
        """Metric → what is counted."""
        return getattr(self.target, "definitions", {})

    @property
    def maxima(self) -> frozenset[str]:
        """Metrics of which a network has the greatest of its layers'."""
        return frozenset(getattr(self.target, "maxima", ()))

    @property
    def deterministic(self) -> bool:
        """Whether one reading says all."""
        return bool(getattr(self.target, "deterministic", False))

    def geometry(self, layer: Layer) -> Layer:
        """A layer without what its cost cannot depend on: layers that are equal then are measured once."""
        return unnamed(layer) if isinstance(self.target, ModelTarget) else geometry(layer)

    def __enter__(self) -> Bench:
        self._made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise StorageError("only one process may measure into a folder", got=str(self.folder)) from None
        except OSError as error:
            raise StorageError("measurements must be kept in a folder", got=f"{self.folder}: {error}") from error
        try:
            self.store.read()  # others may have added to it until now
        except StorageError:
            self._release()
            raise
        self._warn_of_others()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()
        self._release()

    def _release(self) -> None:
        """Let others measure; a folder into which nothing was written goes, if this bench made it."""
        made = self._made and not self.store.path.exists()
        if made:
            with suppress(OSError):  # not every system lets go of a file that is open
                Path(self._lock.lock_file).unlink()
        self._lock.release()
        if made:
            with suppress(OSError):  # somebody else put something into it
                for folder in self._made:
                    folder.rmdir()

    def precisions(self, layer: Layer) -> tuple[Pair, ...]:
        """Pairs of weight and activation bits at which the target runs a layer; none where it cannot.

        Raises:
            PluginError: the target gives something else.
            Failure: it raised an error of its own.
        """
        found = ask(self.name, "must say at which bits it runs a layer", lambda: self.target.precisions(layer))
        try:
            pairs = tuple((operator.index(weight), operator.index(activation)) for weight, activation in found)
        except (TypeError, ValueError):
            raise PluginError("precisions must be pairs of weight and activation bits", got=repr(found)[:100]) from None
        wrong = [pair for pair in pairs if not (1 <= pair[0] <= FLOAT_BITS and 1 <= pair[1] <= FLOAT_BITS)]
        if wrong:
            raise PluginError(f"bits of a target must be within 1..{FLOAT_BITS}", got=wrong[0])
        return pairs

    def known(self, layer: Layer, weight_bits: int, activation_bits: int) -> Measurement | None:
        """What :meth:`measure` would answer without measuring; None where it would measure."""
        found = self.store.find(layer, weight_bits, activation_bits)
        if found is not None and found.repeats >= self._repeats:
            return found
        return self._failed.get((self.geometry(layer), weight_bits, activation_bits))

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Measurement:
        """A measurement: a known one, or a new one, which is kept. One that fails has no readings, but a ``failure``.

        Raises:
            ConfigError: the target does not run the layer at these bits.
            Failure: the target died at several points in a row.
            StorageError: the measurement cannot be kept.
        """
        known = self.known(layer, weight_bits, activation_bits)
        if known is not None:
            return known
        pairs = self.precisions(layer)
        if (weight_bits, activation_bits) not in pairs:
            raise ConfigError(
                f"{self.name!r} does not run layer {layer.name!r} at these bits",
                got=f"W{weight_bits}A{activation_bits}",
                fix=f"it does at: {listed(pairs)}",
            )
        start = time.perf_counter()
        answer = self._process.ask((layer, weight_bits, activation_bits), self._warm_up, self._repeats, self._timeout)
        found = self._measurement((layer, weight_bits, activation_bits), answer, time.perf_counter() - start)
        self.store.add(found)
        if found.failure:
            self._failed[self.geometry(layer), weight_bits, activation_bits] = found
        self._deaths = self._deaths + 1 if answer.died else 0
        if self._deaths >= MAX_DEATHS:
            raise Failure(
                f"target {self.name!r} died at {MAX_DEATHS} points in a row",
                got=f"last at layer {layer.name!r}, W{weight_bits}A{activation_bits}: {found.failure}",
                fix=f"{len(self.store.all)} measurements are kept in {self.folder}",
            )
        return found

    def _measurement(self, point: Point, answer: Answer, seconds: float) -> Measurement:
        layer, weight_bits, activation_bits = point
        return Measurement(
            layer=layer,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            readings=answer.readings,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=self._machine,
            versions=self._versions,
            seconds=seconds,
            failure=answer.failure,
        )

    def _subject(self, plugin: Plugin) -> Subject:
        return Subject(
            target=short_name(plugin.name),
            options=plugin.settings(),
            units=dict(self.units),
            definitions=dict(self.definitions),
            maxima=tuple(sorted(self.maxima)),
            source=plugin.source(),
        )

    def _read_versions(self) -> dict[str, str]:
        found = ask(self.name, "must say its versions", self.target.versions)
        if not isinstance(found, Mapping):
            raise PluginError("versions must return a mapping of words", got=type(found).__name__)
        return {str(name): str(text) for name, text in found.items()}

    def _warn_of_others(self) -> None:
        """Say where earlier measurements were taken elsewhere or with other versions: they are used all the same."""
        others = {
            f"{found.machine} ({', '.join(f'{key} {value}' for key, value in found.versions.items())})"
            for found in self.store.all
            if dict(found.versions) != self._versions or (found.machine != self._machine and not self.deterministic)
        }
        if others:
            log.warning("%s also holds measurements of %s", self.store.path, "; ".join(sorted(others)))


def listed(pairs: Sequence[Pair]) -> str:
    """Pairs in words, a dozen of them: ``W4A8, W8A8``."""
    return (", ".join(f"W{w}A{a}" for w, a in pairs[:12]) or "none") + (", …" if len(pairs) > 12 else "")


def measure_points(
    bench: Bench, points: Iterable[Point], on_point: Callable[[Measurement], None] | None = None
) -> list[Measurement]:
    """Measure points in order; ``on_point`` is called after each, failed ones included.

    Raises:
        ConfigError, Failure, StorageError: as :meth:`Bench.measure`.
    """
    found = []
    for point in points:
        found.append(bench.measure(*point))
        if on_point is not None:
            on_point(found[-1])
    return found


def holding(pairs: Sequence[Pair], weight_bits: int, activation_bits: int) -> tuple[Pair, ...]:
    """The pairs to measure where a layer's bits are asked for: the narrowest ones that hold them, and float.

    Of pairs at least as wide as the bits those that no other of them is within; float as well, which hardware without
    kernels for narrow numbers may run fastest. Empty where no pair holds the bits.
    """
    wide = [pair for pair in pairs if pair[0] >= weight_bits and pair[1] >= activation_bits]
    narrowest = [
        pair
        for pair in wide
        if not any(other != pair and other[0] <= pair[0] and other[1] <= pair[1] for other in wide)
    ]
    return tuple(dict.fromkeys([*narrowest, *(pair for pair in wide if pair == (FLOAT_BITS, FLOAT_BITS))]))


def machine() -> str:
    """The processor, the system and the number of cores."""
    return f"{_processor()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:  # not Linux
        named = []
    return named[0] if named else platform.processor() or "unknown processor"
