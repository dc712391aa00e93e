"""From a run's trial to a file that was loaded again and agrees with what was evaluated."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from qsearch.errors import ConfigError, EvaluationError
from qsearch.evaluate.data import Split
from qsearch.export import INTEGERS, NETWORKS
from qsearch.export.agreement import REQUIRED, Agreement, compare
from qsearch.export.capture import sample_by_sample
from qsearch.export.deployment import Deployment, deploy
from qsearch.export.formats import Format, Runtime, in_torch
from qsearch.export.modules import in_double_precision
from qsearch.export.rounding import DECIDED, Rounding
from qsearch.export.sources import Source, evaluated
from qsearch.layers import Layer
from qsearch.quantize.modules import Inputs, forward
from qsearch.run import Run
from qsearch.setting import prepare
from qsearch.trial import Trial

log = logging.getLogger(__name__)

BATCH = 64
"""Samples that pass through a network at a time."""


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Attributes:
        path, size: where, and its bytes.
        notes: what its reader should know.
        runtime: what loaded it again, by name.
        agreement: how far it agrees there with what was evaluated.
    """

    path: Path
    size: int
    notes: tuple[str, ...]
    runtime: str
    agreement: Agreement


def export_network(
    run: Run, trial: Trial, name: str, output: Path | None, source: Source = evaluated, folder: Path | None = None
) -> Exported:
    """Write the network of a trial, load it with its own runtime, and compare.

    Args:
        name: a key of :data:`qsearch.export.NETWORKS`.
        output: the file; ``trial-N`` with the format's suffix, in the folder, if None.
        source: where the network comes from.
        folder: ``RUN/export`` if None.

    Raises:
        ConfigError: a place that takes no file, a network that is not there, or an operator or codes that the format
            has not.
        EvaluationError: the file does not agree; none is left behind.
    """
    formats: tuple[Format, ...] = import_module(NETWORKS[name]).FORMATS
    file = f"trial-{trial.number}{formats[0].suffix}"
    path = output or (folder or run.folder / "export") / file
    check_place(path, file, make_folder=output is None)
    setting = prepare(run.config)
    _check_states(name, setting.problem.layers)
    judged = source(setting, run, trial)
    deployment = deploy(
        judged.network, setting.problem.layers, trial.assignment, judged.data.inputs, promised_bytes(trial)
    )
    if name in INTEGERS:
        deployment.check()
    expected = outputs(judged.network, judged.data)
    return write_agreeing(formats, deployment, judged.data, expected, path)


def _check_states(name: str, layers: Sequence[Layer]) -> None:
    """Raise where a format has no place for neurons that keep a state, or is for such networks alone."""
    spiking = any(layer.kind == "neuron" for layer in layers)
    if name in INTEGERS and spiking:
        raise ConfigError(
            "a spiking network is exported in a format that holds neurons", got=name, fix="take --format nir, or torch"
        )
    if name == "nir" and not spiking:
        raise ConfigError("the format nir is for spiking networks", got="a network without neurons", fix="take onnx")


def check_place(path: Path, name: str, *, make_folder: bool = False) -> None:
    """Raise unless a file can be put there, before time goes into what it holds.

    Args:
        name: of the file, for a fix where the place is a folder.
        make_folder: make the one that the file is to stand in.

    Raises:
        ConfigError: a folder, or something else that is no file; a folder that is not there, or that takes no files.
    """
    try:
        if path.is_dir():
            raise ConfigError(
                "an output must be a file", got=f"the folder {path}", fix=f"name one in it: {path / name}"
            )
        if path.exists() and not path.is_file():
            raise ConfigError("an output must be a file that can be replaced", got=str(path), fix="name another")
        if make_folder:
            path.parent.mkdir(exist_ok=True)
        if not path.parent.is_dir():
            raise ConfigError(
                "an output must stand in a folder that exists", got=str(path), fix=f"make the folder {path.parent}"
            )
        with _workspace(path):
            pass
    except OSError as error:
        raise ConfigError(
            "an output must stand in a folder that takes files",
            got=f"{path} ({error.strerror})",
            fix="name a file elsewhere with --output",
        ) from error


def promised_bytes(trial: Trial) -> float | None:
    """The size of the weights that the search reckoned with; None where its cost has none in bytes."""
    if trial.cost is None or trial.cost.units.get("size") != "byte":
        return None
    return trial.cost.totals.get("size")


def _workspace(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside a file to be, from which it can be moved to its place at once."""
    return tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent)


def write_agreeing(
    formats: tuple[Format, ...], deployment: Deployment, data: Split, expected: Tensor, path: Path
) -> Exported:
    """Write the first of several formats whose own runtime agrees; the file is moved to its place when it does.

    Args:
        expected: outputs of the evaluated network on ``data``.

    Raises:
        EvaluationError: none agrees.
    """
    notes: list[str] = []
    rounding: Rounding | None = None
    with _workspace(path) as folder:
        for chosen in formats:
            file = Path(folder) / f"network{chosen.suffix}"
            told = chosen.write(deployment, file)
            try:
                runtime = chosen.load(file, deployment)
            except EvaluationError as error:
                notes.append(f"{chosen.told}: {error}")
                continue
            found = outputs(runtime, data)
            agreement = compare(expected, found)
            if not agreement.holds and rounding is None:
                rounding = _rounding(deployment, data, expected)
            excuse = [] if agreement.holds or rounding is None else [rounding.told(found)]
            if agreement.holds or (rounding is not None and rounding.excuses(found)):
                size = file.stat().st_size
                file.replace(path)
                return Exported(path, size, (*notes, *told, *excuse), chosen.runtime, agreement)
            notes.append("; ".join([f"{chosen.told} do not agree: {agreement}", *excuse]))
    raise _refused(notes[-1], rounding)


def _refused(last: str, rounding: Rounding | None) -> EvaluationError:
    """The error of a network that no format holds.

    Args:
        last: what was wrong with the last.
    """
    fix = "raise the bits of activations, or export as torch, whose arithmetic is that of the evaluation"
    if rounding is not None and not rounding.enough:
        return EvaluationError(
            f"the evaluated network must decide at least {DECIDED:.0%} of its predictions for a file to be held against it",
            got=str(rounding),
            fix=fix,
        )
    return EvaluationError(
        f"a file must agree with the evaluated network in at least {REQUIRED:.1%} of its predictions", got=last, fix=fix
    )


def _rounding(deployment: Deployment, data: Split, expected: Tensor) -> Rounding | None:
    """What the evaluated network decides; None where it cannot be evaluated again."""
    found: dict[str, Tensor] = {}
    for how, network in _again(deployment).items():
        try:
            found[how] = outputs(network, data)
        except RuntimeError as error:  # a network may fix the type of its numbers, or the extents of its batch
            log.debug("the network is not evaluated %s: %s", how, error)
    return Rounding.of(expected, found) if found else None


def _again(deployment: Deployment) -> dict[str, Runtime]:
    """The evaluated network with its additions rounded in other ways."""
    module, doubled = deployment.module(), in_double_precision(deployment.module())
    return {
        "in double precision": lambda inputs: forward(doubled, _in_double(inputs)),
        "on one sample at a time": sample_by_sample(in_torch(module)),
    }


def _in_double(inputs: Inputs) -> Inputs:
    if isinstance(inputs, tuple):
        return tuple(part.double() if part.is_floating_point() else part for part in inputs)
    return inputs.double() if inputs.is_floating_point() else inputs


def outputs(network: Callable[..., Tensor] | Runtime, data: Split) -> Tensor:
    """What a network gives on samples, a row per sample."""
    with torch.inference_mode():
        return torch.cat([network(batch.inputs) for batch in data.batches(BATCH)]).clone()
