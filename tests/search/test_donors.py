"""How trials begin: which trial a new one starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

from autoprune.record import Donor, Request
from autoprune.search.donors import Donors
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.study import Study


def point(ratio: float, depth: int = 3, bits: int = 8) -> dict[str, Any]:
    return {n: ratio if n.endswith("ratio") else depth if n.endswith("depth") else bits for n in SPACE}


def study_of(folder: Path, *trials: tuple[dict[str, Any], int]) -> Study:
    """A study with trials at these points and rungs, of three."""
    study = Study.create(folder, search_spec(), SPACE, {}, BASELINE)
    for number, (choices, rung) in enumerate(trials):
        study.record(Request(number, rung, choices), landscape(Request(number, rung, choices)))
    return study


def nearest_donor(study: Study, choices: dict[str, Any]) -> Donor | None:
    """The donor for a point among the trials of a study."""
    donors = Donors(study)
    for trial in study.trials:
        for evaluation in trial.evaluations.values():
            donors.note(evaluation)
    return donors.nearest(choices)


def test_it_is_the_trained_one_that_lost_nearly_the_same(tmp_path: Path) -> None:
    trials = (point(0.0), 2), (point(0.3), 1), (point(0.15), 2), (point(0.75), 2), (point(0.35), 0)
    with study_of(tmp_path / "run", *trials) as study:
        assert nearest_donor(study, point(0.4)) == Donor(1, 1, b"trial 1 rung 1")
        assert nearest_donor(study, point(0.1)) == Donor(2, 2, b"trial 2 rung 2")
        assert nearest_donor(study, point(0.7)) == Donor(3, 2, b"trial 3 rung 2")


def test_it_may_have_lost_more_but_not_so_much_that_the_reference_is_nearer(tmp_path: Path) -> None:
    with study_of(tmp_path / "run", (point(0.5), 2)) as study:
        assert nearest_donor(study, point(0.3)) == Donor(0, 2, b"trial 0 rung 2")
        assert nearest_donor(study, point(0.2)) is None


def test_among_those_alike_it_is_the_one_trained_longest(tmp_path: Path) -> None:
    with study_of(tmp_path / "run", (point(0.38), 1), (point(0.35), 2), (point(0.2), 2)) as study:
        assert nearest_donor(study, point(0.4)) == Donor(1, 2, b"trial 1 rung 2")


def test_another_architecture_is_no_donor(tmp_path: Path) -> None:
    with study_of(tmp_path / "run", (point(0.3, depth=2), 2)) as study:
        assert nearest_donor(study, point(0.4)) is None
        assert nearest_donor(study, point(0.4, depth=2)) is not None


def test_bits_do_not_matter(tmp_path: Path) -> None:
    with study_of(tmp_path / "run", (point(0.3, bits=4), 2)) as study:
        assert nearest_donor(study, point(0.4)) is not None


def test_among_many_it_is_the_one_that_comparing_them_all_finds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    names = [name for name in SPACE if name.endswith("ratio")]
    points = [
        {**point(0.0), **dict(zip(names, generator.choice([0.0, 0.1, 0.2, 0.4], 4), strict=True))}
        for _ in range(40)
    ]
    wanted = point(0.3)
    with study_of(tmp_path / "run", *((one, 1) for one in points)) as study:
        found = nearest_donor(study, wanted)
    apart = [sum(abs(one[name] - wanted[name]) for name in names) for one in points]
    assert found is not None and len(set(apart)) > 4
    assert apart[found.trial] == min(apart)


def test_one_without_a_checkpoint_is_passed_over(tmp_path: Path) -> None:
    with study_of(tmp_path / "run", (point(0.3), 2), (point(0.1), 2)) as study:
        (tmp_path / "run" / "checkpoints" / "0" / "rung-2.safetensors").unlink()
        found = nearest_donor(study, point(0.4))
        assert found is not None and found.trial == 1


def test_a_search_hands_donors_to_new_trials_only_where_it_is_asked_to(tmp_path: Path) -> None:
    given = {}
    for inherit in ("reference", "nearest"):
        workers = InlineWorkers()
        with Study.create(
            tmp_path / inherit, search_spec(search={"inherit": inherit}), SPACE, {}, BASELINE
        ) as study:
            run_search(study, workers, make_sampler("evolution", 0))
        given[inherit] = [request for request in workers.seen if request.donor is not None]
    assert given["reference"] == [] and given["nearest"]
    assert {request.rung for request in given["nearest"]} == {0, 1}  # made anew where training begins
    for request in given["nearest"]:
        assert request.donor is not None and request.donor.trial < request.trial
        assert request.donor.weights == f"trial {request.donor.trial} rung {request.donor.rung}".encode()


def test_a_request_that_was_broken_off_has_the_same_donor_again(tmp_path: Path) -> None:
    workers = InlineWorkers(stop_after=25)
    spec = search_spec(search={"inherit": "nearest"}, budget={"trials": 60})
    with Study.create(tmp_path / "run", spec, SPACE, {}, BASELINE) as study:
        with pytest.raises(KeyboardInterrupt):
            run_search(study, workers, make_sampler("evolution", 0))
        (under_way,) = workers.waiting
    with Study.open(tmp_path / "run", write=True) as study:
        assert study.pending == [under_way]
        study.drop_checkpoints(())
        assert study.pending == [under_way]
