"""The study: what is logged is there after a crash, and trials, front and status follow from it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from small_study import BASELINE, SPACE, add, finished, new_study, point, small_spec

from autoprune.errors import BadInput, RunFolderError, SearchFailed, SpecError
from autoprune.record import Evaluation, Request
from autoprune.study import Study


def test_a_study_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5, ratio=0.25)
        add(study, 70.0, 0.5, ratio=0.5)
        choices = point(0.25)
        study.record(Request(0, 1, choices), finished(0, 1, choices, 89.0, 1.5))
    read = Study.open(tmp_path / "run")
    assert read.spec == study.spec and read.space.to_json() == SPACE.to_json() and read.baseline == BASELINE
    assert read.trials == study.trials
    assert [trial.state for trial in read.trials] == ["stopped", "stopped"]
    assert read.trial(0).rung == 1 and read.trial(0).metrics["accuracy"] == 89.0
    assert read.trial(0).seconds == 3.0 and read.device_seconds == 4.5
    assert [trial.is_feasible for trial in read.trials] == [True, False]
    assert read.trial(1).violation == pytest.approx(10.0 / 80.0)


def test_optuna_opens_the_storage(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5, ratio=0.25)
        study.log_request(Request(1, 0, point(0.5)))
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "run" / "study.journal"))
    seen = optuna.load_study(study_name="small", storage=optuna.storages.JournalStorage(backend))
    assert [trial.state.name for trial in seen.trials] == ["COMPLETE", "RUNNING"]
    assert seen.trials[0].values == [88.0, 1.5] and seen.trials[0].params == point(0.25)
    assert seen.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    assert seen.metric_names == ["accuracy", "latency_ms"]
    assert seen.best_trials[0].number == 0


def test_what_was_requested_and_not_answered_is_pending(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        study.save_checkpoint(Evaluation(0, 0, "finished", point(), checkpoint=b"weights of rung 0"))
        study.log_request(Request(0, 1, point()))
        study.log_request(Request(1, 0, point(0.5), epochs=4.0))
    with Study.open(tmp_path / "run", write=True) as again:
        assert again.pending == [
            Request(0, 1, point(), b"weights of rung 0"),
            Request(1, 0, point(0.5), None, 4.0),
        ]
        assert [trial.state for trial in again.trials] == ["running", "running"]
        again.log_evaluation(finished(0, 1, point(), 89.0, 1.5))
        assert [request.trial for request in again.pending] == [1]


def test_only_what_was_requested_can_be_answered(tmp_path: Path) -> None:
    with (
        new_study(tmp_path / "run") as study,
        pytest.raises(BadInput, match="trial 4 at rung 0 was not requested"),
    ):
        study.log_evaluation(finished(4, 0, point(), 88.0, 1.5))


def test_failed_and_rejected_trials_keep_their_reason(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.record(Request(0, 0, point()), Evaluation(0, 0, "failed", point(), reason="train: ValueError"))
        broken = {"size_bytes": 2000.0}
        study.record(
            Request(1, 0, point(0.1)), Evaluation(1, 0, "rejected", point(0.1), broken, reason="too large")
        )
    read = Study.open(tmp_path / "run")
    assert [(trial.state, trial.reason) for trial in read.trials] == [
        ("failed", "train: ValueError"),
        ("rejected", "too large"),
    ]
    assert read.results == [] and read.front == []
    assert read.trial(1).metrics == broken


def test_a_failure_after_a_result_leaves_the_result(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        study.record(Request(0, 1, point()), Evaluation(0, 1, "failed", point(), reason="out of memory"))
        trial = study.trial(0)
        assert (trial.state, trial.rung, trial.reason) == ("stopped", 0, "out of memory")


def test_numbers_that_json_lacks_survive(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        evaluation = finished(0, 0, point(), 88.0, 1.5)
        evaluation.metrics["params"] = np.float32(12.0)
        evaluation.metrics["bops"] = math.nan
        study.record(Request(0, 0, point()), evaluation)
    json.loads((tmp_path / "run" / "study.journal").read_text().splitlines()[-2], parse_constant=pytest.fail)
    read = Study.open(tmp_path / "run").trial(0)
    assert read.metrics["params"] == 12.0 and math.isnan(read.metrics["bops"])


def test_the_front_holds_feasible_trials_that_nobody_dominates(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        for accuracy, latency in [(88.0, 1.5), (85.0, 1.0), (84.0, 1.2), (60.0, 0.1)]:
            add(study, accuracy, latency)
        add(study, 90.0, 1.0, size=2000.0)
        assert [trial.number for trial in study.front] == [0, 1]
        study.record(Request(2, 1, point()), finished(2, 1, point(), 89.0, 0.9))
        assert [trial.number for trial in study.front] == [2]


def test_best_is_the_knee_or_what_is_asked_for(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        for accuracy, latency in [(90.0, 2.0), (89.0, 1.0), (80.0, 0.9)]:
            add(study, accuracy, latency)
        add(study, 50.0, 0.1)
        assert study.best().number == 1
        assert study.best(minimize="latency_ms").number == 2
        assert study.best(maximize="accuracy").number == 0
        assert study.best("accuracy >= 40", minimize="latency_ms").number == 3
        with pytest.raises(SearchFailed, match=r"none of 4 trials meets latency_ms <= 0.01, "):
            study.best("latency_ms <= 0.01")
        with pytest.raises(SpecError, match="minimize: got 'latency', expected one of"):
            study.best(minimize="latency")
        with pytest.raises(SpecError, match="expected one of them"):
            study.best(minimize="latency_ms", maximize="accuracy")


def test_what_is_asked_for_replaces_constraints_on_the_same_metric_only(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        add(study, 88.0, 0.5, size=2000.0)
        assert study.best("latency_ms <= 2", minimize="latency_ms").number == 0
        assert study.best("size_bytes <= 3000", minimize="latency_ms").number == 1


def test_best_of_nothing_says_so(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study, pytest.raises(SearchFailed, match="no finished trial"):
        study.best()


def test_hypervolume_counts_gains_over_the_limits(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        assert study.hypervolume() == 0.0
        add(study, 89.0, 1.1)
        # 9 points above the limit of 80, of a baseline of 90; 1.1 ms below 110 % of the baseline's 2 ms.
        assert study.hypervolume() == pytest.approx(9 / 90 * 1.1 / 2)
        add(study, 60.0, 0.1)
        add(study, 89.5, 1.1)
        history = study.hypervolume_history()
        assert [count for count, _, _ in history] == [1, 2, 3]
        assert [value for _, _, value in history] == pytest.approx([0.055, 0.055, 9.5 / 90 * 0.55], rel=1e-6)


def test_a_search_aims_at_what_counts_for_the_volume_and_the_front_has_all_that_is_allowed(
    tmp_path: Path,
) -> None:
    with new_study(tmp_path / "run", constraints=["size_bytes <= 90%"]) as study:
        assert [str(goal) for goal in study.goals] == ["size_bytes <= 90%", "accuracy >= baseline - 9"]
        add(study, 80.0, 1.0)
        assert study.hypervolume() == 0.0 and [trial.number for trial in study.front] == [0]
        (size,), shortfalls = (
            study.violations(study.trial(0).metrics),
            study.shortfalls(study.trial(0).metrics),
        )
        assert size < 0 and shortfalls == pytest.approx([size, 1 / 81])
    with new_study(tmp_path / "limited") as study:
        assert study.goals == list(study.spec.constraints)


def test_the_history_is_in_the_order_of_the_answers_also_when_read_back(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study, study.clock():
        first, second = Request(0, 0, point(0.25)), Request(1, 0, point(0.5))
        for request in (first, second):
            study.log_request(request)
        for request, accuracy in ((second, 85.0), (first, 88.0)):
            study.log_evaluation(finished(request.trial, 0, dict(request.choices), accuracy, 1.5))
        study.commit()
        history = study.hypervolume_history()
    assert Study.open(tmp_path / "run").hypervolume_history() == history
    assert [seconds for _, seconds, _ in history] == sorted(seconds for _, seconds, _ in history)


def test_status_counts_what_is_durable(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.set_state("running")
        add(study, 88.0, 1.5)
        add(study, 87.0, 1.0)
        for rung in (1, 2):
            study.record(Request(0, rung, point()), finished(0, rung, point(), 89.0, 1.5))
        study.record(Request(2, 0, point()), Evaluation(2, 0, "failed", point(), reason="no"))
        study.log_request(Request(3, 0, point()))
        status = study.status()
        assert status["trials"] == {"finished": 2, "stopped": 1, "failed": 1, "running": 1}
        own = {"state", "trials", "rungs", "front_size", "hypervolume", "best", "budget", "spent", "live"}
        assert set(status) == own and status["rungs"]["0"] == {
            "finished": 2,
            "rejected": 0,
            "failed": 1,
            "running": 1,
        }
        assert status["state"] == "running" and status["front_size"] == 2
        assert status["budget"]["trials"] == {"spent": 2, "limit": 30}
        assert status["budget"]["device_seconds"] == {"spent": 6.0, "limit": None}
        assert status["best"]["metrics"] == study.best().metrics
        assert Study.open(tmp_path / "run").status()["state"] == "running"
    # The driver is gone and left no word: that is an interrupted search, in which nothing is running.
    left = Study.open(tmp_path / "run").status()
    assert left["state"] == "interrupted" and left["trials"]["running"] == 0


def test_the_end_and_its_reason_are_on_record(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.set_state("finished", "the budget of 30 trials is spent")
    read = Study.open(tmp_path / "run")
    assert (read.state, read.reason) == ("finished", "the budget of 30 trials is spent")


def test_time_adds_up_over_sessions(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study, study.clock():
        add(study, 88.0, 1.5)
        first = study.seconds
    with Study.open(tmp_path / "run", write=True) as again:
        start = again.seconds
        assert 0 < start <= first
        with again.clock():
            assert again.seconds > start


def test_a_duplicate_agrees_on_everything_that_was_read(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        evaluation = finished(0, 0, point(0.0), 88.0, 1.5)
        evaluation.read = {"architecture.depth": 3, "quantize.a.weight_bits": 8}
        study.record(Request(0, 0, point(0.0)), evaluation)
        assert study.find_duplicate(point(0.7)) == study.trial(0)
        assert study.find_duplicate(point(0.0, depth=2)) is None
        more = finished(0, 1, point(0.0), 89.0, 1.5)
        study.record(Request(0, 1, point(0.0)), more)
        assert study.find_duplicate(point(0.7)) is None
        assert study.find_duplicate(point(0.0)) == study.trial(0)


def test_a_failed_trial_answers_for_nobody(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        study.record(Request(0, 0, point()), Evaluation(0, 0, "failed", point(), reason="build: no"))
        assert study.find_duplicate(point()) is None


def test_checkpoints_of_hopeless_trials_are_dropped(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        for accuracy, latency in [(88.0, 1.5), (85.0, 1.6), (84.0, 1.7)]:
            number = add(study, accuracy, latency)
            study.save_checkpoint(Evaluation(number, 0, "finished", point(), checkpoint=b"%d" % number))
        study.drop_checkpoints({1})
        assert [study.load_checkpoint(number) for number in range(3)] == [b"0", b"1", None]
    assert Study.open(tmp_path / "run").load_checkpoint(0) == b"0"


def test_of_trials_alike_in_the_objectives_the_fastest_stands_and_keeps_its_weights(tmp_path: Path) -> None:
    alone = {"objectives": {"accuracy": "maximize"}, "constraints": ["latency_ms <= 100%"]}
    with new_study(tmp_path / "run", **alone) as study:
        for latency, size in [(1.5, 500.0), (1.2, 500.0), (1.2, 400.0), (1.6, 300.0)]:
            number = add(study, 88.0, latency, size=size)
            study.save_checkpoint(Evaluation(number, 0, "finished", point(), checkpoint=b"%d" % number))
        study.drop_checkpoints(())
        assert [trial.number for trial in study.front] == [2]
        for best in (study.best(), study.best("latency_ms <= 2", maximize="accuracy")):
            assert best.number == 2 and study.load_checkpoint(best.number) == b"2"


def test_what_is_on_the_front_keeps_its_weights_whatever_else_is_limited(tmp_path: Path) -> None:
    limited = {"objectives": {"accuracy": "maximize"}, "constraints": ["params <= 100"]}
    with new_study(tmp_path / "run", **limited) as study:
        for params in (90.0, 80.0):
            evaluation = finished(len(study.trials), 0, point(), 88.0, 1.5)
            evaluation.metrics["params"], evaluation.checkpoint = params, b"weights"
            study.record(Request(evaluation.trial, 0, point()), evaluation)
        study.drop_checkpoints(())
        assert [study.load_checkpoint(trial.number) for trial in study.front] == [b"weights"]


def test_checkpoints_of_lower_rungs_go_when_a_higher_one_is_durable(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        for rung in (0, 1):
            evaluation = finished(0, rung, point(), 88.0, 1.5)
            evaluation.checkpoint = b"rung %d" % rung
            study.record(Request(0, rung, point()), evaluation)
        study.drop_checkpoints(())
        assert study.load_checkpoint(0) == b"rung 1" and study.load_checkpoint(0, 0) is None


def test_a_finishing_touch_is_the_latest_result(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        rung = study.next_rung(0)
        assert rung == 3
        study.record(Request(0, rung, point(), epochs=20.0), finished(0, rung, point(), 89.9, 1.5))
        assert study.trial(0).state == "finished" and study.trial(0).metrics["accuracy"] == 89.9
        assert study.next_rung(0) == 4


def test_there_is_one_driver_at_a_time(tmp_path: Path) -> None:
    with new_study(tmp_path / "run"), pytest.raises(RunFolderError, match="another search is at work"):
        Study.open(tmp_path / "run", write=True)
    Study.open(tmp_path / "run", write=True).close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    new_study(tmp_path / "run").close()
    with pytest.raises(RunFolderError, match="opened for reading only"):
        Study.open(tmp_path / "run").log_request(Request(0, 0, point()))


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="exists and is not empty"):
        new_study(tmp_path)
    with pytest.raises(RunFolderError, match="cannot be written"):
        new_study(tmp_path / "notes.txt" / "run")
    with pytest.raises(RunFolderError, match="there is no study in"):
        Study.open(tmp_path)


def test_a_baseline_without_an_objective_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"objectives.latency_ms: the baseline has no such metric"):
        Study.create(tmp_path / "run", small_spec(), SPACE, {}, {"accuracy": 90.0})
    assert not (tmp_path / "run").exists()


def test_a_trial_that_is_not_there_is_named(tmp_path: Path) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
        with pytest.raises(BadInput, match=r"there is no trial 9 in .* \(there are 0 to 0\)"):
            study.trial(9)


def test_the_run_folder_says_what_it_was_made_from(tmp_path: Path) -> None:
    task = tmp_path / "my_task.py"
    task.write_text("class Mine: ...\n")
    with new_study(tmp_path / "run", task="my_task.py:Mine", folder=str(tmp_path)) as study:
        assert (study.folder / "files" / "my_task.py").read_text() == task.read_text()
        assert "my_task.py:Mine" in (study.folder / "spec.yaml").read_text()
        assert study.profile == {"seconds": {}}
        assert set(study.provenance["versions"]) >= {"optuna", "ray"}
    (study.folder / "profile.json").unlink()
    task.unlink()
    assert Study.open(tmp_path / "run").profile == {}


@pytest.mark.parametrize(
    "name", ["profile.json", "checkpoints", "checkpoints/7", "checkpoints/0/rung-0.safetensors"]
)
def test_nothing_in_a_run_folder_leads_out_of_it(tmp_path: Path, name: str) -> None:
    with new_study(tmp_path / "run") as study:
        add(study, 88.0, 1.5)
    outside = tmp_path / "outside"
    (outside / "1").mkdir(parents=True)
    path = tmp_path / "run" / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside)
    for write in (False, True):
        with pytest.raises(RunFolderError, match="is a link; a run folder holds plain files"):
            Study.open(tmp_path / "run", write=write)
    assert (outside / "1").is_dir()
