"""The correction of the shift as a graph of tensors, the same for every assignment.

What :class:`qsearch.quantize.correction.ShiftCorrection` does, for networks whose corrected modules run once, on one batch of
calibration samples, without passes that wait for each other. Notation as there: μ₀, σ²₀ what training stored, f the float
network, q an assignment, δ = m_f − m_q::

    μ = μ₀ + (μ_q − μ_f)        σ² = σ²₀ · σ²_q / σ²_f        bias = bias₀ + δ

Operations and precisions are those of the correction. On one batch of the same samples the graph, not compiled and on the same
processor, gives what it gives, to the last bit; on batches in lockstep the sums of the moments are taken in another order,
which moves the results by roundings of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError
from qsearch.quantize.correction import variance_ratio
from qsearch.quantize.modules import CONVOLUTIONS, Inputs, forward, given
from qsearch.quantize.moments import channel_sums, channel_totals, moments
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.program import OTHERWISE, Capture, Program, State, state_of


class _Part:
    """A module that is corrected.

    Attributes:
        stored: names of its tensors that the correction changes.
        corrected: what they become, once it has run.
    """

    stored: tuple[str, ...]

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.corrected: tuple[Tensor, ...] = ()

    def measured(self, into: list[Tensor]) -> RemovableHandle:
        """A hook that notes the moments of each run, shape (moments, C), double precision."""
        raise NotImplementedError

    def correcting(self, reference: Callable[[], Tensor]) -> list[RemovableHandle]:
        """Hooks that correct a run by its moments in the float network, shape (moments, C), double precision."""
        raise NotImplementedError


class _Norm(_Part):
    """A batch-norm with stored statistics: normalises by the corrected ones."""

    stored = ("running_mean", "running_var")

    def measured(self, into: list[Tensor]) -> RemovableHandle:
        def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            into.append(torch.stack(moments([channel_sums(given(args, kwargs))])))

        return self.module.register_forward_pre_hook(measure, with_kwargs=True)

    def correcting(self, reference: Callable[[], Tensor]) -> list[RemovableHandle]:
        own = dict[str, Tensor | None]()

        def correct(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            own.update({name: module._buffers[name] for name in self.stored})
            mean, variance = (module.get_buffer(name) for name in self.stored)
            found, floating = moments([channel_sums(given(args, kwargs))]), reference()
            ratio = variance_ratio(found[1], floating[1], variance)
            self.corrected = (mean + (found[0] - floating[0])).to(mean.dtype), (variance * ratio).to(variance.dtype)
            module._buffers.update(zip(self.stored, self.corrected, strict=True))

        def put_back(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            module._buffers.update(own)

        return [
            self.module.register_forward_pre_hook(correct, with_kwargs=True),
            self.module.register_forward_hook(put_back, always_call=True),
        ]


class _Bias(_Part):
    """A layer whose output does not go straight into a batch-norm."""

    stored = ("bias",)

    def measured(self, into: list[Tensor]) -> RemovableHandle:
        def measure(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            into.append(self._mean(output))

        return self.module.register_forward_hook(measure)

    def correcting(self, reference: Callable[[], Tensor]) -> list[RemovableHandle]:
        def correct(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            bias = module.get_parameter("bias")
            shift = (self._mean(output) - reference())[0]
            self.corrected = ((bias - shift).to(bias.dtype),)
            rounded = shift.to(output.dtype)
            return output - (rounded.reshape(-1, *[1] * (output.dim() - 2)) if self._axis == 1 else rounded)

        return [self.module.register_forward_hook(correct)]

    def _mean(self, output: Tensor) -> Tensor:
        return torch.stack(moments([channel_totals(output, self._axis)]))

    @property
    def _axis(self) -> int:
        return 1 if isinstance(self.module, CONVOLUTIONS) else -1


class _Correction(Capture):
    """A network that corrects itself as it runs; gives its output, and what the correction stores."""

    def __init__(self, network: QuantizedNetwork, parts: Sequence[_Part], references: Sequence[Tensor]) -> None:
        super().__init__(network)
        self._parts = tuple(parts)
        for number, reference in enumerate(references):
            self.register_buffer(f"reference{number}", reference, persistent=False)

    def forward(self, *inputs: Tensor) -> Any:
        handles = [
            handle
            for number, part in enumerate(self._parts)
            for handle in part.correcting(lambda name=f"reference{number}": self.get_buffer(name))  # type: ignore[misc]
        ]
        with _removed(handles):
            output = super().forward(*inputs)
        return output, *(tensor for part in self._parts for tensor in part.corrected)


class Correcting:
    """A quantised network's correction, for calibration samples in one batch.

    Args:
        network: with ``correction=True``; it takes on the float assignment.
        inputs: calibration samples. What the float network gives on them is what is compared with.
        device: where the graph runs.

    Attributes:
        program: its graph gives the output on the samples and, behind it, the tensors that :attr:`names` names.
        names: names of the tensors that are corrected; of one tensor, all that it goes by.

    Raises:
        ConfigError: a corrected module does not run exactly once, or the network has no graph (:class:`Program`).
    """

    def __init__(self, network: QuantizedNetwork, inputs: Inputs, *, device: torch.device | str = "cpu") -> None:
        network.apply(BitAssignment({}))
        parts = _parts(network)
        with torch.inference_mode(False), torch.no_grad():
            references = _references(network, parts, inputs)
            self.program = Program(network, inputs, capture=_Correction(network, parts, references), device=device)
            self.names = corrected_names(network)
            tensors = state_of(network).tensors
            self._original = {name: tensors[name].detach().clone().to(device) for names in self.names for name in names}

    def arguments(self, state: State) -> list[Tensor]:
        """The tensors of a state in the graph's order, corrected or not; calibration samples come behind them."""
        return self.program.arguments(State({**state.tensors, **self._original}, state.grids))

    def corrected(self, state: State, results: Sequence[Tensor]) -> State:
        """The state with what the graph has found, its output left out."""
        found = {name: tensor for names, tensor in zip(self.names, results[1:], strict=True) for name in names}
        return State({**state.tensors, **found}, state.grids)


def corrected_names(network: QuantizedNetwork) -> tuple[tuple[str, ...], ...]:
    """Names of the tensors that a network's correction changes; of one tensor, all that it goes by."""
    tensors = state_of(network).tensors
    stored = [getattr(part.module, name) for part in _parts(network) for name in part.stored]
    return tuple(tuple(name for name, found in tensors.items() if found is tensor) for tensor in stored)


def _parts(network: QuantizedNetwork) -> list[_Part]:
    """The corrected modules, as :class:`ShiftCorrection` chooses them."""
    norms: list[_Part] = [
        _Norm(module)
        for module in network.model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
    ]
    shifted = [name for name, kind in network.corrections.items() if kind == "shift"]
    return norms + [_Bias(network.model.get_submodule(name)) for name in shifted]


def _references(network: QuantizedNetwork, parts: Sequence[_Part], inputs: Inputs) -> list[Tensor]:
    """Moments of each part in the float network, shape (moments, C), double precision."""
    found: list[list[Tensor]] = [[] for _ in parts]
    with _removed([part.measured(into) for part, into in zip(parts, found, strict=True)]):
        forward(network.model, inputs)
    for part, runs in zip(parts, found, strict=True):
        if len(runs) != 1:
            name = next(name for name, module in network.model.named_modules() if module is part.module)
            raise ConfigError(
                "every corrected module must run once for the correction to be one graph",
                got=f"{len(runs)} runs of {name!r}",
                fix=OTHERWISE,
            )
    return [runs[0] for runs in found]


@contextmanager
def _removed(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
