"""Networks written as a function of named parts, for tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Network(nn.Module):
    """Parameters and modules by name, and a function of them and the input; in evaluation mode."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor):
                self.register_parameter(name, nn.Parameter(part))
            else:
                self.add_module(name, part)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)
