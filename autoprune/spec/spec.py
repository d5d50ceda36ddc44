"""The spec as a whole: task, space, target, objectives, constraints and budget of one search."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, ValidationError

from autoprune.constraint import (
    COMPUTABLE,
    MEASURED,
    Constraint,
    Objective,
    conflicts,
    is_cost,
    is_metric_name,
)
from autoprune.errors import SpecError
from autoprune.references import nearest
from autoprune.spec.cluster import Cluster
from autoprune.spec.document import read_yaml, unwritable
from autoprune.spec.fields import shown
from autoprune.spec.parts import Reference, Section, as_tuple, listed, named, references, switch
from autoprune.spec.problems import problems_of
from autoprune.spec.sections import (
    CURVE,
    FORMATS,
    LEAST_POINTS,
    LIMITS,
    RESOURCE,
    TARGETS,
    TASKS,
    TIMED,
    Budget,
    Search,
    SpaceSpec,
    Supernet,
    Train,
)
from autoprune.spec.storage import checked_url

NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
MOST_OBJECTIVES = 4
OUTGROWN = 1.5  # times the epochs of its teacher, after which a student is likely to know more
_TARGETS = references("target", *TARGETS)
_DIRECTIONS = ("minimize", "maximize")
_BUILT_IN = ("accuracy", *COMPUTABLE, *MEASURED)
_OTHER_NAMES = {
    "latency": "latency_ms",
    "latency_s": "latency_ms",
    "size": "size_bytes",
    "model_size": "size_bytes",
    "parameters": "params",
    "flops": "macs",
}


def _objectives(given: Any) -> tuple[Objective, ...]:
    if not isinstance(given, Mapping) or not 1 <= len(given) <= MOST_OBJECTIVES:
        raise ValueError(f"got {shown(given)}, expected 1 to {MOST_OBJECTIVES} lines of 'metric: direction'")
    problems = []
    for metric, direction in given.items():
        if not is_metric_name(metric):
            problems.append(f"got the metric {shown(metric)}, expected a name such as accuracy or latency_ms")
            continue
        if _misspelt(metric):
            problems.append(f"got the metric {metric!r}{_misspelt(metric)}")
        if not isinstance(direction, str) or direction not in _DIRECTIONS:
            guess = nearest(direction, _DIRECTIONS) if isinstance(direction, str) else ""
            problems.append(f".{metric}: got {shown(direction)}, expected 'minimize' or 'maximize'{guess}")
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(Objective(metric, direction) for metric, direction in given.items())


def _written_objectives(objectives: tuple[Objective, ...]) -> dict[str, str]:
    return {objective.metric: objective.direction for objective in objectives}


def _constraint(given: Any) -> Constraint:
    try:
        constraint = Constraint.parse(given)
    except SpecError as error:
        raise ValueError(str(error)) from None
    if _misspelt(constraint.metric):
        raise ValueError(f"got the metric {constraint.metric!r}{_misspelt(constraint.metric)}")
    return constraint


def _misspelt(metric: str) -> str:
    """What a metric that nobody produces was meant to be, empty where it may well be the task's own."""
    metric, _, _ = metric.partition("@")
    if metric in _BUILT_IN:
        return ""
    if metric.lower() in _OTHER_NAMES:
        return f", expected {_OTHER_NAMES[metric.lower()]!r}"
    # A task may call a metric accuracy5 or maps: only what is nearly certain to be a slip is refused.
    stem = metric.rstrip("0123456789_")
    close = difflib.get_close_matches(stem, _BUILT_IN, n=1, cutoff=0.85)
    return f", expected {close[0]!r}" if close and stem != close[0] else ""


class Spec(Section):
    """One search, as asked for. Frozen; made by `load_spec`.

    Attributes:
        name: names the run folder.
        task: model, data, loss and metric.
        space: what may be decided.
        train: how networks are trained.
        target: where candidates run and are measured, by name; of several, the first says what the task measures.
        objectives: one to four metrics and their directions.
        constraints: limits that a candidate must keep.
        budget: when to stop.
        search: who proposes, and when trials are stopped.
        supernet: weights that all architectures share; None: candidates start from the reference.
        cluster: where the search runs.
        storage: URL of the database that the study is kept in; None: a file in the run folder.
        log: who else is told of every evaluation.
        export: formats that an artifact is written in unless others are asked for; whether each can be is found out
            before the search.
        seed: every random draw of the search comes from it.
        folder: files that the spec names are relative to it.
    """

    name: str = Field(
        default="search",
        pattern=f"^{NAME}$",
        description="a name of letters, digits, '.', '_', '-'",
    )
    task: Annotated[Reference, named(*TASKS)] = Field(
        description="'file.py:Name', a built-in name, or {use: ..., argument: ...}"
    )
    space: SpaceSpec = Field(default_factory=SpaceSpec)
    train: Train = Field(default_factory=Train)
    target: Annotated[dict[str, Reference], _TARGETS[0], _TARGETS[1]] = Field(
        default_factory=lambda: {"onnxruntime": Reference(use="onnxruntime")},
        description="'onnxruntime', 'file.py:Name', {use: ..., argument: ...}, or a list or mapping of them",
    )
    objectives: Annotated[
        tuple[Objective, ...], PlainValidator(_objectives), PlainSerializer(_written_objectives)
    ] = (Objective("accuracy", "maximize"), Objective("latency_ms", "minimize"))
    constraints: Annotated[
        tuple[Annotated[Constraint, PlainValidator(_constraint), PlainSerializer(str)], ...],
        BeforeValidator(as_tuple),
    ] = Field(default=(), description="a list such as ['latency_ms <= 2', 'size_bytes <= 25%']")
    budget: Budget = Field(description=f"at least one of {', '.join(LIMITS)}")
    search: Search = Field(default_factory=Search)
    supernet: Annotated[Supernet | None, BeforeValidator(switch)] = None
    cluster: Cluster = Field(default_factory=Cluster)
    storage: Annotated[str | None, AfterValidator(checked_url)] = Field(
        default=None, description="a text such as postgresql://USER@HOST:PORT/DATABASE"
    )
    log: Annotated[tuple[Literal["mlflow", "tensorboard"], ...], BeforeValidator(listed)] = Field(
        default=(), description="a list of mlflow and tensorboard"
    )
    export: Annotated[tuple[Literal[FORMATS], ...], BeforeValidator(listed)] = Field(  # type: ignore[valid-type]
        default=(), description=f"formats among {', '.join(FORMATS)}"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="a whole number from 0 to 4294967295")
    folder: Path = Field(default_factory=Path.cwd, description="the folder that files are relative to")

    @classmethod
    def parse(cls, data: Any, folder: Path, *, check_files: bool = True) -> Spec:
        """The spec that plain data describes.

        Args:
            data: a mapping of fields; a relative `folder` in it is relative to `folder`.
            folder: what files are relative to.
            check_files: refuse references to files that are not there.

        Raises:
            SpecError: with all problems.
        """
        if not isinstance(data, Mapping):
            raise SpecError([f"spec: got {shown(data)}, expected a mapping of {', '.join(cls.model_fields)}"])
        if problems := unwritable(data):
            raise SpecError(problems)
        own = data.get("folder", folder)
        given = {**data, "folder": folder / own if isinstance(own, str | Path) else own}
        looked_in = given["folder"] if check_files and isinstance(given["folder"], Path) else None
        try:
            spec = cls.model_validate(given, context={"folder": looked_in})
        except ValidationError as error:
            raise SpecError(problems_of(error, cls, given) + untrained(given) + unshared(given)) from None
        checked = [
            *spec.problems_of_targets(),
            *spec.problems_of_workers(),
            *spec.problems_of_stopping(),
            *spec.problems_of_proxies(),
            *conflicts(spec.objectives, spec.constraints),
        ]
        if problems := untrained(given) + unshared(given) + (checked if check_files else []):
            raise SpecError(problems)
        return spec

    @classmethod
    def from_yaml(cls, text: str) -> Spec:
        """The spec that `to_yaml` wrote; files that it names need not be there any more.

        Raises:
            SpecError: with all problems.
        """
        return cls.parse(read_yaml(text), Path.cwd(), check_files=False)

    def to_yaml(self) -> str:
        """The spec with every default filled in, as `from_yaml` reads it back."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def rung_epochs(self) -> tuple[float, ...]:
        """Epochs of training in all at each rung."""
        return self.search.rungs

    def train_settings(self) -> dict[str, Any]:
        """Keyword arguments of the one training loop: all but for how long, and what is left alone."""
        return self.train.model_dump(exclude={"epochs", "freeze"})

    @property
    def devices(self) -> tuple[str, ...]:
        """Custom resources of Ray's, on whose nodes targets are measured."""
        named = [one.arguments.get(RESOURCE) for one in self.target.values() if one.use in TIMED]
        return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))

    def problems_of_workers(self) -> list[str]:
        """One line for each way in which budget, rungs and shapes of workers do not fit together."""
        cluster, rungs, problems = self.cluster, self.search.rungs, []
        if cluster.shapes and len(cluster.rungs) != len(rungs):
            problems.append(
                f"cluster.rungs: got {len(cluster.rungs)} names, expected one for each of the {len(rungs)} "
                f"rungs in search.rungs"
            )
        problems += [
            f"cluster.resources: got {device}, on whose nodes a target is measured, undisturbed by workers; "
            f"expected others"
            for device in self.devices
            if any(device in shape.resources for shape in cluster.by_name.values())
        ]
        if self.budget.money is not None:
            lacking = [name for name, shape in cluster.by_name.items() if shape.price is None]
            where = (
                [f"cluster.shapes.{name}.price" for name in lacking] if cluster.shapes else ["cluster.price"]
            )
            problems += [
                f"{path}: got nothing, expected what a worker costs in an hour"
                for path in where[: len(lacking)]
            ]
        return problems

    def problems_of_stopping(self) -> list[str]:
        """What the assessor that is to stop trials cannot work with."""
        rule, first, rungs = self.search.stop, self.objectives[0], len(self.search.rungs)
        if rule == "halving":
            return []
        problems = []
        if is_cost(first.metric):
            problems.append(f"got the first objective {first.metric!r}, expected one that training changes")
        if rule == CURVE and first.direction != "maximize":
            problems.append(f"got {first.metric} to minimize, expected a first objective to maximize")
        needed = LEAST_POINTS + 1 if rule == CURVE else 2
        if rungs < needed:
            problems.append(f"got {rungs} rungs, expected {needed} or more in search.rungs")
        return [f"search.stop: {rule}: {problem}, or 'halving'" for problem in problems]

    def problems_of_proxies(self) -> list[str]:
        """A proxy where no architecture is searched, so that there is nothing to rank."""
        if self.search.proxy is None or self.space.architecture:
            return []
        return [
            f"search.proxy: got {self.search.proxy!r}, expected options in space.architecture, which it is to rank"
        ]

    def doubts(self) -> list[str]:
        """What may be asked for and is seldom meant, a sentence each."""
        taught, distill, last = self.train.epochs, self.space.distill, self.search.rungs[-1]
        if distill is None or "reference" not in distill.teacher or not 0 < OUTGROWN * taught <= last:
            return []
        return [
            f"the reference is trained for {taught:g} epochs (train.epochs) and its students for up to {last:g} "
            f"(search.rungs): they outgrow it, and distillation holds them back; train it for longer, or begin with "
            f"weights (train.epochs: 0)"
        ]

    def problems_of_targets(self) -> list[str]:
        """One line for each objective or constraint on a metric `name@target` of a target that is not there."""
        return [
            f"{path}: got the metric {metric!r}, expected a target among {', '.join(self.target)}"
            f"{nearest(metric.partition('@')[2], self.target)}"
            for path, metric in self._named_metrics()
            if "@" in metric and metric.partition("@")[2] not in self.target
        ]

    def _named_metrics(self) -> list[tuple[str, str]]:
        """Where a metric is named, and which."""
        named = [(f"objectives.{o.metric}", o.metric) for o in self.objectives]
        return named + [(f"constraints[{i}]", c.metric) for i, c in enumerate(self.constraints)]

    def problems_of_metrics(self, produced: Iterable[str]) -> list[str]:
        """One line for each objective or constraint on a metric that is not among those `produced`."""
        known = sorted({*produced, *COMPUTABLE, "latency_ms"})
        return [
            f"{path}: got the metric {metric!r}, expected one of {', '.join(known)}{nearest(metric, known)}"
            for path, metric in self._named_metrics()
            if metric not in known
        ]


def untrained(given: Mapping[str, Any]) -> list[str]:
    """What a spec asks of training although no rung trains; looks at plain data, right or wrong."""
    rungs = _at(given, "search", "rungs")
    if not isinstance(rungs, list | tuple) or not rungs or any(rung is False or rung != 0 for rung in rungs):
        return []
    quantize, sparsify = _at(given, "space", "quantize"), _at(given, "space", "sparsify", "schedule")
    quantizers = _options(_at(quantize, "quantizer") or _at(quantize, "aware"))
    prune = _options(_at(given, "space", "prune", "schedule"))
    asked = {
        "space.distill": bool(_at(given, "space", "distill")),
        "space.train": bool(_at(given, "space", "train")),
        "space.transfer": bool(_at(given, "space", "transfer")),
        "space.data_pruning": bool(_at(given, "space", "data_pruning")),
        # Rounds of `iterative` score channels anew, with or without training; single weights are scored alike.
        "space.prune.schedule": any(schedule in ("agp", "lottery_ticket") for schedule in prune),
        "space.prune.guard": _at(given, "space", "prune", "guard") is not None,
        "space.sparsify.schedule": any(schedule != "one_shot" for schedule in _options(sparsify)),
        "space.quantize.quantizer": any(quantizer in ("qat", "lsq") for quantizer in quantizers),
    }
    return [
        f"{path}: got something to train for, expected a rung above 0 in search.rungs (it is {shown(rungs)})"
        for path, is_asked in asked.items()
        if is_asked
    ]


def unshared(given: Mapping[str, Any]) -> list[str]:
    """What a spec asks of shared weights that they cannot do; looks at plain data, right or wrong."""
    if not _at(given, "supernet"):
        return []
    architecture, frozen = _at(given, "space", "architecture"), _at(given, "train", "freeze")
    problems = []
    if not architecture:
        problems.append(
            f"space.architecture: got {shown(architecture)}, expected options, which share the supernet's weights"
        )
    if frozen:
        problems.append(
            f"train.freeze: got {shown(frozen)} beside a supernet, all of which is trained; expected none"
        )
    return problems


def _options(given: Any) -> list[Any]:
    """What a field of options gives as a value, a list or `{options: [...]}`."""
    listed = given.get("options") if isinstance(given, Mapping) else given
    return list(listed) if isinstance(listed, list | tuple) else [] if listed is None else [listed]


def _at(given: Any, *path: str) -> Any:
    for name in path:
        given = given.get(name) if isinstance(given, Mapping) else None
    return given
