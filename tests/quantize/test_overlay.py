"""Overlaid weights: codes superposed in integers, masks against brute force, both ends of the density."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from qsearch.assignment import BitAssignment
from qsearch.errors import SpaceError
from qsearch.overlay import ALL, PATTERNS, REGULAR, SHARED, kept_weights, runs
from qsearch.quantize.network import QuantizedNetwork
from qsearch.quantize.overlay import (
    OverlayTable,
    best_mask,
    ternary_codes,
    ternary_scales,
    threshold,
)
from qsearch.quantize.trace import trace_layers
from qsearch.quantize.weights import WeightTable

BLOCKS, POSITIONS, CHANNELS, FREE = range(len(PATTERNS))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def overlays(weight: torch.Tensor, period: int) -> OverlayTable:
    return OverlayTable(WeightTable("w", weight), period)


def retained(gains: torch.Tensor, mask: torch.Tensor) -> float:
    return float(gains[mask].sum())


def test_ternary_fit_by_hand() -> None:
    """mean|w| = 2, so θ = 1.4: codes 1, 0, −1, 1 and a scale of (2 + 3 + 2) / 3."""
    rows = torch.tensor([[2.0, 1.0, -3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    codes = ternary_codes(rows, threshold(rows))
    assert threshold(rows).tolist() == [[pytest.approx(1.4)], [0.0]]
    assert codes.tolist() == [[1, 0, -1, 1], [0, 0, 0, 0]]
    assert ternary_scales(rows, codes).tolist() == [pytest.approx(7 / 3), 1.0]


def test_nothing_kept_is_the_ternary_weight_network() -> None:
    """Against an independent few lines of Li et al.'s equations, and its scale against least squares."""
    weight = normal(6, 4, 3, 3)
    found = overlays(weight, 8).overlaid(4, 0, CHANNELS)
    for kernel in range(6):
        w = weight[kernel].double().numpy().ravel()
        theta = 0.7 * np.abs(w).mean()
        codes = np.where(w > theta, 1, np.where(w < -theta, -1, 0))
        scale = np.abs(w[np.abs(w) > theta]).mean()
        least = np.linalg.lstsq(codes[:, None].astype(float), w, rcond=None)[0][0]
        assert np.array_equal(found.ternary[kernel].numpy().ravel(), codes)
        assert float(found.ternary_scales[kernel]) == pytest.approx(scale, rel=1e-6)
        assert scale == pytest.approx(least)
        assert float(found.errors[kernel]) == pytest.approx(((w - scale * codes) ** 2).sum(), rel=1e-5)
    assert not found.mask.any()
    assert not found.codes.any()


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 7), (8, 1, 3, 3)])
def test_everything_kept_is_the_plain_weight_code_by_code(bits: int, shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    plain, table = WeightTable("w", weight).quantized(bits), overlays(weight, 8)
    for kept in (8, ALL):
        found = table.overlaid(bits, kept, CHANNELS)
        assert torch.equal(found.codes, plain.codes)
        assert torch.equal(found.scales, plain.scales)
        assert torch.equal(found.values, plain.values)
        assert torch.equal(found.errors, plain.errors)
        assert found.mask.all()
        assert not found.ternary.any()


@pytest.mark.parametrize("pattern", range(len(PATTERNS)))
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_superpose_in_integers_bit_by_bit(pattern: int, bits: int) -> None:
    """One convolution with ŵ, against two with integer codes whose results are scaled: powers of two lose nothing."""
    generator = torch.Generator().manual_seed(pattern)
    ladder = torch.tensor([-8, -6, -2, -1, 0, 1, 2, 2, 6, 8])
    weight = ladder[torch.randint(0, 10, (8, 6, 3, 3), generator=generator)].float()
    found = overlays(weight, 9).overlaid(bits, 2, pattern)
    assert not (found.ternary * found.codes).any(), "a kept weight has no ternary part"
    assert torch.equal(found.ternary != 0, (found.ternary != 0) & ~found.mask)
    broadcast = (-1, 1, 1, 1)
    low, high = found.ternary_scales.reshape(broadcast), found.scales.reshape(broadcast)
    assert torch.equal(found.values, found.ternary * low + found.codes * high)

    x = torch.randint(-7, 8, (2, 6, 5, 5), generator=generator)
    dense = functional.conv2d(x, found.ternary.long(), padding=1)
    sparse = functional.conv2d(x, found.codes.long(), padding=1)
    for s, h in ((2.0**-3, 2.0**-1), (0.5, 4.0)):
        whole = functional.conv2d(x.float(), found.ternary * s + found.codes * h, padding=1)
        assert torch.equal(whole, dense * s + sparse * h)


def test_kept_floats_are_kept() -> None:
    weight = normal(4, 8, 3, 3)
    found = overlays(weight, 8).overlaid(32, 2, CHANNELS)
    assert torch.equal(found.values[found.mask], weight[found.mask])
    assert set((found.values[0][~found.mask[0]] / found.ternary_scales[0]).unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_scales_are_fitted_to_what_is_left() -> None:
    weight = normal(4, 16, 3, 3)
    found = overlays(weight, 16).overlaid(8, 4, CHANNELS)
    for kernel in range(4):
        left = found.ternary[kernel] != 0
        assert float(found.ternary_scales[kernel]) == pytest.approx(float(weight[kernel][left].abs().mean()))
        alone = WeightTable("w", (weight * found.mask)).quantized(8)
        assert torch.equal(found.scales, alone.scales)


@pytest.mark.parametrize("pattern", [POSITIONS, CHANNELS])
def test_mask_against_brute_force_of_any_k_of_each_run(pattern: int) -> None:
    """3 channels × 4 positions, period 5: runs of 5, 5 and 2 with 2, 2 and 0 kept."""
    gains = normal(3, 12, seed=4).double().square()
    found = best_mask(gains, 3, 5, 2, PATTERNS[pattern])
    order = list(range(12)) if pattern == POSITIONS else [4 * c + p for p in range(4) for c in range(3)]
    cut = [order[0:5], order[5:10], order[10:12]]
    for kernel in range(3):
        best = [
            max(combinations(run, 2 * (len(run) == 5)), key=lambda c: float(gains[kernel][list(c)].sum()))
            for run in cut
        ]
        assert sorted(np.flatnonzero(found[kernel].numpy())) == sorted(place for places in best for place in places)


def test_mask_against_brute_force_of_blocks() -> None:
    """6 kernels: the first 4 share a block, the other 2 share one."""
    gains = normal(6, 10, seed=5).double().square()
    found = best_mask(gains, 10, 5, 2, "blocks")
    for kernels in (slice(0, 4), slice(4, 6)):
        for start in (0, 5):
            part = gains[kernels, start : start + 5].sum(0)
            best = max(range(4), key=lambda place: float(part[place : place + 2].sum()))
            expected = [best <= place < best + 2 for place in range(5)]
            assert all(found[kernel, start : start + 5].tolist() == expected for kernel in range(6)[kernels])


def test_where_runs_go() -> None:
    """2 channels × 2 positions in runs of 2: along channels, (0, 2) and (1, 3); along positions, (0, 1) and (2, 3)."""
    gains = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert best_mask(gains, 2, 2, 1, "channels").tolist() == [[True, True, False, False]]
    assert best_mask(gains, 2, 2, 1, "positions").tolist() == [[True, False, True, False]]


def test_one_position_makes_channels_and_positions_the_same() -> None:
    gains = normal(4, 24).square()
    assert torch.equal(best_mask(gains, 24, 8, 2, "channels"), best_mask(gains, 24, 8, 2, "positions"))


def test_equal_gains_keep_the_first() -> None:
    for pattern in REGULAR:
        found = best_mask(torch.ones(1, 8), 8, 4, 2, pattern)
        assert found.tolist() == [[True, True, False, False] * 2]


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 4, 9]))


@settings(max_examples=30, deadline=None)
@given(shape=shapes, period=st.integers(2, 24), share=st.floats(0, 0.5), seed=st.integers(0, 99))
def test_every_pattern_keeps_equally_many_and_no_more_gain_than_without_one(
    shape: tuple[int, int, int], period: int, share: float, seed: int
) -> None:
    kernels, channels, positions = shape
    n, kept = channels * positions, int(share * period)
    gains = normal(kernels, n, seed=seed).double().square()
    free = best_mask(gains, channels, period, kept, "unstructured")
    for pattern in PATTERNS:
        mask = best_mask(gains, channels, period, kept, pattern)
        assert mask.sum(1).tolist() == [kept_weights(n, period, kept)] * kernels == free.sum(1).tolist()
        assert retained(gains, mask) <= retained(gains, free) * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(shape=shapes, period=st.integers(2, 24), seed=st.integers(0, 99))
def test_what_is_lost_does_not_grow_with_what_is_kept(shape: tuple[int, int, int], period: int, seed: int) -> None:
    """Before s is fitted again: for every pattern. Floats kept and s fitted: where masks contain one another."""
    kernels, channels, positions = shape
    weight = normal(kernels, channels, positions, seed=seed)
    table = overlays(weight, period)
    rows = weight.reshape(kernels, -1)
    codes = ternary_codes(rows, threshold(rows))
    gains = (rows - codes * ternary_scales(rows, codes)[:, None]).double().square()
    densities = [*range(period // 2 + 1), ALL]
    for number, pattern in enumerate(PATTERNS):
        left = [float(gains[~best_mask(gains, channels, period, kept, pattern)].sum()) for kept in densities]
        assert all(more <= less + 1e-9 for less, more in pairwise(left))
        if pattern != "blocks":
            errors = [float(table.overlaid(32, kept, number).errors.sum()) for kept in densities]
            assert all(more <= less + 1e-9 + 1e-6 * less for less, more in pairwise(errors))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), kept=st.integers(0, 4))
def test_errors_do_not_grow_with_bits(seed: int, kept: int) -> None:
    table = overlays(normal(4, 8, 3, 3, seed=seed), 8)
    for pattern in range(len(PATTERNS)):
        errors = [table.overlaid(bits, kept, pattern).errors for bits in (2, 3, 4, 6, 8, 32)]
        for fewer, more in pairwise(errors):
            assert bool((more <= fewer * (1 + 1e-6) + 1e-9).all())


def test_errors_are_those_of_the_values() -> None:
    weight = normal(5, 6, 3, 3)
    found = overlays(weight, 8).overlaid(3, 2, BLOCKS)
    expected = (weight - found.values).double().square().flatten(1).sum(1)
    assert torch.allclose(found.errors, expected, rtol=1e-12)


def test_an_overlay_halves_the_error_of_ternary_weights_with_few_weights() -> None:
    """Normal weights: 1 of 8 at 8 bits. What ternary codes lose lies in the tails."""
    table = overlays(normal(64, 32, 3, 3), 32)
    ternary = float(table.overlaid(8, 0, CHANNELS).errors.sum())
    overlaid = [float(table.overlaid(8, 4, pattern).errors.sum()) for pattern in range(len(PATTERNS))]
    assert overlaid[CHANNELS] < 0.65 * ternary
    assert overlaid[FREE] < overlaid[CHANNELS] < overlaid[BLOCKS] < ternary, "any weights lie better than blocks"


def test_short_kernels_keep_what_their_last_run_allows() -> None:
    """A depthwise kernel of 9 and a period of 32: ⌊k·9/32⌋."""
    table = overlays(normal(8, 1, 3, 3), 32)
    assert [int(table.overlaid(8, kept, CHANNELS).mask[0].sum()) for kept in (0, 3, 4, 8, 16)] == [0, 0, 1, 2, 4]


def test_kernels_of_zeros_stay_so() -> None:
    weight = normal(4, 8)
    weight[2] = 0
    found = overlays(weight, 4).overlaid(4, 1, CHANNELS)
    assert not found.values[2].any()
    assert torch.isfinite(found.values).all()


def test_half_precision_keeps_its_type() -> None:
    found = overlays(normal(4, 8).half(), 4).overlaid(4, 1, CHANNELS)
    assert found.values.dtype == torch.float16


def test_what_is_found_does_not_depend_on_what_was_asked_before() -> None:
    weight = normal(4, 16)
    once = overlays(weight, 8)
    again = overlays(weight, 8)
    again.overlaid(8, 1, BLOCKS)
    again.overlaid(2, 4, CHANNELS)
    assert torch.equal(once.overlaid(5, 2, CHANNELS).values, again.overlaid(5, 2, CHANNELS).values)


def test_runs_by_hand() -> None:
    assert list(runs(70, 32, 8)) == [(2, 32, 8), (1, 6, 1)]
    assert list(runs(64, 32, 8)) == [(2, 32, 8)]
    assert list(runs(9, 32, 8)) == [(1, 9, 2)]
    assert SHARED == 4


def test_refusals_are_one_line() -> None:
    table = OverlayTable(WeightTable("conv.weight", normal(4, 8)), 8)
    with pytest.raises(SpaceError, match=r"kept weights of 'conv.weight' have 2\.\.32 bits; got 1"):
        table.overlaid(1, 1, 0)
    with pytest.raises(SpaceError, match=r"the pattern of 'conv.weight' is one of 0\.\.3; got 4"):
        table.overlaid(4, 1, 4)
    with pytest.raises(SpaceError, match=r"keeps 0\.\.8 of 8 weights, or all; got 9"):
        table.overlaid(4, 9, 0)


class Small(nn.Module):
    """Two convolutions and a classifier, one of them not to be overlaid."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))


def overlaid_network(*, correction: bool = False) -> tuple[Small, QuantizedNetwork, torch.Tensor]:
    model, data = Small().eval(), normal(12, 3, 8, 8)
    layers = [replace(layer, overlay=9 * (layer.name != "conv1")) for layer in trace_layers(model, data[:1])]
    return model, QuantizedNetwork(model, layers, [data], correction=correction), data


def test_a_network_takes_on_overlays() -> None:
    """Against the same network with the superposed weights put in by hand."""
    model, network, data = overlaid_network()
    network.apply(BitAssignment({"conv2.weight": 4, "conv2.overlay": 2, "conv2.pattern": CHANNELS, "head.weight": 3}))
    with torch.no_grad():
        model.conv2.weight.copy_(overlays(model.conv2.weight, 9).overlaid(4, 2, CHANNELS).values)
        model.head.weight.copy_(WeightTable("head", model.head.weight).quantized(3).values)
        assert torch.equal(network(data), model(data))


@pytest.mark.parametrize("correction", [False, True])
def test_what_a_network_computes_depends_on_the_last_assignment_only(correction: bool) -> None:
    _, network, data = overlaid_network(correction=correction)
    sites = ("conv2.weight", "conv2.overlay", "conv2.pattern", "conv2.input")
    choices = [(4, 2, 0, 8), (4, 2, 2, 8), (4, ALL, 2, 8), (4, ALL, 0, 8), (8, 0, 1, 8), (32, ALL, 0, 32), (3, 2, 0, 8)]
    assignments = [BitAssignment(dict(zip(sites, choice, strict=True))) for choice in choices]
    alone = []
    for assignment in assignments:
        _, fresh, _ = overlaid_network(correction=correction)
        fresh.apply(assignment)
        alone.append(fresh(data))
    for order in (range(7), reversed(range(7))):
        for position in order:
            network.apply(assignments[position])
            assert torch.equal(network(data), alone[position])
    assert torch.equal(alone[2], alone[3]), "a plain weight has no pattern"
    assert not torch.equal(alone[0], alone[1])


def test_a_plain_reference_is_the_float_network() -> None:
    model, network, data = overlaid_network(correction=True)
    network.apply(BitAssignment({"conv2.weight": 2, "conv2.overlay": 0, "conv2.pattern": 0}))
    network.apply(BitAssignment({"conv2.weight": 32, "conv2.overlay": ALL, "conv2.pattern": 0, "conv1.weight": 32}))
    with torch.no_grad():
        assert torch.equal(network(data), model(data))


def test_networks_refuse_overlays_in_one_line() -> None:
    _, network, _ = overlaid_network()
    with pytest.raises(SpaceError, match=r"the network has no site 'conv1\.overlay'"):
        network.apply(BitAssignment({"conv1.overlay": 2}))
    with pytest.raises(SpaceError, match=r"takes one bitwidth, and one overlay, at 'conv2\.weight'"):
        network.apply(BitAssignment({"conv2.weight": [4] * 7 + [3], "conv2.overlay": 2, "conv2.pattern": 0}))
    with pytest.raises(SpaceError, match=r"the pattern of 'conv2\.weight' is one of 0\.\.3; got 32"):
        network.apply(BitAssignment({"conv2.weight": 4, "conv2.overlay": 2}))
    with pytest.raises(SpaceError, match=r"the network has no overlay at 'conv1\.weight'"):
        network.overlaid_weight("conv1.weight", 4, 2, 0)
    with pytest.raises(SpaceError, match=r"the network has no input site 'conv2\.overlay'"):
        network.activation_quantizer("conv2.overlay", 2)
