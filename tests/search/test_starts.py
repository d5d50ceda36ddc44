"""How trials begin: at which rung, and who goes on unranked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, search_spec

from autoprune.record import Request
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study


def first_requests(folder: Path, **search: Any) -> dict[int, Request]:
    """Trial -> the request that it began with."""
    workers = InlineWorkers()
    with Study.create(folder, search_spec(search=search), SPACE, {}, BASELINE) as study:
        run_search(study, workers, make_sampler("evolution", 0))
    return {request.trial: request for request in reversed(workers.seen)}


def test_an_architecture_without_trained_weights_begins_where_training_does(tmp_path: Path) -> None:
    begun = first_requests(tmp_path / "run", rungs=[0, 1, 3])
    changed = [request for request in begun.values() if request.choices["architecture.depth"] != 3]
    assert {request.rung for request in changed if request.donor is None} == {1}
    assert {request.rung for request in begun.values() if request.choices["architecture.depth"] == 3} == {0}


def test_who_has_its_architecture_later_starts_from_it_at_rung_0(tmp_path: Path) -> None:
    begun = first_requests(tmp_path / "run", rungs=[0, 1, 3])
    inherited = [request for request in begun.values() if request.donor is not None]
    assert {request.choices["architecture.depth"] for request in inherited} >= {2, 3}
    assert {request.rung for request in inherited} == {0}


def test_what_a_limit_on_latency_may_forbid_is_measured_before_it_is_trained(tmp_path: Path) -> None:
    workers, sampler = InlineWorkers(), make_sampler("evolution", 0)
    spec = search_spec(
        constraints=["latency_ms <= 50%"], budget={"trials": 30}, search={"inherit": "reference"}
    )
    with Study.create(tmp_path / "run", spec, SPACE, {}, BASELINE) as study:
        run_search(study, workers, sampler)
    changed = [trial for trial in study.trials if trial.choices["architecture.depth"] != 3]
    slow = [trial for trial in changed if trial.metrics["latency_ms"] > 1.0]
    assert slow and len(slow) < len(changed)
    assert all(set(trial.evaluations) == {0} for trial in slow)
    assert all({0, 1} <= set(trial.evaluations) for trial in changed if trial not in slow)
    order = [(request.trial, request.rung) for request in workers.seen]
    for trial in changed:
        if trial not in slow:  # it goes on before anything else is begun
            assert order.index((trial.number, 1)) == order.index((trial.number, 0)) + 1


def test_a_driver_killed_after_such_a_look_lets_the_trial_go_on_when_it_comes_back(tmp_path: Path) -> None:
    spec = search_spec(
        constraints=["latency_ms <= 50%"], budget={"trials": 30}, search={"inherit": "reference"}
    )
    looked_at: list[int] = []

    def die(kind: str, payload: dict[str, Any]) -> None:
        """At the first look that lets a fresh architecture go on, before it does."""
        trial = payload.get("trial")
        if kind != "evaluated" or trial.choices["architecture.depth"] == 3:
            return
        if trial.rung == 0 and trial.metrics["latency_ms"] <= 1.0:
            looked_at.append(trial.number)
            raise KeyboardInterrupt

    with Study.create(tmp_path / "run", spec, SPACE, {}, BASELINE) as study, pytest.raises(KeyboardInterrupt):
        run_search(study, InlineWorkers(), make_sampler("evolution", 0), on_event=die)
    again = InlineWorkers()
    with Study.open(tmp_path / "run", write=True) as study:
        assert set(study.trial(looked_at[0]).evaluations) == {0}
        run_search(study, again, make_sampler("evolution", 1))
        assert 1 in study.trial(looked_at[0]).evaluations
    assert (again.seen[0].trial, again.seen[0].rung) == (looked_at[0], 1)


@pytest.mark.parametrize("rungs", [[0], [1, 3]], ids=str)
def test_every_trial_begins_at_rung_0_where_that_trains_or_nothing_does(
    rungs: list[int], tmp_path: Path
) -> None:
    assert {r.rung for r in first_requests(tmp_path / "run", rungs=rungs).values()} == {0}


def test_assessors_follow_trials_from_rung_0(tmp_path: Path) -> None:
    begun = first_requests(tmp_path / "run", rungs=[0, 1, 3], stop="nni-medianstop")
    assert {request.rung for request in begun.values()} == {0}
