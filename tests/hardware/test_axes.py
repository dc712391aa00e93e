"""Models that mean different things by a metric do not share its axis."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import pytest

from qsearch.errors import ConfigError
from qsearch.hardware.axes import check_same_axis
from qsearch.hardware.bismo import Bismo
from qsearch.hardware.bitfusion import BitFusion
from qsearch.hardware.bops import Bops
from qsearch.hardware.energy import Energy
from qsearch.hardware.neuromorphic import Neuromorphic
from qsearch.hardware.neuromorphic_tables import CHIPS
from qsearch.hardware.reram import ReRam
from qsearch.hardware.size import Size
from qsearch.registry import create

ENERGIES = {
    "bismo": Bismo(),
    "bitfusion": BitFusion(),
    "energy-45nm": Energy(),
    "mcu": create("cost_models", "mcu"),
    "reram": ReRam(),
    "roofline": create("cost_models", "roofline"),
    "tensorcore": create("cost_models", "tensorcore"),
    **{chip: Neuromorphic(Neuromorphic.Options(chip=chip)) for chip in CHIPS},
}


class Cycles:
    """A user's model that inherits nothing, and counts cycles."""

    units: Mapping[str, str] = {"latency": "cycle"}


@pytest.mark.parametrize("name", ENERGIES)
def test_every_energy_says_what_it_counts(name):
    assert ENERGIES[name].units["energy"] == "J"
    assert len(ENERGIES[name].definitions["energy"]) > 20


@pytest.mark.parametrize(("one", "other"), list(combinations(ENERGIES, 2)))
def test_energies_of_two_sources_share_no_axis(one, other):
    with pytest.raises(ConfigError, match="one definition") as refused:
        check_same_axis("energy", {one: ENERGIES[one], other: ENERGIES[other]})
    for name in (one, other):
        assert f"{name}: {ENERGIES[name].definitions['energy']}" in str(refused.value)


def test_units_must_agree():
    with pytest.raises(ConfigError, match="one unit; got bismo: s; mine: cycle"):
        check_same_axis("latency", {"bismo": Bismo(), "mine": Cycles()})


def test_a_third_model_is_looked_at_too():
    with pytest.raises(ConfigError, match="show a and c apart"):
        check_same_axis("energy", {"a": Bismo(), "b": Bismo(), "c": Energy()})


def test_what_means_the_same_shares_an_axis():
    check_same_axis("latency", {"bismo": Bismo(), "bitfusion": BitFusion(), "reram": ReRam()})
    check_same_axis("energy", {p: Bismo(Bismo.Options(platform=p)) for p in ("pynq-z1", "zynq-7020", "vu9p")})
    check_same_axis("energy", {"a": Energy(), "b": Energy(Energy.Options(weights_on_chip=True))})
    check_same_axis("size", {"size": Size(), "energy": Energy()})


def test_models_without_the_metric_are_passed_over():
    check_same_axis("energy", {"bops": Bops(), "bismo": Bismo(), "size": Size()})
    check_same_axis("energy", {})


@pytest.mark.parametrize(
    ("standard", "own"),
    [
        (Bismo(), Bismo(Bismo.Options(binary_energy=1e-12))),
        (ReRam(), ReRam(ReRam.Options(adc_energy=1e-12))),
        (Neuromorphic(), Neuromorphic(Neuromorphic.Options(scaling="none"))),
        (Neuromorphic(), Neuromorphic(Neuromorphic.Options(scaling="published"))),
    ],
)
def test_an_option_that_changes_whose_numbers_they_are_changes_the_definition(standard, own):
    with pytest.raises(ConfigError, match="one definition"):
        check_same_axis("energy", {"standard": standard, "own": own})


class Unstated:
    """A user's model that says nothing of its energy."""

    units: Mapping[str, str] = {"energy": "J", "latency": "s", "size": "byte"}

    def __init__(self, options: object = None) -> None:
        self.options = options


class AlsoUnstated(Unstated):
    """Another one."""


def test_energies_of_which_nothing_is_said_share_no_axis():
    for other in (AlsoUnstated(), Unstated("half the clock")):
        with pytest.raises(ConfigError, match="one definition; got a: not stated; b: not stated; say in definitions"):
            check_same_axis("energy", {"a": Unstated(), "b": other})
    check_same_axis("energy", {"a": Unstated(), "b": Unstated()})


@pytest.mark.parametrize("metric", ["latency", "size"])
def test_times_and_sizes_of_which_nothing_is_said_do(metric):
    check_same_axis(metric, {"a": Unstated(), "b": AlsoUnstated(), "bismo": Bismo()})


def test_the_size_of_a_structure_is_not_that_of_codes_and_scales():
    with pytest.raises(ConfigError, match="size: not stated; chip: the structure that holds the weights, csr"):
        check_same_axis("size", {"size": Size(), "chip": Neuromorphic(Neuromorphic.Options(scheme="csr"))})
