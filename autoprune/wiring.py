"""What a search is put together from: workers, the weights they start from, what is known beforehand, a sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.errors import BadInput, RunFolderError, SpecError
from autoprune.search.profile import make_profile
from autoprune.space import Space
from autoprune.spec import Spec

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autoprune.cluster import Pool
    from autoprune.evaluate import Evaluator
    from autoprune.report.events import RunLog
    from autoprune.search.revalidation import OnEvent
    from autoprune.study import Study
    from autoprune.task import Task

EVALUATOR = "autoprune.evaluate:Evaluator"
REFERENCE, SUPERNET = "reference.safetensors", "supernet.safetensors"


@contextmanager
def started_workers(spec: Spec, task: Task | None, on_event: OnEvent | None) -> Iterator[Pool]:
    """A pool of evaluators that share one copy of the data."""
    from autoprune.cluster import Pool

    def warn(what: str) -> None:
        tell(on_event, "warning", {"what": what})

    tell(on_event, "preparing", {"what": "the workers"})
    with Pool(EVALUATOR, {"spec": spec, "task": task}, spec.cluster, warn=warn, devices=spec.devices) as pool:
        pool.share("shareable_data", "attach_data")
        yield pool


def open_trackers(log: RunLog, study: Study) -> None:
    """Have whoever is to look on told of the events of a search: Ray's metrics, and what the spec asks for."""
    from autoprune.cluster.gauges import Gauges
    from autoprune.report.trackers import Trackers

    study.warn = lambda what: log("warning", {"what": what})
    trackers = Trackers(study)
    log.also(trackers, trackers.close)
    log.also(Gauges(study.spec.name))


def prepared(pool: Pool, spec: Spec, on_event: OnEvent | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The weights that candidates start from, by file, which every worker now has, and the profile."""
    if problems := pool.call("unrunnable"):
        raise SpecError(problems)
    for what in spec.doubts():
        tell(on_event, "warning", {"what": what})
    tell(on_event, "preparing", {"what": "the uncompressed reference"})
    devices = attach_devices(pool, spec, {})
    weights, spent = {REFERENCE: pool.call("train_reference")}, 0.0
    attach_weights(pool.broadcast, weights)
    if spec.supernet is not None:
        tell(on_event, "preparing", {"what": "the supernet"})
        weights[SUPERNET], spent = pool.call("train_supernet")
        pool.broadcast("attach_supernet", weights[SUPERNET])
    tell(on_event, "preparing", {"what": "the profile"})
    made = make_profile(pool, spec)
    made["seconds"]["supernet"], made["devices"] = spent, devices
    return weights, made


def attach_devices(pool: Pool, spec: Spec, before: Mapping[str, Any]) -> dict[str, Any]:
    """Have workers measure where the devices of the targets are, or model what no node has.

    Args:
        pool: of workers.
        spec: names the devices.
        before: what was settled when the search began, as it is returned; figures of the two kinds never mix.

    Returns:
        Resource -> None where it is measured, what its model knows where it is modelled.

    Raises:
        BadInput: one that was measured before is gone, and too little is known of it.
    """
    from autoprune.cluster.devices import Devices
    from autoprune.targets.elsewhere import LEAST_NETWORKS

    if not spec.devices:
        return {}
    now, there = pool.call("known_devices"), pool.devices.there
    found = {one: before.get(one, None if there[one] else now[one]) for one in spec.devices}
    lost = [one for one, known in found.items() if known is None and not there[one]]
    for one in lost:
        if len(now[one]) < LEAST_NETWORKS:
            raise BadInput(
                f"target.resource: no node has {one}, on which this search was measured, and {len(now[one])} networks "
                f"are too few for a model of it ({LEAST_NETWORKS} are needed); start a node with it"
            )
    ask = {one: Devices(lost) for one, known in found.items() if known is None}
    pool.broadcast(
        "attach_devices", ask, {one: now[one] if found[one] is None else found[one] for one in found}
    )
    return found


def attach_weights(broadcast: Callable[..., Any], weights: Mapping[str, bytes]) -> None:
    """Give whoever evaluates the weights that candidates start from."""
    broadcast("attach_reference", weights[REFERENCE])
    if SUPERNET in weights:
        broadcast("attach_supernet", weights[SUPERNET])


def hold_against(study: Study, now: Space, on_event: OnEvent | None) -> None:
    """Tell what has changed in the space of a study since it was made.

    Raises:
        RunFolderError: a choice lost values.
    """
    lost, others = study.space.changes_to(now)
    if lost:
        listed = "\n".join(f"space.{line}" for line in lost)
        raise RunFolderError(
            f"the space has changed since {study.folder} was begun; its {len(study.results)} trials can be looked at, "
            f"but the search cannot go on: restore the task and the target, or begin a new search\n{listed}"
        )
    for line in others:
        tell(on_event, "changed", {"what": f"space.{line}"})


def create_study(folder: Path, spec: Spec, made: dict[str, Any], weights: Mapping[str, bytes]) -> Study:
    """A new study with the weights that its candidates start from, open for writing."""
    from autoprune.study import Study

    study = Study.create(folder, spec, Space.from_json(made["choices"]), made, made["baseline"])
    try:
        for name, content in weights.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        study.close()
        raise RunFolderError(f"{folder}: weights cannot be written: {error.strerror or error}") from None
    return study


def sampler_for(spec: Spec, profile: Mapping[str, Any], study: Study | None = None) -> BaseSampler:
    """The spec's sampler, told what the profile knows; with trials to look back at, it must not draw its first random
    points again."""
    from autoprune.search.foreknown import foreknown
    from autoprune.search.foretold import Foretold
    from autoprune.search.samplers import make_sampler
    from autoprune.search.starts import trained_architecture
    from autoprune.study.evidence import evidence_of

    told = foreknown(spec, profile)
    known: dict[str, Any] = {
        "costs": told.prices,
        "prior": told.prior,
        "limits": told.limits,
        "errors": told.errors,
        "familiar": trained_architecture(spec, Space.from_json(profile.get("choices", {}))),
    }
    if study is not None and profile.get("scored"):
        known["proxies"] = Foretold(study.space, profile["scored"], lambda: evidence_of(study)["used"])
    trials = 0 if study is None else len(study.trials)
    return make_sampler(spec.search.sampler, spec.seed + trials, spec.folder, known)


def run_on(study: Study, pool: Pool, sampler: BaseSampler, on_event: OnEvent | None) -> Study:
    """Search on these workers; the study that holds what came of it."""
    from autoprune.search.loop import run_search

    try:
        pool.broadcast("attach_baseline", study.baseline)
        run_search(study, pool, sampler, on_event=on_event)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(study.place) from None  # what there is to resume
    return study


def weights_of(study: Study) -> dict[str, bytes]:
    """The weights that candidates of a study start from, by file."""
    found = {}
    for name in (REFERENCE, *((SUPERNET,) if study.spec.supernet is not None else ())):
        path = study.folder / name
        if not path.is_file():
            raise RunFolderError(f"{path} is missing; without it this study can only be looked at")
        found[name] = path.read_bytes()
    return found


def evaluator_of(study: Study, task: Task | None, max_seconds: float | None = None) -> Evaluator:
    """An evaluator in this process, for one more look at a candidate of a study."""
    from autoprune.evaluate import Evaluator

    evaluator = Evaluator(study.spec, task, max_seconds=max_seconds)
    evaluator.attach_data(None)
    attach_weights(lambda method, content: getattr(evaluator, method)(content), weights_of(study))
    evaluator.attach_baseline(study.baseline)
    devices = study.profile.get("devices", {})
    evaluator.attach_devices({}, {one: known for one, known in devices.items() if known is not None})
    return evaluator


def tell(on_event: OnEvent | None, kind: str, payload: dict[str, Any]) -> None:
    """Tell whoever looks on."""
    if on_event is not None:
        on_event(kind, payload)
