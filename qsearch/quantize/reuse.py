"""Not repeating work: passes begin where the assignment first differs from one that was evaluated before.

Notation

==========  ==========================================================================================
cut j       the point of a pass before its j-th call of a module with sites (:mod:`qsearch.quantize.flow`)
d_j         digest of the bits of all sites whose modules were called before cut j
==========  ==========================================================================================

What a pass has computed by cut j depends on its data, on those of the correction and on d_j alone: on weights, quantisers and
registers of the sites before it, and on what the correction found at the parts before it. So of one batch and one d_j, outputs
that are read later are kept, and the next pass of the same batch and d_j takes them instead of making the calls before. It
computes what it would have computed, to the last bit, as every operation behind the cut runs on the same numbers.

In plain passes, corrected parts have what their last runs have found. One that runs several times depends on the sites before
the last of its runs: such passes ask for the digest there.

Kept is what promises use: passes of a d_j that an assignment before had too. So assignments that have nothing in common
leave nothing behind, and searches that change one site after the other keep what they come back to.

Where a network does not do what it was seen to do on the first calibration batch, a pass reads an output that was not kept, or
makes other calls. It is run again in full, and nothing is reused from then on.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from qsearch.assignment import Bits
from qsearch.layers import Layer
from qsearch.quantize.flow import Flow, watch
from qsearch.quantize.lockstep import in_lockstep
from qsearch.quantize.modules import Inputs, forward, head
from qsearch.quantize.snapshots import Snapshot, Snapshots
from qsearch.quantize.ways import Part, Way, on_their_ways

log = logging.getLogger(__name__)

Result = TypeVar("Result")

REMEMBERED = 1 << 14
"""Digests that are remembered, of the assignments asked for last."""

MOST = 1 << 10
"""MiB that are kept by default, at most; and at most an eighth of the machine's memory."""


def default_memory() -> int:
    """MiB for what is kept where nobody says otherwise."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
    except (AttributeError, OSError, ValueError):  # systems that do not tell
        return MOST
    return min(MOST, machine // 8)


def sites_by_module(
    layers: Sequence[Layer], modules: Mapping[str, nn.Module], known: Container[str]
) -> dict[nn.Module, list[str]]:
    """Module → its sites; those of a threshold are its neurons'.

    Args:
        modules: of the layers, by name.
        known: sites that there are.
    """
    found: dict[nn.Module, list[str]] = {}
    for layer in layers:
        sites = (layer.weight_site, layer.activation_site, layer.overlay_site, layer.pattern_site, layer.name)
        module = modules[layer.name.removesuffix(".threshold") if layer.kind == "threshold" else layer.name]
        found.setdefault(module, []).extend(site for site in dict.fromkeys(sites) if site in known)
    return {module: sites for module, sites in found.items() if sites}


@torch.inference_mode()
def find_flow(
    model: nn.Module, inputs: Inputs, sites: Mapping[nn.Module, Sequence[str]], parts: Sequence[Part]
) -> Flow | None:
    """The flow of a network's passes, to be found while it has no hooks yet but its author's; None where there is no telling.

    Args:
        inputs: a batch.
        sites: module → its sites.
        parts: what is corrected.
    """
    changing = {part.module: [*part.module.parameters(), *part.module.buffers()] for part in parts}
    changing |= {module: [*module.parameters(), *module.buffers()] for module in sites}
    try:
        forward(model, _others(inputs))  # so that what calls leave beside their outputs differs from what was there
        flow = watch(model, inputs, sites.keys(), changing)
        why = "weights are read beside their layers, or modules leave something on themselves"
        if flow is not None and not _repeats(model, flow, head(inputs, 2)):
            flow, why = None, "outputs that were kept do not do"
    except Exception as error:  # tensors without memory of their own, say; the network must be quantised all the same
        flow, why = None, f"{type(error).__name__}: {error}"
    if flow is None:
        log.debug("nothing is reused between assignments: %s", why)
    return flow


def _repeats(model: nn.Module, flow: Flow, inputs: Inputs) -> bool:
    """Whether passes that begin at any cut give what one from the start gives, to the last bit.

    Before each comes a pass of other data, of another batch size: what calls leave beside their outputs is of these.
    """
    cuts = [cut for cut in flow.cuts if cut.skipped]
    way, others = Way(flow, {}, 0, cuts, ()), _others(inputs)
    expected = on_their_ways(flow, [way], [partial(forward, model, inputs)], _alone)[0]
    for cut in cuts:
        forward(model, others)
        after = Way(flow, way.left[cut.position], cut.position, (), ())
        if not torch.equal(on_their_ways(flow, [after], [partial(forward, model, inputs)], _alone)[0], expected):
            return False
    return True


def _others(inputs: Inputs) -> Inputs:
    """Three samples of a batch from its end, the last first; as often as it takes."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    parts = tuple(part[[-1 - i % len(part) for i in range(3)]] if part.dim() else part for part in tensors)
    return parts if isinstance(inputs, tuple) else parts[0]


class Reuse:
    """Runs the passes of a network, and reuses what those of earlier assignments have left.

    Attributes:
        reused: passes so far that began at a cut.

    Args:
        model: the network.
        flow: of its passes.
        sites: module → its sites.
        parts: what is corrected.
        memory: bytes for what is kept.
        data: whose passes may be reused, see :meth:`know`.
    """

    def __init__(
        self,
        model: nn.Module,
        flow: Flow,
        sites: Mapping[nn.Module, Sequence[str]],
        parts: Sequence[Part],
        memory: int,
        data: Iterable[Inputs] = (),
    ) -> None:
        self.reused = 0
        self._model, self._flow, self._parts = model, flow, tuple(parts)
        self._stops = [tuple(sites[flow.calls[cut.position].module]) for cut in flow.cuts]
        self._settled = flow.settled([part.module for part in parts])
        self._kept = Snapshots(memory)
        self._seen: dict[bytes, None] = {}
        self._digests: list[bytes] = []
        self._shared = 0
        self._corrected_on: tuple[Hashable, ...] = ()  # names of the batches; none where nothing is corrected
        self._known: list[Tensor] = []
        self._registered = _registered(model)
        self._usual = self._hooks()
        self._works, self._resting = True, False
        for batch in data:
            self.know(batch)

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._kept.size

    def know(self, data: Inputs) -> None:
        """Passes of these data, or of rows of them, may be reused: nobody writes into them other than by torch."""
        known = {part.untyped_storage()._cdata for part in self._known}
        self._known += [
            part
            for part in (data if isinstance(data, tuple) else (data,))
            if not part.is_inference() and part.untyped_storage()._cdata not in known
        ]

    def pause(self) -> None:
        """The network takes on other bits: until :meth:`begin` nobody knows what it has in the place of what was corrected."""
        self._digests = []

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Inside, the network computes something else than its bits say: nothing is reused, or kept."""
        before, self._resting = self._resting, True
        try:
            yield
        finally:
            self._resting = before

    def begin(self, bits: Mapping[str, Bits]) -> None:
        """The network takes on other bits, of all sites; what is corrected has what training stored."""
        self._kept.begin()
        self._digests, self._corrected_on = self._chain(bits), ()
        shared = 0
        while shared < len(self._digests) and self._digests[shared] in self._seen:
            shared += 1
        self._shared = shared
        for digest in self._digests:
            self._seen.pop(digest, None)
            self._seen[digest] = None
        while len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def forward(self, inputs: Inputs) -> Any:
        """A plain pass."""
        name = self._name(inputs) if self._ready() else None
        if name is None:
            return forward(self._model, inputs)
        one: Callable[[], Any] = partial(forward, self._model, inputs)
        return self._run((name, self._corrected_on), [one], self._settled, _alone, ())[0]

    def in_lockstep(self, batches: Sequence[Inputs], hooks: Iterable[int]) -> list[Any]:
        """The passes of these batches together, in which the parts are corrected.

        Where nothing tells what they are corrected on, or hooks of others may change what is found, plain passes after them
        are not reused either.

        Args:
            hooks: that do so, by the numbers that torch gives them.
        """
        passes = [partial(forward, self._model, batch) for batch in batches]
        names = [self._name(batch) for batch in batches] if self._ready(hooks) else [None]
        if None in names:
            self.pause()
            return _corrected(passes, self._parts, ())
        self._corrected_on = tuple(names)
        own = list(range(len(self._flow.cuts)))
        run = partial(_corrected, parts=self._parts)
        return self._run(("lockstep", *names), passes, own, run, self._parts)

    def _run(
        self,
        name: Hashable,
        passes: Sequence[Callable[[], Any]],
        settled: Sequence[int],
        run: Callable[..., list[Any]],
        parts: Sequence[Part],
    ) -> list[Any]:
        """Results of passes that begin where they can.

        Args:
            settled: for each cut, which digest tells what was computed by then.
            run: runs passes to their ends, from states of the parts.
        """
        keys = self._keys(name, settled)
        start = next((j for j in reversed(keys) if keys[j] in self._kept), -1)
        given = Snapshot(()) if start < 0 else self._kept.get(keys[start])
        wanted = self._affordable([j for j in keys if j > start], len(passes))
        if start < 0 and not wanted:
            return run(passes, states=())
        cuts = self._flow.cuts
        until = 0 if start < 0 else cuts[start].position
        ways = [
            Way(self._flow, outputs, until, [cuts[j] for j in wanted], () if number else parts)
            for number, outputs in enumerate(given.outputs or [{}] * len(passes))
        ]
        try:
            found = on_their_ways(self._flow, ways, passes, partial(run, states=given.states))
        except Exception as error:  # also of the network's own, which another pass will raise again
            if start < 0:
                raise
            found = run(passes, states=())
            self._give_up(error)
            return found
        self.reused += len(passes) * (start >= 0)
        self._keep(ways, {cuts[j].position: keys[j] for j in wanted})
        return found

    def _keys(self, name: Hashable, settled: Sequence[int]) -> dict[int, Hashable]:
        """Cut → what its snapshot goes by, of those whose digest an assignment before had too."""
        return {
            j: (name, j, self._digests[after])
            for j, after in enumerate(settled)
            if after < self._shared and self._flow.cuts[j].skipped
        }

    def _keep(self, ways: Sequence[Way], keys: Mapping[int, Hashable]) -> None:
        """Keep what passes have left at cuts, by their positions, that all have come by."""
        for position, key in keys.items():
            if all(position in way.left for way in ways):
                self._kept.add(key, Snapshot(tuple(way.left[position] for way in ways), ways[0].states[position]))

    def _affordable(self, cuts: Sequence[int], passes: int) -> list[int]:
        """As many of the cuts as there is room for, the last first: they save most, and feature maps get smaller."""
        room, found = self._kept.room, list[int]()
        for j in reversed(cuts):
            room -= self._flow.cuts[j].size * passes
            if room < 0:
                break
            found.append(j)
        return found[::-1]

    def _give_up(self, error: Exception) -> None:
        log.debug("nothing is reused from now on: %s: %s", type(error).__name__, error)
        self._works = False
        self._kept.clear()

    def _ready(self, more: Iterable[int] = ()) -> bool:
        """Whether passes may be reused: the hooks are those that there were, and these; skipped calls would leave out others."""
        return self._works and not self._resting and bool(self._digests) and self._hooks() == self._usual.union(more)

    def _hooks(self) -> frozenset[int]:
        """Numbers of the hooks that run with a module's forward: the network's, and those of all modules."""
        everywhere = torch_module._global_forward_pre_hooks, torch_module._global_forward_hooks
        return frozenset().union(*self._registered, *everywhere)

    def _name(self, inputs: Inputs) -> Hashable:
        """What tells these inputs from all others, as long as the data they are rows of are kept; None where nothing does."""
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        found = [self._view(part) for part in parts]
        return None if None in found else tuple(found)

    def _view(self, part: Tensor) -> Hashable:
        if part.is_inference():  # torch does not count who writes into it
            return None
        memory = part.untyped_storage()._cdata
        for i, known in enumerate(self._known):
            if known.untyped_storage()._cdata == memory:
                return i, part.storage_offset(), part.shape, part.stride(), part.dtype, part._version
        return None

    def _chain(self, bits: Mapping[str, Bits]) -> list[bytes]:
        """d_0 … d_n; in d_0 are the sites whose modules are never called, as nobody knows what they do."""
        stopped = {site for sites in self._stops for site in sites}
        found = [_digest(b"", bits, [site for site in bits if site not in stopped])]
        for sites in self._stops:
            found.append(_digest(found[-1], bits, sites))
        return found


def _corrected(passes: Sequence[Callable[[], Result]], parts: Sequence[Part], states: Sequence[Any]) -> list[Result]:
    """Run passes in lockstep, from states of the parts, or from what training stored."""
    for part in parts:
        part.reset()
    for part, state in zip(parts, states, strict=False):
        part.restore(state)
    return in_lockstep(passes)


def _alone(passes: Sequence[Callable[[], Result]], states: Sequence[Any] = ()) -> list[Result]:
    return [one() for one in passes]


def _registered(model: nn.Module) -> list[Mapping[int, Any]]:
    """Where the modules have their hooks, by numbers that no two hooks share."""
    return [hooks for module in model.modules() for hooks in (module._forward_pre_hooks, module._forward_hooks)]


def _digest(before: bytes, bits: Mapping[str, Bits], sites: Iterable[str]) -> bytes:
    made = hashlib.blake2b(before, digest_size=16)
    for site in sites:
        found = bits[site]
        numbers = bytes([found] if isinstance(found, int) else found)  # 0..32 each
        made.update(len(numbers).to_bytes(4, "big") + numbers)
    return made.digest()
