"""``Program``: a quantised network as a function of tensors only, the same graph for every assignment.

What an assignment changes in a network is tensors: its weights, what the correction stores, and of each input its
grid. So one graph, captured once by ``torch.export``, serves all of them. It holds no hooks and no Python, can be compiled, and
can be mapped over a stack of assignments.

Notation, for each input site: x what the layer is given, s scale, lo and hi the ends of the grid, k its kind (0 float,
1 a grid, 2 the two levels ±s)::

    x̂ = x                                  k = 0
    x̂ = clip(round(x / s), lo, hi) · s     k = 1
    x̂ = −s where x < 0, else s             k = 2

which is :class:`qsearch.quantize.activations.ActivationQuantizer` operation by operation: the graph, not compiled, gives what the
network gives, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.passes import move_to_device_pass
from torch.nn.modules.batchnorm import _BatchNorm

from qsearch.errors import ConfigError, first_line
from qsearch.quantize.activations import ActivationQuantizer
from qsearch.quantize.grid import EXACT
from qsearch.quantize.modules import Inputs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.quiet import quietly

OFF, GRID, LEVELS = 0.0, 1.0, 2.0
"""k."""

OTHERWISE = "execution: eager, assignments_at_once: 1"
"""What does without a graph."""


class TensorGrid(nn.Module):
    """A quantiser whose bits are a tensor.

    Attributes:
        settings: s, lo, hi, k; shape (4,), float32.
    """

    settings: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("settings", encoded(None))

    def forward(self, x: Tensor) -> Tensor:
        """x̂, of the shape and type of ``x``."""
        scale, low, high, kind = self.settings.unbind()
        working = x.to(torch.promote_types(x.dtype, torch.float32))
        code = torch.clamp(torch.round(working / scale), low, high) * scale
        levels = torch.where(working < 0, -scale, scale)
        found = torch.where(kind == GRID, code, torch.where(kind == LEVELS, levels, working))
        return found.to(x.dtype)


def encoded(quantizer: ActivationQuantizer | None) -> Tensor:
    """The settings of a quantiser, shape (4,); of None, those that leave an input as it is."""
    if quantizer is None:
        return torch.tensor([1.0, 0.0, 0.0, OFF])
    if quantizer.grid is None:
        return torch.stack([quantizer.scale.float().cpu(), torch.zeros(()), torch.zeros(()), torch.tensor(LEVELS)])
    ends = torch.tensor([float(quantizer.grid.low), float(quantizer.grid.high), GRID])
    return torch.cat([quantizer.scale.float().cpu()[None], ends])


@dataclass(frozen=True)
class State:
    """An assignment as a program takes it on.

    Attributes:
        tensors: what the network stores: name → tensor, as the network has it at present and not a copy.
        grids: settings of all input sites, shape (sites, 4), float32.
    """

    tensors: Mapping[str, Tensor]
    grids: Tensor


class Capture(nn.Module):
    """What is captured: a network whose inputs are quantised by tensors.

    A subclass may do more; its own buffers, not persistent, are constants of the graph.
    """

    def __init__(self, network: QuantizedNetwork) -> None:
        super().__init__()
        self.model = network.model
        self.grids = nn.ModuleList([TensorGrid() for _ in network.input_sites])

    def forward(self, *inputs: Tensor) -> Any:
        return self.model(*(part.clone() for part in inputs))  # a network may write into its inputs


class Program:
    """The graph of a quantised network for batches of one size.

    Args:
        network: with any assignment; it is left as it is.
        example: a batch. The program takes batches of its shapes only.
        capture: what else the graph does; the network alone if None.
        device: where the graph runs; the network stays where it is.

    Attributes:
        graph: takes the tensors of :meth:`arguments`; gives a tuple whose first item is the output.

    Raises:
        ConfigError: the network has no one graph: its control flow depends on the data, or it has neurons, whose
            registers are no tensors.
    """

    def __init__(
        self,
        network: QuantizedNetwork,
        example: Inputs,
        *,
        capture: Capture | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if own := _by_their_batch(network.model):
            raise ConfigError(
                "a program takes batches of one size, filled up where they are smaller, so rows may not depend on their batch",
                got=f"{own!r} normalises by the statistics of each batch",
                fix=OTHERWISE,
            )
        if network.has_neurons:
            raise ConfigError("a network with neurons has no graph for all its assignments", fix=OTHERWISE)
        inputs = parts(example)
        self.shapes = tuple(part.shape for part in inputs)
        with torch.inference_mode(False), torch.no_grad():
            captured = capture or Capture(network)
            with network.quantising(dict(zip(network.input_sites, captured.grids, strict=True))):
                program = _export(captured, tuple(part.clone() for part in inputs))
        program = move_to_device_pass(program, str(device))
        self.graph = _unchecked(program.graph_module)
        self._order = [spec.target for spec in program.graph_signature.input_specs if spec.target is not None]
        self._constants = dict(program.constants)

    @property
    def names(self) -> list[str]:
        """Names of the graph's tensors, in its order: "model.conv.weight", "grids.3.settings", and constants."""
        return list(self._order)

    def fits(self, inputs: Inputs) -> bool:
        """Whether a batch has the shapes that the program takes."""
        return tuple(part.shape for part in parts(inputs)) == self.shapes

    def arguments(self, state: State) -> list[Tensor]:
        """The tensors of a state in the graph's order; the inputs of a batch come behind them."""
        return [self._argument(name, state) for name in self._order]

    def _argument(self, name: str, state: State) -> Tensor:
        if name.startswith("grids."):
            return state.grids[int(name.split(".")[1])]
        found = state.tensors.get(name.removeprefix("model."))
        return self._constants[name] if found is None else found


def parts(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of a batch."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def takes(network: QuantizedNetwork) -> bool:
    """Whether a program can take on a network's present assignment: grids up to 24 bits are exact in float32."""
    return all(fits_float32(quantizer) for quantizer in network.quantizers.values())


def fits_float32(quantizer: ActivationQuantizer) -> bool:
    """Whether float32 holds the codes of a quantiser."""
    grid = quantizer.grid
    return grid is None or max(-grid.low, grid.high) <= EXACT


def state_of(network: QuantizedNetwork) -> State:
    """What a network has taken on at present; valid until it takes on something else."""
    tensors = dict(network.model.named_parameters(remove_duplicate=False))
    tensors |= dict(network.model.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]  # parameters are tensors
    grids = [encoded(network.quantizers.get(site)) for site in network.input_sites]
    return State(tensors, torch.stack(grids) if grids else torch.zeros(0, 4))


def stacked(states: Sequence[State]) -> State:
    """States of A assignments as one: each tensor with a first extent of A."""
    names = states[0].tensors
    tensors = {name: torch.stack([state.tensors[name].detach() for state in states]) for name in names}
    return State(tensors, torch.stack([state.grids for state in states], dim=1))


def _export(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    with quietly():
        try:
            return torch.export.export(module, inputs, strict=False)
        except Exception as error:  # it is the user's network that is run here: anything may come of it
            raise ConfigError(
                "a network must have one graph for all its data (no branches that depend on the data) to be compiled",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix=OTHERWISE,
            ) from error


def _unchecked(graph: fx.GraphModule) -> fx.GraphModule:
    """A graph without the checks of types and devices that it was captured with: a conversion's may name another device."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
        graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _by_their_batch(model: nn.Module) -> str | None:
    """A batch-norm without stored statistics, by name; None where there is none."""
    norms = (
        name for name, module in model.named_modules() if isinstance(module, _BatchNorm) and module.running_mean is None
    )
    return next(norms, None)
