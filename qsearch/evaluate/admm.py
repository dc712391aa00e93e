"""``JointCompression``: quality under an assignment after pruning and quantisation by ADMM.

The assignment says the bits of weights that are kept: a kernel at 0 bits is pruned whole, one at 32 stays as it is, in float
and dense. Inputs are quantised as in :mod:`qsearch.evaluate.qat`.

How many weights of each layer are kept is for options to say (:mod:`qsearch.evaluate.keeping`). A layer that would be sparse to
a smaller share than breaks even (:mod:`qsearch.hardware.sparsity`) stays dense, and the others are not pruned more for it.

Where weights in front of a batch-norm are pulled towards zero, training by ``sgd`` has been seen to diverge, and by ``adam``
not: ``optimiser: adam`` is the safer choice.

Sensitivities are those of the network that compression starts from, as of ``qat``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from qsearch.assignment import FLOAT_BITS, BitArray, BitAssignment
from qsearch.errors import ConfigError, EvaluationError, nearest
from qsearch.evaluate.before_training import BeforeTraining, JudgedTrainingOptions
from qsearch.evaluate.fidelity import check_fidelity
from qsearch.evaluate.keeping import kept_by_compression, kept_by_share, worth_pruning
from qsearch.evaluate.threads import threads
from qsearch.hardware.sparsity import layer_break_even, weight_storage
from qsearch.layers import Layer
from qsearch.protocols import CostModel, Workload
from qsearch.quantize.network import QuantizedNetwork
from qsearch.registry import PluginOptions, create, path_options
from qsearch.sites import in_float
from qsearch.training.admm import AdmmOptions
from qsearch.training.compression import Compression
from qsearch.training.devices import check_device, repeatable
from qsearch.training.families import family
from qsearch.trial import Quality, Trial

SCALE_BITS = 32
"""Of a distance of levels: one for each bitwidth of a layer."""


class Hardware(PluginOptions):
    """The cost model that break-even sparsities come from; see :mod:`qsearch.hardware.sparsity`.

    Attributes:
        name: of the cost model.
        options: its own; files and folders by absolute path.
        metric: of the cost model.
        overhead: ω, what a sparse multiply-accumulate costs beyond a dense one, as a share.
        format: of the indices; "best" is the one that takes fewest bits.
    """

    name: str
    options: dict[str, Any] = Field(default_factory=dict)
    metric: str
    overhead: float = Field(default=0.0, ge=0)
    format: Literal["best", "bitmap", "csr"] = "best"


@dataclass(frozen=True)
class Compressed:
    """A network that has been compressed, and how.

    Attributes:
        network: under its assignment.
        details: see :meth:`JointCompression.evaluate`.
    """

    network: QuantizedNetwork
    details: Mapping[str, float | int | str]


class JointCompression(BeforeTraining):
    """Evaluates assignments of a workload by ADMM; see :class:`qsearch.training.compression.Compression`.

    An assignment that leaves all in float is not trained: its quality is that of the float network.

    Args:
        workload: the network and its data, training data included.
        layers: the layers of its network.
        options: see :class:`Options`.

    Raises:
        ConfigError: a quantiser, a device, a layer or a metric that there is not; a cost model that prices no single layer,
            or whose files have relative paths; weights that may be overlaid.
        PluginError: a cost model that there is not.
        DataError: no training data; else as :class:`PostTraining`.
    """

    class Options(JudgedTrainingOptions):
        """Options of the evaluator, beside those of :class:`JudgedTrainingOptions`; ``epochs`` are those of either retraining.

        Attributes:
            keep: share of the weights that is kept, of each layer, or of those that are named, by layer; others stay dense.
            compression: weights for each one that is kept, over the network, in place of ``keep``; what is kept of each
                layer follows from the magnitudes of the float network.
            kernels: prune whole kernels; ``keep`` then is the share of kernels. Those of the last layer are classes: name the
                other layers in ``keep``.
            break_even: the least sparsity that pays; layers that would be sparse to a smaller share stay dense.
            hardware: the cost model that says so for each layer; the greater of the two counts.
            admm: how ADMM goes, when pruning and when quantising.
            admm_epochs: passes over the training data of each of its iterations.
        """

        keep: float | dict[str, float] | None = None
        compression: float | None = Field(default=None, ge=1)
        kernels: bool = False
        break_even: float = Field(default=0.0, ge=0, le=1)
        hardware: Hardware | None = None
        admm: AdmmOptions = AdmmOptions()
        admm_epochs: int = Field(default=1, ge=1)

        @model_validator(mode="after")
        def _one_way_to_say_how_much(self) -> JointCompression.Options:
            if self.keep is not None and self.compression is not None:
                raise ValueError("say how much to prune by keep or by compression, not by both")
            shares = self.keep.values() if isinstance(self.keep, dict) else [1.0 if self.keep is None else self.keep]
            if not all(0 < share <= 1 for share in shares):
                raise ValueError("shares to keep must be within (0, 1]")
            if self.kernels and (self.break_even or self.hardware):
                raise ValueError("whole kernels need no indices: they have no break-even")
            if self.kernels and self.compression is not None:
                raise ValueError("compression counts weights, not whole kernels: say keep by layer")
            return self

    def __init__(self, workload: Workload, layers: Sequence[Layer], options: Options) -> None:
        family(options.quantizer)
        check_device(options)
        if any(layer.overlay for layer in layers):
            raise ConfigError(
                "joint pruning and quantisation decides itself which weights are kept",
                got="a space with overlays",
                fix="leave space.overlay out, or use the evaluator ptq or qat",
            )
        self._options, self._layers, self._workload = options, tuple(layers), workload
        self._shares = _shares(options, self._layers)
        self._model = None if options.hardware is None else _cost_model(options.hardware)
        super().__init__(workload, layers, options)
        self._seeds: dict[BitAssignment, int] = {}
        self._last: tuple[tuple[BitAssignment, int, float], Compressed] | None = None

    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        """See :class:`qsearch.protocols.Remembering`: the seeds that the recorded trials had; nothing is kept in a folder."""
        found = [(trial.assignment, trial.quality) for trial in trials if trial.quality is not None]
        self._seeds = {}
        for assignment, quality in found:
            self._seeds.setdefault(assignment, int(quality.details.get("seed", 0)))

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality on validation data of the compressed network.

        Its details say what share of all weights is ``kept``; ``compression``, their bits in float over the bits of the
        numbers that are kept; ``compression_with_indices``, the same with indices and scales; the residuals that ADMM ended
        with, ``pruning_residual`` and ``levels_residual``; and the ``seed``.

        Args:
            fidelity: share of the epochs of either retraining, at least one, and of the iterations of ADMM.
            seed: of the order of samples, augmentation and dropout.

        Raises:
            ConfigError: fidelity outside (0, 1].
            SpaceError: an assignment that does not fit the network.
            EvaluationError: training diverged, or NaN and infinity.
            DataError: a loss or score that is not what :class:`Workload` asks for.
        """
        check_fidelity(fidelity)
        if in_float(self._layers, assignment):
            return self._untrained.evaluate(assignment)
        found = self.compressed(assignment, fidelity=fidelity, seed=seed)
        if fidelity == 1:
            self._seeds.setdefault(assignment, seed)
        with threads(self._options.threads):
            quality = self._untrained.scoring.quality(found.network, self.validation, found.network.model)
        return replace(quality, details={**quality.details, **found.details})

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on the whole test split of the network that :meth:`evaluate` judges at full fidelity.

        Its seed is that of the first such evaluation of the assignment, and 0 where there was none; it is compressed again
        unless it was the last to be compressed.

        Raises:
            DataError: the test loader is empty or malformed; else as :meth:`evaluate`.
            EvaluationError: as :meth:`evaluate`.
        """
        if in_float(self._layers, assignment):
            return self._untrained.test(assignment)
        found = self.compressed(assignment, seed=self._seeds.get(assignment, 0))
        with threads(self._options.threads):
            data = self._untrained.held_out()
            quality = self._untrained.scoring.quality(found.network, data, found.network.model)
        return replace(quality, details={**quality.details, **found.details})

    def compressed(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Compressed:
        """The network that :meth:`evaluate` judges, under the assignment.

        Raises:
            SpaceError, EvaluationError: as :meth:`evaluate`.
        """
        key = (assignment, seed, fidelity)
        if self._last is None or self._last[0] != key:
            self._last = key, self._compress(assignment, fidelity, seed)
        return self._last[1]

    def kept(self, assignment: BitAssignment) -> dict[str, int]:
        """Weight site → how many of its weights are to be kept, or of its kernels; those that stay dense are left out."""
        rows = {layer: _prunable(assignment, layer) for layer in self._layers if layer.weighted}
        unit = {layer: 1 if self._options.kernels else layer.kernel_params for layer in rows}
        counts = {layer.weight_site: int(found.sum()) * unit[layer] for layer, found in rows.items()}
        if self._options.compression is not None:
            wanted = kept_by_compression(self._squares(rows), self._options.compression)
        else:
            wanted = kept_by_share(counts, self._shares)
        pays = {layer.weight_site: self._break_even(layer, assignment) for layer in rows if counts[layer.weight_site]}
        return worth_pruning(counts, wanted, pays)

    def _squares(self, rows: Mapping[Layer, NDArray[np.bool_]]) -> dict[str, NDArray[np.float64]]:
        """Weight site → squares of its prunable weights in the float network, shape (n,)."""
        state = self._lessons.model().state_dict()
        return {
            layer.weight_site: state[layer.weight_site].double().square().flatten(1).numpy()[prunable].ravel()
            for layer, prunable in rows.items()
        }

    def _break_even(self, layer: Layer, assignment: BitAssignment) -> float:
        """The least sparsity of a layer that pays."""
        least, hardware = self._options.break_even, self._options.hardware
        if self._model is None or hardware is None:
            return least
        weights = _weight_bits(assignment, layer)[_prunable(assignment, layer)]
        bits = int(weights.max()), assignment.highest(layer.activation_site)
        found = layer_break_even(
            self._model, hardware.metric, layer, bits, overhead=hardware.overhead, form=hardware.format
        )
        return max(least, found)

    def _compress(self, assignment: BitAssignment, fidelity: float, seed: int) -> Compressed:
        options = self._options
        shorter = options.model_copy(update={"epochs": max(1, round(fidelity * options.epochs))})
        iterations = round(fidelity * options.admm.iterations)
        admm = options.admm.model_copy(update={"iterations": iterations})
        work = Compression(self._lessons, assignment, admm, options.admm_epochs, shorter, seed)
        with threads(options.threads), repeatable():
            residuals = {
                "pruning_residual": work.prune(self.kept(assignment), kernels=options.kernels),
                "levels_residual": work.quantise(),
            }
            network = self._settled(work, assignment)
        return Compressed(network, {**self._sizes(work, assignment), **residuals, "seed": seed})

    def _settled(self, work: Compression, assignment: BitAssignment) -> QuantizedNetwork:
        batches = [batch.inputs for batch in self._untrained.calibration.batches(self._options.evaluation_batch_size)]
        try:
            found = QuantizedNetwork(
                self._workload.model(), self._layers, batches, correction=False, settled=work.network.settled()
            )
            found.apply(assignment)
        except EvaluationError as error:  # numbers that are not finite: those of the untrained network were
            raise EvaluationError(
                "training must not diverge",
                got="a network that gives NaN or infinity",
                fix="lower the rate, or raise the bits",
            ) from error
        return found

    def _sizes(self, work: Compression, assignment: BitAssignment) -> dict[str, float]:
        data = stored = count = total = 0.0
        kept = work.kept
        for layer in self._layers:
            if not layer.weighted:
                continue
            bits = _weight_bits(assignment, layer)
            dense = np.full(layer.kernels, layer.kernel_params)
            left = kept[layer.weight_site].numpy() if layer.weight_site in kept else dense
            scales = SCALE_BITS * len(set(bits.tolist()) - {0, FLOAT_BITS})
            data += float(left @ bits)
            stored += weight_storage(layer.kernel_params, left, bits) + scales
            count, total = count + int(left.sum()), total + layer.params
        return {
            "kept": count / total,
            "compression": FLOAT_BITS * total / max(1.0, data),
            "compression_with_indices": FLOAT_BITS * total / max(1.0, stored),
        }


def _cost_model(hardware: Hardware) -> CostModel:
    """The cost model that is named, where it can say what a layer costs.

    Raises:
        ConfigError: relative paths, no such metric, or no costs of single layers.
        PluginError: there is no such cost model.
    """
    # a campaign file finds the files of its own plug-ins only, and a run may be resumed from another folder
    for key in sorted(path_options("cost_models", hardware.name) & hardware.options.keys()):
        path = hardware.options[key]
        if isinstance(path, str | Path) and not Path(path).is_absolute():
            raise ConfigError(f"option 'hardware.options.{key}' must be an absolute path", got=str(path))
    model: CostModel = create("cost_models", hardware.name, hardware.options)
    if not getattr(model, "additive", True):
        raise ConfigError("a break-even needs a cost model whose layers add up", got=hardware.name)
    if hardware.metric not in model.units:
        raise ConfigError(
            f"the cost model {hardware.name!r} has no metric {hardware.metric!r}",
            fix=nearest(hardware.metric, model.units),
        )
    return model


def _shares(options: JointCompression.Options, layers: Sequence[Layer]) -> dict[str, float]:
    """Weight site → the share that is kept of it, of layers that have one.

    Raises:
        ConfigError: a share for a layer that there is not.
    """
    sites = {layer.name: layer.weight_site for layer in layers if layer.weighted}
    if not isinstance(options.keep, dict):
        return {} if options.keep is None else dict.fromkeys(sites.values(), options.keep)
    for name in options.keep:
        if name not in sites:
            raise ConfigError(f"unknown layer {name!r} in option 'keep'", fix=nearest(name, sites))
    return {sites[name]: share for name, share in options.keep.items()}


def _weight_bits(assignment: BitAssignment, layer: Layer) -> BitArray:
    """Bits of each kernel, float where the assignment does not name the site; shape (K,)."""
    if layer.weight_site not in assignment:
        return np.full(layer.kernels, FLOAT_BITS, dtype=np.int64)
    return assignment.vector(layer.weight_site, layer.kernels)


def _prunable(assignment: BitAssignment, layer: Layer) -> NDArray[np.bool_]:
    """Kernels of 1 to 31 bits, shape (K,)."""
    bits = _weight_bits(assignment, layer)
    return (bits > 0) & (bits < FLOAT_BITS)
