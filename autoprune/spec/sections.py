"""The sections of a spec, as pydantic models: what each field accepts, and what it is when it is left out.

The `description` of a field says what it accepts; it is what a message shows after "expected".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)

import autoprune.spec.nni_space as nni_space
from autoprune.references import is_argument
from autoprune.space import Choice, Value
from autoprune.spec.fields import plain_values, shown
from autoprune.spec.parts import (
    Globs,
    Section,
    as_tuple,
    existing_file,
    known_name,
    listed,
    switch,
)
from autoprune.spec.techniques import (
    HOLES,
    DataPruningSpace,
    DepthSpace,
    DistillSpace,
    FactorizeSpace,
    PruneSpace,
    QuantizeSpace,
    SparsifySpace,
    StoreSpace,
    TrainSpace,
    TransferSpace,
)

TASKS = (
    *("digits", "mnist", "fashion_mnist", "cifar10", "banking77", "tinyshakespeare"),
    *("lenet_300_100", "lenet_5", "spoken_digits", "activities"),
    *("classification", "regression", "multi_label", "token_classification", "language_model"),
    *("segmentation", "detection", "anomaly"),
)
TARGETS = ("onnxruntime", "openvino", "torch", "table", "remote", "asic", "fpga")
TIMED, RESOURCE = ("onnxruntime", "openvino", "torch"), "resource"
"""Targets that measure what runs on a machine, be it this one or, with this argument, a node that has the resource."""
FORMATS = (
    "onnx",
    "openvino",
    "torch_export",
    "aotinductor",
    "executorch",
    "litert",
    "savedmodel",
    "qonnx",
    "hls4ml",
)
LIMITS = ("trials", "minutes", "device_seconds", "device_hours", "money")
SAMPLERS = (
    *("auto", "guided", "tpe", "nsga2", "random", "evolution"),
    *("nni-tpe", "nni-evolution", "nni-random", "nni-grid"),
)
PROXIES = ("synflow", "jacob_cov", "snip", "grad_norm")
NOT_SAMPLERS = {
    "nni-anneal": "it needs hyperopt, which today's NumPy breaks; expected nni-evolution or evolution",
    "nni-bohb": "it is an advisor of NNI's manager, which is not started; expected nni-tpe beside search.rungs",
    "nni-gp": "it fails with today's SciPy; expected guided, which has a Gaussian process of its own",
    "nni-hyperband": "it is an advisor of NNI's manager, which is not started; expected search.rungs",
    "nni-metis": "it fails with today's SciPy and takes whole numbers only; expected guided",
    "nni-pbt": "it needs NNI's manager, which is not started; expected search.inherit: nearest",
    "nni-ppo": "it needs gym, and the weights that it learns are no answer of a search; expected evolution",
    "nni-smac": "it needs smac 1.x, which does not install here; expected guided",
}
"""Tuners of NNI that are refused: why, and what there is instead."""


MEDIAN, CURVE = "nni-medianstop", "nni-curvefitting"
LEAST_POINTS = 4  # that a learning curve is fitted to


def _sampler(name: str, info: ValidationInfo) -> str:
    if name in NOT_SAMPLERS:
        raise ValueError(f"got {name!r}: {NOT_SAMPLERS[name]}")
    return name if known_name(name, SAMPLERS) in SAMPLERS else existing_file(name, info)


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
    for name, options in given.items():
        if not is_argument(name):
            problems.append(f"got the name {shown(name)}, expected that of an argument of the model")
            continue
        try:
            values[name] = plain_values(options)
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
    depth: Annotated[DepthSpace | None, BeforeValidator(switch)] = None
    prune: Annotated[PruneSpace | None, BeforeValidator(switch)] = None
    factorize: Annotated[FactorizeSpace | None, BeforeValidator(switch)] = None
    sparsify: Annotated[SparsifySpace | None, BeforeValidator(switch)] = None
    distill: Annotated[DistillSpace | None, BeforeValidator(switch)] = None
    quantize: Annotated[QuantizeSpace | None, BeforeValidator(switch)] = None
    store: Annotated[StoreSpace | None, BeforeValidator(switch)] = None
    data_pruning: Annotated[DataPruningSpace | None, BeforeValidator(switch)] = None
    transfer: Annotated[TransferSpace | None, BeforeValidator(switch)] = None
    train: TrainSpace | None = None
    nni: dict[str, Any] | None = Field(
        default=None, description="NNI's search space: a JSON file, or its content as it is"
    )

    @model_validator(mode="before")
    @classmethod
    def _with_nni(cls, given: Any, info: ValidationInfo) -> Any:
        """A search space of NNI says what the spec does not say itself."""
        if not isinstance(given, Mapping) or given.get("nni") is None:
            return given
        content = nni_space.read(given["nni"], (info.context or {}).get("folder"))
        space = {**given, "nni": dict(content)}
        for section, fields in nni_space.sections(content).items():
            before = space.get(section)
            if before is None or isinstance(before, Mapping):
                space[section] = {**fields, **(before or {})}
            elif before is True or before == "default":
                space[section] = fields
        return space

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


class Supernet(Section):
    """Weight sharing: one network with all of `space.architecture` in it, from which candidates take their weights.

    It is trained once, before the search, and starts from the reference; what it takes counts towards the budget.
    """

    epochs: float = Field(default=10.0, gt=0, description="a number above 0")
    networks: int = Field(default=2, ge=0, le=16, description="a whole number from 0 to 16")


class Budget(Section):
    """When the search ends: at whichever limit is reached first. At least one is needed.

    Nothing is dispatched that is expected to pass a limit, together with what is under way. From the share `soft` of
    any limit on but that of trials, no new trial is begun, and the best of those begun go on.
    """

    trials: int | None = Field(default=None, ge=1, description="a whole number of 1 or more")
    minutes: float | None = Field(default=None, gt=0, description="a number above 0")
    device_seconds: float | None = Field(default=None, gt=0, description="a number above 0")
    device_hours: float | None = Field(default=None, gt=0, description="a number above 0")
    money: float | None = Field(default=None, gt=0, description="a number above 0")
    soft: float = Field(default=1.0, gt=0, le=1, description="a number above 0, at most 1")

    @model_validator(mode="after")
    def _is_limited(self) -> Budget:
        if not self.limits:
            raise ValueError(f"got no limit, expected at least one of {', '.join(LIMITS)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that were given, by name."""
        given = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in given.items() if value is not None}


def _growing(rungs: tuple[float, ...]) -> tuple[float, ...]:
    if not rungs or list(rungs) != sorted(set(rungs)):
        raise ValueError(f"got {shown(list(rungs))}, expected a list of growing epochs: [0, 1, 3]")
    return rungs


class Revalidate(Section):
    """How the front is re-validated at the end: its best trials are trained again, in full, over several seeds."""

    best: int = Field(default=5, ge=1, description="a whole number of 1 or more")
    seeds: int = Field(default=3, ge=1, le=100, description="a whole number from 1 to 100")


def _inherit(given: Any) -> Any:
    """Run folders of a few versions say `auto` for what is left out."""
    return None if given == "auto" else given


class Search(Section):
    """Who proposes, and when a trial is stopped.

    Rungs are epochs of training in all, 0 for none: a trial that is not among the best 1/`reduction` at its
    rung is stopped there, or (`stop`) one that an assessor of NNI thinks little of. `proxy` is a figure of untrained
    architectures that the guided sampler goes by as long as it ranks better than the number of parameters.
    """

    sampler: Annotated[str, AfterValidator(_sampler)] = Field(
        default="auto", description=f"{', '.join(SAMPLERS)} or 'file.py:Name'"
    )
    rungs: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(as_tuple), AfterValidator(_growing)
    ] = Field(default=(0.0, 1.0, 3.0), description="a list of growing epochs, each 0 or more: [0, 1, 3]")
    reduction: int = Field(default=3, ge=2, description="a whole number of 2 or more")
    stop: Literal["halving", "nni-medianstop", "nni-curvefitting"] = "halving"
    warm_start: bool = Field(default=True, description="true or false")
    profile: Literal["full", "costs"] | None = None
    inherit: Annotated[Literal["nearest", "reference"] | None, BeforeValidator(_inherit)] = None
    proxy: Literal["auto", "synflow", "jacob_cov", "snip", "grad_norm"] | None = None
    revalidate: Annotated[Revalidate | None, BeforeValidator(switch)] = None

    @property
    def inherits(self) -> bool:
        """Whether trials start from one another: where it is left to us, unless re-validations start anew."""
        return self.inherit == "nearest" or (self.inherit is None and self.revalidate is None)
