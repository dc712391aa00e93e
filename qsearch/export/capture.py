"""A network's graph, captured by ``torch.export``: with any number of samples where it allows that, else with one."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from qsearch.errors import ConfigError, first_line
from qsearch.export.formats import WITHOUT_GRAPH, Runtime
from qsearch.quantize.modules import Inputs
from qsearch.quantize.quiet import quietly

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Captured:
    """A graph.

    Attributes:
        program: what ``torch.export`` made of the network, without the paths of its source files.
        any_batch: whether it takes any number of samples; else it takes one.
    """

    program: ExportedProgram
    any_batch: bool

    @property
    def note(self) -> str:
        """What a user has to know."""
        return (
            "takes any number of samples" if self.any_batch else "takes one sample at a time: its graph is bound to one"
        )


def capture(module: nn.Module, example: Inputs) -> Captured:
    """The graph of a module.

    Args:
        example: inputs of two samples.

    Raises:
        ConfigError: it has none, as where control flow depends on the data.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    open_ = tuple({0: Dim.DYNAMIC} for _ in inputs)
    with torch.no_grad(), quietly():
        try:
            return Captured(_tidy(torch.export.export(module, inputs, dynamic_shapes=open_, strict=False)), True)
        except Exception as error:  # it is the user's network that is run here: anything may come of it
            log.debug("no graph for any number of samples: %s", error)
        try:
            one = tuple(part[:1] for part in inputs)
            return Captured(_tidy(torch.export.export(module, one, strict=False)), False)
        except Exception as error:
            raise ConfigError(
                "a network must have one graph for all inputs to be written as one (no branches that depend on the data)",
                got=f"{type(error).__name__} {_where(error)}",
                fix=f"try {WITHOUT_GRAPH}",
            ) from error


def _where(error: Exception) -> str:
    """The line of the user's network that an error comes from; without one, what the error says first."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    if frames:
        last = frames[-1]
        return f"at {last.line!r} ({Path(last.filename).name}, line {last.lineno})"
    return first_line(error)


def sample_by_sample(runtime: Runtime) -> Runtime:
    """A runtime of one sample at a time as one of any number."""

    def run(inputs: Inputs) -> Tensor:
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        rows = [tuple(part[i : i + 1] for part in parts) for i in range(len(parts[0]))]
        return torch.cat([runtime(row if isinstance(inputs, tuple) else row[0]) for row in rows])

    return run


def _tidy(program: ExportedProgram) -> ExportedProgram:
    """Without what nothing reads, and without the paths of source files, which are nobody's business."""
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
