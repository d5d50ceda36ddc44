"""What a user calls, from the spec to the file that runs, with a real pool and a real runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_spec import TINY_SPEC
from tiny_task import TinyTask
from workers_here import workers_here

import autoprune
from autoprune.errors import (
    ArtifactError,
    BadInput,
    ParityError,
    RunFolderError,
    SearchFailed,
    SpecError,
    TaskError,
)
from autoprune.study import Study
from autoprune.targets.runtimes import open_session


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all searches of this file: its start takes longer than they do."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def events() -> list[str]:
    return []


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, events: list[str]) -> Iterator[Study]:
    spec = {**TINY_SPEC, "constraints": ["params <= 95%"]}
    folder = tmp_path_factory.mktemp("api") / "run"
    yield autoprune.search(spec, run=folder, on_event=lambda kind, _: events.append(kind))


@pytest.fixture
def run(searched: Study, tmp_path: Path) -> Path:
    """A copy of the run folder that a test may change."""
    return Path(shutil.copytree(searched.folder, tmp_path / "run"))


def test_a_search_spends_its_budget_and_finds_a_front(searched: Study, events: list[str]) -> None:
    status = searched.status()
    assert status["state"] == "finished"
    assert status["trials"]["finished"] == 8
    assert status["front_size"] == len(searched.front) > 0
    assert all(trial.metrics["params"] <= 0.95 * searched.baseline["params"] for trial in searched.front)
    assert events[0] == "preparing" and events[-1] == "finished" and "evaluated" in events


def test_the_study_can_be_opened_by_optuna(searched: Study) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(searched.folder / "study.journal")))
    stored = optuna.load_study(study_name=None, storage=storage)
    complete = [t for t in stored.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) >= 8 and len(complete[0].values) == 2


def test_an_export_runs_and_is_what_was_measured(run: Path) -> None:
    best = autoprune.open_study(run).best(maximize="accuracy")
    folder = autoprune.export(best)
    assert folder == run / "export" / str(best.number)
    assert "of the exported file" in autoprune.report(run).read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"search", "export", "baseline", "parity", "sources", "unstable"}
    assert all(
        {"accuracy", "latency_ms", "size_bytes"} <= set(metrics[part])
        for part in ("search", "export", "baseline")
    )
    assert metrics["export"]["size_bytes"] == (folder / "model.safetensors").stat().st_size
    assert metrics["export"]["file_bytes"] == (folder / "model.onnx").stat().st_size
    assert metrics["parity"]["onnx"]["agreement"] >= 99.5

    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
    (expected,) = open_session((folder / "model.onnx").read_bytes(), threads=1).run(None, {"input": x})
    with torch.no_grad():
        found = autoprune.load(folder)(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_an_export_over_another_or_without_a_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    study = autoprune.open_study(run)
    with pytest.raises(ArtifactError, match="not empty"):
        autoprune.export(study.front[0], run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(RunFolderError, match="no checkpoint"):
        autoprune.export(study.front[0], tmp_path / "out")


def test_a_candidate_that_is_not_the_measured_one_is_refused(run: Path, tmp_path: Path) -> None:
    best = autoprune.open_study(run).front[0]
    other = TinyTask()
    data = other.data()
    flipped = np.roll(data.val.y, 1) if hasattr(data.val, "y") else None
    data.val.y = flipped  # type: ignore[attr-defined]
    other.data = lambda: data  # type: ignore[method-assign]
    with pytest.raises(ParityError, match="has the data or the task's file changed"):
        autoprune.export(best, tmp_path / "out", task=other)
    assert not (tmp_path / "out").exists()


def test_finishing_trains_on_and_is_recorded(run: Path) -> None:
    chosen = autoprune.open_study(run).front[0]
    finished = autoprune.finish(chosen, epochs=1)
    again = autoprune.open_study(run).trial(chosen.number)
    assert finished.rung > chosen.rung
    assert again.metrics == finished.metrics


def test_finishing_within_minutes_ends_in_time(run: Path) -> None:
    number = autoprune.open_study(run).front[0].number
    finished = autoprune.finish(run, number, minutes=0.02)
    assert finished.latest is not None and finished.latest.seconds["train"] < 10


def test_finishing_wants_one_limit_and_one_trial(run: Path) -> None:
    with pytest.raises(BadInput, match="either epochs or minutes"):
        autoprune.finish(run, 0)
    with pytest.raises(BadInput, match="name the trial"):
        autoprune.finish(run, epochs=1)


def test_resuming_goes_on_to_the_original_budget_also_where_the_files_have_moved(
    tmp_path: Path, tiny_spec: dict[str, Any]
) -> None:
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    shutil.copy(Path(__file__).parent / "tiny_task.py", before)
    tiny_spec |= {"task": "tiny_task.py:TinyTask", "folder": str(before), "budget": {"trials": 5}}

    def stop(kind: str, payload: dict[str, Any]) -> None:
        if kind == "evaluated" and payload["status"]["trials"]["finished"] >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers_here():
        autoprune.search(tiny_spec, run=tmp_path / "run", on_event=stop)
    before.rename(now)
    half = autoprune.open_study(tmp_path / "run")
    assert half.status()["state"] == "interrupted"
    known = {trial.number: trial.metrics for trial in half.results}
    with workers_here():
        resumed = autoprune.resume(tmp_path / "run", folder=now)
    assert resumed.status()["trials"]["finished"] == 5
    assert all(resumed.trial(number).evaluations[0].metrics for number in known)


def test_what_a_spec_hardly_means_is_said_before_anything_is_trained(
    tmp_path: Path, tiny_spec: dict[str, Any]
) -> None:
    tiny_spec["train"]["epochs"] = 0.5
    said: list[str] = []

    def stop(kind: str, payload: dict[str, Any]) -> None:
        if kind == "warning":
            said.append(payload["what"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), workers_here():
        autoprune.search(tiny_spec, run=tmp_path / "run", on_event=stop)
    assert "they outgrow it" in said[0] and not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_not_touched(run: Path, tiny_spec: dict[str, Any]) -> None:
    with pytest.raises(RunFolderError, match="resume"):
        autoprune.search(tiny_spec, run=run)


def test_what_cannot_be_met_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_spec: dict[str, Any]
) -> None:
    spec = {
        **tiny_spec,
        "constraints": ["params <= 1", "size_bytes <= 25%"],
        "objectives": {"acc1": "maximize"},
    }
    with pytest.raises(SpecError, match="acc1"), workers_here():
        autoprune.search(spec, run=tmp_path / "run")
    with pytest.raises(SpecError, match="achievable is"), workers_here():
        autoprune.search({**tiny_spec, "constraints": ["params <= 1"]}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_task_object_needs_no_file(tmp_path: Path, tiny_spec: dict[str, Any]) -> None:
    spec = {name: value for name, value in tiny_spec.items() if name != "task"}
    study = autoprune.search({**spec, "budget": {"trials": 2}}, task=TinyTask(), run=tmp_path / "run")
    assert len(study.results) == 2


def test_a_task_that_breaks_is_said_to(tmp_path: Path, tiny_spec: dict[str, Any]) -> None:
    (tmp_path / "broken.py").write_text(
        "from tiny_task import TinyTask\n"
        "class Broken(TinyTask):\n"
        "    def loss(self, outputs, batch):\n"
        "        raise KeyError('no such label')\n"
    )
    with pytest.raises(TaskError, match="no such label"):
        autoprune.search({**tiny_spec, "task": str(tmp_path / "broken.py") + ":Broken"}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_profile_says_what_is_achievable(tiny_spec: dict[str, Any]) -> None:
    made = autoprune.profile({**tiny_spec, "constraints": ["params <= 1"]})
    assert made["ranges"]["params"][0] < made["ranges"]["params"][1] == made["baseline"]["params"]
    assert len(made["problems"]) == 1
    assert {group["name"] for group in made["techniques"]["prune"]["groups"]} >= {"stem.0", "block.0"}


def test_nothing_qualifies_is_a_failure_with_the_closest(searched: Study) -> None:
    with pytest.raises(SearchFailed, match="closest"):
        searched.best("latency_ms <= 0")


def test_a_report_is_written(run: Path) -> None:
    page = autoprune.report(run).read_text(encoding="utf-8")
    assert "tiny" in page and "<html" in page


def test_check_finds_what_a_users_object_breaks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tiny_task import TinyTask\n"
        "class Good(TinyTask):\n    pass\n"
        "class Bad(TinyTask):\n"
        "    def metrics(self, outputs, batch):\n"
        "        return {'accuracy': float('nan')}\n"
    )
    assert all(check.ok for check in autoprune.check("mine.py:Good", tmp_path))
    assert any(
        "accuracy" in check.message for check in autoprune.check("mine.py:Bad", tmp_path) if not check.ok
    )


def test_an_unknown_format_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="known are onnx, openvino, .* and alone pretrained or nni"):
        autoprune.export(run, tmp_path / "out", formats=("tflite",))
