"""Targets that are well behaved but for one thing. Each reading leaves a line in a file, if one is named."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.registry import PluginOptions


class Counted(Target):
    """Latency = number of its reading · weight bits, so that warm-up and repeats show."""

    class Options(PluginOptions):
        """Where readings are noted."""

        notes: str = ""
        """A file."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J"}

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or self.Options()
        self.readings = 0

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        return () if layer.kind == "embedding" else ((4, 8), (8, 8), (32, 32))

    def versions(self) -> Mapping[str, str]:
        return {"counted": "1"}

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        self.readings += 1
        if self.options.notes:
            with Path(self.options.notes).open("a") as file:
                file.write(f"{layer.in_channels} {weight_bits} {activation_bits}\n")
        return self.answer(layer, weight_bits)

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return {"latency": float(self.readings * weight_bits), "energy": float(layer.macs)}


class Simulated(Counted):
    """One reading says all."""

    deterministic = True


class Crashing(Simulated):
    """Dies at 4 bits."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        if weight_bits == 4:
            os._exit(7)
        return super().answer(layer, weight_bits)


class Dead(Simulated):
    """Dies at whatever it is asked."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        os._exit(9)


class Hanging(Simulated):
    """Never answers at 4 bits."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        if weight_bits == 4:
            time.sleep(1000)
        return super().answer(layer, weight_bits)


class Talkative(Simulated):
    """Prints."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        print("measuring now")
        return super().answer(layer, weight_bits)


class Raising(Simulated):
    """Fails in Python at 4 bits."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        if weight_bits == 4:
            raise ValueError("four bits are odd")
        return super().answer(layer, weight_bits)


class WrongType(Simulated):
    """A number instead of a mapping."""

    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return 1.0  # type: ignore[return-value]  # the mistake under test


class WrongMetric(Simulated):
    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return {"latency": 1.0}


class NotANumber(Simulated):
    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return {"latency": float("nan"), "energy": 1.0}


class Negative(Simulated):
    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return {"latency": -1.0, "energy": 1.0}


class Text(Simulated):
    def answer(self, layer: Layer, weight_bits: int) -> Mapping[str, float]:
        return {"latency": "fast", "energy": 1.0}  # type: ignore[dict-item]  # the mistake under test


class WrongPrecisions(Simulated):
    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        return ((8, 64),)


class NoUnits(Simulated):
    units: Mapping[str, str] = {}


class OnlyInParent(Simulated):
    """Made in the first process, not in another."""

    def __init__(self, options: Simulated.Options | None = None) -> None:
        super().__init__(options)
        if os.environ.get("QSEARCH_TEST_PARENT") != str(os.getpid()):
            raise RuntimeError("no hardware here")


class FloatIsQuick(Target):
    """Convolutions only, at three pairs of bits, of which float is quicker than 8 bits."""

    units: Mapping[str, str] = {"latency": "s"}
    deterministic = True
    price: Mapping[tuple[int, int], float] = {(4, 8): 3e-9, (8, 8): 5e-9, (32, 32): 4e-9}

    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        return tuple(self.price) if layer.kind == "conv" else ()

    def versions(self) -> Mapping[str, str]:
        return {}

    def measure(self, layer: Layer, weight_bits: int, activation_bits: int) -> Mapping[str, float]:
        return {"latency": layer.macs * self.price[weight_bits, activation_bits]}


class InCycles(FloatIsQuick):
    """The same in another unit."""

    units: Mapping[str, str] = {"latency": "cycle"}


class OnlySpeed(FloatIsQuick):
    """A metric that no cost model has."""

    units: Mapping[str, str] = {"speed": "1"}


class NoVersions(Simulated):
    def versions(self) -> Mapping[str, str]:
        raise RuntimeError("no board\nanswers")


class ListedVersions(Simulated):
    def versions(self) -> Mapping[str, str]:
        return ["1"]  # type: ignore[return-value]  # the mistake under test


class RaisingPrecisions(Simulated):
    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        raise RuntimeError("no board\nanswers")


class FractionalPrecisions(Simulated):
    def precisions(self, layer: Layer) -> Sequence[tuple[int, int]]:
        return ((8.7, 8.2),)  # type: ignore[return-value]  # the mistake under test


class NoDefinitions(Simulated):
    definitions = None  # type: ignore[assignment]  # the mistake under test


class ListedDefinitions(Simulated):
    definitions = (("energy", "board"),)  # type: ignore[assignment]  # the mistake under test


class OddDefinitions(Simulated):
    definitions: Mapping[str, str] = {"power": "board"}


class OddMaxima(Simulated):
    maxima = "latency"


class InFurlongs(Simulated):
    units: Mapping[str, str] = {"latency": "furlong"}


class TwoWords(Simulated):
    units: Mapping[str, str] = {"energy [board]": "J"}


class Peak(Simulated):
    """Of which a network has the greatest of its layers'."""

    units: Mapping[str, str] = {"latency": "s", "energy": "J"}
    maxima = ("energy",)
