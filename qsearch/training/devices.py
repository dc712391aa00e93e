"""Where a network is trained: whether that is there, how it is asked, and how it gives the same numbers each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qsearch.errors import ConfigError
from qsearch.quantize.modules import Inputs, moved
from qsearch.training.options import TrainingOptions


def check_device(options: TrainingOptions) -> None:
    """Raise unless there is a device as the options name it, and it can compute in their precision.

    Raises:
        ConfigError: there is none, or it cannot.
    """
    try:
        device = torch.zeros(1, device=options.device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"training needs a device that is there, not {options.device!r}",
            got=f"{type(error).__name__}: {error}"[:200],
            fix="device: cpu",
        ) from error
    if device.type == "cpu" and options.precision == "float16":
        raise ConfigError(
            "a processor does not train in float16", fix="precision: bfloat16 or float32, or a device such as cuda"
        )


def outputs_of(network: nn.Module, device: str) -> Callable[[Inputs], Tensor]:
    """A network where it is trained; inputs come from the processor, and outputs go back to it."""
    there = torch.device(device)

    def run(inputs: Inputs) -> Tensor:
        output: Tensor = network(moved(inputs, there))
        return output.cpu()

    return run


@contextmanager
def repeatable() -> Iterator[None]:
    """Let a GPU choose algorithms that give the same numbers each time, where it has such."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        yield
