"""The command line: parse, call, print. Heavy imports wait inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from qsearch import arguments, cli_hardware
from qsearch.errors import ConfigError, QSearchError, nearest


class _Commands(typer.core.TyperGroup):
    """Commands by name; an unknown one is answered by the nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise ConfigError(f"no command {args[0]!r}", fix=nearest(args[0], self.list_commands(ctx)))
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="qsearch",
    cls=_Commands,
    help="Search the precision of each layer and each kernel of a network, for your hardware.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(cli_hardware.app, name="hardware")

_UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Any mistake on the command line; of this family, typer exports one child only."""

RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds all runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
SetOption = Annotated[list[str], typer.Option("--set", help="Change a setting: searcher.options.sampler=gp")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the workload's data.", show_default=False)]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        help="Who evaluates: none; ray, on this machine; or a Ray cluster, HOST:PORT or auto.", show_default=False
    ),
]
BitsOption = Annotated[str, typer.Option(help="Choices: 2-8, or 2,4,8.")]
StateOption = Annotated[str | None, typer.Option(help="Choices for states of neurons.  [default: 4,6,8,10,12,16]")]
LeakOption = Annotated[str | None, typer.Option(help="Choices for leaks of neurons.  [default: 2,4,6,8]")]
ThresholdOption = Annotated[str | None, typer.Option(help="Choices for thresholds of neurons.  [default: 2,4,6,8]")]
RunArgument = Annotated[Path, typer.Argument(help="A run's folder.", show_default=False)]


@app.callback(invoke_without_command=True)
def _help(context: typer.Context) -> None:
    """Print the help when no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Entry point: errors become one line; 2 is the user's, 1 a failure, 130 an interruption."""
    try:
        code = app(prog_name="qsearch", standalone_mode=False)
    except QSearchError as error:
        _fail(str(error), error.exit_code)
    except _UsageError as error:
        _fail(" ".join(error.format_message().split()), error.exit_code)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    print(f"qsearch: {message}", file=sys.stderr)
    raise SystemExit(code)


def _with_data(changes: list[str], data: Path | None) -> list[str]:
    """Settings to change, the folder of the workload's data in front of them."""
    return changes if data is None else [f"workload.options.data={json.dumps(str(data))}", *changes]


def _with_workers(changes: list[str], workers: str | None) -> list[str]:
    """Settings to change, who evaluates in front of them."""
    return changes if workers is None else [f"workers={json.dumps(workers)}", *changes]


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="A campaign file.", show_default=False)],
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    workers: WorkersOption = None,
    set_: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Run a campaign file; resume it where it was stopped."""
    from qsearch import commands, config

    changes = _with_workers(_with_data(set_, data), workers)
    commands.search(config.override(config.load(file), changes, str(file)), runs, as_json)


@app.command()
def search(
    workload: Annotated[str, typer.Argument(help="A workload, by name or file.py:Class.", show_default=False)],
    hardware: Annotated[str, typer.Option(help="Cost model.")] = "bismo",
    searcher: Annotated[list[str], typer.Option(help="Searcher; repeat it to compare.")] = ["auto"],
    constraint: Annotated[list[str], typer.Option(help="latency<=0.6 is 0.6 of uniform-8.")] = [],
    objective: Annotated[
        list[str],
        typer.Option(help="Metric, METRIC:max or METRIC:min; repeat it for a front.  [default: the workload's]"),
    ] = [],
    evaluations: Annotated[int, typer.Option(help="Budget.")] = 64,
    seed: Annotated[list[int], typer.Option(help="Repeat it for several seeds.")] = [0],
    weight_bits: BitsOption = "2-8",
    activation_bits: BitsOption = "2-8",
    state_bits: StateOption = None,
    leak_bits: LeakOption = None,
    threshold_bits: ThresholdOption = None,
    granularity: Annotated[str, typer.Option(help="layer or kernel.")] = "layer",
    evaluator: Annotated[str, typer.Option(help="Evaluator.")] = "ptq",
    pruner: Annotated[str, typer.Option(help="What ends hopeless evaluations early.")] = "none",
    name: Annotated[str | None, typer.Option(help="Name of the run.  [default: WORKLOAD-HARDWARE]")] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    workers: WorkersOption = None,
    set_: SetOption = [],
    as_json: JsonOption = False,
) -> None:
    """Search without a campaign file."""
    from qsearch import commands, config

    quality = config.quality_name(workload)
    settings: dict[str, Any] = {
        "name": name or f"{arguments.plain_name(workload)}-{arguments.plain_name(hardware)}",
        "seed": seed,
        "budget": {"evaluations": evaluations},
        "workload": workload,
        "hardware": hardware,
        "evaluator": evaluator,
        "pruner": pruner,
        "workers": workers or "none",
        "searcher": searcher,
        "space": {
            **arguments.choices(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                state_bits=state_bits,
                leak_bits=leak_bits,
                threshold_bits=threshold_bits,
            ),
            "granularity": granularity,
        },
        "objectives": [arguments.objective(text, quality) for text in objective or [quality]],
        "constraints": constraint,
    }
    parsed = config.parse(settings, "the command line")
    commands.search(config.override(parsed, _with_data(set_, data), "the command line"), runs, as_json)


@app.command()
def sensitivity(
    workload: Annotated[str, typer.Argument(help="A workload, by name or file.py:Class.", show_default=False)],
    sensitivity_: Annotated[str, typer.Option("--sensitivity", help="How it is found.")] = "fisher",
    weight_bits: BitsOption = "2-8",
    activation_bits: BitsOption = "2-8",
    state_bits: StateOption = None,
    leak_bits: LeakOption = None,
    threshold_bits: ThresholdOption = None,
    granularity: Annotated[str, typer.Option(help="layer or kernel.")] = "layer",
    evaluator: Annotated[str, typer.Option(help="Evaluator.")] = "ptq",
    output: Annotated[Path | None, typer.Option(help="Folder for a page, plots, CSV and JSON.")] = None,
    data: DataOption = None,
    set_: Annotated[list[str], typer.Option("--set", help="Change a setting: sensitivity.options.samples=64")] = [],
    as_json: JsonOption = False,
) -> None:
    """Show how much damage each number of bits does to each layer."""
    from qsearch import commands, survey

    settings: dict[str, Any] = {
        "workload": workload,
        "sensitivity": sensitivity_,
        "evaluator": evaluator,
        "space": {
            **arguments.choices(
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                state_bits=state_bits,
                leak_bits=leak_bits,
                threshold_bits=threshold_bits,
            ),
            "granularity": granularity,
        },
    }
    commands.sensitivity(survey.parse(settings, _with_data(set_, data), "the command line"), output, as_json)


@app.command()
def inspect(
    workload: Annotated[str, typer.Argument(help="A workload, by name or file.py:Class.", show_default=False)],
    data: DataOption = None,
    set_: Annotated[list[str], typer.Option("--set", help="Change a setting: evaluator.options.samples=500")] = [],
    as_json: JsonOption = False,
) -> None:
    """Show layers, sites, ties and float quality of a workload, and what stays in float."""
    from qsearch import commands, inspection

    config = inspection.parse({"workload": workload}, _with_data(set_, data), "the command line")
    commands.inspect(config, as_json)


@app.command()
def resume(
    folder: RunArgument,
    evaluations: Annotated[int | None, typer.Option(help="A larger budget.", show_default=False)] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run, or with all runs of a sweep, from where it was stopped."""
    from qsearch import commands, config
    from qsearch.sweep import read_sweep

    sweep, root = read_sweep(folder)
    change = [] if evaluations is None else [f"budget.evaluations={evaluations}"]
    commands.search(config.override(sweep, _with_workers(change, workers), str(folder)), root, as_json)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    measure: Annotated[str | None, typer.Option(help="Measure the best assignments on this target before.")] = None,
    top: Annotated[int, typer.Option(min=1, help="With --measure: assignments of each run.")] = 3,
    set_: Annotated[list[str], typer.Option("--set", help="With --measure: an option of the target.")] = [],
    as_json: JsonOption = False,
) -> None:
    """Write the report of each run again: Markdown, one HTML page, plots in the dashboard."""
    from qsearch import commands

    runs = commands.load(folders)
    if measure is not None:
        from qsearch.hardware_tools.measure_again import measure_again

        measure_again(runs, measure, top, set_)
    elif set_:
        raise ConfigError("--set gives an option of the target of --measure", got=set_[0], fix="add --measure TARGET")
    written = [commands.report(run) for run in runs]
    if as_json:
        commands.print_json(written)
    else:
        for path in written:
            typer.echo(path)


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs or of sweeps.", show_default=False)],
    output: Annotated[Path | None, typer.Option(help="Folder of the page.  [default: first run's parent]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put several runs of one problem on one page."""
    from qsearch import commands

    runs = commands.load(folders)
    commands.compare(runs, output or runs[0].folder.parent, as_json)


@app.command()
def show(
    folder: RunArgument,
    trial: Annotated[int | None, typer.Option(help="A trial by number instead of the best.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a run found."""
    from qsearch import commands
    from qsearch.report.summary import summary, trial_values
    from qsearch.report.terminal import run_table

    runs = commands.load([folder])
    if trial is not None:
        found = [trial_values(run, commands.trial_of(run, trial)) for run in runs]
    else:
        found = [summary(run) for run in runs] if as_json else []
    if found:
        commands.print_json(found[0] if len(runs) == 1 else found)
        return
    for run in runs:
        commands.print_table(run_table(run))


@app.command()
def export(
    folder: RunArgument,
    trial: Annotated[int | None, typer.Option(help="A trial by number.  [default: the best]")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="json, csv, onnx, qonnx, safetensors, torch, or nir of a spiking network.")
    ] = "json",
    finetuned: Annotated[bool, typer.Option("--finetuned", help="The network of qsearch finetune.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="A file.  [default: standard output for json and csv, else RUN/export/trial-N]"),
    ] = None,
) -> None:
    """Write the assignment of a trial, the best by default, or its network in a form that runs without qsearch.

    A network is loaded back by the runtime of its format and compared with what was evaluated, on validation data.
    """
    from qsearch import commands
    from qsearch.export import FORMATS, NETWORKS, TEXTS
    from qsearch.run import load

    if format_ not in FORMATS:
        raise ConfigError(f"unknown format {format_!r}", fix=nearest(format_, FORMATS))
    run = load(folder)
    chosen = commands.trial_of(run, trial)
    if format_ not in TEXTS:
        commands.export_network(run, chosen, format_, output, finetuned)
    elif finetuned:
        raise ConfigError("--finetuned needs the format of a network", got=format_, fix="one of " + ", ".join(NETWORKS))
    elif output is None:
        typer.echo(TEXTS[format_](run, chosen), nl=False)
    else:
        output.write_text(TEXTS[format_](run, chosen), encoding="utf-8")


@app.command()
def finetune(
    folder: RunArgument,
    trial: Annotated[int | None, typer.Option(help="A trial by number.  [default: the best]")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best trial.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training data.  [default: 60]")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="End early after so many epochs without a better one.")
    ] = None,
    set_: Annotated[list[str], typer.Option("--set", help="Change an option of the training: rate=0.005")] = [],
    format_: Annotated[
        list[str], typer.Option("--format", help="Export it too: onnx, qonnx, safetensors, torch or nir; repeat it.")
    ] = [],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the training.  [default: RUN/finetune/trial-N]")
    ] = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the network of a trial for long, the best by default; go on from where it was stopped."""
    from qsearch import commands
    from qsearch.export import NETWORKS
    from qsearch.run import load

    if best and trial is not None:
        raise ConfigError("--best and --trial choose a trial each", got=f"--trial {trial} --best", fix="leave one out")
    for name in format_:
        if name not in NETWORKS:
            raise ConfigError(f"unknown format {name!r} of a network", fix=nearest(name, NETWORKS))
    run = commands.with_settings(load(folder), _with_data([], data))
    request = commands.FineTuneRequest(epochs, set_, patience, output, format_)
    commands.finetune(run, commands.trial_of(run, trial), request, as_json)


@app.command()
def dashboard(
    folder: RunArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Open the Optuna dashboard on the ledger of a run or a sweep."""
    from qsearch import commands
    from qsearch.dashboard import serve

    serve(commands.load([folder])[0], host, port)


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="workloads, hardware, targets, searchers, evaluators, pruners, sensitivities, rewards, workers or all."
        ),
    ] = "all",
    as_json: JsonOption = False,
) -> None:
    """List what is installed, with its options."""
    from qsearch.catalogue import entries
    from qsearch.registry import Seam

    seams: dict[str, Seam] = {
        "workloads": "workloads",
        "hardware": "cost_models",
        "targets": "targets",
        "searchers": "searchers",
        "evaluators": "evaluators",
        "pruners": "pruners",
        "sensitivities": "sensitivities",
        "rewards": "rewards",
        "workers": "workers",
    }
    if what not in {*seams, "all"}:
        raise ConfigError(f"unknown kind {what!r}", fix=nearest(what, [*seams, "all"]))
    found = {kind: entries(seam) for kind, seam in seams.items() if what in {kind, "all"}}
    if as_json:
        from qsearch.commands import print_json

        print_json({kind: [vars(entry) for entry in items] for kind, items in found.items()})
        return
    for kind, items in found.items():
        typer.secho(kind, bold=True)
        for entry in items:
            typer.echo(f"  {entry.name:<20} {entry.description}")
            for option, default in entry.options.items():
                typer.secho(f"  {'':<20} {option}: {default}", dim=True)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("campaign.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented campaign file to start from."""
    from importlib.resources import files

    if file.exists() and not force:
        raise ConfigError("qsearch init replaces no file", got=str(file), fix="choose another name, or add --force")
    file.write_text(files("qsearch").joinpath("template.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    typer.echo(f"wrote {file}; run it with: qsearch run {file}")
