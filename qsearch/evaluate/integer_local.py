"""``IntegerLocal``: quality under an assignment of a spiking network that learns under it, in whole numbers and locally.

Each layer learns from errors of its own, quantised as all the rest is: see :mod:`qsearch.training.integer_local`, which also
says which bits go where. The network that is judged is the one that was trained: its output is the local readout of the last
layer, summed over steps, or the spikes of the last layer, counted, as the option ``output`` says.

An assignment that leaves all weights and states in float is trained by the same local rules in float: it is what others are to
be held against, and not the workload's network, which may have been trained by back-propagation through time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field
from torch import Generator, Tensor

from qsearch.assignment import BitAssignment
from qsearch.errors import DataError, SpaceError, nearest
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.fidelity import check_fidelity
from qsearch.evaluate.lessons import training_loader
from qsearch.evaluate.scoring import Scoring
from qsearch.evaluate.threads import threads
from qsearch.layers import Layer
from qsearch.protocols import Workload
from qsearch.quantize.modules import Inputs, forward
from qsearch.training.integer_local import LocalNetwork, LocalTraining
from qsearch.training.local_memory import in_float, memory
from qsearch.training.local_options import LocalOptions
from qsearch.training.local_stages import stages_of
from qsearch.trial import Quality, Trial

RANGED = 32
"""The first training samples on which random weights find their range."""


class IntegerLocal:
    """Evaluates assignments of a spiking workload by integer-only training with local losses.

    Args:
        workload: the network and its data, training data included. Inputs are spikes: whole numbers of shape (n, T, …);
            targets are classes.
        layers: the layers of its network.
        options: see :class:`Options`.

    Raises:
        DataError: no training data, inputs that are no spikes, targets that are no classes, or a network that cannot learn
            locally; a loader that is empty or malformed.
    """

    class Options(LocalOptions):
        """Options of the evaluator, beside those of :class:`LocalOptions`.

        Attributes:
            samples: the first n validation samples are used; all if None.
            train_samples: the first n training samples are used; all if None.
            evaluation_batch_size: samples in a forward pass.
            threads: processor threads during an evaluation; as they are if None.
        """

        samples: int | None = Field(default=None, ge=1)
        train_samples: int | None = Field(default=None, ge=1)
        evaluation_batch_size: int = Field(default=250, ge=1)
        threads: int | None = Field(default=None, ge=1)

    def __init__(self, workload: Workload, layers: Sequence[Layer], options: Options) -> None:
        self._workload, self._options = workload, options
        self._sites = _sites(layers)
        stages_of(workload.model())  # told before anything is read
        self._train = self._spikes(read(training_loader(workload), self._named("training"), options.train_samples))
        self._validation = self._spikes(read(workload.validation(), self._named("validation"), options.samples))
        self._test: Split | None = None
        self._scoring = Scoring(workload, self._floating, options.evaluation_batch_size)
        self._seeds: dict[BitAssignment, int] = {}
        self._last: tuple[tuple[BitAssignment, int], LocalNetwork] | None = None

    @property
    def validation(self) -> Split:
        """The samples that :meth:`evaluate` judges on."""
        return self._validation

    def remember(self, folder: Path | None, trials: Sequence[Trial]) -> None:
        """See :class:`qsearch.protocols.Remembering`: the seeds that the recorded trials had; nothing is kept in a folder."""
        self._seeds = {}
        for trial in trials:
            if trial.quality is not None:
                self._seeds.setdefault(trial.assignment, int(trial.quality.details.get("seed", 0)))

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality on validation data of the network that has learnt.

        Its details say what training keeps for a sample, in bytes (:mod:`qsearch.training.local_memory`): ``weight_bytes``,
        ``readout_bytes``, ``state_bytes``, ``error_bytes`` and all of them, ``memory_bytes``; that as a share of the same
        in 32 bits, ``memory_share``; the ``epochs``, and the ``seed``.

        Args:
            fidelity: share of the epochs, at least one; a training of its own.
            seed: of weights, readouts, the order of samples and what is rounded at random.

        Raises:
            ConfigError: fidelity outside (0, 1], or options that do not go with the network.
            SpaceError: an assignment that does not fit the network, or weights of one bit.
            DataError: a loss or score that is not what :class:`Workload` asks for.
        """
        check_fidelity(fidelity)
        epochs = max(1, round(fidelity * self._options.epochs))
        *_, training = self._epochs(assignment, seed, epochs)
        if fidelity == 1:
            self._conclude(assignment, seed, training.network)
        return self._quality(training, seed, self._validation)

    def progress(self, assignment: BitAssignment, *, seed: int = 0) -> Iterator[tuple[float, Quality]]:
        """Share of the epochs done, and quality on validation data there; the last is that of :meth:`evaluate`.

        Raises:
            SpaceError, ConfigError, DataError: as :meth:`evaluate`.
        """
        for training in self._epochs(assignment, seed, self._options.epochs):
            if training.done == self._options.epochs:
                self._conclude(assignment, seed, training.network)
            yield training.done / self._options.epochs, self._quality(training, seed, self._validation)

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on the whole test split of the network that :meth:`evaluate` judges at full fidelity.

        Its seed is that of the first such evaluation of the assignment, and 0 where there was none; it is trained again
        unless it was the last.

        Raises:
            DataError: the test loader is empty or malformed; else as :meth:`evaluate`.
            SpaceError, ConfigError: as :meth:`evaluate`.
        """
        if self._test is None:
            self._test = self._spikes(read(self._workload.test(), self._named("test")))
        network = self.trained(assignment)
        with threads(self._options.threads):
            quality = self._scoring.quality(_outputs(network), self._test)
        return replace(quality, details=_kept(network))

    def trained(self, assignment: BitAssignment) -> LocalNetwork:
        """The network that :meth:`test` judges.

        Raises:
            SpaceError, ConfigError: as :meth:`evaluate`.
        """
        seed = self._seeds.get(assignment, 0)
        if self._last is None or self._last[0] != (assignment, seed):
            *_, training = self._epochs(assignment, seed, self._options.epochs)
            self._last = (assignment, seed), training.network
        return self._last[1]

    def _epochs(self, assignment: BitAssignment, seed: int, epochs: int) -> Iterator[LocalTraining]:
        """A training after each of its epochs."""
        for site in assignment:
            if site not in self._sites:
                raise SpaceError(f"the network has no site {site!r}", fix=nearest(site, self._sites))
        options = self._options.model_copy(update={"epochs": epochs})
        generator = Generator().manual_seed(seed)
        inputs = self._train.inputs
        assert isinstance(inputs, Tensor)
        with threads(self._options.threads):
            network = LocalNetwork(self._workload.model(), assignment, inputs[:RANGED], options, generator)
            training = LocalTraining(network, self._train, options, generator)
        while training.done < epochs:
            with threads(self._options.threads):
                training.epoch()
            yield training

    def _quality(self, training: LocalTraining, seed: int, data: Split) -> Quality:
        with threads(self._options.threads):
            quality = self._scoring.quality(_outputs(training.network), data)
        return replace(quality, details={**_kept(training.network), "epochs": training.done, "seed": seed})

    def _conclude(self, assignment: BitAssignment, seed: int, network: LocalNetwork) -> None:
        """Keep a network that was evaluated in full, and the first seed of its assignment."""
        self._seeds.setdefault(assignment, seed)
        self._last = (assignment, seed), network

    def _floating(self, inputs: Inputs) -> Tensor:
        """Output of the workload's network; it is only asked whose fault it is where numbers are not finite."""
        output: Tensor = forward(self._workload.model(), inputs)
        return output

    def _named(self, split: str) -> str:
        return f"{split} loader of workload {self._workload.name!r}"

    def _spikes(self, data: Split) -> Split:
        """The data as they came.

        Raises:
            DataError: they are no spikes of several steps, or their targets no classes.
        """
        inputs = data.inputs
        if not isinstance(inputs, Tensor) or inputs.dim() < 3:
            raise DataError(
                "integer-only training needs inputs of shape (n, T, …)", got=f"workload {self._workload.name!r}"
            )
        if bool((inputs < 0).any()) or bool((inputs != inputs.round()).any()):
            raise DataError(
                "integer-only training needs inputs that are spikes, or counts of them",
                got=f"numbers within {float(inputs.min()):g} … {float(inputs.max()):g}",
                fix="choose a workload, or a coding of it, that gives events",
            )
        if data.targets.dim() != 1 or data.targets.is_floating_point():
            raise DataError("integer-only training needs a class for each sample", got=f"{tuple(data.targets.shape)}")
        return data


def _sites(layers: Sequence[Layer]) -> set[str]:
    """Sites of all layers; a threshold has one."""
    read = {layer.activation_site for layer in layers if layer.kind != "threshold"}
    return read | {layer.weight_site for layer in layers}


def _outputs(network: LocalNetwork) -> Callable[[Inputs], Tensor]:
    """A network as it is judged."""

    def run(inputs: Inputs) -> Tensor:
        assert isinstance(inputs, Tensor)
        return network(inputs)

    return run


def _kept(network: LocalNetwork) -> dict[str, float]:
    """What training keeps; see :meth:`IntegerLocal.evaluate`."""
    counts = [member.counts for member in network.members]
    found, most = memory(counts), in_float(counts)
    return {
        "weight_bytes": found.weights,
        "readout_bytes": found.readouts,
        "state_bytes": found.states,
        "error_bytes": found.errors,
        "memory_bytes": found.total,
        "memory_share": found.total / most.total,
    }
