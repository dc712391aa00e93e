"""HAQ's published policy on HAQ's own latency table, and the geometry of the network that it is for."""

from __future__ import annotations

import importlib.util
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qsearch.testing.cost_model import contract_of
from qsearch.testing.networks import mobilenet_v2

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("QSEARCH_DATA", ROOT.parent / "shared" / "data"))
TABLE = DATA / "hw" / "haq_qmobilenetv2_latency.npy"
needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"no {TABLE} (set QSEARCH_DATA)")


@pytest.fixture(scope="module")
def haq():
    spec = importlib.util.spec_from_file_location("haq_policy", ROOT / "benchmarks" / "haq_policy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mobilenet_v2_has_its_published_size():
    """300 M multiply-adds and 3.4 M parameters (Sandler et al., 2018, table 4); exact counts of the reference module:
    3,504,872 parameters less 34,112 of batch normalisation and 1,000 biases."""
    layers = mobilenet_v2()
    assert len(layers) == 53
    assert sum(layer.macs for layer in layers) == 300_774_272
    assert sum(layer.params for layer in layers) == 3_504_872 - 34_112 - 1_000
    assert len({layer.name for layer in layers}) == 53


def test_mobilenet_v2_fits_together():
    layers = mobilenet_v2()
    for before, after in pairwise(layers[:-1]):
        assert after.in_channels == before.out_channels
        assert after.input_size == before.output_size
    assert sum(layer.depthwise for layer in layers) == 17
    assert sum(layer.alive > 0 for layer in layers) == 2 * 10
    assert all(layer.alive == 0 for layer in layers if layer.stride == (2, 2))


@needs_table
def test_the_published_policy_costs_what_it_should(haq):
    """Golden numbers, to four digits: 0.5914 is what the reference gets, which reads −1 as the last column but one."""
    found = list(haq.ratios().values())
    assert found == pytest.approx([0.5965, 0.5914, 0.1783, 0.3966, 0.6726, 0.7882, 0.5059], abs=5e-5)


@needs_table
def test_the_ratio_is_that_of_the_array_indexed_by_hand(haq):
    table, policy = np.load(TABLE), haq.with_image(haq.PUBLISHED, 8)
    by_hand = sum(table[row, w - 1, a - 1] for row, (w, a) in enumerate(policy)) / table[:, 7, 7].sum()
    assert haq.latency(haq.cost_model(), mobilenet_v2(), policy) / table[:, 7, 7].sum() == pytest.approx(by_hand)


@needs_table
def test_the_table_is_a_sound_cost_model(haq, caplog):
    model = haq.cost_model()
    assert not caplog.records, "it never falls with more bits"
    assert model.units == {"latency": "unstated"}
    contract = contract_of(model)
    assert contract.weight_bits == tuple(range(9))
    assert contract.activation_bits == tuple(range(1, 9))
    for name in (name for name in dir(contract) if name.startswith("test_")):
        getattr(contract, name)()
