"""``Assembly``: a spiking network while it is put together, and how its weights take in the factors beside them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.spiking.rescale import Rescale, Weighted, taken_in_before, taken_in_behind

Array = NDArray[Any]


@dataclass
class Assembly:
    """Modules by name, in order; what each reads; what is read out."""

    modules: OrderedDict[str, nn.Module]
    sources: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]

    def readers(self, name: str) -> list[str]:
        """The modules that read one, as often as they do."""
        return [reader for reader, sources in self.sources.items() for source in sources if source == name]

    def bypass(self, name: str) -> None:
        """Take a module away: what it reads goes on to its readers."""
        del self.modules[name]
        passed = self.sources.pop(name)
        self.sources = {reader: _replaced(sources, name, passed) for reader, sources in self.sources.items()}
        self.outputs = _replaced(self.outputs, name, passed)


def absorb(assembly: Assembly) -> None:
    """Have weights take in the factors beside them; those that change nothing go."""
    for name, module in list(assembly.modules.items()):
        if isinstance(module, Rescale) and (
            module.idle or _taken_in_before(assembly, name, module) or _taken_in_behind(assembly, name, module)
        ):
            assembly.bypass(name)


def constant(values: Array) -> Tensor | float:
    """Parameters as few numbers: one where all are equal, one per channel, (C, 1, 1), where those of a map are.

    Raises:
        DataError: a parameter that is not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise DataError("parameters must be finite", got=f"{values[~np.isfinite(values)][0]}")
    if np.all(values == values.flat[0]):
        return float(values.flat[0])
    first = values[(slice(None), *[slice(0, 1)] * (values.ndim - 1))]
    return torch.tensor(first if np.all(values == first) else values, dtype=torch.float32)


def _taken_in_before(assembly: Assembly, name: str, rescale: Rescale) -> bool:
    """Whether the weights that alone lead to a factor, and to nothing else, have taken it in."""
    before = assembly.sources[name]
    layer = assembly.modules.get(before[0])
    alone = len(before) == 1 and assembly.readers(before[0]) == [name] and before[0] not in assembly.outputs
    return alone and layer is not None and taken_in_before(layer, rescale)


def _taken_in_behind(assembly: Assembly, name: str, rescale: Rescale) -> bool:
    """Whether the weights to which alone a factor leads, at most through pooling and flattening, have taken it in."""
    while (readers := assembly.readers(name)) and len(readers) == 1 and name not in assembly.outputs:
        (name,) = readers
        layer = assembly.modules[name]
        if len(assembly.sources[name]) != 1:
            return False
        if isinstance(layer, Weighted):
            return taken_in_behind(layer, rescale)
        if not isinstance(layer, nn.Flatten | nn.AvgPool2d):
            return False
    return False


def _replaced(names: tuple[str, ...], name: str, by: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for found in names for part in (by if found == name else (found,)))
