"""Fine-tuning: stopping and going on, ending when it diverges, what moves and what stays."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.errors import EvaluationError
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.training.families import family
from qsearch.training.finetuning import WARM_UP, FineTuning, distance, rate_at
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.network import TrainableNetwork
from qsearch.training.options import TrainingOptions

SITES = [f"{layer}.{part}" for layer in ("conv", "head") for part in ("weight", "input")]
W3A3 = BitAssignment(dict.fromkeys(SITES, 3))


class Small(nn.Module):
    """A convolution, a batch norm, dropout and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small()
        nn.init.uniform_(network.norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(network.norm.running_var, 0.5, 1.5)
        nn.init.uniform_(network.norm.weight, -1, 1)
        nn.init.uniform_(network.norm.bias, -1, 1)
    return network.eval()


def jitter(inputs: Any, generator: Generator) -> Any:
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def lessons(count: int = 41) -> Lessons:
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(count) % 3
    inputs = torch.randn(count, 1, 5, 5, generator=generator) + targets[:, None, None, None]
    layers = trace_layers(model(), inputs)
    calibrated = QuantizedNetwork(model(), layers, [inputs], correction=False)
    return Lessons(model, layers, calibrated, Batch(inputs, targets), functional.cross_entropy, jitter)


def training(given: Lessons, assignment: BitAssignment = W3A3, **options: Any) -> FineTuning:
    chosen = TrainingOptions(**{"epochs": 4, "batch_size": 10, "rate": 0.02, **options})
    network = TrainableNetwork(given, assignment, family(chosen.quantizer))
    return FineTuning(network, given, chosen, seed=3)


def states(tuning: FineTuning) -> dict[str, Tensor]:
    return tuning.network.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("quantizer", ["lsq", "pact", "dorefa", "ewgs"])
def test_stopped_and_taken_up_again_is_as_if_never_stopped(optimiser: str, quantizer: str) -> None:
    given = lessons()
    through = training(given, optimiser=optimiser, quantizer=quantizer)
    losses = [through.epoch() for _ in range(4)]
    first = training(given, optimiser=optimiser, quantizer=quantizer)
    found = [first.epoch(), first.epoch()]
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    again = training(given, optimiser=optimiser, quantizer=quantizer)
    again.load(torch.load(file))
    assert again.done == 2
    assert again.share == 0.5
    found += [again.epoch(), again.epoch()]
    assert found == losses
    assert same(states(again), states(through))


@pytest.mark.parametrize("quantizer", ["lsq", "pact", "dorefa", "ewgs"])
def test_every_family_learns(quantizer: str) -> None:
    tuning = training(lessons(), quantizer=quantizer, epochs=8, batch_norm="folded")
    losses = [tuning.epoch() for _ in range(8)]
    assert losses[-1] < 0.97 * losses[0]


def test_seeds_differ_and_repeat() -> None:
    given = lessons()
    one, same_seed = training(given), training(given)
    other = FineTuning(TrainableNetwork(given, W3A3, family("lsq")), given, one.options, seed=4)
    for tuning in (one, same_seed, other):
        tuning.epoch()
    assert same(states(one), states(same_seed))
    assert not same(states(one), states(other))


def test_random_state_of_the_caller_stays() -> None:
    tuning = training(lessons())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuning.epoch()
    assert torch.equal(torch.rand(3), expected)


def test_chance_of_the_caller_does_not_enter() -> None:
    given, found = lessons(), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        tuning = training(given)
        tuning.epoch()
        found.append(states(tuning))
    assert same(*found)


def test_loss_that_is_not_a_number_ends_the_training() -> None:
    given = lessons()
    broken = replace(given, loss=lambda output, target: given.loss(output, target) * math.nan)
    with pytest.raises(EvaluationError, match=r"training must not diverge.*loss nan in epoch 1 of 4.*lower the rate"):
        training(broken).epoch()


def test_explosion_ends_the_training() -> None:
    given, steps = lessons(count=200), []

    def growing(output: Tensor, target: Tensor) -> Tensor:
        steps.append(1)
        return given.loss(output, target) * 1.6 ** len(steps)

    tuning = training(replace(given, loss=growing), explosion=10.0, rate=1e-6)
    with pytest.raises(EvaluationError, match="must not diverge"):
        tuning.epoch()
    assert 5 < len(steps) < 20


@pytest.mark.parametrize(("batch_norm", "moves"), [("running", [1, 1, 1, 1]), ("frozen", [0, 0, 0, 0])])
def test_statistics_stay_where_the_options_say_so(batch_norm: str, moves: list[int]) -> None:
    assert _moves(training(lessons(), batch_norm=batch_norm)) == moves


def test_statistics_stay_late() -> None:
    assert _moves(training(lessons(), batch_norm="late", freeze_at=0.5)) == [1, 1, 0, 0]


def _moves(tuning: FineTuning) -> list[int]:
    """Epochs in which the batch norm's statistics change."""
    found, norm = [], tuning.network.model.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    for _ in range(4):
        before = norm.running_mean.clone()
        tuning.epoch()
        found.append(int(not torch.equal(before, norm.running_mean)))
    return found


def test_a_batch_of_one_leaves_statistics_alone() -> None:
    """The last batch of 41 samples in tens is one sample, whose variance is none of the network's."""
    tuning = training(lessons(), train_samples=11, batch_norm="running")
    tuning.epoch()
    assert tuning.steps == 2
    norm = tuning.network.model.get_submodule("norm")
    assert int(norm.num_batches_tracked) == 1
    assert all(bool(value.isfinite().all()) for value in states(tuning).values())


@pytest.mark.parametrize("quantizer", ["lsq", "ewgs"])
def test_folding_changes_nothing_before_training(quantizer: str) -> None:
    given = lessons()
    plain, folded = training(given, quantizer=quantizer), training(given, quantizer=quantizer, batch_norm="folded")
    inputs = given.data.inputs
    with torch.no_grad():
        torch.testing.assert_close(folded.network.eval()(inputs), plain.network.eval()(inputs), rtol=1e-5, atol=1e-6)
    one, other = (tuning.network.settled().weights["conv.weight"][0] for tuning in (plain, folded))
    assert torch.equal(one.codes, other.codes)
    norm = model().get_submodule("norm")
    ratio = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(other.scales, one.scales * ratio.detach())
    assert bool((ratio < 0).any())


def test_a_folded_batch_norm_only_adds_its_bias_and_stays_so() -> None:
    given = lessons()
    tuning = training(given, batch_norm="folded")
    norm = tuning.network.model.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(norm.eval()(x), x + norm.bias.view(1, -1, 1, 1))
    for _ in range(4):
        tuning.epoch()
    after = norm.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["bias"]
    assert torch.equal(tuning.network.model.get_parameter("conv.bias"), torch.zeros(4))
    looked_up = QuantizedNetwork(
        given.model(), given.layers, [given.data.inputs], correction=False, settled=tuning.network.settled()
    )
    looked_up.apply(W3A3)
    with torch.no_grad():
        assert torch.equal(tuning.network(given.data.inputs), looked_up(given.data.inputs))


def test_folding_twice_and_where_there_is_no_norm_changes_nothing() -> None:
    given = lessons()
    once = training(given, batch_norm="folded")
    expected = {name: value.clone() for name, value in states(once).items()}
    again = FineTuning(once.network, given, once.options, seed=3)
    for name, value in states(again).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    plain = TrainableNetwork(given, W3A3, family("lsq"))
    assert torch.equal(once.network.float_weight("head"), plain.float_weight("head"))
    assert torch.equal(once.network.weights["head.weight"].step.value, plain.weights["head.weight"].step.value)  # type: ignore[union-attr]


def test_distillation_by_hand() -> None:
    output = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    z, y = (np.exp(values.double().numpy() / 3.0) for values in (expected, output))
    z, y = z / z.sum(1, keepdims=True), y / y.sum(1, keepdims=True)
    by_hand = 9.0 * (z * np.log(z / y)).sum(1).mean()
    assert float(distance(output, expected, 3.0)) == pytest.approx(by_hand, rel=1e-5)
    assert float(distance(expected, expected, 3.0)) == pytest.approx(0, abs=1e-6)
    images = output.view(6, 1, 5)
    assert float(distance(images, images + 2, 3.0)) == pytest.approx(4)


def test_distillation_alone_never_asks_for_the_loss() -> None:
    given = lessons()

    def unused(output: Tensor, target: Tensor) -> Tensor:
        raise AssertionError

    tuning = training(replace(given, loss=unused), distillation=1.0)
    losses = [tuning.epoch() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_parts_of_the_loss_add_up() -> None:
    """A first step at each share of distillation: the loss is linear in it."""
    given = lessons(count=10)
    found = [
        training(given, distillation=share, augment=False, batch_norm="frozen").epoch() for share in (0.0, 0.5, 1.0)
    ]
    assert found[1] == pytest.approx((found[0] + found[2]) / 2, rel=1e-5)
    assert found[0] != found[2]


def test_schedules() -> None:
    shares = np.linspace(0, 1, 21)
    constant, cosine, cycle = (
        [rate_at(TrainingOptions(schedule=schedule), float(share)) for share in shares]
        for schedule in ("constant", "cosine", "one-cycle")
    )
    assert constant == [1.0] * 21
    np.testing.assert_allclose(cosine, (1 + np.cos(np.pi * shares)) / 2)
    assert cycle[0] == pytest.approx(0.04)
    assert cycle[-1] == pytest.approx(0)
    assert shares[int(np.argmax(cycle))] == pytest.approx(WARM_UP)
    assert max(cycle) == pytest.approx(1)


def test_mixed_precision_runs_on_a_processor() -> None:
    tuning = training(lessons(), precision="bfloat16")
    losses = [tuning.epoch() for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(value.dtype in (torch.float32, torch.int64) for value in states(tuning).values())
    assert tuning.network.weights["conv.weight"].step.value.grad is not None  # type: ignore[union-attr]


def test_augmentation_is_an_option() -> None:
    given, seen = lessons(), []

    def watched(inputs: Any, generator: Generator) -> Any:
        seen.append(len(inputs))
        return inputs

    training(replace(given, augment=watched), augment=False).epoch()
    assert seen == []
    training(replace(given, augment=watched), augment=True).epoch()
    assert seen == [10, 10, 10, 10, 1]


def test_clipped_gradients_take_smaller_steps() -> None:
    given = lessons(count=10)
    start = TrainableNetwork(given, W3A3, family("lsq")).float_weight("conv").detach().clone()
    moved = []
    for clip in (None, 1e-4):
        tuning = training(given, clip_gradient=clip, momentum=0.0, weight_decay=0.0)
        tuning.epoch()
        moved.append(float((tuning.network.float_weight("conv").detach() - start).norm()))
    assert 0 < moved[1] <= 0.02 * 1e-4 * 1.01
    assert moved[1] < moved[0] / 10


class Penalised(TrainableNetwork):
    """Adds to the loss what a test says for each step."""

    penalties: list[float]

    def penalty(self) -> Tensor:
        return torch.tensor(self.penalties.pop(0))


def penalised(given: Lessons, penalties: list[float], **options: Any) -> FineTuning:
    network = Penalised(given, W3A3, family("lsq"))
    network.penalties = penalties
    return FineTuning(network, given, TrainingOptions(epochs=1, batch_size=10, rate=1e-6, **options), seed=3)


@pytest.mark.parametrize("penalties", [[0.0] * 12 + [1e6] * 8, [1e6] * 20], ids=["later", "at once"])
def test_penalties_are_no_divergence_and_not_told(penalties: list[float]) -> None:
    given = lessons(count=200)
    assert penalised(given, penalties).epoch() == penalised(given, [0.0] * 20).epoch()


def test_a_penalty_hides_no_explosion() -> None:
    given, steps = lessons(count=200), []

    def growing(output: Tensor, target: Tensor) -> Tensor:
        steps.append(1)
        return given.loss(output, target) * 1.6 ** len(steps)

    with pytest.raises(EvaluationError, match="training must not diverge"):
        penalised(replace(given, loss=growing), [1e6] * 20, explosion=10.0).epoch()


@pytest.mark.parametrize("penalty", [math.nan, math.inf])
def test_penalties_must_be_finite(penalty: float) -> None:
    with pytest.raises(EvaluationError, match=r"must not diverge; got penalty (nan|inf) in epoch 1 of 1"):
        penalised(lessons(), [0.0, penalty]).epoch()


def test_clipping_counts_what_the_optimiser_trains_only() -> None:
    """What a subclass trains by itself may have any gradient."""
    given = lessons(count=10)
    moved = []
    for elsewhere in (0.0, 1e9):
        network = TrainableNetwork(given, W3A3, family("lsq"))
        network.extra = nn.Parameter(torch.ones(()))
        network.penalty = lambda network=network, elsewhere=elsewhere: elsewhere * network.extra  # type: ignore[method-assign]
        own, steps = TrainableNetwork.parameter_groups(network)
        assert not any(parameter is network.extra for parameter in (*own, *steps))
        options = TrainingOptions(epochs=1, batch_size=10, clip_gradient=1.0)
        FineTuning(network, given, options, seed=3).epoch()
        moved.append(network.float_weight("conv").detach())
    assert torch.equal(*moved)


@pytest.mark.parametrize("seed", [0, 7, 2**47, 2**63 - 1])
def test_any_seed_will_do(seed: int) -> None:
    given = lessons()
    found = [
        FineTuning(TrainableNetwork(given, W3A3, family("lsq")), given, TrainingOptions(epochs=1), number)
        for number in (seed, seed, seed + 1)
    ]
    for tuning in found:
        tuning.epoch()
    assert same(states(found[0]), states(found[1]))
    assert not same(states(found[0]), states(found[2]))


class Alternating(Small):
    """Has a branch that every second step of the training leaves out, the first one too."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.steps = nn.Linear(4, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.norm(self.conv(x)).relu().mean((2, 3))
        self.steps += self.training
        left_out = self.training and self.steps % 2
        return self.head(pooled) if left_out else self.head(pooled) + self.branch(pooled)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("optimiser", ["sgd", "adam", "rmsprop"])
def test_parameters_whose_gradients_come_later_learn(optimiser: str, momentum: float) -> None:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Alternating().eval()

    plain = lessons()
    layers = trace_layers(build(), plain.data.inputs)
    calibrated = QuantizedNetwork(build(), layers, [plain.data.inputs], correction=False)
    given = replace(plain, model=build, layers=layers, calibrated=calibrated)
    tuning = training(given, BitAssignment({"branch.weight": 4}), optimiser=optimiser, momentum=momentum)
    before = tuning.network.float_weight("branch").detach().clone()
    tuning.epoch()
    assert not torch.equal(tuning.network.float_weight("branch"), before)


def test_momentum_from_the_first_step_on_is_that_of_torch() -> None:
    """A momentum of zeros that decays and takes the first gradient is that gradient."""
    given = lessons()
    found = []
    for own in (True, False):
        tuning = training(given)
        if not own:
            tuning._optimiser.state.clear()
        tuning.epoch()
        found.append(states(tuning))
    assert same(*found)
