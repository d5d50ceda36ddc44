"""The loop: budgets, rungs, duplicates, failures, interruption and resumption, on a made-up landscape."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from inline_workers import BASELINE, SPACE, InlineWorkers, landscape, search_spec
from optuna.samplers import BaseSampler, RandomSampler

from autoprune.errors import SearchFailed
from autoprune.record import Evaluation, Request
from autoprune.search.loop import run_search
from autoprune.search.samplers import make_sampler
from autoprune.space import Options, Space
from autoprune.study import Study


def searched(
    folder: Path,
    workers: InlineWorkers | None = None,
    *,
    space: Space = SPACE,
    sampler: BaseSampler | None = None,
    events: list[tuple[str, dict[str, Any]]] | None = None,
    profile: dict[str, Any] | None = None,
    **spec: Any,
) -> Study:
    """A study after a search in a fresh folder."""
    made = search_spec(**spec)
    on_event = None if events is None else lambda kind, payload: events.append((kind, payload))
    with Study.create(folder, made, space, profile or {}, BASELINE) as study:
        sampler = sampler or make_sampler(made.search.sampler, made.seed)
        run_search(study, workers or InlineWorkers(), sampler, on_event=on_event)
    return study


def test_it_ends_with_the_trials_that_were_asked_for(tmp_path: Path) -> None:
    study = searched(tmp_path / "run")
    assert len(study.results) == 20
    assert (study.state, study.reason) == ("finished", "the budget of 20 trials is spent")
    assert study.pending == [] and study.front
    assert Study.open(tmp_path / "run").trials == study.trials


def test_rejected_trials_do_not_count(tmp_path: Path) -> None:
    study = searched(tmp_path / "run")
    states = [trial.state for trial in study.trials]
    assert states.count("rejected") > 0
    assert len(states) - states.count("rejected") == 20


def test_the_best_share_goes_on_with_its_weights(tmp_path: Path) -> None:
    workers = InlineWorkers()
    study = searched(tmp_path / "run", workers)
    reached = [trial.rung for trial in study.results]
    assert reached.count(2) >= 2 and reached.count(1) + reached.count(2) >= 6 and reached.count(0) > 5
    begun = {request.trial: request for request in reversed(workers.seen)}
    later = [request for request in workers.seen if request is not begun[request.trial]]
    assert later
    assert all(r.checkpoint == f"trial {r.trial} rung {r.rung - 1}".encode() for r in later)
    assert all(study.trial(trial.number).state == "finished" for trial in study.results if trial.rung == 2)


def test_the_end_keeps_checkpoints_of_the_front_only(tmp_path: Path) -> None:
    study = searched(tmp_path / "run", search={"rungs": [0, 1]})
    kept = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {trial.number for trial in study.front} <= kept
    assert len(kept) < len(study.results)
    for trial in study.front:
        assert study.load_checkpoint(trial.number) == f"trial {trial.number} rung {trial.rung}".encode()


def test_the_same_spec_and_seed_give_the_same_study(tmp_path: Path) -> None:
    one, other = searched(tmp_path / "one", seed=4), searched(tmp_path / "other", seed=4)
    assert [trial.choices for trial in one.trials] == [trial.choices for trial in other.trials]
    assert [trial.rung for trial in one.trials] == [trial.rung for trial in other.trials]
    different = searched(tmp_path / "different", seed=5)
    assert [trial.choices for trial in different.trials] != [trial.choices for trial in one.trials]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution", "guided"])
def test_it_runs_with_every_sampler_and_several_workers(tmp_path: Path, sampler: str) -> None:
    workers = InlineWorkers(size=3)
    study = searched(tmp_path / "run", workers, search={"rungs": [0, 1], "sampler": sampler})
    assert len(study.results) == 20
    assert study.hypervolume() > 0


def test_one_rung_and_one_objective_will_do(tmp_path: Path) -> None:
    study = searched(
        tmp_path / "run", objectives={"latency_ms": "minimize"}, constraints=[], search={"rungs": [0]}
    )
    assert {trial.state for trial in study.results} == {"finished"}
    assert study.best().number == study.best(minimize="latency_ms").number


def test_a_known_point_is_answered_from_the_study(tmp_path: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    space = Space({"architecture.depth": Options((1, 2, 3), 3)})

    def evaluate(request: Request) -> Evaluation:
        full = {name: choice.neutral for name, choice in SPACE.items()} | {
            f"quantize.{name}.weight_bits": 8 for name in "abcd"
        }
        found = landscape(Request(request.trial, request.rung, {**full, **request.choices}))
        found.choices, found.read = request.choices, dict(request.choices)
        return found

    workers = InlineWorkers(evaluate)
    study = searched(
        tmp_path / "run", workers, space=space, events=events, search={"rungs": [0], "sampler": "random"}
    )
    assert len(study.trials) == len(workers.seen) == 3
    assert "nothing new" in study.reason
    assert sum(kind == "duplicate" for kind, _ in events) >= 190


def test_failed_trials_are_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    def evaluate(request: Request) -> Evaluation:
        found = landscape(request)
        if found.state == "finished" and request.trial % 3 == 0:
            found.metrics["accuracy"] = math.nan
        if found.state == "finished" and request.trial % 5 == 0:
            del found.metrics["latency_ms"]
        return found

    study = searched(tmp_path / "run", InlineWorkers(evaluate))
    assert len(study.results) == 20
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert {trial.reason for trial in failed if trial.number % 5} == {"accuracy is nan"}
    assert {trial.reason for trial in failed if trial.number % 3} == {"nothing measured latency_ms"}


def test_a_failure_at_a_higher_rung_leaves_the_result_below(tmp_path: Path) -> None:
    def evaluate(request: Request) -> Evaluation:
        if request.rung:
            return Evaluation(request.trial, request.rung, "failed", request.choices, reason="too warm")
        return landscape(request)

    study = searched(tmp_path / "run", InlineWorkers(evaluate))
    assert len(study.results) == 20 and {trial.rung for trial in study.results} == {0}
    assert any(trial.reason == "too warm" and trial.state == "stopped" for trial in study.trials)


def test_nothing_but_failures_ends_the_search_and_says_why(tmp_path: Path) -> None:
    def evaluate(request: Request) -> Evaluation:
        return Evaluation(request.trial, request.rung, "failed", request.choices, reason="train: no memory")

    with pytest.raises(SearchFailed, match="20 evaluations in a row failed, the last one: train: no memory"):
        searched(tmp_path / "run", InlineWorkers(evaluate))
    assert Study.open(tmp_path / "run").state == "failed"


def test_nothing_but_rejections_ends_the_search_and_says_why(tmp_path: Path) -> None:
    def evaluate(request: Request) -> Evaluation:
        return Evaluation(
            request.trial,
            request.rung,
            "rejected",
            request.choices,
            {"size_bytes": 900.0},
            dict(request.choices),
            reason="large",
        )

    with pytest.raises(SearchFailed, match="200 proposals in a row brought nothing new"):
        searched(tmp_path / "run", InlineWorkers(evaluate))


def test_device_seconds_are_a_budget(tmp_path: Path) -> None:
    study = searched(tmp_path / "run", budget={"trials": None, "device_seconds": 12.0})
    assert 12.0 <= study.device_seconds < 12.0 + 2.5
    assert study.reason == "the budget of 12 device-seconds is spent"


def test_minutes_are_a_budget_and_what_would_not_fit_is_not_begun(tmp_path: Path) -> None:
    profile = {"seconds": {"per_evaluation": 0.4, "per_epoch": 1e6}}
    study = searched(
        tmp_path / "run",
        budget={"trials": None, "minutes": 1.0 / 60},
        profile=profile,
        search={"rungs": [0, 1]},
    )
    assert "short" in study.reason or "minutes" in study.reason
    assert {trial.rung for trial in study.results} == {0}
    assert study.seconds < 1.5


def test_an_interrupted_search_goes_on_where_it_was(tmp_path: Path) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "run", InlineWorkers(stop_after=9, size=2), events=events)
    assert events[-1][0] == "interrupted"
    with Study.open(tmp_path / "run", write=True) as study:
        assert study.state == "interrupted"
        before = {trial.number: dict(trial.evaluations) for trial in study.trials}
        pending = study.pending
        assert len(pending) == 2 and sum(len(done) for done in before.values()) == 9
        workers = InlineWorkers()
        run_search(study, workers, RandomSampler(seed=1))
        assert workers.seen[:2] == pending
        for number, done in before.items():
            assert done.items() <= study.trial(number).evaluations.items()
        assert len(study.results) == 20 and study.state == "finished"


def test_a_finished_search_has_nothing_left_to_do(tmp_path: Path) -> None:
    searched(tmp_path / "run")
    workers = InlineWorkers()
    with Study.open(tmp_path / "run", write=True) as study:
        run_search(study, workers, RandomSampler(seed=1))
        assert workers.seen == [] and len(study.results) == 20


def test_who_looks_on_is_told_what_is_durable(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def look(kind: str, payload: dict[str, Any]) -> None:
        read = Study.open(tmp_path / "run")
        if kind == "evaluated":
            assert payload["trial"].number in {trial.number for trial in read.results}
            assert payload["status"]["trials"]["finished"] == len(read.results)
        seen.append((kind, payload["busy"]))

    made = search_spec(budget={"trials": 6})
    with Study.create(tmp_path / "run", made, SPACE, {}, BASELINE) as study:
        run_search(study, InlineWorkers(), make_sampler("evolution", 0), on_event=look)
    kinds = [kind for kind, _ in seen]
    assert kinds[0] == "started" and kinds[-1] == "finished"
    assert {"evaluated", "promoted", "rejected"} <= set(kinds)


def test_a_poison_candidate_is_never_proposed_again(tmp_path: Path) -> None:
    space = Space({"architecture.depth": Options((1, 2, 3), 3)})

    def evaluate(request: Request) -> Evaluation:
        if request.choices["architecture.depth"] == 3:
            died = Evaluation(
                request.trial, request.rung, "failed", request.choices, reason="the worker died"
            )
            died.is_poison = True
            return died
        full = {name: choice.neutral for name, choice in SPACE.items()}
        full |= {f"quantize.{name}.weight_bits": 8 for name in "abcd"}
        found = landscape(Request(request.trial, request.rung, {**full, **request.choices}))
        found.choices, found.read = request.choices, dict(request.choices)
        return found

    workers = InlineWorkers(evaluate)
    study = searched(tmp_path / "run", workers, space=space, search={"rungs": [0], "sampler": "random"})
    assert sum(request.choices["architecture.depth"] == 3 for request in workers.seen) == 1
    assert [trial.reason for trial in study.trials if trial.state == "failed"] == ["the worker died"]
    again = InlineWorkers(evaluate)
    with Study.open(tmp_path / "run", write=True) as study:
        run_search(study, again, RandomSampler(seed=3))
    assert again.seen == []


class Looking(RandomSampler):
    """A random sampler that keeps what it is shown when it is asked."""

    shown: dict[str, list[float]]
    violations: dict[str, list[float]]

    def before_trial(self, study: Any, trial: Any) -> None:
        finished = [t for t in study.get_trials(deepcopy=False) if t.values]
        self.shown = {str(sorted(t.params.items())): list(t.values) for t in finished}
        self.violations = {str(sorted(t.params.items())): list(t.constraints.values()) for t in finished}


def test_a_sampler_is_shown_stopped_trials_as_they_should_stand_at_the_last_rung(tmp_path: Path) -> None:
    sampler = Looking(seed=0)
    study = searched(tmp_path / "run", sampler=sampler, budget={"trials": 40})
    stopped = [t for t in study.results if t.rung == 0 and str(sorted(t.choices.items())) in sampler.shown]
    in_full = [t for t in study.results if t.rung == 2 and str(sorted(t.choices.items())) in sampler.shown]
    assert len(stopped) > 5 and len(in_full) > 1
    grown = [sampler.shown[str(sorted(t.choices.items()))] for t in stopped]
    assert all(
        shown[0] > t.metrics["accuracy"] and shown[1] == t.metrics["latency_ms"]
        for shown, t in zip(grown, stopped, strict=True)
    )
    assert [sampler.shown[str(sorted(t.choices.items()))][0] for t in in_full] == [
        t.metrics["accuracy"] for t in in_full
    ]


def test_it_aims_at_a_tenth_below_the_baseline_where_no_accuracy_is_asked_for(tmp_path: Path) -> None:
    sampler = Looking(seed=0)
    study = searched(
        tmp_path / "run", sampler=sampler, constraints=["size_bytes <= 80%"], search={"rungs": [3]}
    )
    done = {str(sorted(trial.choices.items())): trial for trial in study.results}
    told = {point: found for point, found in sampler.violations.items() if point in done}
    assert len(told) > 10
    assert all(found == study.shortfalls(done[point].metrics) for point, found in told.items())
    beyond = [trial for trial in study.results if trial.metrics["accuracy"] < 81.0]
    assert beyond and all(trial.is_feasible for trial in beyond)
