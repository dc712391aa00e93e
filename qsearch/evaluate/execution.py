"""How batches pass through a quantised network: as it is, or by a program compiled for the processor.

A quantised network costs more than the float one as each input is rounded in several sweeps over memory. Compiled by torch's
inductor (C++ for the processor at hand, from the graph of :mod:`qsearch.quantize.program`), all that stands between two layers is one
sweep, so that an evaluation costs about what the float network costs, compiled likewise. One compilation, of some
seconds, serves all assignments.

What is compiled rounds in another order: a number that lies halfway between two codes may fall to the other side. So
execution is an option, and one campaign keeps to one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, EvaluationError, first_line
from qsearch.quantize.correcting import Correcting
from qsearch.quantize.modules import Inputs, samples
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import Program, State, parts, state_of, takes
from qsearch.quantize.quiet import quietly
from qsearch.quantize.unfolding import close

log = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Inputs], Tensor]
"""Inputs of a batch → outputs under one assignment, a row per sample."""

Execution = Literal["eager", "channels-last", "compiled", "fastest"]
"""As the network is; with its maps laid out channel by channel within a position; compiled; what is fastest here."""


@dataclass(frozen=True)
class Plan:
    """One way of execution.

    Attributes:
        channels_last: feature maps lie in memory with all channels of a position together.
        compiled: batches pass through a compiled program.
        batch_size: samples in a forward pass.
    """

    channels_last: bool = False
    compiled: bool = False
    batch_size: int = 64

    def laid_out(self, model: nn.Module) -> nn.Module:
        """The network with its kernels laid out; itself."""
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    def arranged(self, inputs: Inputs) -> Inputs:
        """Inputs laid out likewise, where they are maps of shape (B, C, H, W); others as they are."""
        if not self.channels_last:
            return inputs
        found = tuple(
            part.contiguous(memory_format=torch.channels_last) if part.dim() == 4 else part for part in parts(inputs)
        )
        return found if isinstance(inputs, tuple) else found[0]


class Executor:
    """Runs a quantised network by a plan.

    Compiled programs take batches of one size. Smaller ones are filled up with their own samples, whose outputs are cut off.

    Args:
        network: with any assignment.
        example: a batch of the plan's size.

    Raises:
        ConfigError: the plan asks for what cannot be compiled here: no graph, or no compiler.
        EvaluationError: a compiled network gives something else in float.
    """

    def __init__(self, network: QuantizedNetwork, plan: Plan, example: Inputs) -> None:
        self.plan = plan
        self._network = network
        self._program = Program(network, example) if plan.compiled else None
        self._compiled = None if self._program is None else _compiled(self._program, network, example)
        self._calibration: Inputs | None = None
        self._correcting: tuple[Correcting, Callable[..., Any]] | None = None

    def correct_on(self, calibration: Inputs) -> None:
        """From now on correct the shift on these samples, in one batch, by a program too; a plan that compiles nothing does not.

        Raises:
            ConfigError: no compiler.
        """
        if self.plan.compiled:
            self._calibration, self._correcting = calibration, _correcting(self._network, calibration)

    def take_on(self, assignment: BitAssignment) -> Run:
        """Give the network an assignment; what runs batches under it, until it takes on another.

        Raises:
            SpaceError, EvaluationError: see :meth:`QuantizedNetwork.apply`.
        """
        program, compiled = self._program, self._compiled
        self._network.take_on(assignment)
        if program is None or compiled is None or not takes(self._network):
            self._network.apply(assignment)
            return self._eager
        tensors = program.arguments(self._corrected(assignment))

        def run(inputs: Inputs) -> Tensor:
            output: Tensor = compiled(*tensors, *parts(_filled(inputs, self.plan.batch_size)))[0]
            return output[: samples(inputs)]

        return run

    def _corrected(self, assignment: BitAssignment) -> State:
        """The state of an assignment that the network has taken on, its shift corrected if it is to be."""
        if self._correcting is None or self._calibration is None or not self._network.quantised:
            self._network.apply(assignment)
            return state_of(self._network)
        correcting, compiled = self._correcting
        state = state_of(self._network)
        return correcting.corrected(state, compiled(*correcting.arguments(state), *parts(self._calibration)))

    def _eager(self, inputs: Inputs) -> Tensor:
        output: Tensor = self._network(self.plan.arranged(inputs))
        return output


def _compiled(program: Program, network: QuantizedNetwork, example: Inputs) -> Callable[..., Any]:
    """The program compiled, and seen to give in float what the network gives: there, no code can fall to another side.

    Raises:
        ConfigError: no compiler.
        EvaluationError: it gives something else.
    """
    network.apply(BitAssignment({}))
    arguments = program.arguments(state_of(network))
    found = _by_inductor(program.graph, [*arguments, *parts(example)])
    with torch.inference_mode():
        output = found(*arguments, *parts(example))[0]
    if not close(output, network(example)):
        raise EvaluationError("a compiled network must give what it gives uncompiled", fix="execution: channels-last")
    return found


def _correcting(network: QuantizedNetwork, calibration: Inputs) -> tuple[Correcting, Callable[..., Any]] | None:
    """The correction as a program, and the same compiled; None where it is none."""
    try:
        correcting = Correcting(network, calibration)
    except ConfigError as error:
        log.info("the correction is not compiled: %s", error)
        return None
    network.apply(BitAssignment({}))
    arguments = correcting.arguments(state_of(network))
    return correcting, _by_inductor(correcting.program.graph, [*arguments, *parts(calibration)])


def _by_inductor(graph: nn.Module, arguments: list[Tensor]) -> Callable[..., Any]:
    with torch.no_grad(), quietly():
        try:
            return inductor(copy.deepcopy(graph), arguments)
        except Exception as error:  # compilers fail in many ways, and need not be there
            raise ConfigError(
                "execution 'compiled' needs a C++ compiler that torch's inductor can use",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix="install g++, or execution: channels-last",
            ) from error


def inductor(graph: nn.Module, arguments: list[Tensor]) -> Callable[..., Any]:
    """A graph compiled for arguments of these shapes; without the checks of each call that ``torch.compile`` puts in front."""
    from torch._inductor import compile as compiled  # a second's import, for those who compile only

    found: Callable[..., Any] = compiled(graph, arguments)  # type: ignore[arg-type]  # a graph module
    return found


def _filled(inputs: Inputs, size: int) -> Inputs:
    """A batch of as many samples as asked for, the last ones being the first again; itself where it has them."""
    if samples(inputs) == size:
        return inputs
    rows = torch.arange(size) % samples(inputs)
    return tuple(part[rows] for part in inputs) if isinstance(inputs, tuple) else inputs[rows]
