"""ZigZag as a target: known costs, layers of every kind, and no word or file beside the answer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from qsearch.errors import PluginError
from qsearch.layers import Layer
from qsearch.protocols import Target
from qsearch.targets.zigzag import EXAMPLES, ZigZag, workload
from qsearch.testing.target import TargetContract

GOLDEN = Layer("golden", "conv", 64, 64, (3, 3), (1, 1), 1, (34, 34), (32, 32))
SMALL = Layer("small", "conv", 8, 8, (3, 3), (1, 1), 1, (4, 4), (4, 4))


@pytest.mark.slow
class TestZigZag(TargetContract):
    def target(self) -> Target:
        return ZigZag()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "activation", "energy", "cycles"),
    [(8, 8, 2.48e-5, 46_176), (4, 8, 2.32e-5, 46_176), (4, 4, 1.58e-5, 41_552), (2, 2, 1.12e-5, 39_240)],
)
def test_known_costs_on_the_tpu_like_example(weight, activation, energy, cycles):
    """zigzag-dse 3.9.1, 64 → 64 channels, 3 × 3, an output of 32 × 32 from an input of 34 × 34 without padding."""
    found = ZigZag().measure(GOLDEN, weight, activation)
    assert found["energy"] == pytest.approx(energy, rel=5e-3)
    assert found["latency"] == cycles


@pytest.mark.slow
def test_zeros_around_an_input_need_not_be_fetched():
    padded = Layer("padded", "conv", 64, 64, (3, 3), (1, 1), 1, (32, 32), (32, 32))
    assert ZigZag().measure(padded, 8, 8)["latency"] == 45_120


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", sorted(EXAMPLES))
def test_every_example_runs_at_the_most_bits_it_names(accelerator):
    target = ZigZag(ZigZag.Options(accelerator=accelerator))
    widest = max(target.precisions(SMALL))
    assert widest == (EXAMPLES[accelerator].bits,) * 2
    wide, narrow = target.measure(SMALL, *widest), target.measure(SMALL, 2, 2)
    assert 0 < narrow["energy"] < wide["energy"]
    assert 0 < narrow["latency"] <= wide["latency"]


def test_it_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    handlers, level = list(logging.getLogger().handlers), logging.getLogger().level
    ZigZag().measure(SMALL, 8, 8)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    assert (logging.getLogger().handlers, logging.getLogger().level) == (handlers, level)


def test_a_frequency_gives_seconds_and_uses_count():
    cycles = ZigZag().measure(SMALL, 8, 8)
    fast = ZigZag(ZigZag.Options(frequency=200e6))
    twice = fast.measure(Layer("t", "conv", 8, 8, (3, 3), (1, 1), 1, (4, 4), (4, 4), uses=2), 8, 8)
    assert fast.units == {"latency": "s", "energy": "J"}
    assert ZigZag().units == {"latency": "cycle", "energy": "J"}
    assert twice["latency"] == pytest.approx(2 * cycles["latency"] / 200e6)
    assert twice["energy"] == pytest.approx(2 * cycles["energy"])


def test_layers_in_the_words_of_zigzag():
    """Multiply-accumulates are the product of the loops, whatever the kind of the layer."""
    layers = [
        SMALL,
        Layer("depthwise", "conv", 16, 16, (3, 3), (2, 2), 16, (9, 9), (5, 5)),
        Layer("grouped", "conv", 20, 12, (3, 3), (1, 1), 4, (5, 5), (5, 5)),
        Layer("1-D", "conv", 4, 8, (3,), (1,), 1, (10,), (10,)),
        Layer("tokens", "linear", 40, 24, input_size=(7,), output_size=(7,)),
    ]
    for layer in layers:
        product = 1
        for size in workload(layer, 8, 8)["loop_sizes"]:
            product *= size
        assert product == layer.macs, layer.name
    strided = workload(Layer("s", "conv", 4, 4, (3, 5), (2, 1), 1, (8, 9), (4, 9)), 3, 5)
    assert strided["dimension_relations"] == ["ix=1*ox+1*fx", "iy=2*oy+1*fy"]
    assert strided["padding"] == [[2, 2], [0, 1]]
    assert strided["operand_precision"] == {"W": 3, "I": 5, "O": 16, "O_final": 5}


def test_a_layer_that_fits_the_array_at_once():
    """24 inputs and 10 outputs leave no loop in time; 33 inputs are one more than its columns."""
    target = ZigZag()
    once = target.measure(Layer("head", "linear", 24, 10), 8, 8)
    more = target.measure(Layer("head", "linear", 33, 10), 8, 8)
    assert 0 < once["latency"] < more["latency"]
    assert 0 < once["energy"] < more["energy"]


def test_what_it_runs_at():
    target = ZigZag()
    assert len(target.precisions(SMALL)) == 256
    assert max(ZigZag(ZigZag.Options(accelerator="edge_tpu_like")).precisions(SMALL)) == (8, 8)
    assert not target.precisions(Layer("e", "embedding", 50, 8, input_size=(6,), output_size=(6,)))
    assert not target.precisions(Layer("3", "conv", 2, 6, (3, 3, 3), (1, 1, 1), 1, (4, 5, 5), (4, 5, 5)))


def test_unknown_accelerators_and_files_are_told(tmp_path):
    with pytest.raises(PluginError, match="unknown accelerator 'tpu' of target 'zigzag'; did you mean 'tpu_like'"):
        ZigZag(ZigZag.Options(accelerator="tpu"))
    with pytest.raises(PluginError, match="needs a mapping"):
        ZigZag(ZigZag.Options(accelerator=str(tmp_path / "mine.yaml")))
    with pytest.raises(PluginError, match=r"must exist; got .*nowhere"):
        ZigZag(ZigZag.Options(mapping=str(tmp_path / "nowhere.yaml")))
    with pytest.raises(ValidationError):
        ZigZag.Options(frequency=0)


def test_an_accelerator_of_ones_own(tmp_path):
    import zigzag

    inputs = Path(zigzag.__file__).parent / "inputs"
    hardware, mapping = tmp_path / "mine.yaml", tmp_path / "map.yaml"
    hardware.write_text((inputs / "hardware" / "tpu_like.yaml").read_text())
    mapping.write_text((inputs / "mapping" / "tpu_like.yaml").read_text())
    own = ZigZag(ZigZag.Options(accelerator=str(hardware), mapping=str(mapping)))
    assert own.measure(SMALL, 8, 8) == ZigZag().measure(SMALL, 8, 8)
