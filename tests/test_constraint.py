"""Constraints: what can be written, what it comes to, and how far a candidate is off."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.constraint import Constraint, Objective, conflicts, goals, parse_where, total_violation
from autoprune.errors import SpecError

BASELINE = {"accuracy": 97.5, "size_bytes": 4000.0, "latency_ms": 2.0}


def test_a_maximized_objective_is_a_negated_loss():
    assert Objective("accuracy", "maximize").loss(90.0) == -90.0
    assert Objective("latency_ms", "minimize").loss(2.0) == 2.0


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("latency_ms <= 2", 2.0),
        ("latency_ms<=.5", 0.5),
        ("size_bytes <= 25%", 1000.0),
        ("size_bytes <= 12.5 %", 500.0),
        ("accuracy >= baseline - 1.0", 96.5),
        ("accuracy >= baseline", 97.5),
        ("latency_ms <= baseline + 1e-1", 2.1),
        ("size_bytes <= 1_000", 1000.0),
        ("score >= -3", -3.0),
    ],
)
def test_a_limit_is_absolute_or_relative_to_the_baseline(text, limit):
    assert Constraint.parse(text).limit(BASELINE) == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("latency_ms < 2", "write '<=' instead of '<'"),
        ("accuracy => 90", "write '>=' instead of '=>'"),
        ("accuracy = 90", "instead of an equality"),
        ("latency_ms <= baseline * 0.5", "percent of the baseline"),
        ("latency_ms <= 2ms", "absolute"),
        ("", "absolute"),
        (3, "absolute"),
        ("size_bytes <= 0%", "a percentage above 0"),
        ("accuracy >= baseline - 1e999", "finite limit"),
    ],
)
def test_anything_else_is_refused_with_the_accepted_forms(text, hint):
    with pytest.raises(SpecError) as error:
        Constraint.parse(text)
    assert repr(text) in str(error.value)
    assert hint in str(error.value)


@given(
    st.builds(
        Constraint,
        metric=st.from_regex(r"[a-z_][a-z0-9_]{0,9}", fullmatch=True),
        operator=st.sampled_from(["<=", ">="]),
        value=st.floats(allow_nan=False, allow_infinity=False),
        relative=st.sampled_from([None, "difference"]),
    )
)
def test_the_text_of_a_constraint_reads_back_as_itself(constraint):
    assert Constraint.parse(str(constraint)) == constraint


def test_a_percentage_reads_back_as_itself():
    assert str(Constraint.parse("size_bytes<=25.0 %")) == "size_bytes <= 25%"


def test_a_violation_is_a_share_of_the_limit():
    constraint = Constraint.parse("size_bytes <= 25%")
    assert constraint.violation({"size_bytes": 1500.0}, BASELINE) == pytest.approx(0.5)
    assert constraint.violation({"size_bytes": 500.0}, BASELINE) == pytest.approx(-0.5)
    assert Constraint.parse("error <= 0").violation({"error": 0.25}, {}) == 0.25


def test_a_value_on_the_limit_is_met_in_spite_of_binary_fractions():
    assert 0.1 + 0.2 > 0.3
    assert Constraint.parse("error <= 0.3").is_met({"error": 0.1 + 0.2}, {})
    assert not Constraint.parse("error <= 0.3").is_met({"error": 0.3001}, {})


@pytest.mark.parametrize("metrics", [{}, {"accuracy": math.nan}])
def test_what_was_not_measured_does_not_meet_a_constraint(metrics):
    constraint = Constraint.parse("accuracy >= 90")
    assert constraint.violation(metrics, BASELINE) == math.inf
    assert not constraint.is_met(metrics, BASELINE)


def test_a_relative_limit_on_an_unknown_metric_names_the_nearest():
    with pytest.raises(SpecError, match=r"no metric 'acuracy'; did you mean 'accuracy'\?"):
        Constraint.parse("acuracy >= baseline - 1").limit(BASELINE)


def test_the_total_violation_is_zero_exactly_when_all_are_met():
    constraints = parse_where("latency_ms<=1, size_bytes<=50%")
    assert total_violation(constraints, {"latency_ms": 1.0, "size_bytes": 10.0}, BASELINE) == 0.0
    assert total_violation(constraints, {"latency_ms": 1.5, "size_bytes": 10.0}, BASELINE) == pytest.approx(
        0.5
    )
    assert total_violation(constraints, {"latency_ms": 1.0}, BASELINE) == math.inf


def test_where_reports_every_bad_part():
    assert [str(c) for c in parse_where("latency_ms<=2, size_bytes<=40%,")] == [
        "latency_ms <= 2",
        "size_bytes <= 40%",
    ]
    assert parse_where("  ") == []
    with pytest.raises(SpecError) as error:
        parse_where("latency_ms < 2, macs <= 3, x")
    assert len(error.value.problems) == 2


def test_what_has_no_limit_of_its_own_may_be_a_tenth_worse_than_the_baseline():
    objectives = [Objective("accuracy", "maximize"), Objective("latency_ms", "minimize")]
    limits = [Constraint.parse(one) for one in ("size_bytes <= 25%", "latency_ms <= 1")]
    found = goals(objectives, limits, BASELINE)
    assert (
        found[:2] == limits and found[2].limit(BASELINE) == 87.75 and str(found[2]).startswith("accuracy >=")
    )
    (below_zero,) = goals([Objective("score", "maximize")], [], {"score": -5.0})
    (of_nothing,) = goals([Objective("error", "minimize")], [], {"error": 0.0})
    assert goals(objectives, limits, {"accuracy": math.nan}) == limits
    assert below_zero.limit({"score": -5.0}) == -5.5 and of_nothing.limit({"error": 0.0}) == 0.1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            ["accuracy <= 90"],
            "constraints[0]: got 'accuracy <= 90' although objectives.accuracy is to maximize",
        ),
        (
            ["latency_ms >= 1"],
            "constraints[0]: got 'latency_ms >= 1' although objectives.latency_ms is to minimize",
        ),
        (
            ["params >= 10", "params <= 5"],
            "constraints[0], constraints[1]: got 'params >= 10' and 'params <= 5'",
        ),
        (["params <= 50%", "params >= 60"], "constraints[1], constraints[0]"),
    ],
)
def test_limits_that_work_against_an_objective_or_one_another_are_named(
    limits: list[str], message: str
) -> None:
    objectives = [Objective("accuracy", "maximize"), Objective("latency_ms", "minimize")]
    found = conflicts(objectives, [Constraint.parse(one) for one in limits], {"params": 100.0})
    assert len(found) == 1 and found[0].startswith(message)


def test_limits_that_leave_something_are_no_conflict() -> None:
    objectives = [Objective("accuracy", "maximize")]
    limits = ["accuracy >= 90", "params >= 5", "params <= 5", "params >= 40%"]
    assert conflicts(objectives, [Constraint.parse(one) for one in limits]) == []
