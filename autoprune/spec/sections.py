"""The sections of a spec, as pydantic models: what each field accepts, and what it is when it is left out.

The `description` of a field says what it accepts; it is what a message shows after "expected". Fields of a
space hold choices (`Options`, `Range`), so nothing below the spec parses anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from autoprune.errors import UnresolvedReference
from autoprune.references import find_file, nearest
from autoprune.space import Choice, Options, Value
from autoprune.spec.fields import number, one_of, plain_values, shown, written

BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
CRITERIA = (
    *("l1", "l2", "lamp", "fpgm", "taylor", "hessian"),
    *("bn_scale", "activation", "mrmr", "random"),
)
SCHEDULES = ("one_shot", "iterative", "agp", "lottery_ticket")
QUANTIZERS = ("ptq", "qat", "lsq", "codebook")
CALIBRATIONS = ("mse", "min_max", "percentile", "entropy")
GRANULARITIES = ("per_channel", "per_tensor")
HOLES = ("channel", "head", "block", "unstructured", "n_m")
SPARSITY_PATTERNS = ("unstructured", "2:4", "4:8")
SPARSITY_CRITERIA = ("l1", "lamp", "taylor", "hessian", "activation", "random")
SPARSITY_SCHEDULES = ("one_shot", "iterative", "agp", "dynamic_surgery", "movement", "lottery_ticket")
CODINGS = ("none", "huffman", "entropy")
FACTORIZATIONS = ("svd",)
DISTILLATION = ("logits", "dkd", "hints", "attention_transfer", "self")
DATA_PRUNING = ("random", "el2n", "forgetting", "margin", "moderate", "herding")
TASKS = (
    *("digits", "mnist", "fashion_mnist", "cifar10", "banking77", "tinyshakespeare"),
    *("classification", "regression", "multi_label", "token_classification", "language_model"),
    *("segmentation", "detection", "anomaly"),
)
TARGETS = ("onnxruntime",)
SAMPLERS = ("auto", "guided", "tpe", "nsga2", "random", "evolution")


class Section(BaseModel):
    """Part of a spec: frozen, no unknown fields, no conversion of text to numbers."""

    # Built when first used: importing autoprune.spec, as every command does, then takes a third less time.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def _existing_file(reference: str, info: ValidationInfo) -> str:
    """Refuse `file.py:Name` without such a file, where the folder to look in is given as context."""
    if not reference.strip():
        raise ValueError(
            "got an empty text, expected 'file.py:Name', 'package.module:Name' or a built-in name"
        )
    folder = (info.context or {}).get("folder")
    if folder is not None:
        try:
            find_file(reference, folder)
        except (UnresolvedReference, OSError, ValueError) as error:
            raise ValueError(f"got {shown(reference)}, expected an existing file: {error}") from None
    return reference


def _named(reference: str, known: tuple[str, ...]) -> str:
    """Refuse a short name that is not built in; a file or a package is looked into later."""
    if ":" not in reference and reference not in known:
        listed = ", ".join(known)
        raise ValueError(
            f"got {shown(reference)}, expected {listed} or 'file.py:Name'{nearest(reference, known)}"
        )
    return reference


def _sampler(name: str, info: ValidationInfo) -> str:
    return name if _named(name, SAMPLERS) in SAMPLERS else _existing_file(name, info)


def _switch(given: Any) -> Any:
    """`true` turns a technique on with its defaults, `false` leaves it out."""
    if given is None:
        raise ValueError("got nothing, expected true (its defaults), false (leave it out), or its settings")
    if isinstance(given, bool):
        return {} if given else None
    return given


def as_tuple(given: Any) -> Any:
    """A list as the tuple that a frozen section holds; anything else as it is, to be refused."""
    return tuple(given) if isinstance(given, list) else given


def listed(given: Any) -> Any:
    """One text as a tuple of it; else as `as_tuple`."""
    return (given,) if isinstance(given, str) else as_tuple(given)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value is made of what YAML can hold, so that a run folder can hold it."""
    if isinstance(value, list | tuple):
        return depth < 8 and all(_is_plain(v, depth + 1) for v in value)
    if isinstance(value, Mapping):
        return depth < 8 and all(isinstance(k, str) and _is_plain(v, depth + 1) for k, v in value.items())
    if isinstance(value, float) and not math.isfinite(value):
        return False  # JSON has no such numbers
    return value is None or isinstance(value, str | bool | int | float)


_ratio = number(0.0, "a number from 0 up to but not including 1", lambda v: 0 <= v < 1)
_temperature = number(None, "a number above 0, at most 1000", lambda v: 0 < v <= 1000)
_kd_weight = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)
_dkd_weight = number(None, "a number from 0 to 100", lambda v: 0 <= v <= 100)
_hint_weight = number(None, "a number above 0, at most 1000", lambda v: 0 < v <= 1000, log=True)
_distillation = one_of(DISTILLATION)
_learning_rate = number(None, "a number above 0, at most 100", lambda v: 0 < v <= 100, log=True)
_sparsify_pattern, _sparsify_criterion = one_of(SPARSITY_PATTERNS), one_of(SPARSITY_CRITERIA)
_share = number(1.0, "a number above 0, at most 1", lambda v: 0 < v <= 1)
_frozen = number(0.0, "a number from 0 to 1", lambda v: 0 <= v <= 1)
_factorization, _data_pruning = one_of(FACTORIZATIONS), one_of(DATA_PRUNING)
_sparsify_schedule, _coding = one_of(SPARSITY_SCHEDULES), one_of(CODINGS, neutral="none")
_criterion, _schedule, _quantizer = one_of(CRITERIA), one_of(SCHEDULES), one_of(QUANTIZERS)
_calibration, _granularity = one_of(CALIBRATIONS), one_of(GRANULARITIES)
_true_or_false = one_of((False, True), neutral=False)
_bits = one_of(BITS, neutral=32)

ExistingReference = Annotated[str, AfterValidator(_existing_file)]
Globs = Annotated[
    tuple[str, ...],
    BeforeValidator(as_tuple),
    Field(description="a list of names, with * and ? as wildcards"),
]


class Reference(Section):
    """An object named in a spec, and the keyword arguments for its constructor.

    In a spec it is a text, or `{use: text, argument: value, ...}`.
    """

    use: ExistingReference = Field(
        description="a text: 'file.py:Name', 'package.module:Name' or a built-in name"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments by name")

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {"use": given}
        if isinstance(given, Mapping) and "use" in given:
            arguments = {name: value for name, value in given.items() if name != "use"}
            wrong = [
                name for name, value in arguments.items() if not (isinstance(name, str) and _is_plain(value))
            ]
            if wrong:
                raise ValueError(
                    f"got {shown(wrong[0])} in it, expected named arguments of plain, finite data"
                )
            return {"use": given["use"], "arguments": arguments}
        raise ValueError(
            f"got {shown(given)}, expected 'file.py:Name', a built-in name, or {{use: ..., argument: ...}}"
        )

    @model_serializer
    def _to_spec(self) -> Any:
        return {"use": self.use, **self.arguments} if self.arguments else self.use


def named(*known: str) -> AfterValidator:
    """A validator that refuses references to built-in names other than these."""

    def check(reference: Reference) -> Reference:
        _named(reference.use, known)
        return reference

    return AfterValidator(check)


# Field of a space -> the schedule that reads it.
_READ_BY = {
    "steps": "iterative",
    "guard": "iterative",
    "rounds": "lottery_ticket",
    "rewind": "lottery_ticket",
    "compare": "lottery_ticket",
}


class GradualSpace(Section):
    """What the schedules go by that train in between; none of it is a choice."""

    steps: int = Field(default=3, ge=1, le=100, description="a whole number from 1 to 100")
    guard: float | None = Field(
        default=None, description="a number: by how much the first metric may fall below the dense network's"
    )
    rounds: int = Field(default=3, ge=1, le=100, description="a whole number from 1 to 100")
    rewind: float = Field(default=0.0, ge=0, le=0.5, description="a share of the training from 0 to 0.5")
    compare: bool = Field(default=False, description="true or false")

    @model_validator(mode="after")
    def _is_read(self) -> GradualSpace:
        """Refuse what no schedule among the options reads."""
        schedules = getattr(self, "schedule").values  # noqa: B009 - a field of the spaces made of this one
        unread = [
            f".{name}: got {shown(getattr(self, name))}, expected it only where {reader!r} is among schedule "
            f"(got {', '.join(map(str, schedules))})"
            for name, reader in _READ_BY.items()
            if reader not in schedules and getattr(self, name) != type(self).model_fields[name].default
        ]
        if unread:
            raise ValueError("\n".join(unread))
        return self


class PruneSpace(GradualSpace):
    """Structured pruning: one ratio for each group of coupled layers."""

    ratio: Annotated[Choice, PlainValidator(_ratio), PlainSerializer(written)] = _ratio([0.0, 0.8])
    criterion: Annotated[Options, PlainValidator(_criterion), PlainSerializer(written)] = _criterion("l1")
    schedule: Annotated[Options, PlainValidator(_schedule), PlainSerializer(written)] = _schedule("one_shot")
    granularity: Annotated[tuple[Literal["channel", "head"], ...], BeforeValidator(listed)] = Field(
        default=("channel", "head"), min_length=1, description="channel, head, or a list of them"
    )
    include: Globs = ("*",)
    exclude: Globs = ()
    tie: Globs = ()
    unproven: bool = Field(default=False, description="true or false")


class FactorizeSpace(Section):
    """Layers replaced by two of low rank: for each layer a share of its full rank; 1 leaves it whole."""

    rank: Annotated[Choice, PlainValidator(_share), PlainSerializer(written)] = _share([0.2, 1.0])
    method: Annotated[Options, PlainValidator(_factorization), PlainSerializer(written)] = _factorization(
        "svd"
    )
    include: Globs = ("*",)
    exclude: Globs = ()


class SparsifySpace(GradualSpace):
    """Zeros inside weights: one sparsity for each layer, or with `scope: global` one for the network."""

    sparsity: Annotated[Choice, PlainValidator(_ratio), PlainSerializer(written)] = _ratio([0.0, 0.9])
    pattern: Annotated[Options, PlainValidator(_sparsify_pattern), PlainSerializer(written)] = (
        _sparsify_pattern("unstructured")
    )
    criterion: Annotated[Options, PlainValidator(_sparsify_criterion), PlainSerializer(written)] = (
        _sparsify_criterion("l1")
    )
    schedule: Annotated[Options, PlainValidator(_sparsify_schedule), PlainSerializer(written)] = (
        _sparsify_schedule("one_shot")
    )
    scope: Literal["layer", "global"] = "layer"
    include: Globs = ("*",)
    exclude: Globs = ()

    @model_validator(mode="after")
    def _ranks_what_it_can(self) -> SparsifySpace:
        patterns = [value for value in self.pattern.values if value != "unstructured"]
        if self.scope == "global" and patterns:
            raise ValueError(
                f".pattern: got {shown(patterns[0])} with scope: global, expected unstructured: N:M is a share of its "
                "own in each layer"
            )
        return self


class DepthSpace(Section):
    """Whole blocks of a row of their like: how many are dropped."""

    blocks: Annotated[Globs, BeforeValidator(lambda given: ("*",) if given == "all" else given)] = Field(
        default=("*",), description="'all', or a list of names, with * and ? as wildcards"
    )
    most: float = Field(default=0.5, ge=0, le=1, description="a number from 0 to 1")


class StoreSpace(Section):
    """How the weight file is coded; it costs no accuracy."""

    coding: Annotated[Options, PlainValidator(_coding), PlainSerializer(written)] = _coding(
        ["none", "huffman"]
    )


class DataPruningSpace(Section):
    """Which training examples candidates train on, and how many; 1 keeps all."""

    method: Annotated[Options, PlainValidator(_data_pruning), PlainSerializer(written)] = _data_pruning(
        ["el2n", "random"]
    )
    keep: Annotated[Choice, PlainValidator(_share), PlainSerializer(written)] = _share([0.3, 1.0])


class TransferSpace(Section):
    """How much of a network that was trained for something else stays as it is: a share of its first layers."""

    frozen: Annotated[Choice, PlainValidator(_frozen), PlainSerializer(written)] = _frozen([0.0, 0.8])


def _teachers(given: Any, info: ValidationInfo) -> tuple[str, ...]:
    """One teacher or several, each once; what can be no network is refused."""
    listed = list(given) if isinstance(given, list | tuple) else [given]
    repeated = [name for place, name in enumerate(listed) if name in listed[:place]]
    if repeated:
        raise ValueError(f"got {shown(repeated[0])} twice, expected each teacher once")
    if problems := [problem for name in listed or [given] if (problem := _no_teacher(name, info))]:
        raise ValueError("\n".join(problems))
    return tuple(listed)


def _no_teacher(name: Any, info: ValidationInfo) -> str:
    """Why nothing can teach by that name: it has no file, package or folder behind it."""
    folder = (info.context or {}).get("folder")
    accepted = (
        "'reference', 'file.py:Name', 'package.module:Name', the folder of an artifact, or a list of these"
    )
    if not isinstance(name, str) or not name.strip():
        return f"got {shown(name)}, expected {accepted}"
    if name == "reference" or folder is None:
        return ""
    where = name.partition("?")[0]
    if ":" not in where:
        there = any((base / where).exists() for base in (folder, Path.cwd()))
        return "" if there else f"got {shown(name)}, expected {accepted}{nearest(name, ['reference'])}"
    try:
        _existing_file(where, info)
    except ValueError as error:
        return str(error)
    return ""


def _layers(given: Any) -> Options:
    """Alternatives, each a list of patterns of names, as text; `auto` finds three layers."""
    listed = list(given) if isinstance(given, list | tuple) else [given]
    if (
        isinstance(given, list | tuple)
        and all(isinstance(part, str) for part in listed)
        and listed != ["auto"]
    ):
        listed = [listed]
    wrong = [part for part in listed if part != "auto" and not _is_patterns(part)]
    if wrong or not listed:
        raise ValueError(
            f"got {shown(wrong[0] if wrong else given)}, expected 'auto', a list of names, with * and ? as "
            "wildcards, or a list of such lists to choose from"
        )
    return one_of(tuple(_joined(part) for part in listed))([_joined(part) for part in listed])


def _is_patterns(given: Any) -> bool:
    names = list(given) if isinstance(given, list | tuple) else []
    return bool(names) and all(isinstance(name, str) and name.strip() and name != "auto" for name in names)


def _joined(patterns: Any) -> str:
    return patterns if isinstance(patterns, str) else ", ".join(patterns)


def _written_layers(layers: Options) -> Any:
    return [text if text == "auto" else text.split(", ") for text in map(str, layers.values)]


class DistillSpace(Section):
    """Distillation: what a candidate learns from besides the labels, and from whom."""

    temperature: Annotated[Choice, PlainValidator(_temperature), PlainSerializer(written)] = _temperature(
        [1, 8]
    )
    kd_weight: Annotated[Choice, PlainValidator(_kd_weight), PlainSerializer(written)] = _kd_weight([0, 1])
    teacher: Annotated[
        tuple[str, ...],
        PlainValidator(_teachers),
        PlainSerializer(lambda names: names[0] if len(names) == 1 else list(names)),
    ] = ("reference",)
    method: Annotated[Options, PlainValidator(_distillation), PlainSerializer(written)] = _distillation(
        "logits"
    )
    alpha: Annotated[Choice, PlainValidator(_dkd_weight), PlainSerializer(written)] = _dkd_weight(1.0)
    beta: Annotated[Choice, PlainValidator(_dkd_weight), PlainSerializer(written)] = _dkd_weight([1, 8])
    hint_weight: Annotated[Choice, PlainValidator(_hint_weight), PlainSerializer(written)] = _hint_weight(
        [0.1, 10]
    )
    layers: Annotated[Options, PlainValidator(_layers), PlainSerializer(_written_layers)] = _layers("auto")


def _fixed_bits(given: Any) -> Any:
    """Bits of layers that are no choice, by pattern of their names."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"got {shown(given)}, expected bits by layer name, such as {{classifier: 8}}")
    for name, bits in given.items():
        if isinstance(bits, bool) or bits not in BITS:
            raise ValueError(
                f".{name}: got {shown(bits)}, expected a number of bits: {', '.join(map(str, BITS))}"
            )
    return dict(given)


class QuantizeSpace(Section):
    """Bits of weights and activations, layer by layer; 32 leaves a layer as it is."""

    weight_bits: Annotated[Options, PlainValidator(_bits), PlainSerializer(written)] = _bits([4, 8, 32])
    activation_bits: Annotated[Options, PlainValidator(_bits), PlainSerializer(written)] = _bits([8, 32])
    quantizer: Annotated[Options, PlainValidator(_quantizer), PlainSerializer(written)] = _quantizer("ptq")
    calibration: Annotated[Options, PlainValidator(_calibration), PlainSerializer(written)] = _calibration(
        "mse"
    )
    granularity: Annotated[Options, PlainValidator(_granularity), PlainSerializer(written)] = _granularity(
        "per_channel"
    )
    bias_correction: Annotated[Options, PlainValidator(_true_or_false), PlainSerializer(written)] = (
        _true_or_false(False)
    )
    include: Globs = ("*",)
    exclude: Globs = ()
    fixed: Annotated[dict[str, int], BeforeValidator(_fixed_bits)] = Field(
        default_factory=dict, description="bits by pattern of layer names"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, given: Any) -> Any:
        """`aware` is another spelling of `quantizer`."""
        if not isinstance(given, Mapping) or "aware" not in given:
            return given
        if "quantizer" in given:
            raise ValueError(
                "got both quantizer and aware, expected one: aware is another spelling of quantizer"
            )
        return {("quantizer" if name == "aware" else name): value for name, value in given.items()}


class TrainSpace(Section):
    """What may vary in how a candidate is trained."""

    learning_rate: Annotated[Choice, PlainValidator(_learning_rate), PlainSerializer(written)] = Field(
        description="a number above 0, [low, high] (sampled logarithmically) or options"
    )


def _architecture(given: Any) -> Any:
    """Options by keyword argument of the task's model; `default` for those that the task itself offers."""
    if given == "default":
        return given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"got {shown(given)}, expected 'default' or lists of values by argument of the model"
        )
    values: dict[str, tuple[Value, ...]] = {}
    problems = []
    for name, listed in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            problems.append(f"got the name {shown(name)}, expected that of an argument of the model")
            continue
        try:
            values[name] = plain_values(listed)
        except ValueError as error:
            problems.append(f".{name}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return values


def _written_architecture(values: dict[str, tuple[Value, ...]] | Literal["default"]) -> Any:
    return values if values == "default" else {name: list(listed) for name, listed in values.items()}


def _beside(given: Any, **added: Any) -> Any:
    """A technique's section with some settings more; what is no section is left to be refused."""
    if given is None or given is True:
        return added
    return {**added, **given} if isinstance(given, Mapping) else given


class SpaceSpec(Section):
    """What the search may decide. A technique whose section is absent is off."""

    architecture: Annotated[
        dict[str, tuple[Value, ...]] | Literal["default"],
        PlainValidator(_architecture),
        PlainSerializer(_written_architecture),
    ] = Field(
        default_factory=dict, description="lists of values by argument of the task's model, or 'default'"
    )
    depth: Annotated[DepthSpace | None, BeforeValidator(_switch)] = None
    prune: Annotated[PruneSpace | None, BeforeValidator(_switch)] = None
    factorize: Annotated[FactorizeSpace | None, BeforeValidator(_switch)] = None
    sparsify: Annotated[SparsifySpace | None, BeforeValidator(_switch)] = None
    distill: Annotated[DistillSpace | None, BeforeValidator(_switch)] = None
    quantize: Annotated[QuantizeSpace | None, BeforeValidator(_switch)] = None
    store: Annotated[StoreSpace | None, BeforeValidator(_switch)] = None
    data_pruning: Annotated[DataPruningSpace | None, BeforeValidator(_switch)] = None
    transfer: Annotated[TransferSpace | None, BeforeValidator(_switch)] = None
    train: TrainSpace | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_granularity(cls, given: Any) -> Any:
        """`granularity` names shapes of holes, and turns on the techniques that make them, beside what is given."""
        if not isinstance(given, Mapping) or "granularity" not in given:
            return given
        holes = listed(given["granularity"])
        if not isinstance(holes, tuple) or not holes or any(hole not in HOLES for hole in holes):
            raise ValueError(
                f".granularity: got {shown(given['granularity'])}, expected {', '.join(HOLES)}, or a list of them"
            )
        space = {name: value for name, value in given.items() if name != "granularity"}
        units = [hole for hole in ("channel", "head") if hole in holes]
        patterns = [
            *(["unstructured"] if "unstructured" in holes else []),
            *(["2:4", "4:8"] if "n_m" in holes else []),
        ]
        if units:
            space["prune"] = _beside(space.get("prune"), granularity=units)
        if "block" in holes:
            space["depth"] = _beside(space.get("depth"))
        if patterns:
            space["sparsify"] = _beside(space.get("sparsify"), pattern=patterns)
        return space

    @property
    def learning_rate(self) -> Choice | None:
        """The learning rate as a choice, None when it is fixed by the spec's `train`."""
        return self.train.learning_rate if self.train else None


class Train(Section):
    """How networks are trained: the reference for `epochs`, candidates for what their rung allows.

    A candidate's rungs are set in `search.rungs`; everything else here holds for both.
    """

    epochs: float = Field(
        default=10.0, ge=0, description="a number of 0 or more; 0 when the task's model is pretrained"
    )
    batch_size: int = Field(default=128, ge=1, description="a whole number of 1 or more")
    learning_rate: float = Field(default=0.05, gt=0, le=100, description="a number above 0, at most 100")
    weight_decay: float = Field(
        default=5e-4, ge=0, lt=1, description="a number from 0 up to but not including 1"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="a number from 0 up to but not including 1")
    optimizer: Literal["sgd", "adamw"] = "sgd"
    precision: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    compile: bool = Field(default=False, description="true or false")
    freeze: Globs = ()

    @model_validator(mode="before")
    @classmethod
    def _rate_of_the_optimizer(cls, given: Any) -> Any:
        """AdamW wants a learning rate some fifty times smaller than SGD's."""
        if isinstance(given, Mapping) and given.get("optimizer") == "adamw" and "learning_rate" not in given:
            return {**given, "learning_rate": 1e-3}
        return given


class Budget(Section):
    """When the search ends: at whichever limit is reached first. At least one is needed."""

    trials: int | None = Field(default=None, ge=1, description="a whole number of 1 or more")
    minutes: float | None = Field(default=None, gt=0, description="a number above 0")
    device_seconds: float | None = Field(default=None, gt=0, description="a number above 0")

    @model_validator(mode="after")
    def _is_limited(self) -> Budget:
        if self.trials is None and self.minutes is None and self.device_seconds is None:
            raise ValueError("got no limit, expected at least one of trials, minutes, device_seconds")
        return self


def _growing(rungs: tuple[float, ...]) -> tuple[float, ...]:
    if not rungs or list(rungs) != sorted(set(rungs)):
        raise ValueError(f"got {shown(list(rungs))}, expected a list of growing epochs: [0, 1, 3]")
    return rungs


class Revalidate(Section):
    """How the front is re-validated at the end: its best trials are trained again, in full, over several seeds."""

    best: int = Field(default=5, ge=1, description="a whole number of 1 or more")
    seeds: int = Field(default=3, ge=1, le=100, description="a whole number from 1 to 100")


class Search(Section):
    """Who proposes, and when a trial is stopped.

    Rungs are epochs of training in all, 0 for none: a trial that is not among the best 1/`reduction` at its
    rung is stopped there.
    """

    sampler: Annotated[str, AfterValidator(_sampler)] = Field(
        default="auto", description=f"{', '.join(SAMPLERS)} or 'file.py:Name'"
    )
    rungs: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(as_tuple), AfterValidator(_growing)
    ] = Field(default=(0.0, 1.0, 3.0), description="a list of growing epochs, each 0 or more: [0, 1, 3]")
    reduction: int = Field(default=3, ge=2, description="a whole number of 2 or more")
    warm_start: bool = Field(default=True, description="true or false")
    profile: Literal["full", "costs"] | None = None
    inherit: Literal["reference", "nearest"] = "reference"
    revalidate: Annotated[Revalidate | None, BeforeValidator(_switch)] = None


class Cluster(Section):
    """Where the search runs."""

    address: str = Field(
        default="local", min_length=1, description="'local', 'auto' or HOST:PORT of a running Ray"
    )
    workers: int = Field(default=2, ge=1, description="a whole number of 1 or more")
    cpus_per_worker: float = Field(default=1.0, ge=0, description="a number of 0 or more")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="a number of 0 or more")
