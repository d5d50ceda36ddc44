"""Spaces and figures that a sampler might stumble over: one point, single values, scales far apart, no numbers."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

from autoprune.record import Evaluation, Request
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.space import Options, Range, Space
from autoprune.study import Study

SAMPLERS = ["tpe", "nsga2", "random", "evolution", "guided"]
SINGLE = {"architecture.depth": Options((2,), 2), "prune.a.ratio": Range(0.5, 0.5, 0.5)}


def full(request: Request) -> Evaluation:
    """The landscape of a point that decides about part of the space only."""
    point = {name: 8 if name.endswith("bits") else choice.neutral for name, choice in SPACE.items()}
    found = landscape(Request(request.trial, request.rung, {**point, **request.choices}))
    found.choices, found.read = request.choices, dict(request.choices)
    return found


def searched(folder: Path, space: Space, sampler: str, evaluate: object = full, **changes: object) -> Study:
    spec = search_spec(search={"sampler": sampler, "rungs": [0, 1]}, constraints=[], **changes)
    with Study.create(folder, spec, space, {}, BASELINE) as study:
        run_search(study, InlineWorkers(evaluate), make_sampler(sampler, 0))  # type: ignore[arg-type]
    return study


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("choices", [{}, SINGLE], ids=["none", "single"])
def test_a_space_of_one_point_is_that_one_trial(
    tmp_path: Path, sampler: str, choices: dict[str, Options | Range]
) -> None:
    study = searched(tmp_path / "run", Space(choices), sampler)
    assert len(study.trials) == 1 and study.trial(0).rung == 1  # and it is trained in full
    assert study.front == study.trials and study.state == "finished"
    assert "nothing new" in study.reason


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_choices_with_a_single_value_stay_there(tmp_path: Path, sampler: str) -> None:
    space = Space(
        {**SINGLE, "prune.b.ratio": Range(0.0, 0.7, 0.0), "quantize.a.weight_bits": Options((4, 8), 8)}
    )
    study = searched(tmp_path / "run", space, sampler)
    assert len(study.results) == 20
    assert {trial.choices["architecture.depth"] for trial in study.trials} == {2}
    assert {trial.choices["prune.a.ratio"] for trial in study.trials} == {0.5}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_objectives_of_hugely_different_scale_are_all_searched(tmp_path: Path, sampler: str) -> None:
    def evaluate(request: Request) -> Evaluation:
        found = landscape(request)
        if found.state == "finished":
            found.metrics["accuracy"] *= 1e-9
            found.metrics["latency_ms"] *= 1e12
        return found

    spec = search_spec(search={"sampler": sampler, "rungs": [0]}, constraints=[], budget={"trials": 30})
    baseline = {**BASELINE, "accuracy": 90e-9, "latency_ms": 2e12}
    with Study.create(tmp_path / "run", spec, SPACE, {}, baseline) as study:
        run_search(study, InlineWorkers(evaluate), make_sampler(sampler, 0))
    with Study.create(tmp_path / "usual", spec, SPACE, {}, BASELINE) as usual:
        run_search(usual, InlineWorkers(), make_sampler(sampler, 0))
    assert len(study.front) > 1 and 0 < study.hypervolume() < math.inf
    assert study.hypervolume() > 0.8 * usual.hypervolume()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
def test_what_is_no_figure_fails_the_trial_and_harms_nobody(
    tmp_path: Path, sampler: str, value: float
) -> None:
    def evaluate(request: Request) -> Evaluation:
        found = full(request)
        if request.trial % 3 == 1 and found.state == "finished":
            found.metrics["accuracy"] = value
        return found

    study = searched(tmp_path / "run", SPACE, sampler, evaluate, budget={"trials": 12})
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed and {trial.reason for trial in failed} == {f"accuracy is {value}"}
    assert len(study.results) == 12 and not {t.number for t in failed} & {t.number for t in study.front}
    assert 0 < study.hypervolume() < math.inf
    assert Study.open(tmp_path / "run").front == study.front
