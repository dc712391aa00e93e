"""What passes leave for later ones: the outputs that are read after a point of a pass, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten


class Missing(Exception):  # no error of anybody's: the pass is run again in full
    """A pass reads an output that was not kept, or does not make the calls that it was seen to make."""


class Absent(Tensor):
    """Stands for an output that nobody should read: its shape and type, without numbers.

    Raises:
        Missing: an operation reads it.
    """

    @staticmethod
    def __new__(cls, like: Tensor) -> Absent:
        """Stand for a tensor."""
        made: Absent = Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device=like.device
        )
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # torch's own way

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # as torch asks it
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Refuse an operation."""
        raise Missing(f"{func} reads an output that was not kept")


@dataclass(frozen=True)
class Output:
    """The output of a call.

    Attributes:
        parts: its tensors and Nones, of which ``structure`` makes it.
        rewritten: a pass writes into it, so each gets a copy.
    """

    parts: tuple[Tensor | None, ...]
    structure: TreeSpec
    rewritten: bool

    @classmethod
    def of(cls, output: Any, *, needed: bool, rewritten: bool) -> Output:
        """An output as its call has given it; without numbers where it is not needed."""
        parts, structure = tree_flatten(output)
        found = cls(tuple(parts), structure, rewritten)
        if not needed:
            return found.absent
        return cls(tuple(map(_copied, parts)), structure, rewritten) if rewritten else found

    @property
    def absent(self) -> Output:
        """The same without numbers."""
        parts = tuple(part if part is None or isinstance(part, Absent) else Absent(part) for part in self.parts)
        return Output(parts, self.structure, self.rewritten)

    @property
    def size(self) -> int:
        """Bytes of memory that it keeps in use."""
        return sum(
            part.untyped_storage().nbytes() for part in self.parts if part is not None and not isinstance(part, Absent)
        )

    def give(self) -> Any:
        """What the call gives."""
        parts = [_copied(part) for part in self.parts] if self.rewritten else self.parts
        return tree_unflatten(parts, self.structure)


@dataclass(frozen=True)
class Snapshot:
    """Passes in lockstep, or one, at a point that all of them have come to.

    Attributes:
        outputs: of each pass, position of a call → its output.
        states: what the parts of a correction had found by then.
    """

    outputs: tuple[Mapping[int, Output], ...]
    states: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """Bytes; memory that outputs share counts for each of them."""
        return sum(output.size for outputs in self.outputs for output in outputs.values())


class Snapshots:
    """Snapshots within a bound of memory: those go first that were not used for longest.

    One that was used in the present round is not given up in it: rounds that need the same more than there is room for would
    each throw out what they need next. They keep what fits.

    Args:
        bound: bytes.
    """

    def __init__(self, bound: int) -> None:
        self._bound, self._size, self._busy = bound, 0, 0
        self._kept: OrderedDict[Hashable, tuple[Snapshot, int]] = OrderedDict()  # the one used last at the end
        self._used: set[Hashable] = set()  # in this round, which has _busy bytes

    def __getstate__(self) -> dict[str, Any]:
        return vars(Snapshots(self._bound))  # numbers that can be found again do not travel

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._size

    @property
    def room(self) -> int:
        """Bytes that this round may still fill."""
        return self._bound - self._busy

    def begin(self) -> None:
        """A new round."""
        self._used.clear()
        self._busy = 0

    def get(self, key: Hashable) -> Snapshot:
        """A snapshot, used now."""
        snapshot, size = self._kept[key]
        self._kept.move_to_end(key)
        self._use(key, size)
        return snapshot

    def add(self, key: Hashable, snapshot: Snapshot) -> None:
        """Keep a snapshot if there is room for it."""
        size = snapshot.size
        if size > self.room:
            return
        while self._size + size > self._bound:
            _, (_, freed) = self._kept.popitem(last=False)
            self._size -= freed
        self._kept[key] = snapshot, size
        self._size += size
        self._use(key, size)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._size = 0
        self.begin()

    def _use(self, key: Hashable, size: int) -> None:
        if key not in self._used:
            self._used.add(key)
            self._busy += size


def _copied(part: Tensor | None) -> Tensor | None:
    return part if part is None or isinstance(part, Absent) else part.clone()
