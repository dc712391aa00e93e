"""What a network keeps for later while each of its layers runs: a liveness analysis of one forward pass.

Notation (the operations of the pass are numbered 1, 2, … as they run)

==============  ======================================================================================
s               memory of a feature map; views share it
n(s)            its floating-point numbers per sample: none of token indices, which feature maps are looked up with
born(s)         operation that filled it; 0 for the network's inputs
last(s)         last operation that reads it; ∞ for the network's outputs
start, end      operations before a call of a layer begins, and when it has ended
==============  ======================================================================================

    alive = Σ n(s) over s with born(s) ≤ start < last(s)

The layer's own inputs, of which a product has two, and its output are not counted. Where an input is a part of s, and s is read after the call, the rest
of s counts. Constants are in no s: parameters, buffers, and what operations make of them alone, such as a mask. What Python
still refers to does not matter, only what is read again: a compiler frees the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class _Map:
    """s: its n in all samples, its born and last."""

    numbers: int
    born: float
    last: float = 0


@dataclass(frozen=True)
class _Call:
    """A call of a layer: its start and end, and the memory of its inputs with their numbers in it."""

    start: int
    end: int
    sources: Mapping[StorageWeakRef, int]


class Liveness(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it without types
    """Watches the operations of one forward pass that runs within it; changes nothing of what they do.

    Attributes:
        failure: why the network's memory could not be followed; nothing is counted then. None where it could.
    """

    def __init__(self, inputs: Any, batch: int) -> None:
        """Watch a pass.

        Args:
            inputs: what the network is called with, tensors in any nesting.
            batch: samples in them.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.failure: BaseException | None = None
        self._batch = batch
        self._clock = 0
        # a weak reference keeps no numbers, but keeps the place of the storage from being taken by another
        self._maps: dict[StorageWeakRef, _Map] = {}
        self._constants: set[StorageWeakRef] = set()
        self._derived: dict[StorageWeakRef, int] = {}  # constants made within the pass, which may be written over
        self._started: dict[str, int] = {}
        self._calls: dict[str, list[_Call]] = {}
        try:
            self._fill(_memories(inputs))
        except Exception as error:  # as in _note
            self.failure = error

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it reads and fills."""
        result = func(*args, **(kwargs or {}))
        self._clock += 1
        self._note((args, kwargs), result)
        return result

    def begin(self, name: str) -> None:
        """A call of a layer begins."""
        self._started[name] = self._clock

    def end(self, name: str, *inputs: Tensor) -> None:
        """A call of a layer with these inputs has ended."""
        if self.failure is None:
            sources: dict[StorageWeakRef, int] = {}
            for x in inputs:
                sources[_memory(x)] = sources.get(_memory(x), 0) + x.numel()
            self._calls.setdefault(name, []).append(_Call(self._started[name], self._clock, sources))

    def close(self, outputs: Any) -> None:
        """The pass has ended; ``outputs``, tensors in any nesting, are what the network is there for."""
        for key in _memories(outputs):
            if key in self._maps:
                self._maps[key].last = math.inf

    def alive(self, name: str) -> int:
        """Numbers per sample that are kept while a layer runs, the greatest of all its calls."""
        if self.failure is not None:
            return 0
        return max((self._kept(call) for call in self._calls.get(name, ())), default=0)

    def _kept(self, call: _Call) -> int:
        total = 0
        for key, one in self._maps.items():
            if key in call.sources:
                total += self._per_sample(max(0, one.numbers - call.sources[key])) if one.last > call.end else 0
            elif one.born <= call.start < one.last:
                total += self._per_sample(one.numbers)
        return total

    def _note(self, read: Any, filled: Any) -> None:
        """Tensors that an operation reads and fills, in any nesting."""
        if self.failure is not None:
            return
        try:
            if self._read(_memories(read)):
                self._fill(_memories(filled))
            else:
                made = _memories(filled)
                new = made.keys() - self._constants - self._maps.keys() - self._derived.keys()
                self._derived |= {key: made[key] for key in new}
        except Exception as error:  # tensors without memory of their own: the network must run all the same
            self.failure = error

    def _read(self, memories: Iterable[StorageWeakRef]) -> bool:
        """Note what is read; whether any of it is a feature map."""
        known = False
        for key in memories:
            if key in self._maps:
                self._maps[key].last, known = self._clock, True
            elif key not in self._derived:
                self._constants.add(key)
        return known

    def _fill(self, memories: Mapping[StorageWeakRef, int]) -> None:
        """Note what is filled with feature maps; a buffer made within the pass becomes one."""
        for key, numbers in memories.items():
            if key not in self._maps and key not in self._constants:
                self._maps[key] = _Map(max(numbers, self._derived.get(key, 0)), self._clock)

    def _per_sample(self, numbers: int) -> int:
        return numbers // self._batch if numbers % self._batch == 0 else numbers


def _memory(x: Tensor) -> StorageWeakRef:
    return StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]


def _memories(tree: Any) -> dict[StorageWeakRef, int]:
    """Memory of the tensors in any nesting → numbers of the largest tensor in it, if they are floating-point ones."""
    found: dict[StorageWeakRef, int] = {}
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            key, counts = _memory(leaf), leaf.is_floating_point() or leaf.is_complex()
            found[key] = max(found.get(key, 0), leaf.numel() if counts else 0)
    return found
