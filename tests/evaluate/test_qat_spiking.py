"""Training spiking networks under an assignment: what was trained is what is judged, and it helps."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from spiking_digits import SpikingDigits, digits, evaluator, layers, space
from torch import nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.evaluate.admm import JointCompression
from qsearch.evaluate.lessons import lessons_of
from qsearch.evaluate.qat import QuantizationAware
from qsearch.evaluate.warm_start import FLOAT, Course, Past
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.trace import trace_layers
from qsearch.spiking.network import SpikingNetwork
from qsearch.spiking.neurons import Integrator, Neuron
from qsearch.training.families import family
from qsearch.training.finetuning import FineTuning
from qsearch.training.lessons import Batch, Lessons
from qsearch.training.network import TrainableNetwork, float_name
from qsearch.training.options import TrainingOptions
from qsearch.trial import SPIKES

pytestmark = pytest.mark.usefixtures("one_thread")


def bits(weights: int, states: int, constants: int, inputs: int = 8) -> BitAssignment:
    """One choice for each role."""
    roles = {"weight": weights, "state": states, "leak": constants, "threshold": constants, "activation": inputs}
    found = {site.name: roles.get(site.role, 1) for site in space().sites}
    return BitAssignment({**found, "fire.leak": 1})


def mixed() -> BitAssignment:
    """Other bits in every site; kernels of a weight have their own, one is pruned and one in float."""
    found = dict(bits(4, 8, 4))
    kernels = (0, 32, *(2 + number % 5 for number in range(22)))
    return BitAssignment({**found, "fc.weight": kernels, "fire.state": 5, "lif.state": 32, "voltage.leak": 3})


def trained_evaluator(**options: Any) -> QuantizationAware:
    chosen = {"epochs": 2, "batch_size": 40, "threads": 1, "optimiser": "adam", "rate": 0.005, **options}
    return QuantizationAware(SpikingDigits(), layers(), QuantizationAware.Options(**chosen))


@pytest.mark.parametrize("quantizer", ["lsq", "pact", "dorefa"])
@pytest.mark.parametrize("assignment", [bits(2, 4, 2), bits(3, 6, 3, 4), mixed()])
def test_the_network_that_is_judged_is_the_one_that_was_trained(quantizer: str, assignment: BitAssignment) -> None:
    judge = evaluator()
    lessons = lessons_of(SpikingDigits(), layers(), judge.network)
    network = TrainableNetwork(lessons, assignment, family(quantizer))
    options = QuantizationAware.Options(epochs=1, batch_size=40, train_samples=160, quantizer=quantizer)
    training = FineTuning(network, lessons, options, 0)
    training.epoch()
    x, _ = digits("validation")
    calibration = [digits("calibration")[0]]
    judged = QuantizedNetwork(
        SpikingDigits().model(), layers(), calibration, correction=False, settled=network.settled()
    )
    judged.apply(assignment)
    network.eval()
    with torch.no_grad():
        expected = network(x)
    assert torch.equal(judged(x), expected)
    assert not torch.equal(expected, SpikingDigits().model()(x).detach())


def test_leaks_thresholds_and_weights_learn_and_stay_where_they_make_sense() -> None:
    judge = evaluator()
    network = TrainableNetwork(lessons_of(SpikingDigits(), layers(), judge.network), bits(3, 6, 4), family("lsq"))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    lessons = lessons_of(SpikingDigits(), layers(), judge.network)
    training = FineTuning(network, lessons, QuantizationAware.Options(epochs=1, batch_size=40, rate=0.05), 0)
    training.epoch()
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert {"lif.leak", "lif.threshold", "fire.threshold"} <= {
        name.removeprefix("model.").removesuffix(".weight") for name in moved
    }
    leaks = [network.model.get_submodule(name).leak.weight.item() for name in ("lif", "voltage")]
    assert all(0 <= leak <= 1 for leak in leaks)
    assert network.model.lif.threshold.weight.item() > 0


def test_training_helps_at_two_bits() -> None:
    poor = bits(2, 4, 2)
    before = evaluator().evaluate(poor)
    after = trained_evaluator(epochs=4).evaluate(poor)
    assert after.loss < 0.8 * before.loss
    assert after.metric > before.metric


def test_the_same_seed_gives_the_same_quality() -> None:
    one, other = (trained_evaluator(epochs=1, train_samples=200).evaluate(mixed(), seed=3) for _ in range(2))
    assert one == other


def test_joint_compression_prunes_weights_and_nothing_of_neurons() -> None:
    options = JointCompression.Options(
        epochs=1, batch_size=80, train_samples=160, keep=0.5, threads=1, admm={"iterations": 2}
    )
    joint = JointCompression(SpikingDigits(), layers(), options)
    kept = joint.kept(bits(4, 8, 8))
    assert set(kept) == {"conv.weight", "fc.weight", "out.weight"}
    found = joint.evaluate(bits(4, 8, 8))
    assert found.details["kept"] == pytest.approx(0.5, abs=0.02)
    assert found.details[SPIKES] > 0
    floating = BitAssignment({**bits(32, 32, 32, 32), "fire.leak": 32})
    assert "kept" not in joint.evaluate(floating).details  # which is not trained


def test_the_distance_of_assignments_sees_states() -> None:
    """By hand: inputs weigh as their layer's weights do, leaks and thresholds what is stored of them, a state its neurons."""
    past = Past(layers(), keep=20)
    start = bits(3, 8, 4)
    changed = {
        site.name: BitAssignment({**start, site.name: int(start[site.name]) + 1})
        for site in space().sites
        if site.role != "spikes"
    }
    for assignment in (start, *changed.values()):
        past.add(Course(assignment, 0, 1, 1, FLOAT))
    sizes = {
        "conv.weight": 54, "conv.input": 54, "lif.state": 54, "lif.leak": 1, "lif.threshold": 1,
        "fc.weight": 1296, "fire.state": 24, "fire.leak": 0, "fire.threshold": 1,
        "out.weight": 240, "voltage.state": 10, "voltage.leak": 1,
    }  # fmt: skip
    assert {name: past._distance(start, found.digest) for name, found in changed.items()} == sizes


def test_the_nearest_start_is_of_the_nearest_states() -> None:
    """Of neurons that forget nothing, too: they store no leak, and their state is large all the same."""
    past = Past(layers(), keep=20)
    starts = [BitAssignment({**bits(3, 8, 4), "fire.state": states}) for states in (12, 7)]
    for start in starts:
        past.add(Course(start, 0, 1, 1, FLOAT))
    assert past.nearest(BitAssignment({**bits(3, 8, 4), "fire.state": 6})) == starts[1].digest


def test_only_weights_decay() -> None:
    """Constants of neurons have one number for all, per channel or per neuron: never is any a weight."""
    torch.manual_seed(0)
    model = SpikingNetwork(
        OrderedDict(
            conv=nn.Conv2d(1, 2, 3),
            lif=Neuron(torch.full((2, 1, 1), 0.3), torch.full((2, 6, 6), 0.9)),
            flat=nn.Flatten(),
            fc=nn.Linear(72, 3),
            out=Integrator(0.9),
        ),
        readout="last",
    ).eval()
    data, targets = digits("calibration")
    found = trace_layers(model, data[:31])
    calibrated = QuantizedNetwork(model, found, [data], correction=False)
    lessons = Lessons(
        lambda: copy.deepcopy(model),
        found,
        calibrated,
        Batch(data, targets),
        functional.cross_entropy,
        lambda inputs, generator: inputs,
    )
    network = TrainableNetwork(lessons, BitAssignment({"conv.weight": 4, "lif.state": 6}), family("lsq"))
    tuning = FineTuning(network, lessons, TrainingOptions(epochs=1, weight_decay=0.01), 0)
    names = {id(parameter): float_name(name) for name, parameter in network.model.named_parameters()}
    decaying = [
        names[id(parameter)]
        for group in tuning._optimiser.param_groups
        if group["weight_decay"]
        for parameter in group["params"]
    ]
    assert decaying == ["conv.weight", "fc.weight"]
    assert sum(len(group["params"]) for group in tuning._optimiser.param_groups) == len(names)
