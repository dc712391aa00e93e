"""Learning one task after the other: class-incremental, on one head, with replay.

Notation

========  ===============================================================================================
T         tasks, each with classes of its own
A[i, j]   share of right answers on the test samples of task j after learning task i, among the classes of tasks
          0 … i; 0 for j > i, whose classes cannot be the answer yet
========  ===============================================================================================

::

    average     (1/T) Σ_j A[T−1, j]
    forgetting  (1/(T−1)) Σ_{j<T−1} max_{j≤i<T−1} A[i, j] − A[T−1, j]

(Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018, §3.) A step takes a batch of the task and as many
exemplars from the memory (Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019). The network is not told
which task a sample is of. Logits of classes that were not seen yet are left out of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812  # the name torch's own documentation uses
from torch import Generator, Tensor, nn

from qsearch.errors import DataError, EvaluationError
from qsearch.training.replay import Memory, herded

READ = 500
"""Samples of a batch where nothing is learned."""


@dataclass(frozen=True, eq=False)
class Task:
    """Inputs, shape (n, …), and classes, int64 (n,), to learn from and to judge by."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor

    @property
    def classes(self) -> list[int]:
        """The classes to learn, in rising order."""
        return sorted(set(self.targets.tolist()))


@dataclass(frozen=True)
class ContinualOptions:
    """How a sequence of tasks is learned.

    Attributes:
        epochs: passes over the samples of each task.
        batch_size: samples of the task in a step; as many exemplars come to it.
        rate: learning rate at the start of each task, from where it falls to zero along a cosine.
        momentum: of Nesterov's method.
        weight_decay: L2 penalty.
        memory: exemplars that are kept; 0 for none.
        selection: which ones; "herding" by the input of the network's last linear layer, or its output where it has none.
    """

    epochs: int = 20
    batch_size: int = 32
    rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    memory: int = 100
    selection: Literal["random", "herding"] = "herding"


@dataclass(frozen=True)
class Learned:
    """What became of a sequence of tasks.

    Attributes:
        accuracy: A, T rows of T shares.
    """

    accuracy: tuple[tuple[float, ...], ...]

    @property
    def average(self) -> float:
        """Mean over the tasks after the last one."""
        return math.fsum(self.accuracy[-1]) / len(self.accuracy)

    @property
    def forgetting(self) -> float:
        """Mean over all tasks but the last of the best share before it less the final one; 0 for a single task."""
        *before, last = self.accuracy
        drops = [max(row[task] for row in before[task:]) - last[task] for task in range(len(before))]
        return math.fsum(drops) / max(1, len(drops))


def tasks_by_class(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], classes_per_task: int) -> list[Task]:
    """Samples shared out by class, in rising order of the classes.

    Args:
        train, test: inputs, shape (n, …), and targets, int64 (n,).
        classes_per_task: the last task has those that are left.

    Raises:
        DataError: a task has nothing to be judged by.
    """
    classes, tasks = train[1].unique(), []  # type: ignore[no-untyped-call]  # torch leaves it out
    for group in _parts(classes, classes_per_task):
        (inputs, targets), (test_inputs, test_targets) = (
            (x[torch.isin(y, group)], y[torch.isin(y, group)]) for x, y in (train, test)
        )
        if not len(test_targets):
            raise DataError(f"a task needs test samples of its classes {group.tolist()}", got="0 samples")
        tasks.append(Task(inputs, targets, test_inputs, test_targets))
    return tasks


def learn_continually(network: nn.Module, tasks: Sequence[Task], options: ContinualOptions, seed: int) -> Learned:
    """Train a network on one task after the other; the same for the same seed on one thread.

    Args:
        network: (n, …) → logits (n, C), trained in place and left in evaluation mode; C above every class of the tasks.
        tasks: samples on the network's device; no class is in two tasks.
        options: how to train.
        seed: of the order of samples, the choice of exemplars, and what the network draws.

    Raises:
        DataError: no task, or a class that is in two.
        EvaluationError: the loss is no longer finite.
    """
    labels = [label for task in tasks for label in task.classes]
    if not labels or len(set(labels)) < len(labels):
        raise DataError("tasks must have classes of their own", got=[task.classes for task in tasks])
    memory, seen, rows = Memory(options.memory), [], []
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for number, task in enumerate(tasks):
            seen += task.classes
            _learn(network.train(), task, memory, seen, options, generator)
            network.eval()
            _remember(network, task, memory, options, generator)
            known = [_accuracy(network, past, seen) for past in tasks[: number + 1]]
            rows.append((*known, *[0.0] * (len(tasks) - len(known))))
    return Learned(tuple(rows))


def _learn(
    network: nn.Module, task: Task, memory: Memory, seen: list[int], options: ContinualOptions, generator: Generator
) -> None:
    """Train on a task, with replay."""
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=options.rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
    )
    steps = options.epochs * math.ceil(len(task.targets) / options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(options.epochs):
        for chosen in _parts(torch.randperm(len(task.targets), generator=generator), options.batch_size):
            inputs, targets = _replayed(task.inputs[chosen], task.targets[chosen], memory, generator)
            optimiser.zero_grad()
            loss = F.cross_entropy(_among(network(inputs), seen), targets)
            if not bool(loss.isfinite()):
                raise EvaluationError(f"training diverged at classes {task.classes}", fix="lower the learning rate")
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it out
            optimiser.step()
            schedule.step()


def _replayed(inputs: Tensor, targets: Tensor, memory: Memory, generator: Generator) -> tuple[Tensor, Tensor]:
    """A batch with as many exemplars, where the memory has them."""
    if not len(memory):
        return inputs, targets
    old_inputs, old_targets = memory.samples()
    drawn = torch.randperm(len(memory), generator=generator)[: len(targets)]
    return torch.cat((inputs, old_inputs[drawn])), torch.cat((targets, old_targets[drawn]))


def _remember(network: nn.Module, task: Task, memory: Memory, options: ContinualOptions, generator: Generator) -> None:
    """Put exemplars of a task's classes into the memory."""
    for label in task.classes:
        inputs = task.inputs[task.targets == label]
        if options.selection == "herding":
            order = herded(_features(network, inputs), options.memory)
        else:
            order = torch.randperm(len(inputs), generator=generator)[: options.memory]
        memory.add(label, inputs[order])


@torch.no_grad()
def _features(network: nn.Module, inputs: Tensor) -> Tensor:
    """φ before it is brought to length 1, (n, …) → (n, d)."""
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not linear:
        return torch.cat([network(part).flatten(1) for part in _parts(inputs, READ)])
    found: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, args: found.append(args[0].flatten(1)))
    try:
        for part in _parts(inputs, READ):
            network(part)
    finally:
        handle.remove()
    return torch.cat(found)


@torch.no_grad()
def _accuracy(network: nn.Module, task: Task, seen: list[int]) -> float:
    """Share of a task's test samples that are answered right among the classes seen."""
    answers = [_among(network(part), seen).argmax(1) for part in _parts(task.test_inputs, READ)]
    return float((torch.cat(answers) == task.test_targets).double().mean())


def _parts(x: Tensor, size: int) -> Iterator[Tensor]:
    """``x`` in parts of ``size`` rows; the last has what is left."""
    for start in range(0, len(x), size):
        yield x[start : start + size]


def _among(logits: Tensor, seen: list[int]) -> Tensor:
    """Logits (n, C), those of classes not seen yet at −∞."""
    unseen = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    unseen[seen] = False
    return logits.masked_fill(unseen, -torch.inf)
