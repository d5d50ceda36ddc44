"""`search.revalidate` and `search.inherit`: what they accept, and limits that contradict the objectives."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.errors import SpecError
from autoprune.spec import Spec, load_spec


def spec(**fields: Any) -> Spec:
    return load_spec({"task": "digits", "budget": {"trials": 3}, **fields})


def problems(**fields: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec(**fields)
    return list(caught.value.problems)


def test_nothing_is_revalidated_and_trials_start_from_one_another_unless_asked_for() -> None:
    assert spec().search.revalidate is None and spec().search.inherits
    assert spec(search={"inherit": "auto"}).search == spec().search  # what earlier run folders say
    assert not spec(search={"inherit": "reference"}).search.inherits


def test_where_a_front_is_revalidated_trials_start_from_the_reference_as_that_does() -> None:
    assert not spec(search={"revalidate": True}).search.inherits
    assert spec(search={"revalidate": True, "inherit": "nearest"}).search.inherits


@pytest.mark.parametrize(
    ("given", "best", "seeds"), [(True, 5, 3), ({"best": 2}, 2, 3), ({"seeds": 7}, 5, 7)]
)
def test_what_is_left_out_has_a_default(given: Any, best: int, seeds: int) -> None:
    made = spec(search={"revalidate": given})
    assert made.search.revalidate is not None
    assert (made.search.revalidate.best, made.search.revalidate.seeds) == (best, seeds)
    assert Spec.from_yaml(made.to_yaml()).search == made.search


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"revalidate": {"best": 0}}, "search.revalidate.best: got 0, expected a whole number of 1 or more"),
        (
            {"revalidate": {"seeds": 101}},
            "search.revalidate.seeds: got 101, expected a whole number from 1 to 100",
        ),
        ({"revalidate": {"seed": 3}}, "did you mean 'seeds'?"),
        ({"inherit": "nearst"}, "did you mean 'nearest'?"),
    ],
)
def test_what_makes_no_sense_is_named(search: dict[str, Any], message: str) -> None:
    (found,) = problems(search=search)
    assert message in found


def test_a_limit_against_its_objective_is_refused_with_the_reason() -> None:
    (found,) = problems(constraints=["accuracy <= 90"])
    assert found.startswith(
        "constraints[0]: got 'accuracy <= 90' although objectives.accuracy is to maximize"
    )
    (found,) = problems(constraints=["latency_ms >= 2"])
    assert "objectives.latency_ms is to minimize" in found


def test_limits_that_leave_nothing_are_refused() -> None:
    (found,) = problems(constraints=["params <= 100", "params >= 200"])
    assert (
        found
        == "constraints[1], constraints[0]: got 'params >= 200' and 'params <= 100', which nothing can meet together"
    )


def test_a_proxy_needs_architectures_to_rank() -> None:
    space = {"architecture": {"width": [0.5, 1.0]}}
    assert spec(space=space, search={"proxy": "auto"}).search.proxy == "auto"
    assert spec().search.proxy is None
    (alone,) = problems(search={"proxy": "auto"})
    assert alone.startswith("search.proxy: got 'auto', expected options in space.architecture")
    (unknown,) = problems(space=space, search={"proxy": "params"})
    assert "search.proxy: got 'params'" in unknown and "synflow" in unknown
