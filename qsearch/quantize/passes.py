"""Watching the functional calls of one forward pass, and which module makes each.

Hooks on the modules of a network tell the :class:`Pass` that is going on, if any, which of them runs. A pass is a mode of
torch: it is asked before every function, and gone while it answers, so that what it calls itself goes through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from qsearch.quantize.calls import Attention, Call, Other, Product, Weighted, parse
from qsearch.quantize.modules import QUANTISABLE
from qsearch.quantize.products import MatrixProduct
from qsearch.quantize.views import Constants


@dataclass
class Running:
    """One run of a module: how many calls of each operation it has made."""

    module: nn.Module
    path: str
    made: Counter[str] = field(default_factory=Counter)

    def next(self, operation: str) -> int:
        """The number of the next call of an operation."""
        number = self.made[operation]
        self.made[operation] += 1
        return number


class Pass(TorchFunctionMode):
    """One forward pass of a network with :class:`Frame` hooks; what becomes of its calls is up to the subclass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.constants = Constants(network)
        self.running = [Running(network, "")]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Let :meth:`called` answer a call that multiplies, and let others through."""
        named = kwargs or {}
        now = self.running[-1]
        call = self._understood(now, parse(func, args, named))
        if call is None:
            return func(*args, **named)
        return self.called(now, call, lambda: func(*args, **named))

    def called(self, now: Running, call: Call, original: Callable[[], Any]) -> Any:
        """The result of a call; ``original`` makes it as it was meant."""
        raise NotImplementedError

    def left(self, now: Running) -> None:
        """A run of a module has ended."""

    def _understood(self, now: Running, call: Call | None) -> Call | None:
        """The call with parameters told from activations; None where it is the business of a module that becomes a layer."""
        if call is None or isinstance(now.module, MatrixProduct):
            return None
        if isinstance(call, Product):
            call = call.weighted(self.constants.parameter) or call
        if isinstance(now.module, QUANTISABLE) and isinstance(call, Weighted):
            own = now.module.weight
            computed = not self.constants.parameter(call.weight)
            if computed or self.constants.same(call.weight, own):
                return None
        if isinstance(call, Other) and type(now.module).__module__.startswith("torch.nn."):
            return None  # the module itself is reported
        return call


class Frame:
    """Hooks that tell a pass that a module runs; plain data, so that a deep copy has hooks of its own."""

    def __init__(self, path: str) -> None:
        self.path = path

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Pre-hook."""
        current = _current()
        if current is not None:
            current.running.append(Running(module, self.path))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Hook; called after an exception too."""
        current = _current()
        if current is not None and current.running[-1].module is module:
            current.left(current.running.pop())


def frame(network: nn.Module) -> None:
    """Give every module within a network its frame."""
    for path, module in network.named_modules():
        if module is network:
            continue
        hooks = Frame(path)
        module.register_forward_pre_hook(hooks.enter)
        module.register_forward_hook(hooks.leave, always_call=True)


def hooked(module: nn.Module) -> bool:
    """Whether a module has forward hooks other than its frame's."""
    return any(not isinstance(getattr(hook, "__self__", None), Frame) for hook in module._forward_hooks.values())


def foreign_hooks(module: nn.Module) -> bool:
    """Whether hooks of any kind other than its frame's run with a module."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(not isinstance(getattr(hook, "__self__", None), Frame) for hook in hooks)


def tensors(call: Call) -> tuple[Tensor, ...]:
    """Tensors that a call multiplies."""
    if isinstance(call, Weighted):
        return call.x, call.weight
    if isinstance(call, Product):
        return call.a, call.b
    if isinstance(call, Attention):
        return tuple(part for part in (*call.args, *call.kwargs.values()) if isinstance(part, Tensor))
    return call.operands


def _current() -> Pass | None:
    """The innermost pass that goes on in this thread."""
    stack = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch leaves it without types
    return next((mode for mode in reversed(stack) if isinstance(mode, Pass)), None)
