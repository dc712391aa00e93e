"""``SpikingTrainedWorkload``: a spiking network that is trained by surrogate gradients on first use."""

from __future__ import annotations

from torch import nn

from qsearch.workloads.surrogate_training import constrain
from qsearch.workloads.trained import TrainedWorkload
from qsearch.workloads.training import fit


class SpikingTrainedWorkload(TrainedWorkload):
    """A workload whose neurons learn leaks and thresholds with the weights; see :class:`TrainedWorkload`."""

    def taught(self) -> nn.Module:
        """The network, trained by the recipe; after each step, constants are brought back to where they make sense."""
        return fit(
            self.build,
            self.lessons(),
            self.recipe,
            self.options.seed,
            loss=self.training_loss(),
            prepare=self.prepare,
            after_step=constrain,
        )
