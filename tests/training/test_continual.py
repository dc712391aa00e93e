"""Learning task by task: known averages and forgetting, herding against its definition, and what a memory saves."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qsearch.errors import DataError, EvaluationError
from qsearch.training.continual import ContinualOptions, Learned, Task, learn_continually, tasks_by_class
from qsearch.training.hdqt import clamp_counts, hdqt
from qsearch.training.replay import Memory, herded

OPTIONS = ContinualOptions(epochs=15, batch_size=16, rate=0.1, memory=24)


def clusters(seed: int, per_class: int, classes: int = 6) -> tuple[Tensor, Tensor]:
    """Points around the corners of a regular polygon."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(classes).repeat(per_class)
    angle = targets * (2 * torch.pi / classes)
    noise = 0.12 * torch.randn(len(targets), 2, generator=generator)
    return torch.stack((angle.cos(), angle.sin()), dim=1) + noise, targets


def tasks() -> list[Task]:
    return tasks_by_class(clusters(0, 40), clusters(1, 30), 2)


def network(classes: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, classes))


def test_averages_and_forgetting_of_a_known_matrix() -> None:
    learned = Learned(((0.9, 0.0, 0.0), (0.5, 0.8, 0.0), (0.6, 0.4, 1.0)))
    assert learned.average == pytest.approx(2 / 3)
    assert learned.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.4)) / 2)


def test_forgetting_may_be_negative_and_is_nothing_for_one_task() -> None:
    assert Learned(((0.5, 0.0), (0.7, 0.9))).forgetting == pytest.approx(-0.2)
    assert Learned(((0.5,),)).forgetting == 0


def test_tasks_share_out_the_classes() -> None:
    train, test = clusters(0, 4, classes=5), clusters(1, 3, classes=5)
    found = tasks_by_class(train, test, 2)
    assert [task.classes for task in found] == [[0, 1], [2, 3], [4]]
    assert [(len(task.inputs), len(task.test_inputs)) for task in found] == [(8, 6), (8, 6), (4, 3)]
    for task in found:
        assert torch.equal(task.inputs, train[0][torch.isin(train[1], task.targets)])
        assert set(task.test_targets.tolist()) == set(task.classes)


def test_a_task_that_nothing_judges_is_refused() -> None:
    with pytest.raises(DataError, match=r"a task needs test samples of its classes \[4, 5\]; got 0 samples"):
        tasks_by_class(clusters(0, 4), clusters(1, 3, classes=4), 2)


@pytest.mark.parametrize("broken", [[], [0, 1, 0]])
def test_tasks_must_have_classes_of_their_own(broken: list[int]) -> None:
    with pytest.raises(DataError, match="tasks must have classes of their own"):
        learn_continually(network(), [tasks()[number] for number in broken], OPTIONS, 0)


def test_herding_is_its_definition() -> None:
    """Each pick is the one that brings the mean of all picks nearest to the mean of the class."""
    features = np.random.default_rng(0).normal(size=(12, 3)) + 1
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    chosen: list[int] = []
    for _ in range(7):
        distances = {
            row: np.linalg.norm(unit.mean(0) - unit[[*chosen, row]].mean(0)) for row in range(12) if row not in chosen
        }
        chosen.append(min(distances, key=lambda row: distances[row]))
    assert herded(torch.from_numpy(features), 7).tolist() == chosen


def test_herding_is_near_the_best_pair() -> None:
    features = torch.nn.functional.normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), dim=1)

    def distance(rows: list[int]) -> float:
        return float((features.mean(0) - features[rows].mean(0)).norm())

    pairs = sorted(distance(list(pair)) for pair in itertools.combinations(range(10), 2))
    assert distance(herded(features, 2).tolist()) <= pairs[len(pairs) // 4]


def test_herding_takes_all_there_are() -> None:
    assert sorted(herded(torch.rand(5, 2) + 0.1, 9).tolist()) == [0, 1, 2, 3, 4]


def test_a_memory_shares_its_room_and_gives_up_the_last() -> None:
    memory = Memory(10)
    assert len(memory) == 0
    memory.add(3, torch.arange(20.0))
    assert len(memory) == 10
    memory.add(7, torch.arange(100.0, 120.0))
    memory.add(1, torch.arange(200.0, 202.0))
    inputs, targets = memory.samples()
    assert inputs.tolist() == [0, 1, 2, 100, 101, 102, 200, 201]
    assert targets.tolist() == [3, 3, 3, 7, 7, 7, 1, 1]


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_a_memory_saves_what_is_forgotten_without(selection: str) -> None:
    with_memory = learn_continually(network(), tasks(), replace(OPTIONS, selection=selection), 0)
    without = learn_continually(network(), tasks(), replace(OPTIONS, memory=0), 0)
    assert with_memory.average > 0.9
    assert without.average < 0.7
    assert with_memory.forgetting < 0.1 < without.forgetting
    for learned in (with_memory, without):
        assert [row[number] > 0.9 for number, row in enumerate(learned.accuracy)] == [True] * 3
        assert all(share == 0 for number, row in enumerate(learned.accuracy) for share in row[number + 1 :])


def test_the_last_row_is_the_network_as_it_is_left() -> None:
    left = network()
    learned = learn_continually(left, tasks(), OPTIONS, 0)
    assert not left.training
    with torch.no_grad():
        shares = [float((left(task.test_inputs).argmax(1) == task.test_targets).double().mean()) for task in tasks()]
    assert learned.accuracy[-1] == tuple(shares)


def test_classes_to_come_are_left_alone() -> None:
    """Without momentum or decay, the head's rows of classes that were not seen have no gradient at all."""
    one = network()
    before = one[2].weight.detach().clone()  # type: ignore[index]
    learn_continually(one, tasks()[:1], replace(OPTIONS, momentum=0.0, weight_decay=0.0), 0)
    after = one[2].weight.detach()  # type: ignore[index]
    assert torch.equal(before[2:], after[2:])
    assert not torch.equal(before[:2], after[:2])


def test_a_seed_fixes_everything_whatever_the_callers_state() -> None:
    def learned(seed: int) -> Learned:
        torch.manual_seed(seed + 100)
        net = nn.Sequential(network(), nn.Dropout(0.2))
        torch.rand(seed + 1)
        return learn_continually(net, tasks(), replace(OPTIONS, epochs=2, selection="random"), seed)

    assert learned(1) == learned(1)
    assert learned(1) != learned(2)


def test_the_callers_random_state_stays() -> None:
    one = network()
    state = torch.random.get_rng_state()
    learn_continually(one, tasks()[:1], replace(OPTIONS, epochs=1), 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_network_without_a_linear_layer_is_herded_by_its_output() -> None:
    one = nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 6, 1), nn.Flatten())
    assert learn_continually(one, tasks(), replace(OPTIONS, epochs=3), 0).average > 0.3


def test_divergence_is_told() -> None:
    with pytest.raises(EvaluationError, match=r"training diverged at classes \[0, 1\]; lower the learning rate"):
        learn_continually(network(), tasks(), replace(OPTIONS, rate=1e30), 0)


def test_few_bits_learn_the_tasks_too() -> None:
    quantised = learn_continually(hdqt(network()), tasks(), OPTIONS, 0)
    assert quantised.average > 0.8


def test_clamp_rates_are_those_of_training() -> None:
    """The forward products of the training steps, of tasks of 80 samples and 24 exemplars: the inputs of a layer by its
    outputs, in one tile each."""
    one = hdqt(network())
    learn_continually(one, tasks(), replace(OPTIONS, epochs=2, batch_size=40), 0)
    samples = 2 * (80 + 2 * (80 + 2 * 24))
    assert clamp_counts(one).sums["forward"] == samples * (32 + 6)
