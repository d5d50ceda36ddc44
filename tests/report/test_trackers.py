import json

import pytest
from real_studies import add_trials, make_spec, new_study

from autoprune.errors import MissingExtra, SpecError
from autoprune.report import trackers as trackers_module
from autoprune.report.trackers import FOLDER, Trackers, check_trackers


def tracked(folder, *names):
    """A study of three trials, all of which were told to the trackers."""
    said = []
    with new_study(folder, make_spec(log=list(names))) as study:
        study.warn = said.append
        trackers = Trackers(study)
        add_trials(study, 3)
        for trial in study.trials:
            trackers("evaluated", {"trial": trial, "status": study.status(), "busy": 0})
        trackers("warning", {"what": "nothing to track"})
        trackers.close()
    return study, said


def test_tensorboard_reads_the_metrics_of_every_trial(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    study, said = tracked(tmp_path / "run", "tensorboard")
    found = EventAccumulator(str(study.folder / FOLDER))
    found.Reload()
    steps = [one.step for one in found.Tensors("accuracy")]
    assert steps == [0, 1, 2] and "hypervolume" in found.Tags()["tensors"] and said == []


def test_mlflow_has_a_run_for_each_search(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    study, said = tracked(tmp_path / "run", "mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    history = client.get_metric_history(run.info.run_id, "accuracy")
    assert [one.value for one in history] == [t.metrics["accuracy"] for t in study.trials]
    assert run.info.status == "FINISHED" and run.data.params["sampler"] == "auto" and said == []


def test_a_tracker_that_fails_is_told_once_and_left_out(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, study):
            return None

        def note(self, figures, step):
            raise ConnectionError("the server is gone")

    monkeypatch.setattr(trackers_module, "MLflow", Broken)
    _, said = tracked(tmp_path / "run", "mlflow")
    assert said == ["log: mlflow is left out from here on: the server is gone"]


def test_what_is_not_installed_or_not_known_is_refused(monkeypatch):
    monkeypatch.setitem(trackers_module.MODULES, "mlflow", "no_such_module_anywhere")
    with pytest.raises(MissingExtra, match=r"autoprune\[mlflow\]"):
        check_trackers(("mlflow",))
    with pytest.raises(SpecError, match="log"):
        make_spec(log=["wandb"])
    assert json.loads(json.dumps(make_spec(log="tensorboard").to_json()))["log"] == ["tensorboard"]
