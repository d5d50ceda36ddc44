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
    PlainSerializer,
    PlainValidator,
    ValidationError,
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


def references(kind: str, *known: str) -> tuple[PlainValidator, PlainSerializer]:
    """A field of one reference, a list of them, or a mapping of names to them; held as a dict by name.

    Args:
        kind: what they refer to, in a word.
        known: built-in names.
    """

    def read(given: Any, info: ValidationInfo) -> dict[str, Reference]:
        found: dict[str, Reference] = {}
        problems: list[str] = []
        for path, name, one in _each(given, kind):
            try:
                reference = Reference.model_validate(one, context=info.context)
                known_name(reference.use, known)
            except ValidationError as error:
                texts = [str(item.get("ctx", {}).get("error", item["msg"])) for item in error.errors()]
                inside = ".use" if path and isinstance(one, Mapping) else ""
                problems += [f"{path}{inside}: {text}" if path else text for text in texts]
                continue
            except ValueError as error:
                problems.append(f"{path}: {error}" if path else str(error))
                continue
            label = name or label_of(reference)
            if not label.isidentifier() or label in found:
                problems.append(
                    f"{path}: got {'the name twice:' if label in found else 'the name'} {shown(label)}, expected "
                    f"a mapping of different names of letters and digits to {kind}s"
                )
            found[label] = reference
        if problems:
            raise ValueError("\n".join(problems))
        return found

    def write(found: dict[str, Reference]) -> Any:
        plain = {name: reference.model_dump(mode="json") for name, reference in found.items()}
        ((name, one), *others) = plain.items()
        return one if not others and name == label_of(found[name]) else plain

    return PlainValidator(read), PlainSerializer(write)


def label_of(reference: Reference) -> str:
    """What an object that is given no name is called: the last part of its reference."""
    return reference.use.rpartition(":")[2].rpartition(".")[2]


def _each(given: Any, kind: str) -> list[tuple[str, str, Any]]:
    """(path, name or nothing, reference) of each that a field gives."""
    if isinstance(given, list | tuple) and given:
        return [(f".{i}", "", one) for i, one in enumerate(given)]
    if isinstance(given, Mapping) and given and "use" not in given:
        wrong = [name for name in given if not isinstance(name, str) or not name.isidentifier()]
        if wrong:
            raise ValueError(
                f"got the name {shown(wrong[0])}, expected a name of letters and digits for a {kind}"
            )
        return [(f".{name}", name, one) for name, one in given.items()]
    return [("", "", given)]


def named(*known: str) -> AfterValidator:
    """A validator that refuses references to built-in names other than these."""

    def check(reference: Reference) -> Reference:
        known_name(reference.use, known)
        return reference

    return AfterValidator(check)
