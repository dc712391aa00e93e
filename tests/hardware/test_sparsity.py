"""Storage of sparse weights, and break-even sparsities: closed forms, counted bits, and the published number."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.assignment import BitArray
from qsearch.errors import ConfigError
from qsearch.hardware.size import Size
from qsearch.hardware.sparsity import (
    PUBLISHED_BREAK_EVEN,
    Storage,
    Throughput,
    break_even,
    index_bits,
    layer_break_even,
    storage,
    storage_break_even,
)
from qsearch.layers import Layer
from qsearch.protocols import CostModel

LINEAR = Layer("fc", "linear", 800, 500)


def test_bits_of_the_formats_as_counted_by_hand() -> None:
    # 4 rows of 8: a bit each, and 4 pointers into 32 places; or 3 bits a column, and 5 pointers to 0 … 10
    assert index_bits(4, 8, 10, "bitmap") == 32 + 4 * 5
    assert index_bits(4, 8, 10, "csr") == 10 * 3 + 5 * 4
    assert index_bits(4, 8, 10) == 50
    assert index_bits(4, 8, 20) == 52
    assert storage(4, 8, 2, 3) == Storage(6, 2 * 3 + 5 * 2)


def test_what_is_less_dense_is_stored_dense_with_a_code_for_zero() -> None:
    assert storage(4, 8, 32, 3) == Storage(96, 0)
    assert storage(4, 8, 31, 3) == Storage(128, 0)
    assert storage(4, 8, 31, 3).total < 31 * 3 + index_bits(4, 8, 31)


@pytest.mark.parametrize("form", ["bitmap", "csr", "best"])
def test_indices_grow_with_what_is_kept(form: str) -> None:
    found = [index_bits(20, 25, kept, form) for kept in range(501)]
    assert found == sorted(found)


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(ConfigError, match="unknown format 'ccs'; known: best, bitmap, csr"):
        index_bits(4, 8, 10, "ccs")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_bitmap_pays_where_its_bit_a_weight_is_repaid(bits: int) -> None:
    """ρ < (b − 1) / b (literature), less the pointers of the rows."""
    n, m = 64, 4096
    pointers = n * math.ceil(math.log2(n * m)) / (n * m * bits)
    assert storage_break_even(n, m, bits, "bitmap") == pytest.approx(1 - ((bits - 1) / bits - pointers), abs=1e-7)


def test_csr_beats_the_bitmap_below_a_density_of_one_in_log_m() -> None:
    n, m = 1 << 12, 1 << 10
    for density, better in ((0.9 / 10, "csr"), (1.1 / 10, "bitmap")):
        found = {form: index_bits(n, m, density * n * m, form) for form in ("csr", "bitmap")}
        assert min(found, key=lambda form: found[form]) == better


@given(st.floats(0.1, 4), st.floats(0.1, 4), st.floats(0, 3))
def test_bisection_finds_what_the_closed_form_says(frequency: float, area: float, overhead: float) -> None:
    rule = Throughput(frequency, area, overhead)
    slope = area / frequency * (1 + overhead)
    assert break_even(1.0, lambda density: slope * density) == pytest.approx(rule.break_even, abs=1e-8)
    if 0 < rule.break_even < 1:
        assert rule.speedup(rule.break_even) == pytest.approx(1)
        assert rule.speedup(rule.break_even + 1e-3) > 1 > rule.speedup(rule.break_even - 1e-3)


def test_the_published_break_even() -> None:
    """55 % is a pruning ratio of 2.22: what a design is that needs so many times the time or the area per weight."""
    assert Throughput(frequency=0.9, area=2.0).break_even == pytest.approx(PUBLISHED_BREAK_EVEN)
    ratio = 1 / (1 - PUBLISHED_BREAK_EVEN)
    assert ratio == pytest.approx(2.22, abs=0.005)


def test_break_even_at_its_ends() -> None:
    assert break_even(1.0, lambda density: density) == 0
    assert break_even(1.0, lambda density: 2.0) == 1
    assert Throughput(overhead=1.0).speedup(1.0) == math.inf


def test_a_model_of_storage_prices_an_index_bit_as_an_eighth_of_a_byte() -> None:
    model = Size(Size.Options(scale_bits=0, field_bits=0))
    for bits in (2, 4, 8):
        found = layer_break_even(model, "size", LINEAR, (bits, 8))
        assert found == pytest.approx(storage_break_even(500, 800, bits), abs=1e-8)
    assert layer_break_even(model, "size", LINEAR, (32, 32)) < layer_break_even(model, "size", LINEAR, (2, 8))


class Macs(CostModel):
    """Time that does not depend on bits: indices are free, and only the overhead counts."""

    units: Mapping[str, str] = {"latency": "s"}

    def layer_cost(self, layer: Layer, weight_bits: BitArray, activation_bits: int) -> Mapping[str, float]:
        return {"latency": float(layer.macs * np.count_nonzero(weight_bits) / len(weight_bits))}


def test_the_overhead_of_a_sparse_product_is_the_published_rule() -> None:
    rule = Throughput(overhead=1 / (1 - PUBLISHED_BREAK_EVEN) - 1)
    found = layer_break_even(Macs(), "latency", LINEAR, (4, 8), overhead=rule.overhead)
    assert found == pytest.approx(PUBLISHED_BREAK_EVEN)
    assert found == pytest.approx(rule.break_even)
    assert layer_break_even(Macs(), "latency", LINEAR, (4, 8)) == 0


def test_a_metric_that_the_model_lacks_is_told() -> None:
    with pytest.raises(ConfigError, match="no metric 'energy'; it has: latency"):
        layer_break_even(Macs(), "energy", LINEAR, (4, 8))
