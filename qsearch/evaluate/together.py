"""``Together``: qualities of several assignments from one pass of the data.

A small network leaves most of a GPU idle, and its time goes into starting operations. So A assignments pass as one: their
weights, grids and corrections are stacked (:mod:`qsearch.quantize.mapping`), the shift is corrected for all of them on the
calibration samples in one batch (:mod:`qsearch.quantize.correcting`), and each assignment's outputs are judged as ever.

Outputs differ from those of one assignment alone by rounding: a number that lies halfway between two codes may fall to the
other side. They do not depend on what else is asked: groups are filled up to A. An assignment that fails is told in its
place, the others are answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, first_line
from qsearch.evaluate.data import Split
from qsearch.evaluate.scoring import Scoring
from qsearch.evaluate.threads import threads
from qsearch.quantize.correcting import Correcting, corrected_names
from qsearch.quantize.mapping import Mapped, mapped
from qsearch.quantize.modules import Inputs, moved
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import Program, State, parts, stacked, state_of
from qsearch.quantize.states import States
from qsearch.trial import Quality

log = logging.getLogger(__name__)

Alone = Callable[[BitAssignment], Quality]
"""Evaluates one assignment by itself."""

Compiler = Callable[[torch.nn.Module, Sequence[Tensor]], Mapped]
"""A graph, and what it will be called with → what is called in its place."""


@dataclass(frozen=True)
class Settings:
    """How assignments are evaluated together.

    Attributes:
        at_once: A. Memory for the feature maps of A networks must be there; where the GPU has too little, A is halved.
        batch_size: samples in a forward pass, of each assignment.
        device: where they pass: "cpu", "cuda", "cuda:1".
        threads: processor threads; as they are if None.
        compiler: compiles the graphs; they run as they are if None.
    """

    at_once: int
    batch_size: int
    device: str = "cpu"
    threads: int | None = None
    compiler: Compiler | None = None


class Together:
    """Evaluates assignments of a quantised network in groups.

    Args:
        network: it takes on other assignments meanwhile.
        scoring: judges outputs; of batches of ``settings.batch_size``.
        data: what the quality is of; moved to the device once.
        calibration: samples that the shift is corrected on, for a network with ``correction=True``; None for one without.
        settings: see :class:`Settings`.
        alone: evaluates what cannot be evaluated together: float, and grids that float32 does not hold.

    Raises:
        ConfigError: a network without a graph for all its assignments, or with operations that cannot be mapped.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        scoring: Scoring,
        data: Split,
        calibration: Inputs | None,
        settings: Settings,
        alone: Alone,
    ) -> None:
        self._network, self._scoring, self._data, self._alone, self._settings = network, scoring, data, alone, settings
        self._at_once, device = settings.at_once, _device(settings.device)
        self._states = States(network, device)
        self._calibration = None if calibration is None else moved(calibration, device)
        names = () if calibration is None else corrected_names(network)
        self._correcting = _correcting(network, calibration, device) if calibration is not None and names else None
        self._corrected = names if self._correcting is None else ()
        self._batches = [moved(batch.inputs, device) for batch in data.batches(settings.batch_size)]
        self._programs = {
            _shapes(batch.inputs): Program(network, batch.inputs, device=device)
            for batch in (data.head(settings.batch_size), list(data.batches(settings.batch_size))[-1])
        }
        self._graphs = dict[tuple[Program, int], Mapped]()

    def evaluate_many(self, assignments: Sequence[BitAssignment]) -> Iterator[Quality | Exception]:
        """See :class:`qsearch.protocols.Batching`."""
        waiting = list(assignments)
        while waiting:
            group, rest = waiting[: self._at_once], waiting[self._at_once :]
            try:
                with threads(self._settings.threads), torch.inference_mode(), _precise(self._settings.device):
                    answers = self._answers(group)
            except torch.OutOfMemoryError as error:
                self._at_once = _half(self._at_once, error)
                continue
            yield from answers
            waiting = rest

    def _answers(self, group: Sequence[BitAssignment]) -> list[Quality | Exception]:
        answers = dict[int, Quality | Exception]()
        states = dict[int, State]()
        for number, assignment in enumerate(group):
            try:
                if self._states.in_float(assignment) or not self._states.takes(assignment):
                    answers[number] = self._alone(assignment)
                else:
                    states[number] = self._state(assignment)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # as an evaluation's, it is this assignment's answer
                answers[number] = error
        if states:
            found = [batch.cpu() for batch in self.outputs(list(states.values()))]
            answers.update((number, self._judged([batch[row] for batch in found])) for row, number in enumerate(states))
        return [answers[number] for number in range(len(group))]

    def outputs(self, states: Sequence[State]) -> list[Tensor]:
        """Outputs of up to A states on each batch, shape (states, B, …), on the device.

        The last one stands in for those that are missing: operations of another A would round in another order, and an
        answer would depend on what else is asked.
        """
        stack = self._settled(stacked([*states, *[states[-1]] * (self._at_once - len(states))]))
        full = State({**self._states.base, **stack.tensors}, stack.grids)
        found = list[Tensor]()
        for batch in self._batches:
            program = self._programs[_shapes(batch)]
            found.append(self._run(program, program.arguments(full), stack, batch)[0][: len(states)])
        return found

    def _state(self, assignment: BitAssignment) -> State:
        """What an assignment changes; corrected here where no graph does it."""
        state = self._states.of(assignment)
        if not self._corrected:
            return state
        self._network.apply(assignment)
        tensors = state_of(self._network).tensors
        own = {
            name: tensors[name].detach().clone().to(state.grids.device) for names in self._corrected for name in names
        }
        return State({**state.tensors, **own}, state.grids)

    def _settled(self, stack: State) -> State:
        """A stack of states with the shift of each corrected."""
        if self._correcting is None or self._calibration is None:
            return stack
        full = State({**self._states.base, **stack.tensors}, stack.grids)
        arguments = self._correcting.arguments(full)
        return self._correcting.corrected(
            stack, self._run(self._correcting.program, arguments, stack, self._calibration)
        )

    def _run(self, program: Program, arguments: Sequence[Tensor], stack: State, inputs: Inputs) -> Sequence[Tensor]:
        """What a program gives for a stack of states."""
        batch, key = parts(inputs), (program, stack.grids.shape[1])
        if key not in self._graphs:
            graph = mapped(program, stack.tensors, arguments, batch)
            compiler = self._settings.compiler
            self._graphs[key] = graph if compiler is None else compiler(graph, [*arguments, *batch])
        return self._graphs[key](*arguments, *batch)

    def _judged(self, outputs: Sequence[Tensor]) -> Quality | Exception:
        """Quality of outputs on the data, batch by batch."""
        answers = iter(outputs)
        try:
            return self._scoring.quality(lambda inputs: next(answers), self._data)
        except Exception as error:  # as above
            return error


def _correcting(network: QuantizedNetwork, inputs: Inputs, device: torch.device) -> Correcting | None:
    """The correction as a graph; None where the network has none, and is corrected under one assignment after the other."""
    try:
        return Correcting(network, inputs, device=device)
    except ConfigError as error:
        log.warning("the shift is corrected one assignment at a time: %s", error)
        return None


def _half(count: int, error: Exception) -> int:
    """Half as many assignments.

    Raises:
        ConfigError: there was one only.
    """
    if count == 1:
        raise ConfigError("the GPU must hold the feature maps of one network", fix="a smaller batch_size") from error
    log.warning("the GPU has too little memory for %d assignments at once; going on with %d", count, count // 2)
    return count // 2


def _device(name: str) -> torch.device:
    """A device.

    Raises:
        ConfigError: torch has no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # each kind of device has its own
        raise ConfigError(
            "device must be one that torch has here", got=f"{name!r} ({first_line(error)})", fix="device: cpu"
        ) from error


def _precise(device: str) -> AbstractContextManager[None]:
    """Convolutions in float32 throughout: CUDA's are by default of factors rounded to 10 bits, too few for a grid of 8."""
    if torch.device(device).type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def _shapes(inputs: Inputs) -> tuple[torch.Size, ...]:
    return tuple(part.shape for part in parts(inputs))
