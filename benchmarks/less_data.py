"""The task of a ready spec with fewer images to train on, for benchmarks that have minutes and not days."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.spec import load_spec
from autoprune.task import ArraySplit, Data, Task, load_task
from autoprune.task.sources import model_factory


class Less:
    """The task of a ready spec with the first images of the training split only; workers make it by this name.

    Args:
        spec: its name or file.
        images: how many; None keeps all.
        model: in place of the task's, as a spec names one: an artifact's folder, ...
    """

    def __init__(self, spec: str, images: int | None = None, model: str | None = None) -> None:
        given = load_spec(spec)
        task: Task = load_task(given.task.use, given.folder, given.task.arguments)
        self._task, self._images = task, images
        self.model, self.loss, self.metrics = task.model, task.loss, task.metrics
        self.architecture = getattr(task, "architecture", {})
        if model is not None:
            self.model, self.architecture = model_factory(model), {}

    def data(self) -> Data:
        """The splits, the training split cut."""
        data = self._task.data()
        split = data.train
        if self._images is None or not isinstance(split, ArraySplit):
            return data
        rows = split.rows[: self._images]
        return replace(
            data, train=ArraySplit(split.x, split.y, rows=rows, format=split.format, augment=split.augment)
        )


def less(spec: str, images: int | None, model: str | None = None) -> dict[str, Any]:
    """The section `task` of a spec; arguments as for `Less`."""
    task = {"use": f"{Path(__file__).resolve()}:Less", "spec": spec, "images": images, "model": model}
    return {name: value for name, value in task.items() if value is not None}
