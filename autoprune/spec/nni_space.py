"""NNI's search space in JSON, read as part of a spec, and points written in its form again.

    {"width":      {"_type": "choice", "_value": [8, 16, 32]},
     "lr":         {"_type": "loguniform", "_value": [0.001, 0.1]},
     "prune.ratio": {"_type": "uniform", "_value": [0.0, 0.75]},
     "block":      {"_type": "choice", "_value": [{"_name": "conv", "kernel": {"_type": "choice", "_value": [3, 5]}},
                                                  {"_name": "none"}]}}

`lr` and `learning_rate` are the learning rate of candidates, `section.field` is that field of the space, and all else
is an argument of the task's model. Of a nested choice the names are the values of one choice, and what a name holds is
a choice of its own, `block_conv_kernel`, at which the model looks when the name is chosen. Arguments of a model have
values rather than ranges: a continuum has nine levels there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune.references import nearest
from autoprune.space import ARCHITECTURE, Choice, Options, Value
from autoprune.spec.fields import shown

TYPES = ("choice", "uniform", "quniform", "loguniform", "randint")
INSTEAD = {
    "normal": "uniform",
    "qnormal": "quniform",
    "lognormal": "loguniform",
    "qlognormal": "loguniform",
    "qloguniform": "loguniform, or choice",
}
"""Types that NNI has besides, and what there is for them: a search needs bounds, and steps of equal width."""
LEVELS = 9  # of a continuum, where values are needed
MOST_VALUES = 64  # of a number with steps; beyond that as many as of a continuum
LEARNING_RATE = ("lr", "learning_rate")
Content = Mapping[str, Any]


def read(given: Any, folder: Path | None) -> Content:
    """The content of `space.nni`: a mapping as it is, or that of the JSON file named.

    Raises:
        ValueError: it cannot be read, or is no search space; a line for each problem.
    """
    if isinstance(given, str):
        path = (folder or Path.cwd()) / given
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f".nni: got {shown(str(path))}, expected a JSON file: {error}") from None
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f".nni: got {shown(given)}, expected NNI's search space: {{name: {{_type, _value}}}}"
        )
    if problems := list(_problems(given, ".nni", nested=False)):
        raise ValueError("\n".join(problems))
    return given


def sections(content: Content) -> dict[str, dict[str, Any]]:
    """What a search space says, as sections of our `space`: section -> field -> what a spec would have there."""
    found: dict[str, dict[str, Any]] = {}
    for name, parameter in _flat(content).items():
        section, _, field = name.rpartition(".")
        if name in LEARNING_RATE:
            found.setdefault("train", {})["learning_rate"] = _field(parameter)
        elif section:
            found.setdefault(section, {})[field] = _field(parameter)
        else:
            found.setdefault("architecture", {})[name] = _values(parameter)
    return found


def parameters(content: Content, point: Mapping[str, Value]) -> dict[str, Any]:
    """A point in NNI's form: under the names of `content` what came from there, under our names all else.

    Args:
        content: of `space.nni`; empty where the space was not NNI's.
        point: choice -> value.
    """
    left = dict(point)
    found: dict[str, Any] = {}
    for name, parameter in content.items():
        key = _choice_of(name)
        if key not in left:
            continue
        value = left.pop(key)
        inner = _nested(parameter)
        if inner is None:
            found[name] = value
            continue
        found[name] = {"_name": value}
        for option, choices in inner.items():
            for sub in choices:
                chosen = left.pop(_choice_of(f"{name}_{option}_{sub}"), None)
                if option == value and chosen is not None:
                    found[name][sub] = chosen
    return {**found, **{name.removeprefix(ARCHITECTURE): value for name, value in left.items()}}


def described(content: Content, choices: Mapping[str, Choice]) -> dict[str, Any]:
    """A space of ours as NNI's search space, under the names that `parameters` gives its choices."""
    known = {_choice_of(name) for name in _flat(content)}
    others = {name: choice for name, choice in choices.items() if name not in known}
    return {**content, **{n.removeprefix(ARCHITECTURE): _as_nni(choice) for n, choice in others.items()}}


def _as_nni(choice: Choice) -> dict[str, Any]:
    if isinstance(choice, Options):
        return {"_type": "choice", "_value": list(choice.values)}
    if choice.log:
        return {"_type": "loguniform", "_value": [choice.low, choice.high]}
    if choice.step is None:
        return {"_type": "uniform", "_value": [choice.low, choice.high]}
    steps = round((choice.high - choice.low) / choice.step)
    return {"_type": "choice", "_value": [choice.low + i * choice.step for i in range(steps + 1)]}


def _choice_of(name: str) -> str:
    """The choice that a parameter of this name became."""
    if name in LEARNING_RATE:
        return "train.learning_rate"
    return name if "." in name else f"{ARCHITECTURE}{name}"


def _nested(parameter: Content) -> dict[str, dict[str, Any]] | None:
    """Option -> its own parameters, of a nested choice; None of any other."""
    values = parameter["_value"]
    if parameter["_type"] != "choice" or not any(isinstance(value, Mapping) for value in values):
        return None
    return {value["_name"]: {n: p for n, p in value.items() if n != "_name"} for value in values}


def _flat(content: Content) -> dict[str, Content]:
    """Parameters by name, those of nested choices beside the choice itself."""
    found: dict[str, Content] = {}
    for name, parameter in content.items():
        inner = _nested(parameter)
        found[name] = parameter if inner is None else {"_type": "choice", "_value": list(inner)}
        for option, choices in (inner or {}).items():
            found.update({f"{name}_{option}_{sub}": deeper for sub, deeper in choices.items()})
    return found


def _field(parameter: Content) -> Any:
    """As a field of a section has it."""
    kind, given = parameter["_type"], parameter["_value"]
    if kind == "uniform":
        return {"low": given[0], "high": given[1]}
    if kind == "loguniform":
        return {"low": given[0], "high": given[1], "log": True}
    return {"options": _values(parameter)}


def _values(parameter: Content) -> list[Any]:
    """The values that a parameter can have, of a continuum some."""
    kind, given = parameter["_type"], parameter["_value"]
    if kind == "choice":
        return list(given)
    low, high = given[0], given[1]
    if kind == "loguniform":
        return [math.exp(value) for value in _evenly(math.log(low), math.log(high))]
    if kind == "randint":
        few = high - low <= MOST_VALUES
        return [*range(low, high)] if few else [round(value) for value in _evenly(low, high - 1)]
    if kind == "quniform" and (high - low) / given[2] <= MOST_VALUES:
        return _multiples(low, high, given[2])
    return _evenly(low, high)


def _evenly(low: float, high: float) -> list[float]:
    return [low + (high - low) * step / (LEVELS - 1) for step in range(LEVELS)]


def _multiples(low: float, high: float, step: float) -> list[float]:
    """What NNI can draw: multiples of the step, clipped to the bounds."""
    places = range(math.floor(low / step), math.ceil(high / step) + 1)
    return sorted({min(max(round(place * step, 12), low), high) for place in places})


def _problems(content: Content, path: str, *, nested: bool) -> Iterator[str]:
    for name, parameter in content.items():
        if name == "_name":
            continue
        where = f"{path}.{name}"
        if not isinstance(parameter, Mapping) or not {"_type", "_value"} <= set(parameter):
            yield f"{where}: got {shown(parameter)}, expected {{_type: ..., _value: [...]}}"
            continue
        kind, given = parameter["_type"], parameter["_value"]
        if kind not in TYPES:
            instead = f"; write {INSTEAD[kind]} instead" if isinstance(kind, str) and kind in INSTEAD else ""
            guess = instead or nearest(str(kind), TYPES)
            yield f"{where}: got the type {shown(kind)}, expected {', '.join(TYPES)}{guess}"
        elif not isinstance(given, list) or not given:
            yield f"{where}: got {shown(given)}, expected a list"
        elif kind == "choice":
            yield from _choice_problems(given, where, nested)
        elif wrong := _range_problem(kind, given):
            yield f"{where}: got {shown(given)}, expected {wrong}"


def _choice_problems(given: list[Any], where: str, nested: bool) -> Iterator[str]:
    inner = [value for value in given if isinstance(value, Mapping)]
    if inner and nested:
        yield (
            f"{where}: got choices within choices within choices, expected one level: write the innermost as a "
            "choice of its own, beside the outer one"
        )
        return
    plain = [value for value in given if not isinstance(value, Mapping)]
    if inner and (plain or not all(isinstance(value.get("_name"), str) for value in inner)):
        yield f"{where}: got {shown(given)}, expected plain values, or {{_name: text, ...}} for each of them"
        return
    for value in inner:
        yield from _problems(value, f"{where}.{value['_name']}", nested=True)
    wrong = [value for value in plain if not isinstance(value, str | bool | int | float)]
    if wrong:
        yield f"{where}: got {shown(wrong[0])}, expected numbers, text, true or false"


def _range_problem(kind: str, given: list[Any]) -> str:
    """What a range should have been; empty where it is one."""
    needs = {"quniform": "[low, high, step]", "randint": "[low, high] of whole numbers, high left out"}
    expected = needs.get(kind, "[low, high]") + (", low above 0" if kind == "loguniform" else "")
    numbers = all(
        isinstance(value, int if kind == "randint" else int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        for value in given
    )
    if not numbers or len(given) != (3 if kind == "quniform" else 2) or not given[0] < given[1]:
        return expected
    is_wrong = (kind == "loguniform" and given[0] <= 0) or (kind == "quniform" and given[2] <= 0)
    return expected if is_wrong else ""
