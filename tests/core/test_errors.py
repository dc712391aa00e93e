from __future__ import annotations

import pytest

from qsearch import errors


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_is_in_the_drawn_tree_with_its_exit_code():
    drawn = errors.__doc__ or ""
    for kind in subclasses(errors.QSearchError):
        assert kind.__name__ in drawn
        code = 2 if issubclass(kind, errors.UserError) else 130 if kind is errors.Interrupted else 1
        assert kind.exit_code == code


def test_one_line_with_rule_value_and_fix():
    error = errors.SpaceError("bits must be\n within  0..32", got=40, fix="take 32")
    assert str(error) == "bits must be within 0..32; got 40; take 32"
    assert (error.rule, error.got, error.fix) == ("bits must be\n within  0..32", 40, "take 32")


def test_words_are_shown_as_they_are_and_values_with_repr():
    assert str(errors.DataError("rule", got="an empty set")) == "rule; got an empty set"
    assert str(errors.DataError("rule", got=["a"])) == "rule; got ['a']"
    assert str(errors.DataError("rule")) == "rule"
    assert str(errors.DataError("rule", got=0)) == "rule; got 0"


@pytest.mark.parametrize(
    ("name", "known", "fix"),
    [
        ("latncy", ["latency", "energy"], "did you mean 'latency'? known: energy, latency"),
        ("zzz", ["latency"], "known: latency"),
        ("zzz", [], "known: none"),
    ],
)
def test_the_nearest_name(name, known, fix):
    assert errors.nearest(name, known) == fix
