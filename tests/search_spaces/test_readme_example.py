"""The task and the spec in search_spaces/README.md are run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from autoprune.references import search_spaces_folder
from autoprune.spec import load_spec
from autoprune.task import check_task, evaluate_metrics, load_task
from autoprune.train import TrainSettings, train


def test_the_task_in_the_readme_learns_what_it_says(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    text = (search_spaces_folder() / "README.md").read_text()
    code, written = (
        re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[0] for language in ("python", "yaml")
    )
    (tmp_path / "two_moons.py").write_text(code)
    (tmp_path / "two_moons.yaml").write_text(written)
    spec = load_spec(tmp_path / "two_moons.yaml")
    task = load_task(spec.task.use, spec.folder, spec.task.arguments)
    data = task.data()
    check_task(task, data)
    torch.manual_seed(0)
    model = task.model()
    train(
        model,
        task,
        data.train,
        epochs=spec.train.epochs,
        settings=TrainSettings(**spec.train_settings()),
        seed=0,
    )
    assert len(code.splitlines()) <= 30
    assert evaluate_metrics(model, task, data.val)["accuracy"] > 90
