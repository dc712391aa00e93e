"""Copies of a network to work on, with every weight a plain parameter."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from qsearch.errors import DataError

COMPUTED_BY_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)
"""Pre-hooks that compute a weight anew before each call, and can be asked to leave it behind."""


def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy of a network.

    Weights that hooks compute hang on a gradient, which a deep copy refuses: their copies are detached.

    Raises:
        DataError: something in the network cannot be copied.
    """
    computed = [
        value
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    detached: dict[int, Any] = {id(value): value.detach().clone() for value in computed}
    try:
        return copy.deepcopy(model, detached)
    except Exception as error:  # a network may hold anything; its author needs the reason
        raise DataError(
            f"the network {type(model).__name__} must allow a deep copy, which is what gets quantised",
            got=f"{type(error).__name__}: {error}"[:300],
            fix="keep what cannot be copied (files, locks, tensors with a gradient) out of its modules",
        ) from error


@torch.no_grad()
def evaluation_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, its parametrised weights (weight norm, spectral norm, pruning) replaced by their values.

    Raises:
        DataError: as :func:`duplicate`.
    """
    network = duplicate(model).eval().requires_grad_(False)
    for module in network.modules():
        if is_parametrized(module):
            _settle(module)
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, COMPUTED_BY_HOOKS):
                hook.remove(module)
                del module._forward_pre_hooks[key]
    return network.requires_grad_(False)


def _settle(module: nn.Module) -> None:
    """Put the values of parametrised tensors in their places.

    ``torch.nn.utils.parametrize.remove_parametrizations`` deletes a property of a class that a deep copy shares with
    its original, which would lose its weight.
    """
    parametrized = module.parametrizations
    assert isinstance(parametrized, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in parametrized}
    module.__class__ = type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value, requires_grad=False))
