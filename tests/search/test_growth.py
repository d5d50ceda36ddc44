"""What a result of a low rung is likely to become."""

from __future__ import annotations

import numpy as np
import pytest

from autoprune.search.growth import LEAST_PAIRS, Growth


def grown(pairs: list[tuple[float, float]]) -> Growth:
    growth = Growth(["accuracy"], last_rung=1)
    for trial, (before, after) in enumerate(pairs):
        growth.note(trial, 0, {"accuracy": before, "size_bytes": 5.0})
        growth.note(trial, 1, {"accuracy": after, "size_bytes": 5.0})
    return growth


def test_nothing_is_claimed_before_enough_trials_went_on() -> None:
    few = grown([(50.0, 80.0)] * (LEAST_PAIRS - 1))
    assert few.expected(0, {"accuracy": 50.0}) == {"accuracy": 50.0}


def test_the_same_difference_is_expected_of_all_until_trials_say_otherwise() -> None:
    growth = grown([(before, before + 20.0) for before in (60.0, 62.0, 64.0, 66.0, 68.0)])
    assert growth.expected(0, {"accuracy": 65.0})["accuracy"] == pytest.approx(85.0, abs=0.1)


def test_who_stands_lower_may_gain_more() -> None:
    befores = np.linspace(40.0, 80.0, 12)
    growth = grown([(before, before + 0.5 * (90.0 - before)) for before in befores.tolist()])
    found = [growth.expected(0, {"accuracy": value})["accuracy"] for value in (45.0, 75.0)]
    assert found == pytest.approx([67.5, 82.5], abs=0.5)


def test_the_difference_of_a_worse_trial_than_any_seen_is_that_of_the_worst_seen() -> None:
    befores = np.linspace(40.0, 80.0, 12)
    growth = grown([(before, before + 0.5 * (90.0 - before)) for before in befores.tolist()])
    worst = growth.expected(0, {"accuracy": 40.0})["accuracy"] - 40.0
    assert growth.expected(0, {"accuracy": 10.0})["accuracy"] == pytest.approx(10.0 + worst)


def test_results_of_the_last_rung_and_other_metrics_stay_as_they_are() -> None:
    growth = grown([(before, before + 20.0) for before in (60.0, 62.0, 64.0, 66.0, 68.0)])
    assert growth.expected(1, {"accuracy": 65.0}) == {"accuracy": 65.0}
    assert growth.expected(2, {"accuracy": 65.0}) == {"accuracy": 65.0}
    assert growth.expected(0, {"accuracy": 65.0, "size_bytes": 5.0})["size_bytes"] == 5.0


def test_differences_of_several_rungs_add_up() -> None:
    growth = Growth(["accuracy"], last_rung=2)
    for trial in range(LEAST_PAIRS):
        for rung in range(3):
            growth.note(trial, rung, {"accuracy": 50.0 + trial + 10.0 * rung})
    assert growth.expected(0, {"accuracy": 52.0})["accuracy"] == pytest.approx(72.0, abs=0.1)
    assert growth.expected(1, {"accuracy": 62.0})["accuracy"] == pytest.approx(72.0, abs=0.1)


def test_it_says_when_what_is_expected_has_changed() -> None:
    growth = Growth(["accuracy"], last_rung=1)
    changed = []
    for trial in range(2 * LEAST_PAIRS):
        assert not growth.note(trial, 0, {"accuracy": 50.0 + trial})
        changed.append(growth.note(trial, 1, {"accuracy": 70.0 + trial}))
    assert not any(changed[: LEAST_PAIRS - 1])
    assert changed[LEAST_PAIRS - 1]
