"""What one forward pass calls in which order, and what of it is read again later: which calls a pass can do without.

Notation

==========  ==========================================================================================
i           position of a call of a module, in the order in which calls begin; 0 is the network's own
end(i)      position of the first call that begins after call i has ended: i+1 … end(i)−1 are within it
m           memory of a tensor; views share it
==========  ==========================================================================================

A call is *sound* if all that it does is to give its output: tensors in memory made while it ran, each in its own. It writes
into no older memory, and whatever else it made is not read after it. A pass that has the outputs of sound calls need not make
these calls; and of those outputs it needs only the ones that somebody reads who still runs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from qsearch.quantize.modules import Inputs, forward
from qsearch.quantize.passes import foreign_hooks
from qsearch.spiking.neurons import Integrator


@dataclass
class Call:
    """A call of a module.

    Attributes:
        module: whose call it is.
        end: see the notation; 0 while it runs.
        outputs: memory of its output, by number.
        size: bytes of its output.
        sound: see the notation.
        rewritten: its output is written to after it has ended.
    """

    module: nn.Module
    end: int = 0
    outputs: frozenset[int] = frozenset()
    size: int = 0
    sound: bool = True
    rewritten: bool = False


@dataclass(frozen=True)
class Cut:
    """The point of a pass just before one of its calls.

    Attributes:
        position: of this call.
        skipped: sound calls that have ended before, and are within no other such call.
        needed: those of them whose output somebody reads who is not within any of them.
        size: bytes of the outputs that are needed.
    """

    position: int
    skipped: frozenset[int]
    needed: frozenset[int]
    size: int


@dataclass(frozen=True)
class Flow:
    """A forward pass of a network.

    Attributes:
        calls: in the order in which they begin.
        readers: memory, by number → positions of the innermost calls in which operations read it; −1 is whoever takes
            the network's output.
        stops: modules before whose calls passes are cut.
    """

    calls: Sequence[Call]
    readers: Mapping[int, Collection[int]]
    stops: Collection[nn.Module]

    @cached_property
    def cuts(self) -> tuple[Cut, ...]:
        """The points before every call of the modules to stop at, in order."""
        return tuple(self._cut(i) for i, call in enumerate(self.calls) if call.module in self.stops)

    def settled(self, modules: Iterable[nn.Module]) -> list[int]:
        """For each cut, the cuts before the last runs of all these modules that have run before it; itself at least."""
        begins = [cut.position for cut in self.cuts]
        runs = [[i for i, call in enumerate(self.calls) if call.module is module] for module in modules]
        spans = [(bisect_right(begins, run[0]), bisect_right(begins, run[-1])) for run in runs if run]
        return [max([j, *(after for first, after in spans if first <= j)]) for j in range(len(begins))]

    def _cut(self, position: int) -> Cut:
        skipped, covered, i = set[int](), set[int](), 0
        while i < position:
            call = self.calls[i]
            if call.sound and call.end <= position:
                skipped.add(i)
                covered.update(range(i, call.end))
                i = call.end
            else:
                i += 1
        needed = {i for i in skipped if any(not covered.issuperset(self.readers[m]) for m in self.calls[i].outputs)}
        return Cut(position, frozenset(skipped), frozenset(needed), sum(self.calls[i].size for i in needed))


@contextmanager
def intercepted(modules: Iterable[nn.Module], answer: Any) -> Iterator[None]:
    """Inside, every call of the modules, hooks included, is ``answer(module, *args, **kwargs)``.

    torch asks an attribute of the module before anything else, meant for compiled calls; a deep copy of a module goes without.
    """
    taken = list(modules)
    try:
        for module in taken:
            vars(module)["_compiled_call_impl"] = partial(answer, module)
        yield
    finally:
        for module in taken:
            vars(module).pop("_compiled_call_impl", None)


def called(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The call of a module as it would be without interception."""
    return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch leaves it without types


def interceptable(model: nn.Module) -> list[nn.Module]:
    """Modules of a network whose calls can be intercepted: not scripts, and not what is within neurons.

    Those run as often as it takes to find their thresholds (:mod:`qsearch.quantize.firing_rates`).
    """
    neurons = [module for module in model.modules() if isinstance(module, Integrator)]
    within = {part for neuron in neurons for part in neuron.modules() if part is not neuron}
    return [
        module for module in model.modules() if module not in within and not isinstance(module, torch.jit.ScriptModule)
    ]


@torch.inference_mode()  # in which passes run: it decides which operations torch takes apart
def watch(
    model: nn.Module, inputs: Inputs, stops: Collection[nn.Module], changing: Mapping[nn.Module, Iterable[Tensor]]
) -> Flow | None:
    """Run a network once and note its flow.

    Args:
        stops: modules before whose calls passes will be cut.
        changing: module → tensors that differ from pass to pass.

    Returns:
        None where such a tensor is read while its module does not run, or a module has other attributes after a call than
        before it: nothing says then what depends on these.
    """
    watcher = _Watcher(changing)
    with intercepted(interceptable(model), watcher.call), watcher:
        output = forward(model, inputs)
    watcher.close(output)
    return Flow(watcher.calls, watcher.readers, frozenset(stops)) if watcher.local else None


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it without types
    """Notes the calls and operations of a pass that runs within it."""

    def __init__(self, changing: Mapping[nn.Module, Iterable[Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        self.readers: dict[int, set[int]] = {}
        self.local = True
        # a weak reference keeps no numbers, but keeps the place of the storage from being taken by another
        self._numbers: dict[StorageWeakRef, int] = {}
        self._running: list[int] = []
        self._made: dict[int, tuple[int, ...]] = {}  # memory → calls that ran when it was made
        self._givers: dict[int, list[Call]] = {}
        self._owners: dict[int, nn.Module] = {}
        for module, tensors in changing.items():
            for m in self._memories(list(tensors)):
                self.local &= self._owners.setdefault(m, module) is module

    def call(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A call of a module: itself, noted."""
        call = Call(module)
        self._running.append(len(self.calls))
        self.calls.append(call)
        if foreign_hooks(module):
            self._unsound()
        before = _attributes(module)
        output = called(module, args, kwargs)
        self.local &= _same(before, _attributes(module))
        position = self._running.pop()
        call.end, call.outputs = len(self.calls), frozenset(self._memories(output))
        given = _tensors(output)
        call.size = sum(x.untyped_storage().nbytes() for x in given)
        plain = all(part is None or type(part) is Tensor for part in tree_leaves(output)) and bool(given)
        call.sound &= plain and len(given) == len(call.outputs)  # copies of what shares memory would not
        call.sound &= all(position in self._made.get(m, ()) for m in call.outputs)
        for m in call.outputs:
            self._givers.setdefault(m, []).append(call)
            self.readers.setdefault(m, set())
        return output

    def close(self, output: Any) -> None:
        """The pass has ended; whoever wants its output reads it."""
        for m in self._memories(output):
            self.readers.setdefault(m, set()).add(-1)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation, and note what it reads, writes and makes."""
        named = kwargs or {}
        for m in self._memories((args, named)):
            self._read(m)
        for m in self._memories(_written(func, args, named)):
            self._write(m)
        if torch.Tag.data_dependent_output in func.tags:  # a number, which Python may keep anywhere
            self._unsound()
        result = func(*args, **named)
        for m in self._memories(result):
            self._made.setdefault(m, tuple(self._running))
        return result

    def _unsound(self) -> None:
        """What runs does more than to give its output, or may do."""
        for i in self._running:
            self.calls[i].sound = False

    def _memories(self, tree: Any) -> set[int]:
        """Memory of the tensors in any nesting, by number."""
        found = {StorageWeakRef(x.untyped_storage()) for x in _tensors(tree)}  # type: ignore[no-untyped-call]
        return {self._numbers.setdefault(m, len(self._numbers)) for m in found}

    def _read(self, m: int) -> None:
        self.readers.setdefault(m, set()).add(self._running[-1] if self._running else -1)
        owner = self._owners.get(m)
        self.local &= owner is None or any(self.calls[i].module is owner for i in self._running)
        for i in self._made.setdefault(m, ()):
            call = self.calls[i]
            call.sound &= not call.end or m in call.outputs

    def _write(self, m: int) -> None:
        for i in self._running:
            self.calls[i].sound &= i in self._made[m]
        for call in self._givers.get(m, ()):
            call.rewritten = True


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module has, by name: parameters, buffers and modules too."""
    return {**vars(module), **module._parameters, **module._buffers, **module._modules}


def _same(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether these are the same objects."""
    return before.keys() == after.keys() and all(after[name] is value for name, value in before.items())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Arguments that an operation writes into."""
    if not func._schema.is_mutable:
        return []
    into = [(i, a.name) for i, a in enumerate(func._schema.arguments) if a.alias_info and a.alias_info.is_write]
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in into]
