"""Where a search runs: how many workers, of which shape, and at what price.

A shape is what one worker takes of a node. A search has one, given by the fields of `cluster` themselves; or several
under `shapes`, each with fields of its own, and `rungs` says which of them evaluates which rung:

    cluster:
      shapes: {small: {workers: 8, price: 0.05}, large: {workers: {min: 0, max: 2}, gpus_per_worker: 1, price: 2.5}}
      rungs: [small, small, large]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from autoprune.references import nearest
from autoprune.spec.fields import shown
from autoprune.spec.parts import Section, as_tuple

DEFAULT = "worker"  # the name of the only shape there is
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class Workers(Section):
    """How many workers there are: always `min`, and up to `max` of them while the queue needs them.

    In a spec it is a number, or `{min, max}`. With `min: 0` a search begins on a cluster that has no room for it yet.
    """

    min: int = Field(default=1, ge=0, description="a whole number of 0 or more")
    max: int = Field(ge=1, description="a whole number of 1 or more, at least min")

    @model_validator(mode="before")
    @classmethod
    def _from_spec(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool) and given >= 1:
            return {"min": given, "max": given}
        if isinstance(given, Mapping):
            return given
        raise ValueError(f"got {shown(given)}, expected a whole number of 1 or more, or {{min, max}}")

    @model_validator(mode="after")
    def _is_ordered(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"got min {self.min} above max {self.max}, expected min <= max")
        return self

    @model_serializer
    def _to_spec(self) -> Any:
        return self.max if self.min == self.max else {"min": self.min, "max": self.max}


def _bytes(given: Any) -> Any:
    """`4GB` as a number of bytes."""
    if isinstance(given, str):
        found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT]B)", given.strip())
        if found is None:
            raise ValueError(f"got {shown(given)}, expected bytes, or a text such as 500MB or 4GB")
        return round(float(found[1]) * UNITS[found[2]])
    return given


class Shape(Section):
    """What one worker takes of a node, how many there are, and what one costs in an hour."""

    workers: Workers = Field(
        default_factory=lambda: Workers(min=2, max=2),
        description="a whole number of 1 or more, or {min, max}",
    )
    cpus_per_worker: float = Field(default=1.0, ge=0, description="a number of 0 or more")
    gpus_per_worker: float = Field(default=0.0, ge=0, description="a number of 0 or more")
    memory: Annotated[int | None, BeforeValidator(_bytes)] = Field(
        default=None, ge=10**6, description="bytes, or a text such as 500MB or 4GB"
    )
    resources: dict[
        Annotated[str, Field(pattern=f"^{NAME}$")],
        Annotated[float, Field(gt=0, description="a number above 0")],
    ] = Field(default_factory=dict, description="custom resources of Ray by name, each a number above 0")
    price: float | None = Field(default=None, ge=0, description="a number of 0 or more")

    @property
    def demands(self) -> dict[str, float]:
        """What Ray reserves for a worker, by Ray's names; memory in bytes."""
        memory = {} if self.memory is None else {"memory": float(self.memory)}
        return {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker, **memory, **self.resources}


def _known_shapes(rungs: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    """Refuse names of shapes that there are none of."""
    known = list(info.data.get("shapes") or ())
    wrong = [name for name in rungs if name not in known]
    if wrong and "shapes" in info.data:  # else these were refused themselves
        listed = ", ".join(known) or "a name in cluster.shapes"
        raise ValueError(
            "\n".join(f"got {shown(name)}, expected {listed}{nearest(name, known)}" for name in wrong)
        )
    return rungs


class Cluster(Shape):
    """Where the search runs. Its own fields are those of the only shape, unless there are `shapes`."""

    address: str = Field(
        default="local", min_length=1, description="'local', 'auto' or HOST:PORT of a running Ray"
    )
    shapes: dict[Annotated[str, Field(pattern=f"^{NAME}$")], Shape] = Field(
        default_factory=dict, description="shapes of workers by name"
    )
    rungs: Annotated[tuple[str, ...], BeforeValidator(as_tuple), AfterValidator(_known_shapes)] = Field(
        default=(), description="a list of names in cluster.shapes, one for each rung"
    )
    heartbeat_seconds: float = Field(default=120.0, ge=1, description="a number of 1 or more")
    trial_minutes: float | None = Field(default=None, gt=0, description="a number above 0")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Cluster:
        own = sorted(set(Shape.model_fields) & self.model_fields_set)
        if self.shapes and own:
            raise ValueError(f"got {', '.join(own)} beside shapes, expected them in each shape")
        return self

    @model_serializer(mode="wrap")
    def _to_spec(self, plain: Any) -> Any:
        left_out = set(Shape.model_fields) if self.shapes else {"shapes", "rungs"}
        return {name: value for name, value in plain(self).items() if name not in left_out}

    @cached_property
    def by_name(self) -> dict[str, Shape]:
        """The shapes by name; the only one is called `worker`."""
        own = {name: getattr(self, name) for name in Shape.model_fields}
        return dict(self.shapes) or {DEFAULT: Shape.model_construct(**own)}

    def shape_at(self, rung: int) -> str:
        """The name of the shape that evaluates a rung; beyond the last one named, that one."""
        names = self.rungs or tuple(self.by_name)
        return names[min(rung, len(names) - 1)]

    @property
    def most_workers(self) -> int:
        """How many evaluate new trials at most."""
        return self.by_name[self.shape_at(0)].workers.max

    def price_at(self, rung: int) -> float:
        """What an hour at a rung costs; 0 where no price is given."""
        return self.by_name[self.shape_at(rung)].price or 0.0

    @property
    def has_gpus(self) -> bool:
        """Whether workers of any shape have a GPU."""
        return any(shape.gpus_per_worker > 0 for shape in self.by_name.values())
