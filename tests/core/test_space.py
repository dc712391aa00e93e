from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qsearch.assignment import BitAssignment
from qsearch.errors import SpaceError
from qsearch.layers import Layer
from qsearch.sites import build_space
from qsearch.space import SearchSpace, Site

CHOICES = st.lists(st.integers(1, 32), min_size=1, max_size=4, unique=True).map(lambda found: tuple(sorted(found)))


@st.composite
def spaces(draw, largest=4):
    """Spaces with kernel-wise sites, ties and fixed sites, in any mixture."""
    sites, ties, fixed = [], [], {}
    for group in range(draw(st.integers(1, 3))):
        choices, kernels = draw(CHOICES), draw(st.integers(1, largest))
        names = tuple(f"g{group}.s{index}" for index in range(draw(st.integers(1, 3))))
        sites += [Site(name, name, "weight", choices, kernels) for name in names]
        if len(names) > 1 and draw(st.booleans()):
            ties.append(names)
        if draw(st.integers(0, 3)) == 0:
            fixed.update(dict.fromkeys(names, draw(st.integers(0, 32))))
    return SearchSpace(tuple(draw(st.permutations(sites))), tuple(ties), fixed)


class TestSite:
    @pytest.mark.parametrize("choices", [(), (4, 2), (4, 4), (-1, 4), (4, 33)])
    def test_choices_that_make_no_sense(self, choices):
        with pytest.raises(SpaceError, match="'s' must be"):
            Site("s", "l", "weight", choices)

    def test_activations_cannot_be_pruned(self):
        Site("s", "l", "weight", (0, 4))
        with pytest.raises(SpaceError, match="activation bits of 's' must be at least 1"):
            Site("s", "l", "activation", (0, 4))

    def test_at_least_one_kernel(self):
        with pytest.raises(SpaceError, match="at least one kernel"):
            Site("s", "l", "weight", (4,), 0)


class TestIndexVectors:
    @given(spaces(), st.integers(0, 2**32))
    def test_encode_inverts_decode(self, space, seed):
        for x in space.sample(np.random.default_rng(seed), 5):
            assignment = space.decode(x)
            assert np.array_equal(space.encode(assignment), x)
            assert assignment in space
            assert list(assignment) == [site.name for site in space.sites]

    @given(spaces(), st.integers(0, 2**32))
    def test_a_batch_decodes_to_the_same_bits_as_its_rows(self, space, seed):
        x = space.sample(np.random.default_rng(seed), 4)
        bits = space.bits(x)
        for row, one in enumerate(x):
            assert BitAssignment({name: value[row] for name, value in bits.items()}) == space.decode(one)
        for site in space.sites:
            fixed = site.name in (space.fixed or {})
            assert bits[site.name].shape == (4, 1 if fixed else site.kernels)

    @given(spaces(), st.integers(0, 2**32))
    def test_decoded_assignments_keep_ties_and_fixed_sites_and_choices(self, space, seed):
        assignment = space.decode(space.sample(np.random.default_rng(seed), 1)[0])
        for tie in space.ties:
            assert len({assignment[name] for name in tie}) == 1
        for site in space.sites:
            if site.name in space.fixed:
                assert assignment[site.name] == space.fixed[site.name]
            else:
                assert set(assignment.vector(site.name, site.kernels).tolist()) <= set(site.choices)

    @given(spaces())
    def test_size_counts_what_enumeration_yields(self, space):
        assume(space.size <= 300)
        everything = list(space.enumerate())
        assert len(everything) == len(set(everything)) == space.size
        indices = [tuple(space.encode(assignment)) for assignment in everything]
        assert indices == sorted(indices)

    @given(spaces())
    def test_ends(self, space):
        lowest, highest = space.decode(space.lowest), space.decode(space.highest)
        for variable in space.variables:
            for name in variable.sites:
                assert lowest[name] == variable.choices[0]
                assert highest[name] == variable.choices[-1]

    def test_size_is_exact_beyond_floating_point(self):
        layers = tuple(Layer(f"l{i}", "linear", 8, 500) for i in range(3))
        space = build_space(layers, weight_bits=range(2, 9), activation_bits=(2, 4, 8), granularity="kernel")
        assert space.size == 7**1500 * 3**3
        assert space.dimension == 1503

    def test_sampling_is_uniform_and_seeded(self):
        space = build_space((Layer("l", "linear", 4, 4),), weight_bits=(2, 3, 4), activation_bits=(4, 8))
        x = space.sample(np.random.default_rng(1), 6000)
        counts = np.unique(x, axis=0, return_counts=True)[1]
        assert len(counts) == 6
        assert np.sum((counts - 1000) ** 2 / 1000) < 20.5  # χ² with 5 degrees of freedom, p = 0.001
        assert np.array_equal(x, space.sample(np.random.default_rng(1), 6000))

    @pytest.mark.parametrize("x", [[0], [0, 0, 0], [[0, 0]], [-1, 0], [0, 2], [3, 0]])
    def test_vectors_outside_the_space(self, x):
        space = build_space((Layer("l", "linear", 4, 4),), weight_bits=(2, 3, 4), activation_bits=(4, 8))
        with pytest.raises(SpaceError, match="index"):
            space.decode(x)

    @pytest.mark.parametrize("x", [[[-1, 0]], [[0, 2]], [[0]], [0, 0]])
    def test_batches_outside_the_space(self, x):
        """An index of −1 must not read the last choice."""
        space = build_space((Layer("l", "linear", 4, 4),), weight_bits=(2, 3, 4), activation_bits=(4, 8))
        with pytest.raises(SpaceError, match="index"):
            space.bits(np.asarray(x))

    def test_a_space_with_nothing_left_to_decide(self):
        space = build_space((Layer("l", "linear", 4, 4),), weight_bits=(2,), activation_bits=(4,), fixed={"l": 8})
        assert (space.size, space.dimension) == (1, 0)
        assert list(space.enumerate()) == [BitAssignment({"l.weight": 8, "l.input": 8})]
        assert space.sample(np.random.default_rng(0), 3).shape == (3, 0)
        assert space.encode(space.uniform(4)).shape == (0,)


class TestMembership:
    space = SearchSpace(
        (
            Site("a", "a", "weight", (2, 4), 3),
            Site("b", "b", "weight", (2, 4), 3),
            Site("c", "c", "weight", (2, 4)),
            Site("d", "d", "weight", (2, 4)),
        ),
        (("a", "b"),),
        {"d": 8},
    )
    good = BitAssignment({"a": [2, 4, 2], "b": [2, 4, 2], "c": 4, "d": 8})

    def test_inside(self):
        self.space.check(self.good)
        assert self.good in self.space
        assert self.good.replace({"a": 4, "b": 4}) in self.space

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"a": [2, 3, 2], "b": [2, 3, 2]}, r"'a' allows \[2, 4\] bits; got 3"),
            ({"b": [2, 4, 4]}, "'a' and 'b' are tied"),
            ({"a": [2, 4], "b": [2, 4]}, "'a' has 3 kernels; got 2 bitwidths"),
            ({"c": [2, 4]}, "'c' has 1 kernels"),
            ({"d": 4}, "'d' is fixed at 8 bits; got 4"),
        ],
    )
    def test_outside(self, change, message):
        wrong = self.good.replace(change)
        assert wrong not in self.space
        with pytest.raises(SpaceError, match=message):
            self.space.check(wrong)
        with pytest.raises(SpaceError, match=message):
            self.space.encode(wrong)

    def test_other_sites(self):
        bits = dict(self.good)
        del bits["c"]
        with pytest.raises(SpaceError, match=r"missing \['c'\], unknown \['e'\]"):
            self.space.check(BitAssignment({**bits, "e": 4}))

    def test_other_things(self):
        assert "a" not in self.space
        assert dict(self.good) not in self.space


class TestConstruction:
    def site(self, name, choices=(2, 4), kernels=1):
        return Site(name, name, "weight", choices, kernels)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ties": (("a", "x"),)}, "unknown site 'x'"),
            ({"fixed": {"aa": 8}}, "unknown site 'aa'; did you mean 'a'"),
            ({"ties": (("a", "b"), ("b", "c"))}, "one tie only; got b"),
            ({"ties": (("a", "a"),)}, "one tie only; got a"),
            ({"ties": (("a", "odd"),)}, "same choices"),
            ({"ties": (("a", "many"),)}, "same choices and kernels"),
            ({"ties": (("a", "b"),), "fixed": {"a": 8}}, "fixed bits"),
            ({"fixed": {"a": 33}}, "within 0..32; got 33"),
            ({"fixed": {"a": -1}}, "within 0..32; got -1"),
            ({"fixed": {"act": 0}}, "within 1..32; got 0"),
        ],
    )
    def test_errors(self, options, message):
        others = (self.site("odd", (2, 8)), self.site("many", kernels=4), Site("act", "a", "activation", (4,)))
        sites = (*map(self.site, "abc"), *others)
        with pytest.raises(SpaceError, match=message):
            SearchSpace(sites, **options)

    def test_names_once_and_at_least_one(self):
        with pytest.raises(SpaceError, match="each name once; got 2 sites"):
            SearchSpace((self.site("a"), self.site("a")))
        with pytest.raises(SpaceError, match="at least one site"):
            SearchSpace(())

    def test_site_by_name(self):
        space = SearchSpace((self.site("conv1"), self.site("conv2")))
        assert space.site("conv2").name == "conv2"
        with pytest.raises(SpaceError, match="did you mean 'conv1'"):
            space.site("conv11")

    def test_a_tie_is_one_decision(self):
        space = SearchSpace(tuple(map(self.site, "abc")), (("c", "a"),))
        assert [variable.name for variable in space.variables] == ["a", "b"]
        assert space.size == 4
        assert {tuple(a[name] for name in "abc") for a in space.enumerate()} == {
            (x, y, x) for x, y in itertools.product((2, 4), repeat=2)
        }


class TestUniform:
    @pytest.mark.parametrize(("bits", "found"), [(1, 2), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 8), (32, 8)])
    def test_nearest_choice_and_the_lower_of_two(self, bits, found):
        space = build_space((Layer("l", "linear", 4, 4),), weight_bits=(2, 4, 8), activation_bits=(2, 4, 8))
        assert dict(space.uniform(bits)) == {"l.weight": found, "l.input": found}

    @given(spaces(), st.integers(1, 32))
    def test_is_the_closest_member(self, space, bits):
        assignment = space.uniform(bits)
        assert assignment in space
        for variable in space.variables:
            assert isinstance(assignment[variable.name], int)
            assert abs(assignment[variable.name] - bits) == min(abs(choice - bits) for choice in variable.choices)

    def test_reference_ignores_what_the_space_allows(self):
        space = build_space(
            (Layer("l", "linear", 4, 4),), weight_bits=(2,), activation_bits=(2,), fixed={"l.weight": 3}
        )
        assert dict(space.reference(8)) == {"l.weight": 8, "l.input": 8}


class TestBuildSpace:
    layers = (
        Layer("embed", "embedding", 10, 4, input_size=(3,), output_size=(3,)),
        Layer("fc1", "linear", 4, 6),
        Layer("fc2", "linear", 6, 2),
    )

    def build(self, **options):
        return build_space(self.layers, **{"weight_bits": (2, 4), "activation_bits": (3, 5), **options})

    def test_sites_in_network_order(self):
        space = self.build()
        assert [site.name for site in space.sites] == [
            "embed.weight",
            "fc1.weight",
            "fc1.input",
            "fc2.weight",
            "fc2.input",
        ]
        assert {site.kernels for site in space.sites} == {1}

    def test_kernels(self):
        space = self.build(granularity="kernel")
        assert [site.kernels for site in space.sites] == [10, 6, 1, 2, 1]

    def test_bits_from_any_iterable_in_any_order(self):
        space = self.build(weight_bits=(b for b in (4, 2, 4)), activation_bits=iter({8, 3}))
        assert {site.choices for site in space.sites if site.role == "weight"} == {(2, 4)}
        assert {site.choices for site in space.sites if site.role == "activation"} == {(3, 8)}

    @pytest.mark.parametrize(
        ("fixed", "pins"),
        [
            ({"first": 8}, {"embed.weight": 8}),
            ({"last": 8}, {"fc2.weight": 8, "fc2.input": 8}),
            ({"weights": 8}, {"embed.weight": 8, "fc1.weight": 8, "fc2.weight": 8}),
            ({"activations": 8}, {"fc1.input": 8, "fc2.input": 8}),
            ({"fc1": 7}, {"fc1.weight": 7, "fc1.input": 7}),
            ({"fc1.input": 6}, {"fc1.input": 6}),
            # a site over a layer, a layer over a group, however they are ordered
            ({"fc2.input": 5, "fc2": 6, "last": 7}, {"fc2.weight": 6, "fc2.input": 5}),
            ({"last": 7, "fc2": 6, "fc2.input": 5}, {"fc2.weight": 6, "fc2.input": 5}),
            ({"fc1": 4, "activations": 8}, {"fc1.weight": 4, "fc1.input": 4, "fc2.input": 8}),
        ],
    )
    def test_fixed_names(self, fixed, pins):
        assert dict(self.build(fixed=fixed).fixed) == pins

    def test_unknown_fixed_name(self):
        with pytest.raises(SpaceError, match="unknown name 'frist' in fixed; did you mean 'first'"):
            self.build(fixed={"frist": 8})

    def test_activations_cannot_be_fixed_at_nothing(self):
        with pytest.raises(SpaceError, match=r"fixed bits of 'fc1.input' must be within 1..32; got 0"):
            self.build(fixed={"activations": 0})

    def test_fixed_kernels(self):
        space = self.build(granularity="kernel", fixed={"fc1.weight": 8})
        assert space.dimension == 10 + 1 + 2 + 1
        assignment = space.decode(space.lowest)
        assert assignment["fc1.weight"] == 8
        assert assignment in space

    def test_ties_by_name(self):
        space = self.build(ties=[["fc1.input", "fc2.input"]])
        assert space.size == 2**4

    @pytest.mark.parametrize(
        ("fixed", "pins"),
        [
            ({"fc1.input": 8}, {"fc1.input": 8, "fc2.input": 8}),
            ({"last": 8}, {"fc2.weight": 8, "fc2.input": 8, "fc1.input": 8}),
            ({"fc1.input": 8, "fc2.input": 8}, {"fc1.input": 8, "fc2.input": 8}),
        ],
    )
    def test_a_fixed_site_fixes_those_tied_with_it(self, fixed, pins):
        space = self.build(ties=[["fc1.input", "fc2.input"]], fixed=fixed)
        assert dict(space.fixed) == pins
        assert space.decode(space.lowest) in space

    def test_tied_sites_fixed_at_different_bits(self):
        message = "same fixed bits; got fc1.input: 8, fc2.input: 4; fix all of them at the same bits, or leave one out"
        with pytest.raises(SpaceError, match=message):
            self.build(ties=[["fc1.input", "fc2.input"]], fixed={"fc1.input": 8, "last": 4})

    def test_a_tie_may_join_a_layers_weight_and_input(self):
        """As machines have it that multiply numbers of one width."""
        space = self.build(activation_bits=(2, 4), ties=[["fc1.weight", "fc1.input"]])
        assert ("fc1.weight", "fc1.input") in [variable.sites for variable in space.variables]
