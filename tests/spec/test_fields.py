"""From a field of a spec to a choice, and back."""

import pytest

from autoprune.space import Options, Range
from autoprune.spec.fields import number, one_of, plain_values, shown, written

share = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)
rate = number(None, "a number above 0", lambda v: v > 0, log=True)
bits = one_of((4, 8, 32), neutral=32)
criterion = one_of(("l1", "fpgm"))


@pytest.mark.parametrize(
    ("given", "choice"),
    [
        (0.5, Options((0.5,), 0.0)),
        (1, Options((1.0,), 0.0)),
        ([0, 0.8], Range(0.0, 0.8, 0.0)),
        ([0.5, 0.5], Range(0.5, 0.5, 0.0)),
        ([0.25], Options((0.25,), 0.0)),
        ([0, 0.25, 0.5], Options((0.0, 0.25, 0.5), 0.0)),
        ({"options": [0, 0.5]}, Options((0.0, 0.5), 0.0)),
        ({"low": 0, "high": 0.75, "step": 0.25}, Range(0.0, 0.75, 0.0, 0.25)),
    ],
)
def test_a_numeric_field_is_fixed_a_range_or_options(given, choice):
    assert share(given) == choice


def test_the_middle_is_neutral_where_no_value_is():
    assert rate([0.01, 1.0]) == Range(0.01, 1.0, pytest.approx(0.1), log=True)
    assert rate({"low": 1, "high": 3, "log": False}).neutral == 2.0
    assert rate([1, 2, 3]).neutral == 2.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("x", "got 'x', expected a number from 0 to 1"),
        (True, "got True"),
        (None, "got nothing"),
        ([], r"got \[\]"),
        ([0, 2], "got 2, expected a number from 0 to 1"),
        ([0.8, 0.2], "low first"),
        ([0.5, 0.5, 0.5], "got 0.5 twice"),
        ({"low": 0}, "expected low, high"),
        ({"low": 0, "hihg": 1}, "did you mean 'high'"),
        ({"low": 0, "high": "1"}, "got '1', expected a number from 0 to 1 as each end"),
        ({"low": 0, "high": 1, "step": 0.3}, "set high to 0.9"),
        ({"low": 0, "high": 1, "step": 0}, "got step 0, expected a number above 0"),
        ({"low": 0, "high": 1, "step": 1e-320}, "at most a million steps"),
        ({"low": 0, "high": 1, "log": "yes"}, "expected true or false"),
        ({"low": 0, "high": 1, "log": True}, "low above 0"),
        ({"options": [0, 1], "step": 2}, "no field beside it"),
        (10**400, "expected a number from 0 to 1"),
        (float("nan"), "got nan"),
    ],
)
def test_a_numeric_field_says_what_it_accepts(given, message):
    with pytest.raises(ValueError, match=message):
        share(given)


def test_a_field_of_options_takes_one_or_a_list():
    assert bits([4, 8]) == Options((4, 8), 32)
    assert criterion("fpgm") == Options(("fpgm",), "fpgm")


@pytest.mark.parametrize(
    ("read", "given", "message"),
    [
        (bits, [4, 9, True], "got 9, True, expected one or a list of 4, 8, 32"),
        (bits, [], r"got \[\]"),
        (bits, [8, 8], "got 8 twice"),
        (bits, 8.0, "got 8.0"),
        (criterion, "fpmg", "did you mean 'fpgm'"),
        (criterion, {"low": 1}, "expected options and no field"),
        (criterion, {}, r"got \{\}"),
    ],
)
def test_a_field_of_options_says_what_it_accepts(read, given, message):
    with pytest.raises(ValueError, match=message):
        read(given)


def test_architecture_values_are_scalars_each_once():
    assert plain_values([1, 2.5, "a", True]) == (1, 2.5, "a", True)
    assert plain_values([1, True]) == (1, True)
    for wrong in ([], [[1]], None, [1, 1]):
        with pytest.raises(ValueError, match="got"):
            plain_values(wrong)


@pytest.mark.parametrize("given", [0.5, [0, 0.8], [0.1, 0.2, 0.3], {"options": [0.1, 0.2]}])
def test_what_is_written_reads_back_as_the_same_choice(given):
    assert share(written(share(given))) == share(given)


def test_options_and_logarithmic_ranges_read_back_too():
    assert bits(written(bits([4, 8]))) == bits([4, 8])
    assert criterion(written(criterion(["fpgm", "l1"]))) == criterion(["fpgm", "l1"])
    assert rate(written(rate([0.01, 1]))) == rate([0.01, 1])


def test_what_is_shown_is_short_whatever_it_is():
    class Rude:
        def __repr__(self):
            raise RuntimeError

    assert shown(None) == "nothing"
    assert len(shown("x" * 1000)) < 100
    assert len(shown([[["x"] * 50] * 50] * 50)) <= 120
    assert len(shown(10**5000)) < 100
    assert "Rude" in shown(Rude())
