"""``LookUpTable``: costs that the user has measured, layer by layer and bits by bits.

Notation

=====  =================================================================================
w, a   bits of a layer's weights and of its input
E      entries of a layer: pairs (w, a) that the table has a cost of
T      cost at every (w, a), shape (33, 33); NaN where there is no answer
=====  =================================================================================

Between the entries a rule that is named answers, and beyond them none does:

    none      T = E                                                       nothing in between
    linear    bilinear in w and a, from the entries around                needs the full grid of a layer's bits
    wider     T(w, a) = min { E(w', a') : w' ≥ w, a' ≥ a }                hardware runs at what it has

``wider`` takes each metric by itself. It makes any table non-decreasing, and lets one with few entries answer: with
(4, 32), (8, 8) and (32, 32), 6-bit weights and 8-bit inputs run at the cheaper of (8, 8) and (32, 32). A layer without
weights left, w = 0, costs nothing by any rule, unless the table has entries there.

Neurons and thresholds are layers with rows of their own: leaks (1 bit where nothing leaks) and thresholds are their weights,
states the activations of the former; of the latter, as of an embedding, the activation bits say nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from qsearch.assignment import FLOAT_BITS, BitAssignment
from qsearch.errors import ConfigError, DataError, nearest
from qsearch.hardware.constants import Constant
from qsearch.hardware.lut_files import Entries, read_csv, read_names, read_npy
from qsearch.hardware.tabulated import KernelRule, Table, Tabulated, cheapest_holding
from qsearch.layers import Layer
from qsearch.registry import PluginOptions
from qsearch.trial import Cost

log = logging.getLogger(__name__)

Rule = Literal["none", "linear", "wider"]


class LookUpTable(Tabulated):
    """Costs from a table of measurements, CSV or npy; metrics and units are the table's."""

    class Options(PluginOptions):
        """The file, how to read an array, and what to do between its entries."""

        path: Path
        """A CSV file, or an npy file with the axes layer, weight bits, activation bits."""
        metric: str | None = None
        """What an npy file holds: latency."""
        unit: str | None = None
        """Unit of an npy file: s, ms, mJ, …, or cycle, or unstated."""
        layers: tuple[str, ...] | Path | None = None
        """Names of the network's layers along the first axis of an npy file; or a file with a JSON list, or a name a line."""
        weight_bits: tuple[int, ...] = ()
        """Bits along the second axis of an npy file; 1, 2, 3, … if empty."""
        activation_bits: tuple[int, ...] = ()
        """Bits along the third axis of an npy file; 1, 2, 3, … if empty."""
        interpolation: Rule = "none"
        """Between entries: none, linear, or wider (the cheapest entry with at least these bits)."""
        kernels: KernelRule = "highest"
        """A layer whose kernels differ runs at the highest of their bits, or costs their mean."""
        definition: str = Field(default="", max_length=200)
        """What an energy counts and who measured it, instead of what the file says; differing ones share no axis."""
        maxima: tuple[str, ...] = ("peak_memory",)
        """Metrics of which a network has the greatest of its layers', not their sum."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.kernels = options.kernels
        self.entries = _read(options)
        self.units = dict(self.entries.units)
        self.maxima = _maxima(options, self.units)
        self.definitions = _definitions(options, self.entries)
        if options.interpolation != "wider":
            for layer in self.entries.costs:
                _check_grid(self.entries, layer)
            _warn_of_decreases(self.entries)

    @property
    def constants(self) -> Mapping[str, Constant]:
        """How many entries the table has: each is a number of its own, and all come from the one file."""
        count = sum(len(self.entries.known(layer)) for layer in self.entries.costs)
        return {"entries": Constant(count, "1", f"the user's table {self.options.path}")}

    def domain(self) -> tuple[tuple[Layer, ...], tuple[int, ...], tuple[int, ...]]:
        """Layers of the table's names, and bits that all of them have an answer at, for a check of the contract.

        The geometry of the layers is made up; the table does not ask for it.

        Raises:
            DataError: there are no such bits.
        """
        layers = tuple(Layer(name, "linear", 8, 8) for name in self.entries.costs)
        tables = [self.table(layer)[metric] for layer in layers for metric in self.units]
        known = np.asarray(~np.isnan(tables).any(axis=0))
        known[:, 0] = False
        activation = np.flatnonzero(known[8] if known[8].any() else known[1:].any(axis=0))
        weight = np.flatnonzero(known[:, activation].all(axis=1))
        if not activation.size:
            raise DataError(f"the layers of {self.options.path.name} must share bits that all have an answer at")
        return layers, tuple(weight.tolist()), tuple(activation.tolist())

    def table(self, layer: Layer) -> Table:
        """T of each metric; see :meth:`Tabulated.table`.

        Raises:
            DataError: the table has no layer of that name.
        """
        return self._filled(layer)[0]

    def refusal(self, layer: Layer, weight_bits: int, activation_bits: int) -> DataError:
        """See :meth:`Tabulated.refusal`."""
        weights, activations = self.entries.axes(layer.name)
        inside = any(w >= weight_bits and a >= activation_bits for w, a in self.entries.known(layer.name))
        rule = "interpolation: wider answers there" if inside else "no rule goes beyond the table"
        return DataError(
            f"{self.options.path.name} has no cost of layer {layer.name!r} at these bits"
            f" (interpolation: {self.options.interpolation})",
            got=f"{weight_bits}/{activation_bits} bits",
            fix=f"it has weight bits {_listed(weights)}, activation bits {_listed(activations)}; {rule}",
        )

    def estimate(self, layers: Sequence[Layer], assignment: BitAssignment) -> Cost:
        """Cost of a network. Its deviation is the root of the sum of the layers' squared spreads, for metrics that have one.

        That takes the layers' readings to be independent of each other. Layers whose rows are the same throughout, costs
        and spreads, share one measurement, which errs for all of them alike: their spreads are added first.
        """
        cost = super().estimate(layers, assignment)
        if not any(self._filled(layer)[1] for layer in layers):
            return cost
        sums: dict[tuple[str, str], float] = {}
        for layer in layers:
            weight = assignment.vector(layer.weight_site, layer.kernels)[None]
            activation = np.asarray([assignment.highest(layer.activation_site)])
            spreads = self.looked_up(layer, self._filled(layer)[1], weight, activation)
            for metric, spread in spreads.items():
                if metric in self.maxima:
                    continue
                shared = (metric, self._first_alike[layer.name])
                sums[shared] = sums.get(shared, 0.0) + float(spread[0])
        squares: dict[str, float] = {}
        for (metric, _), together in sums.items():
            squares[metric] = squares.get(metric, 0.0) + together**2
        return Cost(cost.totals, cost.units, cost.layers, {metric: total**0.5 for metric, total in squares.items()})

    @cached_property
    def _first_alike(self) -> dict[str, str]:
        """Layer → the first layer whose rows are the same throughout."""
        first: dict[bytes, str] = {}
        return {layer: first.setdefault(self.entries.likeness(layer), layer) for layer in self.entries.costs}

    @cached_property
    def _kept(self) -> dict[Layer, tuple[Table, Table]]:
        return {}

    def _filled(self, layer: Layer) -> tuple[Table, Table]:
        """T of each metric's costs, and of the spreads there are."""
        if layer not in self._kept:
            self._check_known(layer)
            found = self.entries.spreads.get(layer.name, {})
            costs: dict[str, NDArray[np.float64]] = {}
            spreads: dict[str, NDArray[np.float64]] = {}
            for metric, entries in self.entries.costs[layer.name].items():
                spread = found.get(metric, np.zeros_like(entries))
                costs[metric], filled = (
                    _complete(t, layer) for t in _between(entries, spread, self.options.interpolation)
                )
                if metric in found:
                    spreads[metric] = filled
            self._kept[layer] = costs, spreads
        return self._kept[layer]

    def _check_known(self, layer: Layer) -> None:
        names = list(self.entries.costs)
        if layer.name in names:
            return
        close = difflib.get_close_matches(layer.name, names, n=3, cutoff=0.0)
        raise DataError(
            f"{self.options.path.name} has no layer {layer.name!r} of the network",
            fix=f"nearest of its {len(names)} layers: {', '.join(close)}",
        )


def _read(options: LookUpTable.Options) -> Entries:
    suffix = options.path.suffix.lower()
    if suffix == ".csv":
        for name in ("metric", "unit", "layers", "weight_bits", "activation_bits"):
            if getattr(options, name):
                raise ConfigError(f"option {name!r} is for npy files", got=options.path.name, fix="its header says it")
        return read_csv(options.path)
    if suffix != ".npy":
        raise ConfigError("a cost table must be a CSV or an npy file", got=str(options.path))
    if not options.path.is_file():
        raise DataError("a cost table must be a readable file", got=f"{options.path}: no such file")
    for name, example in (("metric", "latency"), ("unit", "ms"), ("layers", "names.txt")):
        if not getattr(options, name):
            raise ConfigError(
                f"an npy file says neither metric nor unit nor layers: option {name!r} is missing",
                fix=f"{name}: {example}",
            )
    layers = read_names(options.layers) if isinstance(options.layers, Path) else options.layers or ()
    return read_npy(
        options.path, layers, options.weight_bits, options.activation_bits, options.metric or "", options.unit or ""
    )


def _maxima(options: LookUpTable.Options, units: Mapping[str, str]) -> frozenset[str]:
    """Metrics of the option that the table has.

    Raises:
        ConfigError: one that it has not, and that is no name of a peak known to all.
    """
    if unknown := sorted(set(options.maxima) - set(units) - {"peak_memory"}):
        raise ConfigError(
            f"maxima must be metrics of {options.path.name}", got=unknown[0], fix=nearest(unknown[0], units)
        )
    return frozenset(options.maxima) & set(units)


def _definitions(options: LookUpTable.Options, entries: Entries) -> dict[str, str]:
    """Metric → what is counted: as the file says, or the option for what is neither a time nor a size.

    A metric of neither is defined by the table itself, by its content: two tables of one name are two definitions.
    """
    digest = hashlib.sha256(options.path.read_bytes()).hexdigest()[:12]
    found = dict(entries.definitions)
    for metric, unit in entries.units.items():
        if unit not in {"s", "byte"}:
            found[metric] = options.definition or found.get(metric, f"table {options.path.name} ({digest})")
    return found


def _between(
    entries: NDArray[np.float64], spread: NDArray[np.float64], rule: Rule
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """T of costs and of their spreads, by the rule."""
    if rule == "none":
        return entries, spread
    if rule == "linear":
        return _bilinear(entries), _bilinear(np.where(np.isnan(entries), np.nan, spread))
    weight, activation = np.nonzero(~np.isnan(entries))
    best = cheapest_holding(list(zip(weight.tolist(), activation.tolist(), strict=True)), entries[weight, activation])
    if weight.min() > 0:
        best[0] = -1  # what has no weights left runs at no wider bits
    costs, spreads = (np.where(best < 0, np.nan, values[weight, activation][best]) for values in (entries, spread))
    return costs, spreads


def _bilinear(entries: NDArray[np.float64]) -> NDArray[np.float64]:
    """T between entries that form a full grid, NaN outside it; for spreads an upper bound, reached where they go together."""
    weight, activation = (np.flatnonzero(~np.isnan(entries).all(axis=axis)) for axis in (1, 0))
    bits = np.arange(FLOAT_BITS + 1)
    rows = [np.interp(bits, activation, entries[w, activation], left=np.nan, right=np.nan) for w in weight]
    return np.stack(
        [np.interp(bits, weight, column, left=np.nan, right=np.nan) for column in np.transpose(rows)], axis=1
    )


def _complete(table: NDArray[np.float64], layer: Layer) -> NDArray[np.float64]:
    """T where no weights are left: nothing, unless the table says so. Indices have no bits, and thresholds no input."""
    found = table.copy()
    if layer.kind in ("embedding", "threshold"):
        known = np.flatnonzero(~np.isnan(found).all(axis=0))
        found[:, FLOAT_BITS] = found[:, known[-1]]
    if np.isnan(found[0]).all():
        found[0] = 0.0
    return found


def _check_grid(entries: Entries, layer: str) -> None:
    known = entries.known(layer)
    for weight, activation in product(*entries.axes(layer)):
        if (weight, activation) not in known:
            raise DataError(
                f"{entries.path.name} has no entry of layer {layer!r} at {weight}/{activation} bits",
                fix="add it, or set interpolation: wider, which needs no full grid",
            )


def _warn_of_decreases(entries: Entries) -> None:
    """One warning: of the steepest fall, and how many there are."""
    falls = [fall for layer in entries.costs for fall in _falls(entries, layer)]
    if falls:
        others = f" (and {len(falls) - 1} more such steps)" if len(falls) > 1 else ""
        log.warning(
            "%s: %s%s; searchers take more bits to cost no less: interpolation: wider makes it so",
            entries.path.name,
            min(falls, key=lambda fall: fall[0])[1],
            others,
        )


def _falls(entries: Entries, layer: str) -> Iterator[tuple[float, str]]:
    """Steps to the next bits of a layer, on a full grid, that cost less: the ratio of costs, and the step in words."""
    weights, activations = entries.axes(layer)
    steps = [((w, a), (more, a)) for w, more in pairwise(weights) for a in activations]
    steps += [((w, a), (w, more)) for w in weights for a, more in pairwise(activations)]
    for metric, table in entries.costs[layer].items():
        for low, high in steps:
            before, after = float(table[low]), float(table[high])
            if after < before:
                yield (
                    after / before,
                    f"{metric} of layer {layer!r} falls from {before:.6g} at {low[0]}/{low[1]} bits "
                    f"to {after:.6g} at {high[0]}/{high[1]}",
                )


def _listed(bits: Sequence[int]) -> str:
    """``2, 4, 8``; ``1–8`` for a run of more than three."""
    if len(bits) > 3 and list(bits) == list(range(bits[0], bits[-1] + 1)):
        return f"{bits[0]}–{bits[-1]}"
    return ", ".join(map(str, bits))
