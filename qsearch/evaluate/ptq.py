"""``PostTraining``: quality under an assignment by post-training quantisation.

Ranges, corrections and probes use calibration data, :meth:`PostTraining.evaluate` validation data, and
:meth:`PostTraining.test` test data. The answer to an assignment depends on nothing that was asked before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.errors import ConfigError, DataError, EvaluationError, QSearchError
from qsearch.evaluate.data import Split, read
from qsearch.evaluate.fingerprint import digest, sources
from qsearch.evaluate.float_network import CalibratedFloatNetwork
from qsearch.layers import Layer
from qsearch.protocols import Probe, Workload
from qsearch.quantize.modules import forward
from qsearch.quantize.network import QuantizedNetwork
from qsearch.registry import PluginOptions
from qsearch.trial import Quality


class PostTraining:
    """Evaluates assignments of a workload by post-training quantisation.

    Args:
        workload: the network and its data. Calibration and validation data are read at once, test data when asked for.
        layers: the layers of its network.
        options: see :class:`Options`.

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
            batch_size: samples in a forward pass; the correction takes all its samples in one.
            threads: processor threads during an evaluation; as they are if None.
        """

        samples: int | None = Field(default=None, ge=1)
        calibration_samples: int = Field(default=512, ge=1)
        correction: bool = True
        batch_size: int = Field(default=64, ge=1)
        threads: int | None = Field(default=None, ge=1)

    def __init__(self, workload: Workload, layers: Sequence[Layer], options: Options) -> None:
        self._workload = workload
        self._layers = tuple(layer.name for layer in layers)
        self._options = options
        self._calibration = read(workload.calibration(), self._named("calibration"), options.calibration_samples)
        self._validation = read(workload.validation(), self._named("validation"), options.samples)
        self._test: Split | None = None
        batches = [batch.inputs for batch in self._calibration.batches(options.batch_size)]
        with _threads(options.threads):
            self.network = QuantizedNetwork(workload.model(), layers, batches, correction=options.correction)
            self._float_output = self.network.calibration_output()
        self._check([], self._float_output, self._calibration)

    @property
    def validation(self) -> Split:
        """The samples that :meth:`evaluate` uses at full fidelity."""
        return self._validation

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
        if not 0 < fidelity <= 1:
            raise ConfigError("fidelity must be within (0, 1]", got=fidelity)
        return self._quality(assignment, self._validation.share(fidelity))

    def test(self, assignment: BitAssignment) -> Quality:
        """Quality on the whole test split.

        Raises:
            DataError: the test loader is empty or malformed; else as :meth:`evaluate`.
            EvaluationError: as :meth:`evaluate`.
        """
        if self._test is None:
            self._test = read(self._workload.test(), self._named("test"))
        return self._quality(assignment, self._test)

    def probe(self, assignment: BitAssignment) -> Probe:
        """Loss and divergence on calibration data.

        The divergence is the mean KL(float ‖ quantised) of the softmax of outputs of shape (n, classes); of other
        outputs it is the mean squared difference from the float ones.

        Raises:
            DataError, EvaluationError: as :meth:`evaluate`.
        """
        with _threads(self._options.threads), torch.inference_mode():
            self.network.apply(assignment)
            output = self.network.calibration_output()
            loss = self._loss(output, self._calibration.targets)
            distance = divergence(self._float_output, output)
        self._check([loss, distance], output, self._calibration)
        return Probe(loss, distance, self.network.passes * len(self._calibration))

    def weight_errors(self, site: str, bits: int) -> NDArray[np.float64]:
        """Squared quantisation error of each kernel of a weight site at one bitwidth, shape (kernels,)."""
        return self.network.weight_errors(site, bits)

    def float_network(self) -> CalibratedFloatNetwork:
        """The float network with the calibration data, to differentiate; a copy."""
        return CalibratedFloatNetwork(
            self._workload, self._layers, self.network, self._calibration, self._options.batch_size
        )

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
            loss = self._loss(self._float_output, self._calibration.targets)
        inputs = self._calibration.inputs
        return digest(
            {**model.state_dict(), "targets": self._calibration.targets, "outputs": self._float_output}
            | {f"inputs {i}": part for i, part in enumerate(inputs if isinstance(inputs, tuple) else (inputs,))}
            | self._gradients(),
            (self._layers, self._options.correction, self._options.batch_size, loss, code),
        )

    def _gradients(self) -> dict[str, object]:
        """∂ loss / ∂ parameters on the first calibration batch; why there are none where there are none."""
        network = self.float_network()
        names, parameters = zip(*network.model.named_parameters(), strict=True)
        inputs, targets = next(network.batches())
        try:
            with _threads(self._options.threads), torch.enable_grad():
                output = forward(network.model, inputs)
                found = torch.autograd.grad(network.loss(output, targets), parameters, allow_unused=True)
        except Exception as error:  # whoever needs gradients will tell; here is only that there are none
            return {"gradients": f"{type(error).__name__}: {error}"}
        return {f"gradient of {name}": gradient for name, gradient in zip(names, found, strict=True)}

    def _quality(self, assignment: BitAssignment, data: Split) -> Quality:
        losses, scores = 0.0, list[Tensor]()
        with _threads(self._options.threads), torch.inference_mode():
            self.network.apply(assignment)
            for batch in data.batches(self._options.batch_size):
                output = self.network(batch.inputs)
                loss = self._loss(output, batch.targets)
                score = self._score(output, batch.targets)
                self._check([loss, float(score.sum())], output, batch)
                losses += loss * len(batch)
                scores.append(score)
        outcomes: NDArray[np.float32] = torch.cat(scores).cpu().numpy()
        return Quality.from_outcomes(outcomes, losses / len(data), self._workload.metric)

    def _loss(self, output: Tensor, targets: Tensor) -> float:
        with self._answering("loss", output, targets):
            found = torch.as_tensor(self._workload.loss(output, targets))
        if found.numel() != 1:
            raise DataError(
                f"the loss of workload {self._workload.name!r} must be one number, the mean over the batch",
                got=f"shape {tuple(found.shape)}",
                fix="average it",
            )
        return float(found)

    def _score(self, output: Tensor, targets: Tensor) -> Tensor:
        with self._answering("score", output, targets):
            found = torch.as_tensor(self._workload.score(output, targets))
        if found.shape != (len(targets),):
            raise DataError(
                f"the score of workload {self._workload.name!r} must be one number per sample, shape ({len(targets)},)",
                got=f"shape {tuple(found.shape)}",
                fix="leave the averaging to the evaluator, which needs each sample's outcome",
            )
        return found.float()

    @contextmanager
    def _answering(self, what: str, output: Tensor, targets: Tensor) -> Iterator[None]:
        """Whatever a method of the workload raises becomes one line that says whose it is."""
        try:
            yield
        except (QSearchError, OSError):
            raise
        except Exception as error:
            raise DataError(
                f"the {what} of workload {self._workload.name!r} must take outputs of shape {tuple(output.shape)} "
                f"and targets of shape {tuple(targets.shape)}, and give numbers",
                got=f"{type(error).__name__}: {error}"[:300],
            ) from error

    def _check(self, numbers: Sequence[float], output: Tensor, data: Split) -> None:
        """Raise if a loss, a score or an output is not finite."""
        bad = next((number for number in numbers if not np.isfinite(number)), None)
        if bad is None and _finite(output):
            return
        with torch.inference_mode():
            self.network.apply(BitAssignment({}))
            sound = self._sound(self.network(data.inputs), data.targets)
        whose = "the quantised network does, the float one does not" if sound else "the float network itself does"
        raise EvaluationError(
            "outputs, loss and scores of the network must be finite",
            got=f"{'NaN' if bad is None or np.isnan(bad) else bad} ({whose})",
            fix="raise the bits"
            if sound
            else f"check the weights, the data and the loss of workload {self._workload.name!r}",
        )

    def _sound(self, output: Tensor, targets: Tensor) -> bool:
        """Whether outputs, their loss and their scores are finite."""
        return (
            _finite(output) and bool(np.isfinite(self._loss(output, targets))) and _finite(self._score(output, targets))
        )

    def _named(self, split: str) -> str:
        return f"{split} loader of workload {self._workload.name!r}"


def divergence(floating: Tensor, quantized: Tensor) -> float:
    """Mean KL(float ‖ quantised) in nats of logits, shape (n, classes ≥ 2); mean squared difference of others."""
    if floating.dim() != 2 or floating.shape[1] < 2:
        return float(functional.mse_loss(quantized.double(), floating.double()))
    expected = functional.log_softmax(floating.double(), -1)
    found = functional.log_softmax(quantized.double(), -1)
    return float(functional.kl_div(found, expected, reduction="batchmean", log_target=True))


def _finite(output: Tensor) -> bool:
    return bool(torch.isfinite(output).all())


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Use ``count`` processor threads inside, and as many as before afterwards."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count is not None:
            torch.set_num_threads(before)
