"""What pydantic found wrong with a spec, in the words of the house: `field.path: got X, expected Y`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from autoprune.references import nearest
from autoprune.spec.fields import shown
from autoprune.spec.parts import Section

Location = tuple[int | str, ...]


def problems_of(error: ValidationError, model: type[Section], given: Any) -> list[str]:
    """One line for each problem, in the order of the fields, each once.

    Args:
        error: what validating `given` raised.
        model: the section that it was validated as.
        given: the plain data that was validated.
    """
    lines: dict[str, None] = {}
    for item in error.errors(include_url=False):
        kind = item["type"]
        location = _as_written(item["loc"][:-1] if kind == "invalid_key" else item["loc"], given)
        for text in _texts(kind, item["loc"], item["input"], item.get("ctx", {}), model):
            path = _path(location)
            lines[f"{path}{text}" if text.startswith(".") else f"{path or 'spec'}: {text}"] = None
    return list(lines)


def _texts(
    kind: str, location: Location, given: Any, context: Mapping[str, Any], model: type[Section]
) -> list[str]:
    """What to say about one error, without the path."""
    if kind == "value_error":
        return str(context["error"]).splitlines()
    if kind == "extra_forbidden":
        return [_unknown_field(location, model)]
    if kind == "invalid_key":
        return [f"got a field named {shown(given)}, expected {_accepted(location[:-1], model)}"]
    if kind == "literal_error":
        expected = str(context["expected"])
        guess = nearest(given, expected.replace("'", "").replace(" or ", ", ").split(", "))
        return [f"got {shown(given)}, expected {expected}{guess if isinstance(given, str) else ''}"]
    found = "nothing" if kind == "missing" else shown(given)
    return [f"got {found}, expected {_accepted(location, model)}"]


def _unknown_field(location: Location, model: type[Section]) -> str:
    """Which fields there are instead, or where the field belongs."""
    section = _section_at(location[:-1], model) or model
    name, fields = str(location[-1]), section.model_fields
    guess = nearest(name, fields)
    elsewhere = [path for path in _all_paths(model) if path.rpartition(".")[2] == name]
    if not guess and elsewhere:
        guess = f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    return f"got an unknown field, expected one of {', '.join(fields)}{guess}"


def _accepted(location: Location, model: type[Section]) -> str:
    """What the field at `location` accepts, from its description."""
    names = [part for part in location if isinstance(part, str)]
    field = _field_at(names, model)
    if field is not None and field.description:
        return field.description
    section = _section_at(tuple(names), model) or model
    return f"a mapping of {', '.join(section.model_fields)}"


def _field_at(names: list[str], model: type[Section]) -> FieldInfo | None:
    section, field = model, None
    left = iter(names)
    for name in left:
        field = section.model_fields.get(name)
        inner = _section_in(field)
        if inner is None:
            return field
        section = inner
        if field is not None and get_origin(field.annotation) is dict:
            next(left, None)  # a name of the user's own
    return field


def _section_at(location: Location, model: type[Section]) -> type[Section] | None:
    return _section_in(_field_at([str(part) for part in location], model)) if location else model


def _section_in(field: FieldInfo | None) -> type[Section] | None:
    """The section that a field holds, perhaps optionally."""
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _all_paths(model: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = _section_in(field)
        if inner is not None:
            yield from _all_paths(inner, f"{prefix}{name}.")


def _as_written(location: Location, given: Any) -> Location:
    """`location`, without the `use` of a reference that was written as a plain text."""
    if not location or location[-1] != "use":
        return location
    for part in location[:-1]:
        given = given.get(part) if isinstance(given, Mapping) else None
    return location if isinstance(given, Mapping) else location[:-1]


def _path(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return " ".join(text.removeprefix(".").split())
