"""NNI's assessors as stopping rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

pytest.importorskip("nni")

from autoprune.errors import SpecError
from autoprune.search.assessors import CURVE, MEDIAN, goes_on
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study

DONE = [[50.0, 60.0, 70.0], [40.0, 60.0, 65.0], [55.0, 62.0, 71.0]]


def test_whoever_is_worse_than_the_median_is_stopped() -> None:
    assert not goes_on(MEDIAN, [30.0, 45.0], DONE, 3, maximize=True)
    assert goes_on(MEDIAN, [30.0, 58.0], DONE, 3, maximize=True)  # means of the others by then: 50, 55, 58.5
    assert goes_on(MEDIAN, [30.0, 45.0], DONE, 3, maximize=False)
    assert goes_on(MEDIAN, [1.0], [], 3, maximize=True)  # nobody to compare with


def test_whose_curve_comes_nowhere_near_the_best_is_stopped() -> None:
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    best = [[50.0, 70.0, 80.0, 85.0, 87.0, 88.5, 89.0, 89.5]]
    assert not goes_on(CURVE, [10.0, 12.0, 13.0, 13.5, 13.6], best, 8, maximize=True)
    assert goes_on(CURVE, [51.0, 71.0, 80.0, 86.0, 88.0], best, 8, maximize=True)
    assert goes_on(CURVE, [1.0, 2.0, 3.0], best, 8, maximize=True)  # too few points
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]


def searched(folder: Path, workers: InlineWorkers, **search: Any) -> Study:
    made = search_spec(search={"stop": MEDIAN, "warm_start": False, **search}, constraints=[])
    with Study.create(folder, made, SPACE, {}, BASELINE) as study:
        run_search(study, workers, make_sampler("random", 0))
    return study


def test_a_search_lets_all_go_on_that_are_not_stopped(tmp_path: Path) -> None:
    workers = InlineWorkers()
    study = searched(tmp_path / "run", workers)
    reached = [trial.rung for trial in study.results]
    assert len(reached) == 20 and 0 < reached.count(2) < 20
    best = max(study.results, key=lambda trial: trial.evaluations[0].metrics["accuracy"])
    assert best.rung == 2, "the best is never stopped"
    assert all(request.checkpoint is not None for request in workers.seen if request.rung)


def test_an_interrupted_search_goes_on_from_the_study_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "run", InlineWorkers(stop_after=15))
    with Study.open(tmp_path / "run", write=True) as study:
        run_search(study, InlineWorkers(landscape), make_sampler("random", 1))
        assert len(study.results) == 20 and study.state == "finished"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"search": {"stop": CURVE, "rungs": [0, 1, 3]}}, "got 3 rungs, expected 5 or more"),
        ({"search": {"stop": MEDIAN, "rungs": [1]}}, "expected 2 or more"),
        (
            {"objectives": {"latency_ms": "minimize", "accuracy": "maximize"}, "search": {"stop": MEDIAN}},
            "expected one that training changes",
        ),
        (
            {"objectives": {"mae": "minimize"}, "search": {"stop": CURVE, "rungs": [0, 1, 2, 3, 4]}},
            "expected a first objective to maximize",
        ),
        ({"search": {"stop": "nni-median"}}, "did you mean 'nni-medianstop'"),
    ],
)
def test_what_an_assessor_cannot_work_with_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=f"search.stop: .*{sentence}"):
        search_spec(**fields)
