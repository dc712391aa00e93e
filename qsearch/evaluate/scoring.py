"""``Scoring``: what a workload says of a network's outputs, checked; one home for all evaluators.

Notation: n samples of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.errors import DataError, EvaluationError, QSearchError
from qsearch.evaluate.data import Split
from qsearch.evaluate.spikes import counted
from qsearch.protocols import Workload
from qsearch.quantize.modules import Inputs
from qsearch.trial import SPIKES, Quality

Network = Callable[[Inputs], Tensor]
"""Inputs of a batch → its outputs, a row per sample."""


class Scoring:
    """Judges outputs by the loss and the score of a workload.

    Args:
        workload: whose loss and score.
        floating: the float network; it is only asked whose fault it is where numbers are not finite.
        batch_size: samples in a forward pass.
    """

    def __init__(self, workload: Workload, floating: Network, batch_size: int) -> None:
        self._workload, self._floating, self._batch_size = workload, floating, batch_size

    def quality(self, network: Network, data: Split, module: nn.Module | None = None) -> Quality:
        """Quality of a network on data.

        Args:
            module: what computes; where it has neurons, their spikes are among the details.

        Raises:
            DataError: a loss or score that is not what :class:`Workload` asks for.
            EvaluationError: NaN or infinity, and whether the float network gives it too.
        """
        with counted(nn.Identity() if module is None else module) as spikes:
            losses, scores = self._judged(network, data)
        found = Quality.from_outcomes(scores, losses / len(data), self._workload.metric)
        return found if spikes is None else replace(found, details={SPIKES: spikes.total / len(data)})

    def sampled(
        self, network: Network, data: Split, parts: Sequence[NDArray[np.intp]], module: nn.Module | None = None
    ) -> Generator[Quality]:
        """Quality on the samples of each part and of all before it; see :class:`qsearch.pruning.Sampling`.

        Raises:
            DataError, EvaluationError: as :meth:`quality`.
        """
        outcomes = np.full(len(data), np.nan, dtype=np.float32)
        losses = total = 0.0
        for part in parts:
            chosen = data.take(torch.from_numpy(part))
            with counted(nn.Identity() if module is None else module) as spikes:
                more, outcomes[part] = self._judged(network, Split(chosen.inputs, chosen.targets))
            losses, total = losses + more, total + (0.0 if spikes is None else spikes.total)
            seen = outcomes[~np.isnan(outcomes)]
            found = Quality.from_outcomes(seen, losses / seen.size, self._workload.metric)
            yield replace(
                found, outcomes=outcomes.copy(), details={} if spikes is None else {SPIKES: total / seen.size}
            )

    def _judged(self, network: Network, data: Split) -> tuple[float, NDArray[np.float32]]:
        """Sum of the losses, and score of each sample, shape (n,)."""
        losses, scores = 0.0, list[Tensor]()
        with torch.inference_mode():
            for batch in data.batches(self._batch_size):
                output = network(batch.inputs)
                loss = self.loss(output, batch.targets)
                score = self.score(output, batch.targets)
                self.check([loss, float(score.sum())], output, batch)
                losses += loss * len(batch)
                scores.append(score)
        found: NDArray[np.float32] = torch.cat(scores).cpu().numpy()
        return losses, found

    def loss(self, output: Tensor, targets: Tensor) -> float:
        """Mean loss of a batch.

        Raises:
            DataError: it is not one number.
        """
        with self._answering("loss", output, targets):
            found = torch.as_tensor(self._workload.loss(output, targets))
        if found.numel() != 1:
            raise DataError(
                f"the loss of workload {self._workload.name!r} must be one number, the mean over the batch",
                got=f"shape {tuple(found.shape)}",
                fix="average it",
            )
        return float(found)

    def score(self, output: Tensor, targets: Tensor) -> Tensor:
        """Score of each sample, shape (n,).

        Raises:
            DataError: it is not one number per sample.
        """
        with self._answering("score", output, targets):
            found = torch.as_tensor(self._workload.score(output, targets))
        if found.shape != (len(targets),):
            raise DataError(
                f"the score of workload {self._workload.name!r} must be one number per sample, shape ({len(targets)},)",
                got=f"shape {tuple(found.shape)}",
                fix="leave the averaging to the evaluator, which needs each sample's outcome",
            )
        return found.float()

    def check(self, numbers: Sequence[float], output: Tensor, data: Split) -> None:
        """Raise if a loss, a score or an output is not finite.

        Raises:
            EvaluationError: one is not, and whether the float network's are.
        """
        bad = next((number for number in numbers if not np.isfinite(number)), None)
        if bad is None and _finite(output):
            return
        with torch.inference_mode():
            sound = self._sound(self._floating(data.inputs), data.targets)
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
            _finite(output) and bool(np.isfinite(self.loss(output, targets))) and _finite(self.score(output, targets))
        )

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


def _finite(output: Tensor) -> bool:
    return bool(torch.isfinite(output).all())
