"""``Compression``: a network is pruned and then quantised, each by ADMM and with retraining behind it.

::

    1  ADMM with Π onto the largest weights        3  ADMM with Π onto levels, of what is left
    2  retraining of what is left                  4  retraining on the levels, straight through

as in Ren et al., "ADMM-NN", ASPLOS 2019, §4. Inputs are quantised throughout. The first stages train at one rate, as their
target moves; retraining has the schedule that the options name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from qsearch.assignment import BitAssignment
from qsearch.training.admm import AdmmOptions, Projection, Weights, iterate, residual
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.lessons import Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions
from qsearch.training.sparse import Sparse, SparseWeight

STAGES = 4
"""Each has chance of its own."""


class Compression:
    """Of one network, under one assignment.

    Args:
        lessons: the network and its training data.
        assignment: bits of its sites; kernels at 0 are pruned, those at 32 stay dense.
        admm: how ADMM goes; see :class:`AdmmOptions`.
        epochs: passes over the training data of an ADMM iteration.
        training: of steps, of the inputs' quantisers, and of retraining: its epochs are those of stage 2, and of stage 4.
        seed: of order and augmentation.

    Attributes:
        network: what is compressed.

    Raises:
        SpaceError: a site that the network does not have.
        ConfigError: a quantiser that there is not.
    """

    def __init__(
        self,
        lessons: Lessons,
        assignment: BitAssignment,
        admm: AdmmOptions,
        epochs: int,
        training: TrainingOptions,
        seed: int,
    ) -> None:
        self.network = TrainableNetwork(lessons, assignment, Sparse(family(training.quantizer)))
        self._lessons, self._admm, self._epochs, self._training = lessons, admm, epochs, training
        self._seed = seed * STAGES

    @property
    def weights(self) -> Mapping[str, SparseWeight]:
        """Site → its weight, of those that are not in float."""
        return {site: found for site, found in self.network.weights.items() if isinstance(found, SparseWeight)}

    @property
    def kept(self) -> dict[str, Tensor]:
        """Site → how many weights of each kernel are kept, shape (K,)."""
        return {site: weight.kept.flatten(1).sum(1).cpu() for site, weight in self.weights.items()}

    def prune(self, keep: Mapping[str, int], *, kernels: bool = False) -> float:
        """Stages 1 and 2; the residual that ADMM ended with.

        Args:
            keep: weights to keep of each site; those that it does not name stay dense.
            kernels: count and prune whole kernels.

        Raises:
            EvaluationError: training has diverged.
        """
        masks = {site: partial(self.weights[site].pruning, keep=count, kernels=kernels) for site, count in keep.items()}
        found = self._converge({site: partial(_masked, mask=mask) for site, mask in masks.items()})
        for site, w in self._values(masks).items():
            self.weights[site].prune(masks[site](w))
        self._retrain()
        return found

    def quantise(self) -> float:
        """Stages 3 and 4; the residual that ADMM ended with.

        Raises:
            EvaluationError: training has diverged.
        """
        found = self._converge({site: weight.quantised for site, weight in self.weights.items()})
        for site, w in self._values(self.weights).items():
            self.weights[site].quantise(w)
        self._retrain()
        return found

    def _converge(self, project: Mapping[str, Projection]) -> float:
        """ADMM; the residual at its end. Without iterations that of the projection alone."""
        if not project:
            return 0.0
        total = max(1, self._admm.iterations * self._epochs)
        rate = self._training.rate if self._admm.rate is None else self._admm.rate
        trained = self._stage({"epochs": total, "schedule": "constant", "rate": rate})

        def minimise(targets: Weights, rho: float) -> Weights:
            for site, target in targets.items():
                self.weights[site].pull(target, rho)
            for _ in range(self._epochs):
                trained.epoch()
            return self._values(project)

        start = self._values(project)
        found = residual(start, {site: project[site](w) for site, w in start.items()})
        for step in iterate(start, project, minimise, self._admm):
            found = step.residual
        return found

    def _retrain(self) -> None:
        trained = self._stage({})
        for _ in range(self._training.epochs):
            trained.epoch()

    def _stage(self, changes: Mapping[str, object]) -> FineTuning:
        """A training of its own, with chance of its own."""
        self._seed += 1
        return FineTuning(self.network, self._lessons, self._training.model_copy(update=dict(changes)), self._seed)

    def _values(self, sites: Iterable[str]) -> dict[str, Tensor]:
        """W of sites: what is kept of the weights, in float; copies."""
        state, device = self.network.float_state(), torch.device(self._training.device)
        return {site: state[site].to(device) * self.weights[site].kept for site in sites}


def _masked(w: Tensor, mask: Callable[[Tensor], Tensor]) -> Tensor:
    return w * mask(w)
