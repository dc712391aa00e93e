"""What a NIR file of ours says beyond NIR, as JSON under the key ``qsearch`` of the metadata of its graph and its nodes.

Other tools pass over it. Of the graph: ``version``, ``step`` (Δt in s), ``readout``, and ``repeats``, the steps in each of
which the network takes the same input, where it does. Of a neuron: ``reset``, ``several``, ``delayed``
(:mod:`qsearch.spiking.delayed`), ``leak`` (λ, which a time constant in float32 gives to rounding only; of the step that the
graph says) and ``grids``, its registers in fixed point: register → bits, exponent, and the fewest of a constant. Of pooling
``mean``, where its means must not move into the weights behind it. Of any node whatever its writer adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from qsearch.errors import DataError
from qsearch.spiking.delayed import DelayedNeuron
from qsearch.spiking.fixed_point import ConstantGrid, StateGrid
from qsearch.spiking.neurons import Grids, Integrator, Neuron

KEY, VERSION = "qsearch", 1


def as_metadata(said: Mapping[str, Any]) -> dict[str, str]:
    """Metadata of a node or graph; none where nothing is said."""
    return {KEY: json.dumps(said)} if said else {}


def said_in(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What metadata say; nothing where they are others'.

    Raises:
        DataError: ours, but damaged.
    """
    text = metadata.get(KEY) if isinstance(metadata, Mapping) else None
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DataError("metadata of qsearch in a NIR file must be JSON", got=str(error)) from error
    if not isinstance(found, dict):
        raise DataError("metadata of qsearch in a NIR file must be a JSON object", got=found)
    return found


def checked(said: dict[str, Any]) -> dict[str, Any]:
    """What was said of a node, if it is of the types that it must be of.

    Raises:
        DataError: it is not.
    """
    for key, kind in (("reset", str), ("several", bool), ("delayed", bool), ("mean", bool), ("grids", dict)):
        if key in said and not isinstance(said[key], kind):
            raise DataError(f"{key} in metadata of qsearch must be of type {kind.__name__}", got=said[key])
    for name, register in said.get("grids", {}).items():
        if not isinstance(register, dict) or any(type(value) is not int for value in register.values()):
            raise DataError(f"register {name!r} in metadata of qsearch must be whole numbers", got=register)
    return said


def said_of(module: Integrator) -> dict[str, Any]:
    """What NIR cannot say of a neuron."""
    found: dict[str, Any] = {}
    if isinstance(module, Neuron):
        found |= {"reset": module.reset, "several": module.several, "delayed": isinstance(module, DelayedNeuron)}
    if module.leak is not None:
        grid = module.grids.leak
        leak = module.leak.weight.detach()
        found["leak"] = (leak if grid is None else grid.values(leak.double())).tolist()
    grids = {name: asdict(grid) for name, grid in vars(module.grids).items() if grid is not None}
    return found | ({"grids": grids} if grids else {})


def restore(module: Integrator, said: Mapping[str, Any], *, exact: bool) -> None:
    """Give a neuron the registers that were said of it, and if exact the leak too.

    Raises:
        DataError: what was said makes no sense.
    """
    try:
        if exact and "leak" in said and module.leak is not None:
            module.leak = Integrator(torch.tensor(said["leak"], dtype=torch.float32)).leak
        grids = said.get("grids", {})
        module.grids = Grids(
            StateGrid(**grids["state"]) if "state" in grids else None,
            ConstantGrid(**grids["leak"]) if "leak" in grids else None,
            ConstantGrid(**grids["threshold"]) if "threshold" in grids else None,
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError("metadata of qsearch in a NIR file must be whole", got=str(error)) from error
