"""``FineTuning``: trains a network under its quantisers, epoch by epoch; can be stopped and taken up again between any two.

Notation: t share of all steps done, 0 … 1; y outputs, z those of the float network; d share of distillation; T temperature.

    loss = (1 − d)·L(y, target) + d·T²·KL(softmax(z/T) ‖ softmax(y/T))

What is minimised is the loss and the penalties of the quantisers; what is told, and judged, is the loss. Outputs that are not logits of shape (n, classes ≥ 2) are compared by their mean squared difference (Hinton et al.,
"Distilling the Knowledge in a Neural Network", 2015, §2). Every epoch draws its order and its chance from the seed and its
own number, so that a training taken up again goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from qsearch.errors import EvaluationError
from qsearch.spiking.neurons import Constant
from qsearch.training.batch_norm import fold
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions

WARM_UP = 0.3
"""Share of the steps over which the rate of ``one-cycle`` rises."""

FIRST_STEPS = 10
"""Steps by whose least loss an explosion is measured: their mean would grow with one that begins at once."""

LEAST_LOSS = 0.1
"""What an explosion is measured by where the first losses are less: a network that is all but perfect may lose that."""

SEEDS = 2**63
"""Seeds that torch takes, from 0."""

FUSED = ("cpu", "cuda")
"""Devices that torch has fused optimisers for."""

MEMORY = 0.9
"""Of the running mean of the loss, per step."""


class FineTuning:
    """The training of one network.

    Args:
        network: what is trained; it is moved to the options' device.
        lessons: data, loss, and the float network where that is distilled.
        options: how.
        seed: of order, augmentation and dropout.

    Attributes:
        done: epochs that are done.

    Raises:
        DataError: the device is not there.
    """

    def __init__(self, network: TrainableNetwork, lessons: Lessons, options: TrainingOptions, seed: int) -> None:
        self.network, self.options = network, options
        self.done = 0
        self._lessons, self._seed = lessons, seed
        self._device = torch.device(options.device)
        count = len(lessons.data) if options.train_samples is None else options.train_samples
        self._count = min(count, len(lessons.data))
        if options.batch_norm == "folded":
            fold(network, lessons)
        self._network = network.to(self._device)
        self._norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        self._teacher = lessons.model().to(self._device).requires_grad_(False) if options.distillation else None
        self._optimiser = _optimiser(network, options)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=options.precision == "float16")
        self._first: list[float] = []
        self._running = 0.0

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return max(1, math.ceil(self._count / self.options.batch_size))

    @property
    def share(self) -> float:
        """Share of the epochs that are done."""
        return self.done / self.options.epochs

    def epoch(self) -> float:
        """Train for one epoch; the mean loss over its steps, without penalties.

        Raises:
            EvaluationError: the loss or a penalty is not finite, or the loss has exploded.
        """
        generator = torch.Generator().manual_seed((self._seed * 100_003 + self.done) % SEEDS)
        total = 0.0
        self._network.train()
        with _chance(generator), torch.inference_mode(False), torch.enable_grad():
            for number, batch in enumerate(self._batches(generator)):
                total += self._step(batch, (self.done + number / self.steps) / self.options.epochs)
        self.done += 1
        self._network.eval()
        return total / self.steps

    def state(self) -> dict[str, Any]:
        """All that :meth:`load` needs to go on, as ``torch.save`` takes it."""
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "done": self.done,
            "loss": (self._first, self._running),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` gave, of a training of the same network, data, options and seed."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.done = state["done"]
        self._first, self._running = list(state["loss"][0]), state["loss"][1]

    def _batches(self, generator: torch.Generator) -> Iterator[Batch]:
        order = torch.randperm(self._count, generator=generator)
        for part in torch.split(order, self.options.batch_size):
            batch = self._lessons.data.take(part)
            inputs = self._lessons.augment(batch.inputs, generator) if self.options.augment else batch.inputs
            yield Batch(inputs, batch.targets).to(self._device)

    def _step(self, batch: Batch, share: float) -> float:
        """One step; its loss without penalties."""
        self._hold_statistics(share, alone=len(batch) == 1)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * rate_at(self.options, share)
        self._optimiser.zero_grad(set_to_none=True)
        with self._precision():
            loss, penalty = self._loss(batch), self._network.penalty()
        value = float(loss.detach())
        self._check(value, penalty)
        self._scaler.scale(loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]  # torch leaves it out
        if self.options.clip_gradient is not None:
            self._scaler.unscale_(self._optimiser)
            trained = [parameter for group in self._optimiser.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.options.clip_gradient)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._network.constrain()
        return value

    def _hold_statistics(self, share: float, *, alone: bool) -> None:
        """Batch-norms keep their statistics where the options say so, and for a sample that is alone."""
        late = self.options.batch_norm == "late" and share >= self.options.freeze_at
        held = late or alone or self.options.batch_norm in ("frozen", "folded")
        for norm in self._norms:
            if norm.training == held:
                norm.train(not held)

    def _loss(self, batch: Batch) -> Tensor:
        output = self._network(batch.inputs)
        share = self.options.distillation
        loss = (1 - share) * self._lessons.loss(output, batch.targets) if share < 1 else output.new_zeros(())
        if self._teacher is not None:
            with torch.no_grad():
                inputs = batch.inputs
                expected = self._teacher(*inputs) if isinstance(inputs, tuple) else self._teacher(inputs)
            loss = loss + share * distance(output, expected, self.options.temperature)
        return loss

    def _check(self, value: float, penalty: Tensor | None) -> None:
        """Raise where training has diverged; by the loss alone, as penalties may be of any size, and begin at any step."""
        if penalty is not None and not bool(torch.isfinite(penalty)):
            raise EvaluationError(
                "training must not diverge",
                got=f"penalty {float(penalty.detach()):.3g} in epoch {self.done + 1} of {self.options.epochs}",
                fix="lower the rate, or raise the bits",
            )
        if len(self._first) < FIRST_STEPS:
            self._first.append(value)
            self._running = sum(self._first) / len(self._first)
        else:
            self._running = MEMORY * self._running + (1 - MEMORY) * value
        start = min(self._first)
        if math.isfinite(value) and self._running <= self.options.explosion * max(start, LEAST_LOSS):
            return
        raise EvaluationError(
            "training must not diverge",
            got=f"loss {value:.3g} in epoch {self.done + 1} of {self.options.epochs}, {start:.3g} in its first steps",
            fix="lower the rate, or raise the bits",
        )

    @contextmanager
    def _precision(self) -> Iterator[None]:
        if self.options.precision == "float32":
            yield
        else:
            with torch.autocast(self._device.type, getattr(torch, self.options.precision)):
                yield


def rate_at(options: TrainingOptions, share: float) -> float:
    """The learning rate at a share of the training, of the highest."""
    if options.schedule == "constant":
        return 1.0
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if share < WARM_UP:
        return 0.04 + 0.96 * share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def distance(output: Tensor, expected: Tensor, temperature: float) -> Tensor:
    """T²·KL(float ‖ quantised) of logits, shape (n, classes ≥ 2), mean over n; mean squared difference of others."""
    if output.dim() != 2 or output.shape[1] < 2:
        return functional.mse_loss(output, expected)
    found = functional.log_softmax(output / temperature, -1)
    wanted = functional.log_softmax(expected / temperature, -1)
    return temperature**2 * functional.kl_div(found, wanted, reduction="batchmean", log_target=True)


def _optimiser(network: TrainableNetwork, options: TrainingOptions) -> torch.optim.Optimizer:
    """The options' optimiser; each group keeps the highest rate of its own as "peak"."""
    own, steps = network.parameter_groups()
    # whatever their shape, leaks and thresholds are no weights: to decay is to forget faster, or to fire more
    constants = {id(part.weight) for part in network.model.modules() if isinstance(part, Constant)}
    decaying = [parameter for parameter in own if parameter.dim() >= 2 and id(parameter) not in constants]
    plain = [parameter for parameter in own if parameter.dim() < 2 or id(parameter) in constants]
    step_rate = options.rate if options.step_rate is None else options.step_rate
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": options.weight_decay, "peak": options.rate},
        {"params": plain, "weight_decay": 0.0, "peak": options.rate},
    ]
    if step_rate == options.rate:
        groups[-1]["params"] += steps  # every group has a cost of its own, which small networks feel
    else:
        groups.append({"params": steps, "weight_decay": 0.0, "peak": step_rate})
    groups = [group for group in groups if group["params"]]
    # one call for all parameters: those of the quantisers are many and small
    fused = torch.device(options.device).type in FUSED
    if options.optimiser == "adam":
        return torch.optim.AdamW(groups, lr=options.rate, fused=fused)
    if options.optimiser == "rmsprop":
        return torch.optim.RMSprop(groups, lr=options.rate, momentum=options.momentum)
    momentum = options.momentum
    found = torch.optim.SGD(groups, lr=options.rate, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if momentum:  # torch starts it with the first gradient, and the fused step fails unless all parameters have it then
        found.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for group in groups for p in group["params"]})
    return found


@contextmanager
def _chance(generator: torch.Generator) -> Iterator[None]:
    """What draws from torch's own generators inside draws from a seed; the caller's random state stays."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield
