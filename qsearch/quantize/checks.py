"""What a network must keep to while it is calibrated, and what its layers show then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from qsearch.errors import DataError
from qsearch.quantize.activations import ActivationRange
from qsearch.quantize.geometry import no_count
from qsearch.quantize.modules import Inputs, given
from qsearch.quantize.unfolding import close

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module is called with: positional, and by keyword."""

Hook: TypeAlias = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Arguments | None]
"""Runs before a module, and may replace its arguments."""


def checked(model: nn.Module, output: Any, inputs: Inputs) -> Tensor:
    """An output; DataError unless it is one tensor with a row per sample."""
    count = len(inputs[0] if isinstance(inputs, tuple) else inputs)
    if isinstance(output, Tensor) and output.shape[:1] == (count,):
        return output
    raise DataError(
        f"the network {type(model).__name__} must give one tensor with a row per sample, here {count}",
        got=f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}",
        fix="wrap it in a module whose forward returns the tensor that loss and score need",
    )


def check_repeats(model: nn.Module, once: Tensor, again: Any) -> None:
    """Raise DataError unless two runs on the same data agree to rounding."""
    if close(again, once):
        return
    raise DataError(
        f"the network {type(model).__name__} must give the same output whenever it runs on the same data",
        got="another one in a second run",
        fix="keep nothing from run to run in evaluation, and draw no random numbers, or from a generator with a fixed seed",
    )


def refuse(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A pre-hook of a layer that did not run on the example: it raises DataError."""

    def raises(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise DataError(
            f"layer {name!r} must run on the example too, or on no data",
            got="a call of it on other data only",
            fix="let the first samples of the calibration data take every branch of the network",
        )

    return raises


def check_spikes(name: str) -> Hook:
    """A pre-hook of a layer that reads spikes: it raises DataError where it reads anything else."""

    def check(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if (wrong := no_count(given(args, kwargs))) is not None:
            raise DataError(
                f"layer {name!r} reads spikes on the example, so on all data it must read whole numbers of at least 0",
                got=f"{wrong:g} in calibration",
                fix="let the first samples, which are the example, show what it reads; or pool spikes by sums",
            )

    return check


def observe(seen: ActivationRange, operand: int) -> Hook:
    """A pre-hook of a layer: its range sees one of its inputs."""

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.observe(given(args, kwargs, operand))

    return see
