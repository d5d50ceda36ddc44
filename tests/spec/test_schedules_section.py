"""What schedules go by, in a spec: read where it is given, refused where nobody reads it."""

from __future__ import annotations

from typing import Any

import pytest

from autoprune.compress import techniques_of
from autoprune.compress.gradual import Gradual
from autoprune.errors import SpecError
from autoprune.spec import Spec, load_spec


def spec(space: dict[str, Any], rungs: list[float] | None = None) -> Spec:
    given = {"task": "digits", "space": space, "budget": {"trials": 1}}
    return load_spec(given if rungs is None else {**given, "search": {"rungs": rungs}})


def problems(space: dict[str, Any], rungs: list[float] | None = None) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec(space, rungs)
    return caught.value.problems


@pytest.mark.parametrize("kind", ["prune", "sparsify"])
def test_the_fields_reach_the_technique_and_survive_a_file(kind: str) -> None:
    fields = {"steps": 5, "guard": 1.5, "rounds": 2, "rewind": 0.1, "compare": True}
    made = spec({kind: {"schedule": ["iterative", "lottery_ticket"], **fields}})
    for read in (made, Spec.from_yaml(made.to_yaml())):
        (technique,) = techniques_of(read)
        assert technique.gradual == Gradual(**fields)  # type: ignore[attr-defined]


def test_the_defaults_are_those_of_the_schedules() -> None:
    made = spec({"prune": True})
    for read in (made, Spec.from_yaml(made.to_yaml())):
        assert techniques_of(read)[0].gradual == Gradual()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("field", "value", "reader"),
    [
        ("steps", 4, "iterative"),
        ("guard", 1, "iterative"),
        ("rounds", 4, "lottery_ticket"),
        ("rewind", 0.1, "lottery_ticket"),
        ("compare", True, "lottery_ticket"),
    ],
)
@pytest.mark.parametrize("kind", ["prune", "sparsify"])
def test_a_field_that_no_schedule_reads_is_refused(kind: str, field: str, value: Any, reader: str) -> None:
    (problem,) = problems({kind: {"schedule": ["one_shot", "agp"], field: value}})
    assert problem.startswith(f"space.{kind}.{field}: got ")
    assert f"expected it only where '{reader}' is among schedule (got one_shot, agp)" in problem


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", 0, "a whole number from 1 to 100"),
        ("steps", [2, 3], "a whole number from 1 to 100"),
        ("guard", "none", "a number: by how much"),
        ("guard", float("nan"), "a number: by how much"),
        ("rounds", 1.5, "a whole number from 1 to 100"),
        ("rewind", 0.9, "a share of the training from 0 to 0.5"),
        ("compare", "yes", "true or false"),
    ],
)
def test_a_value_that_cannot_be_is_refused(field: str, value: Any, expected: str) -> None:
    (problem,) = problems({"prune": {"schedule": ["iterative", "lottery_ticket"], field: value}})
    assert problem.startswith(f"space.prune.{field}: got ") and expected in problem


@pytest.mark.parametrize(
    ("space", "field"),
    [
        ({"prune": {"schedule": "agp"}}, "space.prune.schedule"),
        ({"prune": {"schedule": ["one_shot", "lottery_ticket"]}}, "space.prune.schedule"),
        ({"prune": {"schedule": "iterative", "guard": 2}}, "space.prune.guard"),
        ({"sparsify": {"schedule": ["one_shot", "iterative"]}}, "space.sparsify.schedule"),
        ({"sparsify": {"schedule": {"options": ["one_shot", "movement"]}}}, "space.sparsify.schedule"),
    ],
)
def test_what_needs_training_is_refused_where_no_rung_trains(space: dict[str, Any], field: str) -> None:
    (problem,) = problems(space, [0])
    assert (
        problem == f"{field}: got something to train for, expected a rung above 0 in search.rungs (it is [0])"
    )


def test_rounds_of_channels_need_no_training() -> None:
    assert spec({"prune": {"schedule": ["one_shot", "iterative"]}}, [0]).search.rungs == (0.0,)
