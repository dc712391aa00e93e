"""Which bits of an assignment go where in a layer that learns locally.

W acts with those of the weight's site, and is stored with those, or ``stored_bits`` where they are more; Q, P, R and U of a layer those of the state of its neurons, or, of an output without neurons,
of the state before it; α, β and γ those of the leak, or ``constant_bits`` where the network's neurons forget nothing; θ those
of the threshold. Where all weights and states are in float the same rules run in float; beside others in whole numbers, what
an assignment leaves in float has 16 bits. Symbols are those of :mod:`qsearch.training.local_layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import SpaceError
from qsearch.training.local_options import LocalOptions
from qsearch.training.local_registers import MOST_BITS
from qsearch.training.local_stages import Stage


@dataclass(frozen=True)
class StageBits:
    """Bits of a stage's registers; see the module."""

    weights: tuple[int, ...]
    stored: tuple[int, ...]
    state: int
    leak: int
    threshold: int
    errors: int
    readout: int


def stage_bits(stages: Sequence[Stage], assignment: BitAssignment, options: LocalOptions) -> tuple[StageBits, ...]:
    """Bits of each stage; see the module.

    Raises:
        SpaceError: weights of one bit, or bits for another number of kernels.
    """
    found, state = list[StageBits](), FLOAT_BITS
    for stage in stages:
        weights = _weight_bits(stage, assignment)
        if stage.neuron is not None:
            state = assignment.highest(f"{stage.neuron}.state")
        leak = assignment.highest(f"{stage.neuron}.leak") if _leaks(stage) else options.constant_bits
        threshold = assignment.highest(f"{stage.neuron}.threshold")
        found.append(
            StageBits(
                weights, _stored(weights, options), state, leak, threshold, options.error_bits, options.readout_bits
            )
        )
    if all(set(bits.weights) == {FLOAT_BITS} and bits.state == FLOAT_BITS for bits in found):
        return tuple(_float(stage, bits) for stage, bits in zip(stages, found, strict=True))
    return tuple(_capped(bits) for bits in found)


def _weight_bits(stage: Stage, assignment: BitAssignment) -> tuple[int, ...]:
    """Bits of each kernel."""
    kernels, site = len(stage.module.weight), f"{stage.synapses}.weight"
    if site not in assignment:
        return (FLOAT_BITS,) * kernels
    found = tuple(assignment.vector(site, kernels).tolist())
    if 1 in found:
        raise SpaceError(
            f"weights of {site!r} must have at least 2 bits to learn in whole numbers, or 0 to be pruned", got=1
        )
    return found


def _stored(weights: tuple[int, ...], options: LocalOptions) -> tuple[int, ...]:
    """Bits with which each kernel is stored; one that is pruned is not."""
    return tuple(max(count, options.stored_bits or 0) if count else 0 for count in weights)


def _leaks(stage: Stage) -> bool:
    """Whether the network has a leak there."""
    return stage.neurons is not None and stage.neurons.leak is not None


def _float(stage: Stage, bits: StageBits) -> StageBits:
    """All in float, but for constants of the network that are not to be."""
    return replace(bits, leak=bits.leak if _leaks(stage) else FLOAT_BITS, errors=FLOAT_BITS, readout=FLOAT_BITS)


def _capped(bits: StageBits) -> StageBits:
    """As many bits as whole numbers have here."""
    return replace(
        bits,
        weights=tuple(min(count, MOST_BITS) for count in bits.weights),
        stored=tuple(min(count, MOST_BITS) for count in bits.stored),
        state=min(bits.state, MOST_BITS),
        leak=min(bits.leak, MOST_BITS),
        threshold=min(bits.threshold, MOST_BITS),
    )
