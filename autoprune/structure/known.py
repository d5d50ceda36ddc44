"""Integers that remember where they came from, so that a size in a model's code can follow a cut.

`self.num_heads` ends up as a number in `x.view(b, t, 12, 64)`. While a network is observed, its integer attributes are
`Known`: plain integers to Python and torch, which carry their source through arithmetic.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Source:
    """One integer that belongs to the model: an attribute, or a constant in a graph.

    Attributes:
        owner: the object that holds it (a module, a configuration, a graph node).
        name: its attribute, or `args`/`kwargs` of a graph node.
        path: where it lies inside that attribute, if that is a container.
        label: how messages call it.
    """

    owner: Any
    name: str
    path: tuple[Any, ...]
    label: str

    def get(self) -> int:
        """The integer as it is now."""
        value = getattr(self.owner, self.name)
        for step in self.path:
            value = value[step]
        return int(value)

    def set(self, number: int) -> None:
        """Write another integer in its place."""
        value = _replaced(getattr(self.owner, self.name), self.path, number)
        if isinstance(self.owner, nn.Module):
            vars(self.owner)[self.name] = value
        else:
            setattr(self.owner, self.name, value)

    @property
    def key(self) -> tuple[int, str, tuple[Any, ...]]:
        """What tells sources apart."""
        return id(self.owner), self.name, self.path


def _replaced(value: Any, path: tuple[Any, ...], number: int) -> Any:
    if not path:
        return number
    step, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        return {**value, step: _replaced(value[step], rest, number)}
    if isinstance(value, slice):
        ends = {"start": value.start, "stop": value.stop, "step": value.step}
        ends[step] = _replaced(ends[step], rest, number)
        return slice(ends["start"], ends["stop"], ends["step"])
    parts = list(value)
    parts[step] = _replaced(parts[step], rest, number)
    return tuple(parts) if isinstance(value, tuple) else parts


class Known(int):
    """An integer with its source; `source` is None once it has been computed with (but for 1 × n and 0 + n)."""

    source: Source | None

    def __new__(cls, value: int, source: Source | None) -> Known:
        """The integer `value`, known to come from `source`."""
        made = super().__new__(cls, value)
        made.source = source
        return made

    def __deepcopy__(self, memo: Any) -> int:
        """A plain integer: copies of a model do not remember."""
        return int(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """A plain integer, when pickled."""
        return int, (int(self),)


def _is_neutral(a: int, b: int, result: int) -> bool:
    """Whether one operand changes nothing: the batch of one in `batch * heads`, the zero in `0 + start`."""
    return (a, b) in ((1, result), (result, 1), (0, result), (result, 0))


def _computed(operation: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Known, Any], Any]:
    def method(self: Known, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        a, b = (int(other), int(self)) if swapped else (int(self), int(other))
        result = operation(a, b)
        same = next((x for x in (self, other) if isinstance(x, Known) and int(x) == result), None)
        return Known(result, same.source if same is not None and _is_neutral(a, b, result) else None)

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    _operation = getattr(operator, _name)
    setattr(Known, f"__{_name}__", _computed(_operation, swapped=False))
    setattr(Known, f"__r{_name}__", _computed(_operation, swapped=True))


def integers_in(value: Any) -> Iterator[int]:
    """All integers in nested arguments of a call, in order."""
    if isinstance(value, int):
        if not isinstance(value, bool):
            yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from integers_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from integers_in(part)
    elif isinstance(value, slice):
        yield from integers_in((value.start, value.stop, value.step))


@contextmanager
def attributes_known(model: nn.Module) -> Iterator[None]:
    """Inside, the integer attributes of all modules (and of their configurations) remember where they are."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for path, owner in _owners(model):
        fields = vars(owner)
        for name, value in list(fields.items()):
            wrapped = known(value, Source(owner, name, (), f"{path}.{name}".lstrip(".")))
            if wrapped is not value:
                before.append((fields, name, value))
                fields[name] = wrapped
    try:
        yield
    finally:
        for fields, name, value in before:
            fields[name] = value


def _owners(model: nn.Module) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for path, module in model.named_modules():
        yield path, module
        config = vars(module).get("config")
        if config is not None and hasattr(config, "__dict__") and id(config) not in seen:
            seen.add(id(config))
            yield "config", config


_PRIVATE = {"_version", "_parameters", "_buffers", "_modules", "call_super_init"}


def known(value: Any, source: Source) -> Any:
    """`value` with the integers in it known; itself where there are none."""
    if source.name in _PRIVATE or source.name.startswith("__"):
        return value
    if type(value) is int:
        return Known(value, source)
    if type(value) in (tuple, list) and value and all(type(part) is int for part in value):
        parts = [
            Known(part, Source(source.owner, source.name, (i,), source.label)) for i, part in enumerate(value)
        ]
        return type(value)(parts)
    return value
