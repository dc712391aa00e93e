"""Overlays in the space: their sites, what is fixed, references, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.config import OverlayConfig, parse
from qsearch.errors import ConfigError, SpaceError
from qsearch.layers import Layer
from qsearch.overlay import ALL, PATTERNS, REGULAR, Overlay, index_bits, kept_weights, stored_bits
from qsearch.sites import build_space, overlaid
from qsearch.space import SearchSpace

LAYERS = (
    Layer("first", "conv", 3, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("middle", "conv", 16, 16, (3, 3), (1, 1), 1, (8, 8), (8, 8)),
    Layer("scores", "matmul", 8, 8, (), (), 1, (4,), (4,)),
    Layer("last", "linear", 64, 10),
)


def space(overlay: Overlay | None = None, **changed: object) -> SearchSpace:
    given = {"weight_bits": [2, 4, 8], "activation_bits": [4, 8], "overlay": overlay, **changed}
    return build_space(LAYERS, **given)  # type: ignore[arg-type]


def test_without_an_overlay_nothing_changes() -> None:
    assert {site.role for site in space().sites} == {"weight", "activation"}
    assert overlaid(LAYERS, space(), None) == LAYERS


def test_each_weight_has_two_more_sites_behind_it() -> None:
    found = space(Overlay(32, (0, 2, 32), ("channels", "blocks")))
    names = [site.name for site in found.sites]
    assert names == [
        "first.weight", "first.overlay", "first.pattern", "first.input",
        "middle.weight", "middle.overlay", "middle.pattern", "middle.input",
        "scores.other", "scores.input",
        "last.weight", "last.overlay", "last.pattern", "last.input",
    ]  # fmt: skip
    overlay, pattern = found.site("middle.overlay"), found.site("middle.pattern")
    assert (overlay.role, overlay.choices) == ("overlay", (0, 2, ALL))
    assert (pattern.role, [PATTERNS[choice] for choice in pattern.choices]) == ("pattern", ["blocks", "channels"])


def test_layers_take_the_period_where_they_may_be_overlaid() -> None:
    overlay = Overlay(32, layers=("middle",))
    marked = overlaid(LAYERS, space(overlay), overlay)
    assert {layer.name: layer.overlay for layer in marked} == {"first": 0, "middle": 32, "scores": 0, "last": 0}
    assert (marked[1].overlay_site, marked[1].pattern_site) == ("middle.overlay", "middle.pattern")


def test_layers_of_fixed_weights_stay_plain() -> None:
    found = space(Overlay(), fixed={"first": 8, "last.weight": 8})
    assert [site.layer for site in found.sites if site.role == "overlay"] == ["middle"]
    assert found.fixed == {"first.weight": 8, "first.input": 8, "last.weight": 8}


def test_a_tie_that_fixes_a_weight_keeps_it_plain_too() -> None:
    found = space(Overlay(), fixed={"first.weight": 8}, ties=[("first.weight", "middle.weight")])
    assert [site.layer for site in found.sites if site.role == "overlay"] == ["last"]


def test_groups_fix_bits_only() -> None:
    found = space(Overlay(), fixed={"activations": 8, "middle.overlay": 2, "middle.pattern": 1})
    assert found.fixed == {
        "first.input": 8, "middle.input": 8, "scores.other": 8, "scores.input": 8, "last.input": 8,
        "middle.overlay": 2, "middle.pattern": 1,
    }  # fmt: skip
    assert "first.overlay" in [variable.name for variable in found.variables]


@pytest.mark.parametrize("period", [16, 32])
def test_an_overlay_is_fixed_at_all_by_its_period(period: int) -> None:
    """In the notation of ``kept``; as a tied one is."""
    overlay = Overlay(period, (0, 2, period))
    found = space(overlay, fixed={"first.overlay": period}, ties=[("first.overlay", "last.overlay")])
    assert found.fixed == {"first.overlay": ALL, "last.overlay": ALL}
    assert space(overlay, fixed={"first.overlay": ALL}).fixed == {"first.overlay": ALL}


def test_overlays_may_be_tied() -> None:
    found = space(Overlay(), ties=[("first.overlay", "middle.overlay", "last.overlay")])
    assert [v.sites for v in found.variables if len(v.sites) > 1] == [
        ("first.overlay", "middle.overlay", "last.overlay")
    ]


def test_references_are_plain() -> None:
    found = space(Overlay(64, (0, 1, 64)))
    for bits in (3, 32):
        reference = found.reference(bits)
        assert {reference[site.name] for site in found.sites if site.role in ("weight", "activation")} == {bits}
        assert {reference[site.name] for site in found.sites if site.role == "overlay"} == {ALL}
        assert {reference[site.name] for site in found.sites if site.role == "pattern"} == {0}


def test_uniform_is_as_plain_as_it_can_be() -> None:
    plain, sparse = space(Overlay(32, (0, 4, 32))).uniform(4), space(Overlay(32, (0, 4))).uniform(4)
    assert (plain["middle.weight"], plain["middle.overlay"], plain["middle.pattern"]) == (4, ALL, 0)
    assert (sparse["middle.weight"], sparse["middle.overlay"], sparse["middle.pattern"]) == (4, 4, 0)


@given(st.integers(0, 2**32 - 1))
def test_index_vectors_and_assignments_translate_both_ways(seed: int) -> None:
    found = space(Overlay(32, (0, 2, 32)))
    x = found.sample(np.random.default_rng(seed), 1)[0]
    assert np.array_equal(found.encode(found.decode(x)), x)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"period": 1}, r"period of an overlay must be within 2\.\.128; got 1"),
        ({"period": 200}, r"within 2\.\.128; got 200"),
        ({"kept": ()}, "a choice of kept weights"),
        ({"kept": (17,)}, r"of every 32 weights an overlay may keep 0\.\.16, or all 32; got 17"),
        ({"period": 128, "kept": (32,)}, r"may keep 0\.\.31, or all 128; got 32"),
        ({"kept": (-1,)}, "got -1"),
        ({"patterns": ("chanels",)}, "unknown pattern 'chanels' of an overlay; did you mean 'channels'"),
    ],
)
def test_overlays_that_make_no_sense(given: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        Overlay(**given)  # type: ignore[arg-type]
    if "kept" not in given or given["kept"]:
        text = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
        with pytest.raises(ConfigError, match=message):
            parse(campaign(overlay=text), "campaign.yaml")


def campaign(**given: object) -> dict[str, object]:
    return {
        "name": "n", "budget": {"evaluations": 1}, "workload": "digits-resnet", "hardware": "size", "searcher": "grid",
        "space": given,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weight_bits": [1, 2]}, r"one bitwidth per layer, of at least 2; got 1 bits at 'first.weight'"),
        ({"granularity": "kernel"}, "one bitwidth per layer, of at least 2; got granularity: kernel"),
        ({"fixed": {"first": 8, "first.overlay": 2}}, "'first.overlay' belongs to a layer whose weight is fixed"),
        ({"fixed": {"first.overlay": 3}}, r"'first.overlay' must be fixed at one of \[0, 1, 2, 4, 8\]; got 3"),
        (
            {"overlay": Overlay(layers=("midle",))},
            "unknown layer 'midle' in the layers of the overlay; did you mean 'middle'",
        ),
        (
            {"overlay": Overlay(layers=("scores",))},
            "layers of the overlay must have a weight; got 'scores', of kind matmul",
        ),
        (
            {"overlay": Overlay(layers=("first", "last")), "fixed": {"first": 8}},
            "layer 'first' of the overlay must not have its weight fixed; got 8; fixed weights stay plain",
        ),
        (
            {
                "overlay": Overlay(layers=("middle",)),
                "fixed": {"first.weight": 4},
                "ties": [("first.weight", "middle.weight")],
            },
            "layer 'middle' of the overlay must not have its weight fixed; got 4",
        ),
        ({"fixed": {"weights": 8}}, "an overlay needs a weight to apply to; got none that is not fixed; or leave"),
        ({"overlay": Overlay(layers=())}, "an overlay needs a weight to apply to"),
        (
            {"overlay": Overlay(16, (0, 2, 16)), "fixed": {"first.overlay": 3}},
            r"'first.overlay' must be fixed at one of \[0, 2, 16\]; got 3",
        ),
        ({"overlay": None, "fixed": {"first.overlay": 2}}, "unknown name 'first.overlay' in fixed"),
    ],
)
def test_what_a_space_refuses(changed: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space(**{"overlay": Overlay(), **changed})  # type: ignore[arg-type]


def test_one_bit_is_fine_where_the_weight_is_fixed() -> None:
    found = space(Overlay(layers=("middle",)), weight_bits=[2, 4], fixed={"first": 1})
    assert found.fixed is not None
    assert found.fixed["first.weight"] == 1


def test_a_campaign_file_has_the_same_defaults() -> None:
    assert OverlayConfig().build() == Overlay()
    config = parse(campaign(overlay={"period": 64, "kept": [0, 64], "patterns": ["blocks"], "packed": False}), "file")
    assert config.space.overlay is not None
    assert config.space.overlay.build() == Overlay(64, (0, 64), ("blocks",))
    assert config.space.overlay.charge().ternary_bits == 2.0
    assert parse(campaign(), "file").space.overlay is None


def test_index_by_hand() -> None:
    """16 kernels of 144: 4 runs of 32 and one of 16. C(32, 4) = 35,960 takes 16 bits, C(16, 2) = 120 takes 7."""
    assert kept_weights(144, 32, 4) == 4 * 4 + 2
    assert index_bits(16, 144, 32, 4, PATTERNS.index("channels")) == 16 * (4 * 16 + 7)
    assert index_bits(16, 144, 32, 4, PATTERNS.index("positions")) == 16 * (4 * 16 + 7)
    # a block of 4 begins at one of 29 places of a run of 32, one of 2 at 15 of 16: 5 and 4 bits for four kernels
    assert index_bits(16, 144, 32, 4, PATTERNS.index("blocks")) == 4 * (4 * 5 + 4)
    assert index_bits(15, 144, 32, 4, PATTERNS.index("blocks")) == 4 * (4 * 5 + 4)
    assert index_bits(16, 20, 8, 2, PATTERNS.index("unstructured")) == 16 * 14  # C(20, 5) = 15,504 takes 14 bits
    assert [index_bits(16, 144, 32, kept, 0) for kept in (0, ALL)] == [0, 0]
    expected = 1.6 + 18 / 144 * 8 + 71 / 144
    assert stored_bits(16, 144, 32, 4, PATTERNS.index("channels"), 8) == pytest.approx(expected)
    assert stored_bits(16, 144, 32, 0, 0, 8) == 1.6
    assert stored_bits(16, 144, 32, ALL, 0, 8) == 8


@given(kernels=st.integers(1, 20), n=st.integers(1, 300), period=st.integers(2, 128), bits=st.integers(2, 32))
def test_storage_does_not_fall_with_density_or_with_finer_patterns(
    kernels: int, n: int, period: int, bits: int
) -> None:
    densities = range(min(period // 2, ALL - 1) + 1)
    table = np.asarray([[stored_bits(kernels, n, period, k, p, bits) for k in densities] for p in range(len(REGULAR))])
    assert (np.diff(table, axis=0) >= -1e-12).all()
    assert (np.diff(table, axis=1) >= -1e-12).all()
