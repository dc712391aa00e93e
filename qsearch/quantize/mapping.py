"""A program mapped over a stack of states: one pass of the data for several assignments.

Notation: A assignments. What they differ in, weights, grids and what the correction stores, has a first extent of A; what they
share has not, the data neither. The operations of one assignment become operations of all (a convolution one of A groups),
found once by ``torch.vmap`` and kept as a graph, so that a pass costs no more calls than that of one assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from qsearch.errors import ConfigError, first_line
from qsearch.quantize.program import Program
from qsearch.quantize.quiet import quietly

Mapped: TypeAlias = Callable[..., tuple[Tensor, ...]]
"""Arguments of a program, some of them stacked, and a batch → what its graph gives, each with a first extent of A."""


def mapped(
    program: Program, stacked: Collection[str], arguments: Sequence[Tensor], inputs: Sequence[Tensor]
) -> nn.Module:
    """The graph of a program for A assignments; see :data:`Mapped`.

    Args:
        stacked: names of a state's tensors that have a first extent of A; grids always have one.
        arguments: as the graph will get them: it takes such shapes only.
        inputs: a batch; it is not written to.

    Raises:
        ConfigError: an operation of the network that cannot be mapped.
    """
    dims = [
        0 if name.startswith("grids.") or name.removeprefix("model.") in stacked else None for name in program.names
    ]
    dims += [None] * len(inputs)

    with torch.inference_mode(False), torch.no_grad(), quietly():
        try:
            over_states = torch.vmap(program.graph, in_dims=tuple(dims))
            graph = make_fx(over_states, tracing_mode="fake")(*arguments, *inputs)
        except Exception as error:  # whatever the network's operations say
            raise ConfigError(
                "to evaluate assignments at once, each operation of the network must be one that torch.vmap can map",
                got=f"{type(error).__name__}: {first_line(error)}",
                fix="assignments_at_once: 1",
            ) from error
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph
