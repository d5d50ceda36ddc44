"""Searches in MLflow and TensorBoard: every finished evaluation as metrics, its trial's number as the step.

    log: [mlflow, tensorboard]

TensorBoard's files lie in `tensorboard/` of the run folder. MLflow gets one run for each search, in the experiment of
the spec's name, wherever its own settings (MLFLOW_TRACKING_URI) say. Both only look on: trouble with them is told once,
and the search goes on without.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from autoprune.errors import MissingExtra

if TYPE_CHECKING:
    from autoprune.study import Study

MODULES = {"mlflow": "mlflow", "tensorboard": "tensorboard"}  # name in a spec -> what has to be installed
FOLDER = "tensorboard"


class Tracker(Protocol):
    """Something that takes figures by their name."""

    def note(self, figures: Mapping[str, float], step: int) -> None:
        """Take the figures of one evaluation."""
        ...

    def close(self) -> None:
        """Everything has been noted."""
        ...


def check_trackers(names: tuple[str, ...]) -> None:
    """Refuse trackers that are not installed, before any work is done.

    Raises:
        MissingExtra: the first one.
    """
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            raise MissingExtra(f"log: {name} is not installed: pip install 'autoprune[{name}]'")


class TensorBoard:
    """Scalars in the run folder."""

    def __init__(self, study: Study) -> None:
        from tensorboard.summary import Writer

        self._writer = Writer(str(study.folder / FOLDER))

    def note(self, figures: Mapping[str, float], step: int) -> None:
        """Take the figures of one evaluation."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class MLflow:
    """A run of an experiment, at the server of MLflow's own settings."""

    def __init__(self, study: Study) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        name = study.spec.name
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        run = self._client.create_run(experiment, run_name=study.folder.name)
        self._run = str(run.info.run_id)
        about = {"task": study.spec.task.use, "seed": study.spec.seed, "sampler": study.spec.search.sampler}
        for key, value in about.items():
            self._client.log_param(self._run, key, value)

    def note(self, figures: Mapping[str, float], step: int) -> None:
        """Take the figures of one evaluation."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name.replace("@", "_at_"), value, step=step)

    def close(self) -> None:
        """The run has ended."""
        self._client.set_terminated(self._run)


class Trackers:
    """The trackers that a spec asks for, told of the events of its search.

    Raises:
        Exception: none; one that cannot be opened is told to `study.warn` and left out.
    """

    def __init__(self, study: Study) -> None:
        kinds: dict[str, Callable[[Study], Tracker]] = {"mlflow": MLflow, "tensorboard": TensorBoard}
        self._study = study
        self._open: dict[str, Tracker] = {}
        for name in study.spec.log:
            try:
                self._open[name] = kinds[name](study)
            except Exception as error:  # of a server, of the network, of a disk
                self._give_up(name, error)

    def __call__(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Take an event."""
        trial = payload.get("trial")
        if kind != "evaluated" or trial is None or not self._open:
            return
        figures = {name: value for name, value in trial.metrics.items() if math.isfinite(value)}
        figures |= {"rung": float(trial.rung), "hypervolume": payload["status"]["hypervolume"]}
        for name, tracker in list(self._open.items()):
            try:
                tracker.note(figures, trial.number)
            except Exception as error:
                self._give_up(name, error)

    def close(self) -> None:
        """The search has ended."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._give_up(name, error)

    def _give_up(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        self._study.warn(f"log: {name} is left out from here on: {reason}")
