"""What a process spends: processor seconds, float passes, memory; measured alike in every environment.

Tools take networks apart and put them together anew, so hooks on the network that was given would miss most of what is
run. Counted are the operations themselves, below autograd: floating-point operations of convolutions and matrix
products, forward and backward, over those of one image through the float network. A backward pass that needs gradients of
weights and inputs makes twice the operations of its forward pass.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from exchange import Price
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # as below
    """Adds up the floating-point operations of whatever runs within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not annotate its modes
        self.total: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        counted = flop_registry.get(func.overloadpacket)
        if counted is None and func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
            # inference mode leaves whole what autograd would have taken apart
            with self:
                parts = func.decompose(*args, **given)
            if parts is not NotImplemented:
                return parts
        output = func(*args, **given)
        if counted is not None:
            self.total += counted(*args, **given, out_val=output)
        return output


def operations(run: Callable[[], Any]) -> int:
    """Floating-point operations of a call."""
    counted = Operations()
    with counted:
        run()
    return counted.total


class Meter:
    """Measures what happens within it; :attr:`price` afterwards.

    Args:
        network: the float network.
        image: one input of it, (1, C, H, W).
    """

    price: Price

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        with torch.no_grad():
            self._pass = operations(lambda: network(image))
        self._operations = Operations()
        self._start = 0.0

    def __enter__(self) -> Meter:
        self._start = processor_seconds()
        self._operations.__enter__()  # type: ignore[no-untyped-call]  # as above
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._operations.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]  # as above
        seconds = processor_seconds() - self._start
        self.price = Price(seconds, self._operations.total / self._pass, peak_mebibytes())


def processor_seconds() -> float:
    """Of this process and of the children that it has waited for; integer programs run in those."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def peak_mebibytes() -> float:
    """The most memory that this program held.

    From Linux's status file: what ``getrusage`` says begins with the memory of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1024
