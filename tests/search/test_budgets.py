"""Budgets: nothing is dispatched that is expected to pass a limit, with what is under way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

from autoprune.record import Evaluation, Request
from autoprune.search.budgets import Budgets
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study

SHAPES = {"shapes": {"small": {"price": 3.6}, "large": {"price": 36.0}}, "rungs": ["small", "large", "large"]}
FORESEEN = {"seconds": {"per_evaluation": 0.5, "per_epoch": 1.0}}


class Shaped(InlineWorkers):
    """Workers of which each shape has places of its own."""

    def room(self, rung: int) -> int:
        return self.size - sum((request.rung == 0) == (rung == 0) for request in self.waiting)


def begun(folder: Path, **spec: Any) -> Study:
    return Study.create(folder, search_spec(**spec), SPACE, FORESEEN, BASELINE)


def searched(folder: Path, size: int = 1, **spec: Any) -> Study:
    with begun(folder, **spec) as study:
        run_search(study, Shaped(size=size), make_sampler("evolution", 0))
    return study


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(
    ("name", "limit"), [("device_seconds", 20.0), ("device_hours", 0.005), ("money", 0.2)]
)
def test_no_limit_is_passed_however_many_are_under_way(
    tmp_path: Path, size: int, name: str, limit: float
) -> None:
    # Evaluations at the rungs take .5, 1.5 and 2.5 s, and .5, 1.5 and 2.5 s are foreseen.
    study = searched(tmp_path / "run", size, budget={"trials": None, name: limit}, cluster=SHAPES)
    spent = study.spent()[name]
    assert 0.7 * limit < spent <= limit * (1 + 1e-9)
    assert study.state == "finished" and name.replace("_", "-") in study.reason


def test_what_is_under_way_counts_as_if_it_were_spent(tmp_path: Path) -> None:
    with begun(tmp_path / "run", budget={"device_seconds": 2.2}) as study:
        budgets = Budgets(study)
        request = Request(0, 0, SPACE.neutral())
        for _ in range(4):  # of half a second each
            assert budgets.allow_a_trial(1)
            budgets.dispatched(request)
        assert not budgets.allow_a_trial(1)
        assert budgets.reason == "the device-seconds that are left are too few for another trial"
        budgets.returned(request)
        assert budgets.allow_a_trial(1)


def test_from_the_soft_limit_on_only_what_was_begun_may_go_on(tmp_path: Path) -> None:
    with begun(tmp_path / "run", budget={"device_seconds": 10.0, "soft": 0.5}) as study:
        budgets = Budgets(study)
        for _ in range(9):
            budgets.dispatched(Request(0, 0, SPACE.neutral()))
        assert budgets.allow_a_trial(1)
        budgets.dispatched(Request(0, 0, SPACE.neutral()))
        assert not budgets.allow_a_trial(1) and budgets.allow(2, 1) and not budgets.are_spent(1)


def test_what_was_spent_is_told_by_rung_and_shape_over_resumes(tmp_path: Path) -> None:
    with begun(tmp_path / "run", cluster=SHAPES) as study, pytest.raises(KeyboardInterrupt):
        run_search(study, Shaped(stop_after=9), make_sampler("evolution", 0))
    with Study.open(tmp_path / "run", write=True) as study:
        before = study.spent()["money"]
        run_search(study, Shaped(), make_sampler("evolution", 1))
    spent = Study.open(tmp_path / "run").status()["spent"]
    seconds = {rung: 0.5 + int(rung) for rung in spent["by_rung"]}
    for rung, one in spent["by_rung"].items():
        assert one["device_seconds"] == pytest.approx(one["evaluations"] * seconds[rung])
        assert one["money"] == pytest.approx(one["device_seconds"] * (0.001 if rung == "0" else 0.01))
    assert spent["by_shape"]["small"] == spent["by_rung"]["0"]
    total = sum(one["money"] for one in spent["by_shape"].values())
    assert total == pytest.approx(study.spent()["money"]) and total > before > 0


def test_a_rung_that_nobody_reached_costs_what_the_one_below_did_of_what_was_foreseen(tmp_path: Path) -> None:
    with begun(tmp_path / "run") as study:  # rungs of 0, 1 and 3 epochs
        budgets = Budgets(study)
    budgets.took(0, 0.1)  # without training it says nothing of training
    assert budgets.expected(1) == pytest.approx(1.5) and budgets.expected(2) == pytest.approx(2.5)
    budgets.took(1, 0.2)
    budgets.took(1, 0.4)
    assert budgets.expected(1) == pytest.approx(0.3)
    assert budgets.expected(2) == pytest.approx(2.5 * 0.3 / 1.5)
    budgets.took(2, 4.0)
    assert budgets.expected(2) == pytest.approx(4.0)


def test_tries_that_came_to_nothing_cost_too(tmp_path: Path) -> None:
    def evaluate(request: Request) -> Evaluation:
        found = landscape(request)
        found.seconds["lost"] = 2.0
        return found

    with begun(tmp_path / "run", budget={"trials": 3}, search={"rungs": [0]}) as study:
        run_search(study, InlineWorkers(evaluate), make_sampler("evolution", 0))
    assert study.device_seconds == pytest.approx(2.5 * len(study.trials))


def test_a_budget_that_is_spent_already_leaves_nothing_to_do(tmp_path: Path) -> None:
    searched(tmp_path / "run", budget={"trials": None, "device_seconds": 10.0})
    workers = InlineWorkers()
    with Study.open(tmp_path / "run", write=True) as study:
        run_search(study, workers, make_sampler("evolution", 1))
    assert workers.seen == [] and study.state == "finished"
