"""Parameters of a network, known again when a function is called with them or with parts of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """A parameter as it stands in a call: itself, its transpose, a slice.

    Attributes:
        name: one of its names in the network.
        offset, shape, stride: where its numbers stand in the parameter's memory.
    """

    name: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many numbers of the parameter it shows, each once however it is expanded."""
        return math.prod(extent for extent, stride in zip(self.shape, self.stride, strict=True) if stride)

    def of(self, network: nn.Module) -> Tensor:
        """The same view of the parameter of a copy of the network."""
        return torch.as_strided(network.get_parameter(self.name), self.shape, self.stride, self.offset)


class Constants:
    """Where a network's parameters and buffers stand in memory at present."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters: dict[int, str] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            self._parameters.setdefault(_memory(parameter), name)
        self._buffers = {_memory(buffer) for buffer in network.buffers()}

    def parameter(self, x: Tensor) -> bool:
        """Whether ``x`` is a parameter, or a view of one."""
        return _memory(x) in self._parameters

    def buffer(self, x: Tensor) -> bool:
        """Whether ``x`` is a buffer, or a view of one."""
        return _memory(x) in self._buffers

    def same(self, one: Tensor, other: Tensor) -> bool:
        """Whether two tensors are views of the same memory."""
        return _memory(one) == _memory(other)

    def view(self, x: Tensor) -> View | None:
        """What of which parameter ``x`` is; None where it is of none."""
        name = self._parameters.get(_memory(x))
        if name is None:
            return None
        return View(name, int(x.storage_offset()), tuple(x.shape), tuple(x.stride()))


def _memory(x: Tensor) -> int:
    """Which memory a tensor's numbers stand in; of one that has none, such as a sparse one, itself.

    Not their address: tensors that only stand for others while a network is exported have none.
    """
    try:
        memory: int = x.untyped_storage()._cdata
        return memory
    except (NotImplementedError, RuntimeError):
        return id(x)
