"""``continual-digits`` and ``continual-mnist``: networks that learned two classes at a time, with a small memory of the past.

Five tasks, the classes 0 and 1, 2 and 3, and so on, are learned one after the other on one head
(:mod:`qsearch.training.continual`): what a device does that meets classes as they come and cannot keep all its data. The
networks and the images are those of ``digits-resnet`` and ``mnist-cnn``.

The splits are those workloads' own, so the ``train`` loader has images of all tasks: what fine-tunes on it learns them at
once, which the device cannot.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from qsearch.training.continual import ContinualOptions, Task, learn_continually, tasks_by_class
from qsearch.workloads.digits import DigitsResNet
from qsearch.workloads.mnist import MnistCnn
from qsearch.workloads.trained import TrainedOptions, TrainedWorkload
from qsearch.workloads.training import Recipe, isolated

log = logging.getLogger(__name__)


class ReplayOptions(TrainedOptions):
    """Options of the memory.

    Attributes:
        memory: exemplars of past tasks that are kept, all classes together.
        selection: which ones: "herding" (nearest to the mean of their class) or "random".
    """

    memory: int = Field(default=100, ge=0)
    selection: Literal["random", "herding"] = "herding"


class ContinualWorkload(TrainedWorkload):
    """A workload that is trained task by task, epochs and rates of its recipe counting for each task.

    Attributes:
        classes_per_task: the tasks' size.
    """

    options: ReplayOptions
    classes_per_task: ClassVar[int] = 2

    def tasks(self) -> list[Task]:
        """The training images by task, each judged by its test images; as the network takes them."""
        train, test = ((self.prepare(part.inputs), part.targets) for part in (self.lessons(), self.judged()))
        return tasks_by_class(train, test, self.classes_per_task)

    def schooling(self) -> ContinualOptions:
        """How the tasks are learned."""
        recipe = self.recipe
        return ContinualOptions(
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            rate=recipe.peak_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            memory=self.options.memory,
            selection=self.options.selection,
        )

    def architecture(self) -> Mapping[str, object]:
        """That of the network, and how it learned."""
        learned = {**asdict(self.schooling()), "classes_per_task": self.classes_per_task}
        inherited = super().architecture()  # type: ignore[safe-super]  # that of the network's workload, next in line
        return {**inherited, "continual": learned}

    def taught(self) -> nn.Module:
        """The network, trained task by task."""
        with isolated(self.options.seed):
            network = self.build()
            learned = learn_continually(network, self.tasks(), self.schooling(), self.options.seed)
        log.info(
            "%s: %.1f %% on average, forgetting %.1f %%", self.name, 100 * learned.average, 100 * learned.forgetting
        )
        return network


class ContinualDigits(ContinualWorkload, DigitsResNet):
    """The residual network on 8×8 digits, two digits at a time."""

    name = "continual-digits"
    recipe: ClassVar[Recipe] = Recipe(
        epochs=20, batch_size=32, weight_decay=1e-4, label_smoothing=0, rotation=0, scaling=0, shift=0
    )
    duration = "about 10 seconds"

    class Options(ReplayOptions, DigitsResNet.Options):
        """Options of the workload: those of the memory, and of ``digits-resnet``."""

    def __init__(self, options: Options) -> None:
        self.options: ContinualDigits.Options = options


class ContinualMnist(ContinualWorkload, MnistCnn):
    """The convolutional network on MNIST, two digits at a time."""

    name = "continual-mnist"
    recipe: ClassVar[Recipe] = Recipe(
        epochs=2, batch_size=64, weight_decay=1e-4, label_smoothing=0, rotation=0, scaling=0, shift=0
    )
    duration = "about a minute"

    class Options(ReplayOptions, MnistCnn.Options):
        """Options of the workload: those of the memory, and of ``mnist-cnn``."""

        memory: int = Field(default=500, ge=0)

    def __init__(self, options: Options) -> None:
        self.options: ContinualMnist.Options = options
