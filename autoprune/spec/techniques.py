"""The sections of a space, one for each technique: what may be searched about it, and its names.

The `description` of a field says what it accepts; it is what a message shows after "expected". Fields hold choices
(`Options`, `Range`), so nothing below the spec parses anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

from autoprune.references import nearest
from autoprune.space import Choice, Options
from autoprune.spec.fields import number, one_of, shown, written
from autoprune.spec.parts import (
    Globs,
    Section,
    existing_file,
    listed,
)

BITS = (*range(2, 17), 32)
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
        existing_file(where, info)
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
