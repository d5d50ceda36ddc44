"""What a user calls. Each function wires the parts once, visibly, and leaves the work to them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, RunFolderError, SearchFailed
from autoprune.references import resolve, search_spaces_folder
from autoprune.search.assessors import check_installed
from autoprune.search.profile import check_reachable, unreachable
from autoprune.space import Space
from autoprune.spec import Spec, load_spec
from autoprune.wiring import (
    attach_devices,
    attach_weights,
    create_study,
    evaluator_of,
    hold_against,
    open_trackers,
    prepared,
    run_on,
    sampler_for,
    started_workers,
    weights_of,
)

if TYPE_CHECKING:
    from autoprune.contracts import Check
    from autoprune.search.revalidation import OnEvent
    from autoprune.study import Study, Trial
    from autoprune.task import Task

SpecLike = str | Path | Mapping[str, Any] | Spec

MOST_BEST, MOST_SEEDS = 10_000, 100
MANY_EPOCHS = 1000.0  # a limit in minutes ends the cycle long before


def profile(
    spec: SpecLike, *, task: Task | None = None, on_event: OnEvent | None = None, **overrides: Any
) -> dict[str, Any]:
    """What is achievable with a spec: its space, and the range of every objective and constraint.

    Nothing is written. The reference network is trained if the task's model is not pretrained; `on_event` is
    told of it, as by `search`.

    Returns:
        Plain data: `choices`, `techniques`, `baseline`, `layers`, `ranges`, `seconds`, and `problems` (constraints
        that no candidate can meet).
    """
    resolved = _spec(spec, overrides)
    with started_workers(resolved, task, on_event) as pool:
        _, made = prepared(pool, resolved, on_event)
    return {**made, "problems": unreachable(resolved.constraints, made)}


def search(
    spec: SpecLike | None = None,
    *,
    run: str | Path | None = None,
    task: Task | None = None,
    on_event: OnEvent | None = None,
    **overrides: Any,
) -> Study:
    """Search jointly over everything that the spec leaves open; returns the study in its run folder.

    Args:
        spec: a YAML file, the name of a ready one (`digits`), or a mapping of its fields.
        run: the run folder, which must not exist yet, or the URL of one (`s3://bucket/runs/a`); by default the next
            free `runs/<name>`.
        task: a ready task object in place of the one that the spec names; such a search is resumed by
            `resume(run, task=...)`.
        on_event: called with (kind, payload) as the search goes on.
        overrides: fields of the spec to replace (`budget={"trials": 40}`), or one of the short ones `trials`,
            `minutes`, `workers`, `address`, `seed`.

    Raises:
        BadInput: the spec, task, model or run folder cannot be used; nothing was written.
        SearchFailed: no candidate could be evaluated.
    """
    if task is not None:
        overrides.setdefault("task", f"{type(task).__module__}:{type(task).__qualname__}")
    from autoprune.report.events import RunLog
    from autoprune.report.trackers import check_trackers
    from autoprune.study.database import Database
    from autoprune.study.remote import Remote, is_url

    resolved = _spec(spec if spec is not None else {}, overrides)
    remote = Remote(str(run)) if run is not None and is_url(run) else None
    folder = _free_folder(resolved.name) if run is None else Path(run)
    if remote is not None:
        folder = remote.begin()
    _refuse_unusable(folder)
    if resolved.storage is not None:
        Database.check(resolved.storage)
    sampler_for(resolved, {})  # refused before the work of minutes
    check_installed(resolved.search.stop)
    check_trackers(resolved.log)
    with remote or nullcontext(), RunLog(on_event) as log, started_workers(resolved, task, log) as pool:
        weights, made = prepared(pool, resolved, log)
        check_reachable(resolved, made)
        with create_study(folder, resolved, made, weights) as study:
            study.remote = remote
            log.open(folder)
            open_trackers(log, study)
            return run_on(study, pool, sampler_for(resolved, made, study), log)


def resume(
    run: str | Path,
    *,
    task: Task | None = None,
    folder: str | Path | None = None,
    on_event: OnEvent | None = None,
) -> Study:
    """Go on with an interrupted or killed search up to its original budget.

    Where the task or the target has changed since, all that was found is used as long as every point of the study can
    still be made; what came and went is told to `on_event` as `changed`.

    Args:
        run: the run folder, or its URL.
        task: the task object that the search was started with, if any.
        folder: where the files that the spec names are now, if they are no longer where they were.
        on_event: called with (kind, payload), as by `search`.

    Raises:
        RunFolderError: there is no study in `run`, it is damaged, another driver is at work on it, or points of it
            cannot be made any more.
    """
    from autoprune.report.events import RunLog
    from autoprune.study import Study

    with Study.open(run, write=True) as study, RunLog(on_event) as log:
        log.open(study.folder)
        if folder is not None:
            study.spec = study.spec.model_copy(update={"folder": Path(folder).resolve()})
        weights, sampler = weights_of(study), sampler_for(study.spec, study.profile, study)
        with started_workers(study.spec, task, log) as pool:
            attach_weights(pool.broadcast, weights)
            attach_devices(pool, study.spec, study.profile.get("devices", {}))
            hold_against(study, Space.from_json(pool.call("describe")["choices"]), log)
            open_trackers(log, study)
            return run_on(study, pool, sampler, log)


def open_study(run: str | Path) -> Study:
    """The study in a run folder, to be looked at; a search may go on meanwhile."""
    from autoprune.study import Study

    return Study.open(run)


def finish(
    trial: Trial | str | Path,
    number: int | None = None,
    *,
    epochs: float | None = None,
    minutes: float | None = None,
    learning_rate: float | None = None,
    task: Task | None = None,
) -> Trial:
    """Train a chosen candidate on, in one long cycle, measure it again, and record that as its latest result.

    Args:
        trial: a trial of a study, or a run folder with the `number` of one in it.
        number: the trial's number, with a run folder.
        epochs: how long to train.
        minutes: or for so long on this machine; the learning rate comes down with the clock.
        learning_rate: its peak, in place of the spec's; a smaller one keeps more of what the candidate has learnt.

    Returns:
        The trial with its new figures. It runs in this process, with all of its threads.

    Raises:
        BadInput: neither or both of `epochs` and `minutes`, a number that makes no sense, or no such trial.
        SearchFailed: the evaluation failed; the trial keeps the result that it had.
    """
    from autoprune.record import Request
    from autoprune.study import Study

    if (epochs is None) == (minutes is None):
        raise BadInput("finish: give either epochs or minutes")
    for name, value in {"epochs": epochs, "minutes": minutes, "learning_rate": learning_rate}.items():
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"finish: {name}: got {value}, expected a number above 0")
    folder, chosen = _locate(trial, number)
    with Study.open(folder, write=True) as study:
        found = study.trial(_known(chosen))
        evaluator = evaluator_of(study, task, max_seconds=None if minutes is None else 60 * minutes)
        length = MANY_EPOCHS if epochs is None else epochs
        rung, weights = study.next_rung(found.number), study.load_checkpoint(found.number)
        request = Request(found.number, rung, found.choices, weights, length, learning_rate)
        result = evaluator.evaluate(request)
        if result.state != "finished":
            raise SearchFailed(f"finishing trial {found.number} {result.state}: {result.reason}")
        study.record(request, result)
        return study.trial(found.number)


def revalidate(
    run: str | Path,
    best: int = 5,
    seeds: int = 3,
    *,
    task: Task | None = None,
    on_event: OnEvent | None = None,
) -> Study:
    """Train the best trials of the front in full again, from the start, over several seeds, and rank by the means.

    Interrupted or killed, it goes on when it is called again. It counts towards no budget.

    Args:
        run: the run folder.
        best: how many trials at most: the best compromise, then those that cover most hypervolume, then what was
            dominated by one that fell.
        seeds: how often each is trained; the spec's seed plus 1, 2, ...
        task: the task object that the search was started with, if any.
        on_event: called with (kind, payload), as by `search`.

    Returns:
        The study: re-validated trials are ranked by their means, and the best one is taken among them.

    Raises:
        BadInput: a number that makes no sense.
        SearchFailed: no trial meets the constraints.
    """
    from autoprune.search.revalidation import run_revalidation
    from autoprune.study import Study

    for name, value, most in (("best", best, MOST_BEST), ("seeds", seeds, MOST_SEEDS)):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise BadInput(f"revalidate: {name}: got {value!r}, expected a whole number from 1 to {most}")
    with Study.open(run, write=True) as study:
        if not study.repeats_left and not study.front:
            raise SearchFailed(f"there is nothing to re-validate in {run}: no trial meets every constraint")
        weights = weights_of(study)
        with started_workers(study.spec, task, on_event) as pool:
            attach_weights(pool.broadcast, weights)
            attach_devices(pool, study.spec, study.profile.get("devices", {}))
            pool.broadcast("attach_baseline", study.baseline)
            run_revalidation(study, pool, best=best, seeds=seeds, on_event=on_event)
        return study


def export(
    trial: Trial | str | Path,
    to: str | Path | None = None,
    *,
    number: int | None = None,
    where: str = "",
    minimize: str | None = None,
    maximize: str | None = None,
    formats: tuple[str, ...] = (),
    task: Task | None = None,
) -> Path:
    """Write a candidate as an artifact that runs, once it is proven to be the one that was measured.

    Args:
        trial: a trial, or a run folder (of a re-validated trial the middle one of its seeds by the first objective is
            exported, with its own figures); of a run folder the trial `number`, or the best one `where` constraints
            hold (and the study's own, but for those on the same metrics), ranked by `minimize` or `maximize`.
        to: the folder to write; it must not exist, or be empty. By default `export/<trial>` in the run folder,
            where the report finds it.
        formats: what runtimes open, beside the weights (see `targets.formats`); without any, those of
            the spec's `export`, or else the target's own. Or alone
            `pretrained`: the float weights and the configuration of a model of transformers, for `from_pretrained`
            of its own class; or `nni`: what was chosen, in NNI's form.

    Returns:
        The artifact's folder.

    Raises:
        ParityError: the exported file does not predict what the measured candidate predicts; nothing is written.
        ArtifactError: the folder cannot be written.
    """
    from autoprune.export.nni_form import export_nni
    from autoprune.export.trial import export_pretrained, export_trial
    from autoprune.study import Study
    from autoprune.targets.formats import check_formats

    folder, chosen = _locate(trial, number)
    study = Study.open(folder)
    formats = formats or study.spec.export
    writers = {"pretrained": export_pretrained, "nni": export_nni}  # of folders that are no artifacts
    alone = formats[0] if len(formats) == 1 and formats[0] in writers else ""
    if not alone:
        check_formats(formats)
    found = study.best(where, minimize=minimize, maximize=maximize) if chosen is None else study.trial(chosen)
    name = f"{found.number}-{alone}" if alone else str(found.number)
    to = study.folder / "export" / name if to is None else Path(to)
    evaluator = evaluator_of(study, task)
    if alone:
        return writers[alone](study, found, evaluator, to)
    return export_trial(study, found, evaluator, to, formats)


def retrain(
    structure: str | Path,
    to: str | Path,
    *,
    spec: SpecLike | None = None,
    epochs: float | None = None,
    seed: int = 0,
    task: Task | None = None,
) -> dict[str, float]:
    """Train a chosen architecture from scratch, from the JSON of its structure alone; no weight of the search is read.

    Args:
        structure: `structure.json` of an artifact.
        to: the checkpoint to write (safetensors, with the structure in its header); it must not exist.
        spec: says the task and how to train; by default the one in `config.yaml` beside the structure.
        epochs: by default the spec's `train.epochs`.
        seed: of the initial weights and of training.
        task: a ready task object in place of the spec's.

    Returns:
        Its metrics on the test split, as a float network, and its costs.

    Raises:
        BadInput: no such structure, or one that the task's model has no place for; nothing was written.
    """
    from autoprune.evaluate import Evaluator
    from autoprune.export.retrain import beside, check_new, read_structure, retrained, write_checkpoint

    if epochs is not None and not 0 < epochs < math.inf:
        raise BadInput(f"retrain: epochs: got {epochs}, expected a number above 0")
    check_new(Path(to))
    found = read_structure(Path(structure))
    resolved = load_spec(spec if spec is not None else beside(Path(structure)))
    evaluator = Evaluator(resolved, task)
    evaluator.attach_data(None)
    content, metrics = retrained(found, evaluator, resolved.train.epochs if epochs is None else epochs, seed)
    write_checkpoint(Path(to), content)
    return metrics


def report(run: str | Path, *, open_browser: bool = False) -> Path:
    """Rebuild `report.html` in the run folder; returns its path."""
    from autoprune.report import write_report

    study = open_study(run)
    path = write_report(study, study.folder / "report.html")
    if open_browser:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return path


def check(
    reference: str, folder: Path | None = None, *, inputs: Sequence[str] = (), deep: bool = False
) -> list[Check] | dict[str, Any]:
    """What can be searched about a network (see `inspect`); the contract tests of any other object of a user's.

    Args:
        reference: a network, task, technique, target or sampler.
        folder: where a relative file is looked for.
        inputs: what the network takes, as shapes; see `inspect.parsed`.
        deep: make one trial of a network.
    """
    from autoprune.contracts import check_object
    from autoprune.inspect import find, inspect, is_network
    from autoprune.targets import load_target
    from autoprune.task import load_task

    here = folder or Path.cwd()
    if is_network(reference, here):
        return inspect(*find(reference, list(inputs), here), deep=deep)
    found = resolve(reference, folder=here)
    return check_object(found, load_task("digits", here, {}), load_target("onnxruntime", here, {}))


def listing() -> dict[str, list[str]]:
    """What is built in, by kind."""
    from autoprune.search.samplers import BUILT_IN as SAMPLERS
    from autoprune.spec import techniques
    from autoprune.spec.sections import CURVE, MEDIAN
    from autoprune.targets import BUILT_IN as TARGETS
    from autoprune.task import BUILT_IN as TASKS
    from autoprune.task.model_space import BASELINES, PREFIX

    return {
        "task": sorted(TASKS),
        "model_space": [f"{PREFIX}{name}" for name in sorted(BASELINES)],
        "target": sorted(TARGETS),
        "sampler": sorted(SAMPLERS),
        "stop": ["halving", MEDIAN, CURVE],
        "criterion": list(techniques.CRITERIA),
        "granularity": list(techniques.HOLES),
        "schedule": list(dict.fromkeys((*techniques.SCHEDULES, *techniques.SPARSITY_SCHEDULES))),
        "distillation": list(techniques.DISTILLATION),
        "calibration": list(techniques.CALIBRATIONS),
        "quantizer": list(techniques.QUANTIZERS),
        "coding": list(techniques.CODINGS),
        "data_pruning": list(techniques.DATA_PRUNING),
        "factorization": list(techniques.FACTORIZATIONS),
        "spec": sorted(path.stem for path in search_spaces_folder().glob("*.yaml")),
    }


def _spec(spec: SpecLike, overrides: Mapping[str, Any]) -> Spec:
    given = {name: value for name, value in overrides.items() if value is not None}
    return spec if isinstance(spec, Spec) and not given else load_spec(spec, **given)


def _free_folder(name: str) -> Path:
    base = Path("runs")
    count = 1
    while (folder := base / (name if count == 1 else f"{name}-{count}")).exists():
        count += 1
    return folder


def _refuse_unusable(folder: Path) -> None:
    """Refuse a run folder that is in use or cannot be written, before the work of minutes is lost to that."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunFolderError(
            f"{folder} exists and is not empty; `autoprune resume {folder}` goes on with it, --run names another"
        )
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written: {error.strerror or error}; --run names another"
        ) from None


def _locate(trial: Trial | str | Path, number: int | None) -> tuple[str | Path, int | None]:
    if isinstance(trial, str | Path):
        return trial, number
    return trial.folder, trial.number


def _known(number: int | None) -> int:
    if number is None:
        raise BadInput("name the trial: its number, or a trial object")
    return number
