"""Choices and points."""

from __future__ import annotations

import json

import pytest

from autoprune.space import Choice, Choices, Options, Range, Space, choice_from_json

EVERY_KIND = [
    Options((4, 8, 32), 32),
    Options(("l1", "fpgm"), "l1"),
    Options((True, False), False),
    Range(0.0, 0.8, 0.0),
    Range(1, 9, 1, step=1),
    Range(1e-4, 1e-1, 1e-2, log=True),
    Range(0.0, 0.75, 0.0, step=0.25),
]


@pytest.mark.parametrize("choice", EVERY_KIND, ids=str)
def test_json_gives_the_choice_back(choice: Choice) -> None:
    assert choice_from_json(json.loads(json.dumps(choice.to_json()))) == choice


@pytest.mark.parametrize("choice", EVERY_KIND, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_at_stays_inside_for_us_and_for_optuna(choice: Choice, share: float) -> None:
    value = choice.at(share)
    distribution = choice.distribution()
    assert value in choice
    assert distribution._contains(distribution.to_internal_repr(value))


def test_the_ends_of_a_range_are_reached() -> None:
    assert (Range(0.0, 0.8, 0.0).at(0.0), Range(0.0, 0.8, 0.0).at(1.0)) == (0.0, 0.8)


def test_truth_is_no_number() -> None:
    assert True not in Options((1, 2), 1)
    assert True not in Range(0.0, 1.0, 0.0)


def test_only_what_is_read_is_remembered() -> None:
    choices = Choices({"a": 1, "b": 2.5, "c": "x"})
    assert choices.number("b", 0.0) == 2.5
    assert choices.text("missing", "y") == "y"
    assert choices.read == {"b": 2.5}
    assert choices.values_unread == {"a": 1, "b": 2.5, "c": "x"}
    assert choices.read == {"b": 2.5}


def test_a_space_survives_json_and_names_what_is_foreign() -> None:
    space = Space({"prune.a.ratio": Range(0.0, 0.8, 0.0), "bits": Options((8, 32), 32)})
    assert dict(Space.from_json(space.to_json())) == dict(space)
    assert space.neutral() == {"prune.a.ratio": 0.0, "bits": 32}
    problems = space.problems_of({"prune.a.ratio": 0.9, "bits": 8, "depth": 1})
    assert len(problems) == 2 and "depth" in problems[0] and "0.9" in problems[1]
    assert set(space.distributions()) == set(space)
