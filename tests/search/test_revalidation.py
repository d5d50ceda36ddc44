"""Re-validation of the front: means rank, a lucky point falls, nothing is lost or done twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec

from autoprune.record import Evaluation, Request
from autoprune.search.loop import run_search
from autoprune.search.revalidation import chosen, run_revalidation
from autoprune.search.samplers import make_sampler
from autoprune.study import Study


def noisy(request: Request) -> Evaluation:
    """The landscape under a seed of its own."""
    found = landscape(request)
    found.repeat = request.repeat
    if found.state == "finished":
        draw = random.Random(f"{request.trial} {request.rung} {request.repeat}")
        found.metrics["accuracy"] += draw.gauss(0.0, 0.2)
    found.checkpoint = f"trial {request.trial} repeat {request.repeat}".encode()
    return found


def searched(folder: Path, workers: InlineWorkers | None = None, **changes: Any) -> None:
    spec = search_spec(**changes)
    with Study.create(folder, spec, SPACE, {}, BASELINE) as study:
        run_search(study, workers or InlineWorkers(noisy), make_sampler("evolution", 0))


def revalidated(folder: Path, workers: InlineWorkers | None = None, best: int = 4, seeds: int = 3) -> Study:
    with Study.open(folder, write=True) as study:
        run_revalidation(study, workers or InlineWorkers(noisy), best=best, seeds=seeds)
    return study


def test_a_lucky_point_falls_off_the_front_and_what_it_dominated_comes_back(tmp_path: Path) -> None:
    with Study.create(tmp_path / "run", search_spec(), SPACE, {}, BASELINE) as study:
        for bits, luck in (
            (8, 0.0),
            (4, 5.0),
        ):  # alike but for the bits: 87.5 % and 84.8 % at the same latency
            point = {n: 0.5 if n.endswith("ratio") else 3 if n.endswith("depth") else bits for n in SPACE}
            request = Request(len(study.trials), 2, point)
            found = landscape(request)
            found.metrics["accuracy"] += luck
            study.record(request, found)
        assert [trial.number for trial in study.front] == [1]
        run_revalidation(study, InlineWorkers(noisy), best=5, seeds=3)
        assert [trial.number for trial in study.front] == [0]
        assert [trial.is_revalidated for trial in study.trials] == [True, True]
        assert study.trial(1).metrics["accuracy"] == pytest.approx(84.83, abs=0.5)
    assert [trial.number for trial in Study.open(tmp_path / "run").front] == [0]


def test_metrics_are_means_over_full_trainings_under_seeds_of_their_own(tmp_path: Path) -> None:
    searched(tmp_path / "run")
    workers = InlineWorkers(noisy)
    study = revalidated(tmp_path / "run", workers)
    assert [request.checkpoint for request in workers.seen] == [None] * len(workers.seen)
    assert {request.rung for request in workers.seen} == {2}
    for trial in (trial for trial in study.trials if trial.is_revalidated):
        values = [trial.repeats[n].metrics["accuracy"] for n in (1, 2, 3)]
        assert len(set(values)) == 3
        assert trial.metrics["accuracy"] == pytest.approx(sum(values) / 3)
        assert 0 < trial.deviations["accuracy"] < 1.0 and trial.deviations["size_bytes"] == 0.0
        assert trial.state == "finished" and trial.rung == 2


def test_the_best_is_one_that_was_revalidated_where_one_of_the_front_fits(tmp_path: Path) -> None:
    searched(tmp_path / "run", search={"rungs": [0, 1]})
    study = revalidated(tmp_path / "run", best=2)
    assert any(not trial.is_revalidated for trial in study.front)
    assert study.best().is_revalidated and study.best(minimize="latency_ms").is_revalidated
    assert study.status()["best"]["seeds"] == 3
    once = next(trial for trial in study.front if not trial.is_revalidated)
    latency = once.metrics["latency_ms"]  # nobody else has it: then those that were trained once count
    assert study.best(f"latency_ms <= {latency}, latency_ms >= {latency}") == once


def test_each_is_an_optuna_trial_of_its_own(tmp_path: Path) -> None:
    searched(tmp_path / "run", search={"rungs": [0]})
    before = len(Study.open(tmp_path / "run").trials)
    study = revalidated(tmp_path / "run", best=2)
    assert len(study.trials) == before
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.journal"))
    seen = optuna.load_study(study_name="tried", storage=optuna.storages.JournalStorage(backend)).trials
    assert len(seen) == before + 6
    assert sorted(trial.user_attrs["repeat"] for trial in seen[before:]) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("stop_after", [0, 1, 4, 7])
def test_interrupted_it_does_what_is_left_and_nothing_twice(tmp_path: Path, stop_after: int) -> None:
    searched(tmp_path / "run")
    first, second = InlineWorkers(noisy, size=2, stop_after=stop_after), InlineWorkers(noisy)
    with pytest.raises(KeyboardInterrupt):
        revalidated(tmp_path / "run", first)
    between = Study.open(tmp_path / "run")
    assert between.pending == [] and len(between.repeats_left) == 12 - stop_after
    study = revalidated(tmp_path / "run", second)
    done = [(request.trial, request.repeat) for request in (*first.seen, *second.seen)]
    assert len(done) == len(set(done)) == 12 and study.is_revalidated
    assert study.repeats_left == [] and sum(trial.is_revalidated for trial in study.trials) == 4
    seen = [
        line for line in (tmp_path / "run" / "study.journal").read_text().splitlines() if '"repeat":' in line
    ]
    assert sum('"record"' not in line for line in seen) == 12


def test_more_seeds_add_to_those_that_are_there(tmp_path: Path) -> None:
    searched(tmp_path / "run", search={"rungs": [0]})
    first = {t.number for t in revalidated(tmp_path / "run", best=1, seeds=2).trials if t.is_revalidated}
    workers = InlineWorkers(noisy)
    study = revalidated(tmp_path / "run", workers, best=20, seeds=3)
    again = [(request.trial, request.repeat) for request in workers.seen if request.trial in first]
    assert set(again) <= {(number, 3) for number in first}
    assert all(len(trial.validations) in (2, 3) for trial in study.trials if trial.is_revalidated)


def test_the_middle_seed_stands_for_the_trial_and_keeps_its_weights(tmp_path: Path) -> None:
    searched(tmp_path / "run")
    study = revalidated(tmp_path / "run")
    trial = next(trial for trial in study.front if trial.is_revalidated)
    by_accuracy = sorted((1, 2, 3), key=lambda n: -trial.repeats[n].metrics["accuracy"])
    assert trial.standing == by_accuracy[1] and trial.latest == trial.repeats[by_accuracy[1]]
    assert study.load_checkpoint(trial.number) == f"trial {trial.number} repeat {trial.standing}".encode()
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / str(trial.number)).iterdir())
    assert [name for name in kept if "repeat" in name] == [f"repeat-{trial.standing}.safetensors"]


def test_failures_count_for_nothing_and_all_failures_leave_the_trial_as_it_was(tmp_path: Path) -> None:
    searched(tmp_path / "run", search={"rungs": [0]})
    doomed = chosen(Study.open(tmp_path / "run"), 2)[1].number

    def evaluate(request: Request) -> Evaluation:
        found = noisy(request)
        if request.trial == doomed or request.repeat == 2:
            found.metrics["accuracy"] = float("nan")
        return found

    study = revalidated(tmp_path / "run", InlineWorkers(evaluate), best=2)
    assert not study.trial(doomed).is_revalidated and study.trial(doomed).has_result
    assert {one.reason for one in study.trial(doomed).repeats.values()} == {"accuracy is nan"}
    assert {len(trial.validations) for trial in study.trials if trial.is_revalidated} == {2}


def test_what_is_trained_on_afterwards_has_its_new_figures(tmp_path: Path) -> None:
    searched(tmp_path / "run")
    number = revalidated(tmp_path / "run").best().number
    with Study.open(tmp_path / "run", write=True) as study:
        rung, trial = study.next_rung(number), study.trial(number)
        found = landscape(Request(number, rung, trial.choices))
        found.metrics["accuracy"] = 89.5
        study.record(Request(number, rung, trial.choices, epochs=9.0), found)
        assert not trial.is_revalidated and trial.metrics["accuracy"] == 89.5
        assert trial in study.front


def test_without_a_feasible_trial_there_is_nothing_to_do(tmp_path: Path) -> None:
    searched(tmp_path / "run", constraints=["accuracy >= 200"])
    workers = InlineWorkers(noisy)
    assert revalidated(tmp_path / "run", workers).front == [] and workers.seen == []


def test_a_search_revalidates_at_its_end_once(tmp_path: Path) -> None:
    workers = InlineWorkers(noisy)
    searched(tmp_path / "run", workers, search={"revalidate": {"best": 3, "seeds": 2}})
    assert [request.repeat > 0 for request in workers.seen[-6:]] == [True] * 6
    assert not any(request.repeat for request in workers.seen[:-6])
    with Study.open(tmp_path / "run", write=True) as study:
        again = InlineWorkers(noisy)
        run_search(study, again, make_sampler("evolution", 1))
        assert again.seen == [] and study.state == "finished"
        assert study.spent()["trials"] == 20


def test_a_search_that_was_stopped_in_it_goes_on_with_it(tmp_path: Path) -> None:
    asked = {"rungs": [0], "revalidate": {"best": 3, "seeds": 2}}
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "run", InlineWorkers(noisy, stop_after=23), search=asked, constraints=[])
    with Study.open(tmp_path / "run", write=True) as study:
        assert study.state == "interrupted" and 0 < len(study.repeats_left) < 6
        workers = InlineWorkers(noisy)
        left = len(study.repeats_left)
        run_search(study, workers, make_sampler("evolution", 1))
        assert len(workers.seen) == left and study.state == "finished"


def test_it_keeps_within_the_budget_of_the_search(tmp_path: Path) -> None:
    asked = {"rungs": [0], "revalidate": {"best": 3, "seeds": 2}}
    budget = {"trials": None, "device_seconds": 12.0}
    searched(tmp_path / "run", search=asked, budget=budget, constraints=[])
    study = Study.open(tmp_path / "run")
    assert len([trial for trial in study.trials if trial.state != "failed"]) == 18
    assert sum(len(trial.repeats) for trial in study.trials) == 6
    assert study.device_seconds == 12.0


def test_what_the_budget_leaves_out_is_no_longer_asked_for(tmp_path: Path) -> None:
    searched(tmp_path / "run", search={"rungs": [0]}, constraints=[])
    left = iter([True] * 4 + [False] * 100)
    with Study.open(tmp_path / "run", write=True) as study:
        left_out = run_revalidation(
            study, InlineWorkers(noisy), best=4, seeds=3, may_begin=lambda under_way: next(left)
        )
        assert left_out == 8 and study.repeats_left == []
        assert sorted(len(t.validations) for t in study.trials if t.is_revalidated) == [1, 3]
        assert study.is_revalidated
