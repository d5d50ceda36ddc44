"""From a trial of a study to an artifact: rebuild the candidate, prove that it is the measured one, write it down.

The candidate is made again from its checkpoint by the very steps of the search. It must have the metrics on the
validation split that the search recorded; only then is the test split read, and the exported file held against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import nn

from autoprune.candidate import restore
from autoprune.compress.lsq import drop_steps
from autoprune.compress.technique import Context
from autoprune.errors import ArtifactError, ModelError, ParityError, RunFolderError
from autoprune.evaluate import Evaluator
from autoprune.export.artifact import Contents, check_free, whole, write_artifact
from autoprune.export.parity import MOST_ACCURACY_LOST, MOST_RELATIVE_ERROR, check_parity
from autoprune.space import Choices
from autoprune.structure.pretrained import follow_config, is_pretrained
from autoprune.study import Study, Trial
from autoprune.targets import Measurement, Runnable, Target
from autoprune.targets.formats import check_formats, files_of
from autoprune.targets.several import SeveralRunnables
from autoprune.task import evaluate_metrics

MEASUREMENTS = 3
TIE = 0.05
Told = TypeVar("Told")


def export_trial(
    study: Study, trial: Trial, evaluator: Evaluator, folder: Path, formats: Sequence[str] = ()
) -> Path:
    """Write `trial` as an artifact; with several targets one for each, in a folder of its name.

    Args:
        study: the trial's.
        trial: what is exported.
        evaluator: with data, reference and baseline.
        folder: new, or empty.
        formats: names of `targets.formats.FORMATS`; without any what the target itself runs.

    Raises:
        BadInput: a format that is none.
        ModelError: a format cannot carry the network.
        RunFolderError: its checkpoint is gone (it was dominated when the search ended).
        ParityError: what is rebuilt or exported is not what was measured.
        ArtifactError: the folder cannot be written.
    """
    check_free(folder)
    check_formats(formats)
    choices, context = Choices(trial.choices), evaluator.context(_repeat(trial))
    model = rebuilt(study, trial, evaluator, context)
    deployed, runnable = evaluator.deploy(model, choices, context)
    validated = evaluate_metrics(runnable.run, evaluator.task, evaluator.data.val)
    _check_measured(study, trial, validated, len(evaluator.data.val))

    costs = {**evaluator.price(model, choices), **evaluator.stored(deployed, context)}
    structure = {**context.structure, "layers": trial.structure.get("layers", [])}

    def write(at: Path, name: str, target: Target, run: Runnable) -> None:
        task, test = evaluator.task, evaluator.data.test
        measured = _Measured(trial, evaluator, target, name)
        contents = Contents(
            model=deployed,
            example=evaluator.example,
            files=files_of(formats, deployed, evaluator.example, run.files),
            structure={**structure, "runtime": _runtime(run)},
            metrics=_figures(measured, run, evaluate_metrics(run.run, task, test), costs),
            config=_config(study, trial, evaluator),
        )
        write_artifact(at, contents, lambda folder: check_parity(folder, run.run, task, test, task.model))

    if not isinstance(runnable, SeveralRunnables):
        write(folder, "", context.target, runnable)
        return folder
    targets: dict[str, Target] = context.target.targets  # type: ignore[attr-defined]  # `Several` made the runnable
    with whole(folder) as staging:
        for name, part in runnable.parts.items():
            write(staging / name, name, targets[name], part)
    return folder


def export_pretrained(study: Study, trial: Trial, evaluator: Evaluator, folder: Path) -> Path:
    """Write the float weights of `trial` as transformers' own library stores and loads them.

    Bits are left out: that library has no place for them. The configuration follows what was pruned; where blocks
    were dropped, those behind them move up.

    Raises:
        RunFolderError: as for `export_trial`.
        ModelError: it is no model of transformers any more, or no configuration describes it.
        ArtifactError: the folder cannot be written.
    """
    check_free(folder)
    context = evaluator.context(_repeat(trial))
    model: Any = rebuilt(study, trial, evaluator, context)
    if not is_pretrained(model):
        raise ModelError(
            f"trial {trial.number} is a {type(model).__name__}, which transformers cannot store: "
            "it has no configuration"
        )
    drop_steps(model)
    follow_config(model, evaluator.example, context.structure.get("depth", {}).get("dropped", {}))
    try:
        model.save_pretrained(folder)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    return folder


def rebuilt(study: Study, trial: Trial, evaluator: Evaluator, context: Context) -> nn.Module:
    """The trained float candidate, from its checkpoint.

    Raises:
        RunFolderError: the checkpoint is gone (it was dominated when the search ended), or damaged.
    """
    checkpoint = study.load_checkpoint(trial.number)
    if checkpoint is None:
        kept = ", ".join(str(t.number) for t in study.results if study.load_checkpoint(t.number) is not None)
        raise RunFolderError(
            f"trial {trial.number} has no checkpoint any more, because others are better in every objective; "
            f"`finish` trains it again, and trials with one are {kept or 'none'}"
        )
    try:
        model, _ = restore(checkpoint, evaluator.techniques, context)
    except RunFolderError as error:
        raise RunFolderError(
            f"trial {trial.number}: {error}; delete checkpoints/{trial.number}, and `finish` trains it again"
        ) from error
    return model


def _measured(trial: Trial) -> dict[str, float]:
    """The figures of the very evaluation whose weights are exported."""
    return {} if trial.latest is None else dict(trial.latest.metrics)


def _repeat(trial: Trial) -> int:
    """Which re-validation it is that is exported: the middle one by the first objective; 0 where there is none."""
    return 0 if trial.latest is None else trial.latest.repeat


def _means(trial: Trial) -> dict[str, Any]:
    """What is told of a re-validated trial beside the exported seed's figures."""
    if not trial.is_revalidated:
        return {}
    seeds = len(trial.validations)
    return {"revalidated": {"seeds": seeds, "mean": trial.metrics, "deviation": trial.deviations}}


def _runtime(runnable: Runnable) -> dict[str, str]:
    """How the file was exported, what it takes and in which precision it computes, where the target says so."""
    told = ("way", "takes", "precision")
    return {name: str(getattr(runnable, name)) for name in told if hasattr(runnable, name)}


def _check_measured(study: Study, trial: Trial, found: Mapping[str, float], examples: int) -> None:
    """Refuse a rebuilt candidate whose validation metrics are not those that the search decided by.

    Torch adds up in another order on another number of threads: a single example may fall on the other side.
    """
    asked = (
        {o.metric for o in study.spec.objectives} | {c.metric for c in study.spec.constraints} | {"accuracy"}
    )
    for name in asked & set(found):
        recorded = _measured(trial)[name]
        is_accuracy = name == "accuracy"
        allowed = (
            max(MOST_ACCURACY_LOST, 100 / examples) if is_accuracy else MOST_RELATIVE_ERROR * abs(recorded)
        )
        if not abs(found[name] - recorded) <= allowed + 1e-9:
            raise ParityError(
                f"trial {trial.number} rebuilt from its checkpoint has {name} {found[name]:.6g} on the validation "
                f"split, the search recorded {recorded:.6g}: has the data or the task's file changed since?"
            )


class _Measured(NamedTuple):
    """Whose figures are told.

    Attributes:
        trial, evaluator: of the search.
        target: on which; with several, `name` is its own.
    """

    trial: Trial
    evaluator: Evaluator
    target: Target
    name: str

    def of(self, metrics: Mapping[str, Told]) -> dict[str, Told]:
        """What holds for this target: its own figures under their plain names, none of the others."""
        own = f"@{self.name}"
        plain = {name: value for name, value in metrics.items() if "@" not in name}
        mine = {name.removesuffix(own): value for name, value in metrics.items() if name.endswith(own)}
        return {**plain, **mine} if self.name else dict(metrics)


def _figures(
    measured: _Measured, runnable: Runnable, tested: dict[str, float], costs: dict[str, float]
) -> dict[str, Any]:
    """What metrics.json says of the candidate as searched, as exported, and of the uncompressed network.

    Task metrics are on the test split; latencies of export and baseline are measured now, one after the other.
    """
    trial, evaluator, target = measured.trial, measured.evaluator, measured.target
    recorded, first = measured.of(_measured(trial)), measured.of(evaluator.baseline)
    baseline = target.build(evaluator.reference, evaluator.example)
    found = _best_measurement(evaluator, target, runnable, recorded["latency_ms"])
    return {
        "search": {**recorded, **tested, "validation": recorded, **_means(trial)},
        "export": {
            **tested,
            **measured.of(costs),
            **found.metrics,
            "file_bytes": _file_bytes(runnable),
        },
        "baseline": {
            **evaluate_metrics(baseline.run, evaluator.task, evaluator.data.test),
            **measured.of(evaluator.price(evaluator.reference, Choices({}))),
            **_best_measurement(evaluator, target, baseline, first["latency_ms"]).metrics,
            "file_bytes": _file_bytes(baseline),
        },
        "sources": {**measured.of(evaluator.sources(found)), **found.sources},
        "unstable": found.unstable,
    }


def _best_measurement(
    evaluator: Evaluator, target: Target, runnable: Runnable, recorded: float
) -> Measurement:
    """The latency as measured now; more than a tie slower than recorded, it is measured again before it is believed.

    What else runs on the machine can slow all rounds of one measurement; nothing makes a model faster than it is.
    """
    found: list[Measurement] = []
    while len(found) < MEASUREMENTS and all(one.latency_ms > recorded * (1 + TIE) for one in found):
        found.append(target.measure(runnable, evaluator.example))
    return min(found, key=lambda one: one.latency_ms)


def _file_bytes(runnable: Runnable) -> int:
    return sum(len(content) for content in runnable.files.values())


def _config(study: Study, trial: Trial, evaluator: Evaluator) -> dict[str, Any]:
    form = getattr(evaluator.data.val, "format", None)
    return {
        "name": f"{study.spec.name}, trial {trial.number}",
        "trial": trial.number,
        "seed": study.spec.seed + _repeat(trial),
        "choices": trial.read,
        "spec": study.spec.to_json(),
        "provenance": study.provenance,
        "input": asdict(form)
        if form is not None and is_dataclass(form) and not isinstance(form, type)
        else {},
    }
