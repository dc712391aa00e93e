"""``PostTraining``: quality under an assignment by post-training quantisation.

Ranges, corrections and probes use calibration data, :meth:`PostTraining.evaluate` validation data, and
:meth:`PostTraining.test` test data. The answer to an assignment depends on nothing that was asked before.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.execution import Execution, Executor
from qsearch.evaluate.fidelity import check_fidelity
from qsearch.evaluate.fingerprint import digest, sources
from qsearch.evaluate.float_network import CalibratedFloatNetwork
from qsearch.evaluate.lessons import lessons_of
from qsearch.evaluate.pace import fastest, layout
from qsearch.evaluate.scoring import Scoring
from qsearch.evaluate.threads import threads
from qsearch.evaluate.together import Settings, Together
from qsearch.layers import Layer
from qsearch.protocols import Probe, Workload
from qsearch.quantize.modules import Inputs, forward
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.reuse import default_memory
from qsearch.registry import PluginOptions
from qsearch.training.lessons import Lessons
from qsearch.trial import Quality


class PostTraining:
    """Evaluates assignments of a workload by post-training quantisation.

    Args:
        workload: the network and its data. Calibration and validation data are read at once, test data when asked for.
        layers: the layers of its network.
        options: see :class:`Options`.

    Attributes:
        network: the quantised network; evaluations let it take on their assignments.
        scoring: what judges its outputs.

    Raises:
        DataError: a loader that is empty or malformed, or a network that does not fit its layers, or whose output is
            not one tensor with a row per sample.
    """

    class Options(PluginOptions):
        """Options of the evaluator.

        Attributes:
            samples: the first n validation samples are used; all if None.
            calibration_samples: the first n calibration samples are used.
            correction: take out the shift that quantisation causes.
            correction_samples: the first n calibration samples are used for it, all of them if None. It is a shift from what
                the float network gives on the same samples, so that far fewer do than statistics would need. Given and
                compiled, the correction is one program too.
            batch_size: samples in a forward pass; the correction takes all its samples in one.
            threads: processor threads during an evaluation; as they are if None.
            execution: "eager", the network as it is; "channels-last", its maps laid out so, which suits many convolutions;
                "compiled", by a program in C++, ``batch_size`` samples at a time; "fastest", what a short trial finds to be
                best on this machine, its batch size included. All give the same but for rounding.
            assignments_at_once: assignments that pass through the network as one, where a searcher asks for several; the same
                but for rounding. It pays on a GPU, for small networks.
            device: where they pass: "cpu", "cuda", "cuda:1".
            reuse: MiB for activations that evaluations leave for later ones whose assignments begin alike: those start where
                theirs differs, and give the same to the last bit. 1024 if None, or an eighth of the machine's memory
                where that is less; 0 for nothing.
        """

        samples: int | None = Field(default=None, ge=1)
        calibration_samples: int = Field(default=512, ge=1)
        correction: bool = True
        correction_samples: int | None = Field(default=None, ge=1)
        batch_size: int = Field(default=64, ge=1)
        threads: int | None = Field(default=None, ge=1)
        execution: Execution = "eager"
        assignments_at_once: int = Field(default=1, ge=1)
        device: str = "cpu"
        reuse: int | None = Field(default=None, ge=0)

    def __init__(self, workload: Workload, layers: Sequence[Layer], options: Options) -> None:
        self._workload = workload
        self._layers = tuple(layers)
        self._options = options
        self._calibration = read(workload.calibration(), self._named("calibration"), options.calibration_samples)
        self._validation = read(workload.validation(), self._named("validation"), options.samples)
        self._test: Split | None = None
        batches = [batch.inputs for batch in self._calibration.batches(options.batch_size)]
        with threads(options.threads):
            self._plan = layout(workload.model(), self._validation, options.execution, options.batch_size)
            model = self._plan.laid_out(workload.model())
            self.network = QuantizedNetwork(
                model,
                layers,
                batches,
                correction=options.correction,
                correction_samples=options.correction_samples,
                reuse=(default_memory() if options.reuse is None else options.reuse) << 20,
            )
            self.network.know(self._validation.inputs)
            self._float_output = self.network.calibration_output()
            self._executor = self._execution()
        self.scoring = Scoring(workload, self._floating, self._executor.plan.batch_size)
        self.scoring.check([], self._float_output, self._calibration)
        self._together = self._several()

    @property
    def validation(self) -> Split:
        """The samples that :meth:`evaluate` uses at full fidelity."""
        return self._validation

    @property
    def calibration(self) -> Split:
        """The samples that ranges, corrections and probes use."""
        return self._calibration

    def held_out(self) -> Split:
        """The whole test split, read when it is first asked for.

        Raises:
            DataError: the test loader is empty or malformed.
        """
        if self._test is None:
            self._test = read(self._workload.test(), self._named("test"))
        return self._test

    def evaluate(self, assignment: BitAssignment, *, fidelity: float = 1.0, seed: int = 0) -> Quality:
        """Quality on validation data; nothing here is left to chance, so ``seed`` changes nothing.

        Args:
            fidelity: share of the validation samples, from the first.

        Raises:
            ConfigError: fidelity outside (0, 1].
            SpaceError: an assignment that does not fit the network.
            DataError: a loss or score that is not what :class:`Workload` asks for.
            EvaluationError: NaN or infinity, and whether the float network gives it too.
        """
        check_fidelity(fidelity)
        return self._quality(assignment, self._validation.share(fidelity))

    @cached_property
    def _difficulty(self) -> NDArray[np.float64]:
        losses = list[float]()
        with threads(self._options.threads), torch.inference_mode():
            for batch in self._validation.batches(self._options.batch_size):
                rows = zip(self._floating(batch.inputs).unbind(), batch.targets.unbind(), strict=True)
                losses += [self.scoring.loss(output[None], target[None]) for output, target in rows]
        return np.asarray(losses)

    def difficulty(self) -> NDArray[np.float64]:
        """Loss of the float network on each validation sample, shape (N,); see :class:`qsearch.pruning.Sampling`."""
        return self._difficulty

    def sampled(
        self, assignment: BitAssignment, parts: Sequence[NDArray[np.intp]], *, seed: int = 0
    ) -> Generator[Quality]:
        """See :class:`qsearch.pruning.Sampling`; the network takes on the assignment, and is corrected, once.

        Raises:
            SpaceError, DataError, EvaluationError: as :meth:`evaluate`.
        """
        with threads(self._options.threads), torch.inference_mode():
            run = self._executor.take_on(assignment)
        with closing(self.scoring.sampled(run, self._validation, parts, self.network.model)) as found:
            for _ in parts:
                with threads(self._options.threads):
                    quality = next(found)
                yield quality

    def evaluate_many(self, assignments: Sequence[BitAssignment], *, seed: int = 0) -> Iterator[Quality | Exception]:
        """See :class:`qsearch.protocols.Batching`."""
        if self._together is not None:
            yield from self._together.evaluate_many(assignments)
            return
        for assignment in assignments:
            try:
                answer: Quality | Exception = self.evaluate(assignment, seed=seed)
            except Exception as error:  # in its place, whatever it is
                answer = error
            yield answer

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on the whole test split.

        Raises:
            DataError: the test loader is empty or malformed; else as :meth:`evaluate`.
            EvaluationError: as :meth:`evaluate`.
        """
        return self._quality(assignment, self.held_out())

    def probe(self, assignment: BitAssignment) -> Probe:
        """Loss and divergence on calibration data.

        The divergence is the mean KL(float ‖ quantised) of the softmax of outputs of shape (n, classes); of other
        outputs it is the mean squared difference from the float ones.

        Raises:
            DataError, EvaluationError: as :meth:`evaluate`.
        """
        with threads(self._options.threads), torch.inference_mode():
            self.network.apply(assignment)
            output = self.network.calibration_output()
            loss = self.scoring.loss(output, self._calibration.targets)
            distance = divergence(self._float_output, output)
        self.scoring.check([loss, distance], output, self._calibration)
        return Probe(loss, distance, round(self.network.passes * len(self._calibration)))

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """Squared quantisation error of each kernel of a weight site at one bitwidth, shape (kernels,)."""
        return self.network.weight_errors(site, bits)

    def float_network(self) -> CalibratedFloatNetwork:
        """The float network with the calibration data, to differentiate; a copy."""
        return CalibratedFloatNetwork(
            self._workload,
            tuple(layer.name for layer in self._layers),
            self.network,
            self._calibration,
            self._options.batch_size,
        )

    def lessons(self) -> Lessons:
        """See :class:`qsearch.protocols.Teaching`."""
        return lessons_of(self._workload, self._layers, self.network)

    def fingerprint(self) -> str | None:
        """See :class:`qsearch.protocols.Fingerprinted`.

        The code of the network and of its loss enters by its files, and by what it computes: the float outputs on the
        calibration data, their loss, and the gradients of that of the first batch. None where a class of it has no file.
        """
        model = self._workload.model()
        code = sources({type(self._workload), *map(type, model.modules())})
        if code is None:
            return None
        with torch.inference_mode():
            loss = self.scoring.loss(self._float_output, self._calibration.targets)
        inputs = self._calibration.inputs
        return digest(
            {**model.state_dict(), "targets": self._calibration.targets, "outputs": self._float_output}
            | {f"inputs {i}": part for i, part in enumerate(inputs if isinstance(inputs, tuple) else (inputs,))}
            | self._gradients(),
            (
                tuple((layer.name, layer.overlay) for layer in self._layers),
                self._options.correction,
                self._options.correction_samples,
                self._options.batch_size,
                self._plan.channels_last,
                loss,
                code,
            ),
        )

    def _gradients(self) -> dict[str, object]:
        """∂ loss / ∂ parameters on the first calibration batch; why there are none where there are none."""
        network = self.float_network()
        names, parameters = zip(*network.model.named_parameters(), strict=True)
        inputs, targets = next(network.batches())
        try:
            with threads(self._options.threads), torch.enable_grad():
                output = forward(network.model, inputs)
                found = torch.autograd.grad(network.loss(output, targets), parameters, allow_unused=True)
        except Exception as error:  # whoever needs gradients will tell; here is only that there are none
            return {"gradients": f"{type(error).__name__}: {error}"}
        return {f"gradient of {name}": gradient for name, gradient in zip(names, found, strict=True)}

    def _quality(self, assignment: BitAssignment, data: Split) -> Quality:
        with threads(self._options.threads), torch.inference_mode():
            return self.scoring.quality(self._executor.take_on(assignment), data, self.network.model)

    def _several(self) -> Together | None:
        """What answers several assignments at once; None where that is not asked for."""
        options = self._options
        if options.assignments_at_once == 1 and options.device == "cpu":
            return None
        few = options.correction_samples or len(self._calibration)
        return Together(
            self.network,
            self.scoring,
            self._validation,
            self._calibration.head(few).inputs if options.correction else None,
            Settings(options.assignments_at_once, self._executor.plan.batch_size, options.device, options.threads),
            lambda assignment: self._quality(assignment, self._validation),
        )

    def _execution(self) -> Executor:
        """What runs the network on data to be scored."""
        if self._options.execution == "fastest":
            executor = fastest(self.network, self._workload.model(), self._validation, self._plan)
        else:
            executor = Executor(self.network, self._plan, self._validation.head(self._plan.batch_size).inputs)
        if self._options.correction and self._options.correction_samples is not None:
            executor.correct_on(self._calibration.head(self._options.correction_samples).inputs)
        return executor

    def _floating(self, inputs: Inputs) -> Tensor:
        """Output of the float network."""
        self.network.apply(BitAssignment({}))
        output: Tensor = self.network(inputs)
        return output

    def _named(self, split: str) -> str:
        return f"{split} loader of workload {self._workload.name!r}"


def divergence(floating: Tensor, quantized: Tensor) -> float:
    """Mean KL(float ‖ quantised) in nats of logits, shape (n, classes ≥ 2); mean squared difference of others."""
    if floating.dim() != 2 or floating.shape[1] < 2:
        return float(functional.mse_loss(quantized.double(), floating.double()))
    expected = functional.log_softmax(floating.double(), -1)
    found = functional.log_softmax(quantized.double(), -1)
    return float(functional.kl_div(found, expected, reduction="batchmean", log_target=True))
