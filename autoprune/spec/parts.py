"""What the sections of a spec are made of: their base, references to objects, and lists of patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from autoprune.errors import UnresolvedReference
from autoprune.references import find_file, nearest
from autoprune.spec.fields import shown


class Section(BaseModel):
    """Part of a spec: frozen, no unknown fields, no conversion of text to numbers."""

    # Built when first used: importing autoprune.spec, as every command does, then takes a third less time.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


def existing_file(reference: str, info: ValidationInfo) -> str:
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


def known_name(reference: str, known: tuple[str, ...]) -> str:
    """Refuse a short name that is not built in; a file or a package is looked into later."""
    if ":" not in reference and reference not in known:
        listed = ", ".join(known)
        raise ValueError(
            f"got {shown(reference)}, expected {listed} or 'file.py:Name'{nearest(reference, known)}"
        )
    return reference


def switch(given: Any) -> Any:
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


ExistingReference = Annotated[str, AfterValidator(existing_file)]
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
        known_name(reference.use, known)
        return reference

    return AfterValidator(check)
