"""``qsearch hardware``: cost models and targets from the command line. Parse, call, print, as in :mod:`qsearch.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qsearch import arguments

app = typer.Typer(help="Show, check, measure and learn what hardware costs.", no_args_is_help=True)

NameArgument = Annotated[list[str], typer.Argument(help="Cost models, by name or file.py:Class.", show_default=False)]
TargetArgument = Annotated[
    str, typer.Argument(help="Target, or cost model, by name or file.py:Class.", show_default=False)
]
WorkloadOption = Annotated[list[str], typer.Option("--workload", help="Whose layers; repeat it for those of several.")]
OptionOption = Annotated[list[str], typer.Option("--set", help="An option of it: platform=zynq-7020")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
FolderOption = Annotated[Path | None, typer.Option("--output", help="Folder.  [default: runs/hardware/NAME]")]


@app.command()
def show(
    names: NameArgument,
    workload: Annotated[str, typer.Option(help="Whose layers.")] = "digits-resnet",
    bits: Annotated[str, typer.Option(help="Uniform bits: 2-8, or 2,4,8.")] = "2,4,8",
    metric: Annotated[str | None, typer.Option(help="Show this metric only.  [default: all]")] = None,
    constants: Annotated[bool, typer.Option("--constants", help="Also every number, with unit and source.")] = False,
    set_: OptionOption = [],
    output: Annotated[Path | None, typer.Option(help="Folder for a page and its plots.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what each layer of a network costs at uniform bits; several cost models side by side."""
    from qsearch.hardware_tools.show import run

    run(names, workload, arguments.bits(bits), metric, constants, set_, output, as_json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A cost model or target: file.py:Class or a name.", show_default=False)],
    set_: OptionOption = [],
    as_json: JsonOption = False,
) -> None:
    """Check a cost model against the contract that searchers rely on, and explain what fails."""
    from qsearch.hardware_tools.check import run

    run(name, set_, as_json)


@app.command()
def measure(
    target: TargetArgument,
    workload: WorkloadOption = ["digits-resnet"],
    weight_bits: Annotated[
        str | None, typer.Option(help="Only these.  [default: all it runs at; of more than six 2,4,8,32]")
    ] = None,
    activation_bits: Annotated[
        str | None, typer.Option(help="Only these.  [default: all it runs at; of more than six 2,4,8,32]")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Readings of each layer; one where it is deterministic.")] = 20,
    warm_up: Annotated[int, typer.Option(min=0, help="Readings thrown away before.")] = 5,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for one layer at one pair of bits.")] = 120.0,
    set_: OptionOption = [],
    output: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the layers of a network on a target; run it again to go on where it stopped."""
    from qsearch.hardware_tools.measure import run

    run(
        target,
        workload,
        None if weight_bits is None else arguments.bits(weight_bits),
        None if activation_bits is None else arguments.bits(activation_bits),
        repeats,
        warm_up,
        timeout,
        set_,
        output,
        as_json,
    )


@app.command()
def fit(
    target: TargetArgument,
    workload: WorkloadOption = ["digits-resnet"],
    samples: Annotated[
        int, typer.Option(help="Measurements to learn from, at most; fewer where there are not so many.")
    ] = 50,
    acquire: Annotated[
        str,
        typer.Option(
            help="variance: good everywhere; ei: finds the cheapest setting of a layer; ehvi: the front of such"
            " settings, of several metrics; random. ei and ehvi learn little of the rest."
        ),
    ] = "variance",
    error: Annotated[float | None, typer.Option(help="Stop at this median relative error on held-out points.")] = None,
    held_out: Annotated[int, typer.Option(min=0, help="Points measured to judge by; a quarter of a small pool.")] = 20,
    source: Annotated[Path | None, typer.Option(help="A fitted surrogate of another target to transfer from.")] = None,
    per_kind: Annotated[bool, typer.Option("--per-kind", help="One model for each kind of layer.")] = False,
    weight_bits: Annotated[
        str | None, typer.Option(help="Only these.  [default: all it runs at; of more than six 2-8]")
    ] = None,
    activation_bits: Annotated[
        str | None, typer.Option(help="Only these.  [default: all it runs at; of more than six 2-8]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of held-out points, start, draws and folds.")] = 0,
    set_: OptionOption = [],
    output: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn a cost model from few measurements, chosen by what is not yet known."""
    from qsearch.hardware_tools.fit import FitRequest, run

    request = FitRequest(
        target=target,
        workloads=tuple(workload),
        samples=samples,
        acquire=acquire,
        error=error,
        held_out=held_out,
        source=source,
        per_kind=per_kind,
        weight_bits=None if weight_bits is None else tuple(arguments.bits(weight_bits)),
        activation_bits=None if activation_bits is None else tuple(arguments.bits(activation_bits)),
        seed=seed,
        options=tuple(set_),
        output=output,
    )
    run(request, as_json)
