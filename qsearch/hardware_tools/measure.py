"""``qsearch hardware measure``: the layers of networks on a target, kept as they are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from qsearch import arguments, registry
from qsearch.assignment import FLOAT_BITS
from qsearch.commands import print_json
from qsearch.errors import ConfigError, Failure, Interrupted
from qsearch.hardware_tools.bits import bits_asked
from qsearch.hardware_tools.check_options import options_of
from qsearch.hardware_tools.measure_table import failure_lines, tables, to_json
from qsearch.hardware_tools.show_table import print_narrow
from qsearch.layers import Layer
from qsearch.measured_table import TABLE, write_table
from qsearch.measurements import Measurement, Point, alike
from qsearch.measuring import Bench, Pair, listed, measure_points
from qsearch.setting import layers_of
from qsearch.terminal import progress_bars, set_up_logging, stderr

USUAL_BITS = (2, 4, 8, FLOAT_BITS)
"""What is measured of a target that runs at many bits, where none are asked for."""


def run(
    target: str,
    workloads: Sequence[str],
    weight_bits: Sequence[int] | None,
    activation_bits: Sequence[int] | None,
    repeats: int,
    warm_up: int,
    timeout: float,
    set_: Sequence[str],
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure every layer at the pairs of bits that the target runs it at; those known already are not measured again.

    Args:
        target: a target or a cost model, by name or file.py:Class.
        workloads: whose layers.
        weight_bits, activation_bits: only these; without them all, or of more than a few :data:`USUAL_BITS`.
        repeats, warm_up, timeout: see :class:`qsearch.measuring.Bench`.
        set_: options, ``key=value``.
        output: the folder of the measurements and of ``table.csv``.
        as_json: print JSON instead of tables.

    Raises:
        UserError: an unknown target or workload, an option, no layer that the target runs at these bits.
        Failure: the target fails at every point, or dies at several in a row.
        Interrupted: by the user; what was measured is kept.
    """
    set_up_logging()
    folder = output or Path("runs") / "hardware" / arguments.plain_name(target)
    bench = Bench(target, options_of([target], set_)[target], folder, repeats, warm_up, timeout)
    networks = {name: layers_of(registry.create("workloads", name)) for name in dict.fromkeys(workloads)}
    layers = [layer for network in networks.values() for layer in network]
    points = points_of(bench, layers, weight_bits, activation_bits)
    if narrowed := _narrowed(bench, points, weight_bits, activation_bits):
        stderr.print(narrowed, highlight=False, soft_wrap=True)
    with watched(bench, arguments.plain_name(target)) as bar:
        bar.start(len(points))
        found = measure_points(bench, points, bar.advance)
    written = write_tables(bench, networks)
    failed = [one for one in found if one.failure]
    if len(failed) == len(found):
        raise Failure(f"target {target!r} failed at every point", got=failed[0].failure, fix=f"see {bench.store.path}")
    if as_json:
        print_json(to_json(bench, networks, found))
        return
    for name, network in networks.items():
        for table, below in tables(bench, name, network, [(one.weight_bits, one.activation_bits) for one in found]):
            print_narrow(table, below)
    for line in [*failure_lines(found), *_closing(bench, written)]:
        print(line)


def points_of(
    bench: Bench, layers: Sequence[Layer], weight_bits: Sequence[int] | None, activation_bits: Sequence[int] | None
) -> list[Point]:
    """Each geometry at each of its pairs, layers in order.

    Raises:
        ConfigError: there are none.
    """
    firsts = list(alike(layers, bench.geometry))  # the first layer of each geometry names it
    points = [
        (layer, *pair)
        for layer in firsts
        for pair in asked_pairs(bench.precisions(layer), weight_bits, activation_bits)
    ]
    if not points:
        known = sorted({pair for layer in firsts for pair in bench.precisions(layer)})
        raise ConfigError(
            f"{bench.name!r} must run some layer at the bits that are asked for", fix=f"it does at: {listed(known)}"
        )
    return points


def asked_pairs(
    pairs: Sequence[Pair], weight_bits: Sequence[int] | None, activation_bits: Sequence[int] | None
) -> list[Pair]:
    """Those of a layer's pairs that are to be measured; without bits, all of a few and the usual ones of many."""
    weights = bits_asked({weight for weight, _ in pairs}, weight_bits, USUAL_BITS)
    activations = bits_asked({activation for _, activation in pairs}, activation_bits, USUAL_BITS)
    return [pair for pair in pairs if pair[0] in weights and pair[1] in activations]


def _narrowed(
    bench: Bench, points: Sequence[Point], weight_bits: Sequence[int] | None, activation_bits: Sequence[int] | None
) -> str:
    """What is left out because no bits were asked for; empty where nothing is."""
    every = sum(
        (weight_bits is None or weight in weight_bits) and (activation_bits is None or activation in activation_bits)
        for layer in dict.fromkeys(layer for layer, _, _ in points)
        for weight, activation in bench.precisions(layer)
    )
    if every == len(points):
        return ""
    bits = ", ".join(str(one) for one in sorted({one for _, *pair in points for one in pair}))
    return (
        f"measuring {len(points):,} of {every:,} points, those at {bits} bits; "
        "--weight-bits and --activation-bits choose others"
    )


def write_tables(bench: Bench, networks: Mapping[str, Sequence[Layer]]) -> dict[str, Path]:
    """``table.csv``, or one for each of several networks, as their layers may share names: network → file."""
    written = {}
    for name, layers in networks.items():
        file = TABLE if len(networks) == 1 else f"{arguments.plain_name(name)}-{TABLE}"
        written[name] = bench.folder / file
        write_table(written[name], layers, bench.store)
    return written


class PointProgress:
    """A bar: points, the last of them, time left."""

    def __init__(self, bars: Progress, name: str) -> None:
        self._bars = bars
        self._task = bars.add_task(name, total=None, last="")

    def start(self, points: int) -> None:
        """Say how many points there are."""
        self._bars.update(self._task, total=points)

    def advance(self, found: Measurement) -> None:
        """Say what was measured."""
        failed = " failed" if found.failure else ""
        last = f"{found.layer.name} W{found.weight_bits}A{found.activation_bits}{failed}"
        self._bars.update(self._task, advance=1, last=last)


@contextmanager
def watched(bench: Bench, name: str) -> Iterator[PointProgress]:
    """An open bench, with a bar of this name.

    Raises:
        Interrupted: by the user; what was measured is kept.
    """
    try:
        with bench, progress_bars("last") as bars:
            yield PointProgress(bars, name)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted",
            fix=f"{len(bench.store.all)} measurements are kept in {bench.folder}; the same command goes on",
        ) from None


def _closing(bench: Bench, written: Mapping[str, Path]) -> list[str]:
    """Where everything is, and how a campaign uses it."""
    lines = [f"kept       {bench.store.path}"]
    for path in written.values():
        lines += [
            f"table      {path}",
            f"campaign   hardware: {{name: lut, options: {{path: {path}, interpolation: wider}}}}",
        ]
    return lines
