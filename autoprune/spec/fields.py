"""From what stands in a field of a spec to a choice of the space, and back.

    0.5                         fixed
    [0.0, 0.8]                  a range (numbers), or two options (everything else)
    [l1, fpgm, taylor]          options
    {low: 1, high: 8, step: 1}  a range with steps; `log: true` samples it on a logarithmic scale
    {options: [2.0, 4.0]}       options, where a list of two numbers would be a range

The functions here raise `ValueError` with what the user sees after the name of the field, one problem a line;
a line that starts with a dot goes on with the name: `.width: got ...`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoprune.references import nearest
from autoprune.space import Choice, Options, Range, Value

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxtuple, _SHORT.maxdict = 3, 8, 8, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

RANGE_FIELDS = ("low", "high", "step", "log")


def number(
    neutral: float | None, accepted: str, accepts: Callable[[float], bool], log: bool = False
) -> Callable[[Any], Choice]:
    """A reader of numeric fields.

    Args:
        neutral: the value that changes nothing; None takes the middle of what is given.
        accepted: what `accepts` asks for, in words: "a number from 0 to 1".
        accepts: whether a number is legal here.
        log: sample a range logarithmically unless the field says otherwise.
    """

    def read(given: Any) -> Choice:
        if isinstance(given, Mapping) and "options" not in given:
            return _range(given, neutral, accepted, accepts, log)
        values = _listed(given)
        wrong = [v for v in values if not (_is_number(v) and accepts(v))]
        if wrong or not values:
            raise ValueError(f"got {_all(wrong, given)}, expected {accepted}, or [low, high], or options")
        numbers = [float(v) for v in values]
        if isinstance(given, Sequence) and len(numbers) == 2:
            return _range({"low": numbers[0], "high": numbers[1]}, neutral, accepted, accepts, log)
        return _options(numbers, numbers[len(numbers) // 2] if neutral is None else neutral)

    return read


def one_of(legal: Sequence[Value], neutral: Value | None = None) -> Callable[[Any], Options]:
    """A reader of fields that choose among the values `legal`; `neutral` is the first one given if None."""
    accepted = ", ".join(map(str, legal))

    def read(given: Any) -> Options:
        values = _listed(given)
        wrong = [v for v in values if not _is_among(v, legal)]
        if wrong or not values:
            guess = nearest(wrong[0], accepted.split(", ")) if wrong and isinstance(wrong[0], str) else ""
            raise ValueError(f"got {_all(wrong, given)}, expected one or a list of {accepted}{guess}")
        return _options(values, values[0] if neutral is None else neutral)

    return read


def plain_values(given: Any) -> tuple[Value, ...]:
    """The values of an architecture choice: text, numbers, true and false, each once."""
    values = _listed(given)
    wrong = [v for v in values if not (isinstance(v, str | bool) or _is_number(v))]
    if wrong or not values:
        raise ValueError(f"got {_all(wrong, given)}, expected a value or a list of values (numbers, text)")
    return tuple(_options(values, values[0]).values)


def written(choice: Choice) -> Any:
    """Plain data from which the same reader makes an equal choice."""
    if isinstance(choice, Range):
        fields = {"low": choice.low, "high": choice.high, "step": choice.step, "log": choice.log}
        return {name: value for name, value in fields.items() if value is not None}
    if _is_number(choice.values[0]) and len(choice.values) == 2:
        return {"options": list(choice.values)}
    return list(choice.values)


def shown(given: Any) -> str:
    """`given` as a message shows it: short, on one line."""
    if given is None:
        return "nothing"
    try:
        text = " ".join(_SHORT.repr(given).split())
    except Exception:  # an integer of thousands of digits, or whatever a stranger's __repr__ does
        text = f"an object of type {type(given).__name__}"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _listed(given: Any) -> list[Any]:
    """The values that a field gives as a scalar, a list, or `{options: [...]}`."""
    if isinstance(given, Mapping):
        extra = [name for name in given if name != "options"]
        if extra or "options" not in given:
            raise ValueError(f"got {shown(given)}, expected options and no field beside it")
        given = given["options"]
    return list(given) if isinstance(given, list | tuple) else [given]


def _range(
    given: Mapping[str, Any],
    neutral: float | None,
    accepted: str,
    accepts: Callable[[float], bool],
    log: bool,
) -> Range:
    unknown = [name for name in given if name not in RANGE_FIELDS]
    if unknown or "low" not in given or "high" not in given:
        guess = nearest(unknown[0], (*RANGE_FIELDS, "options")) if unknown else ""
        raise ValueError(
            f"got {shown(given)}, expected low, high and perhaps step and log, or options{guess}"
        )
    low, high, step = given["low"], given["high"], given.get("step")
    wrong = [v for v in (low, high) if not (_is_number(v) and accepts(v))]
    if wrong:
        raise ValueError(f"got {_all(wrong, given)}, expected {accepted} as each end of a range")
    if low > high:
        raise ValueError(f"got a range from {low} to {high}, expected low first")
    log = given.get("log", log and step is None)
    if not isinstance(log, bool):
        raise ValueError(f"got log {shown(log)}, expected true or false")
    if log and (low <= 0 or step is not None):
        raise ValueError(f"got {shown(given)}, expected low above 0 and no step on a logarithmic scale")
    middle = math.sqrt(low * high) if log else (low + high) / 2
    _check_step(low, high, step)
    return Range(
        float(low),
        float(high),
        middle if neutral is None else neutral,
        None if step is None else float(step),
        log,
    )


def _check_step(low: float, high: float, step: Any) -> None:
    """A step must lead from `low` exactly to `high`, so that the bound the user wrote can be reached."""
    if step is None:
        return
    if not _is_number(step) or step <= 0:
        raise ValueError(f"got step {shown(step)}, expected a number above 0")
    if step < (high - low) / 1e6:
        raise ValueError(f"got step {step} from {low} to {high}, expected at most a million steps")
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-6:
        reached = low + math.floor(steps) * step
        raise ValueError(
            f"got step {step} from {low} to {high}, expected whole steps: set high to {reached:g}"
        )


def _options(values: Sequence[Value], neutral: Value) -> Options:
    repeated = [v for i, v in enumerate(values) if _is_among(v, values[:i])]
    if repeated:
        raise ValueError(f"got {shown(repeated[0])} twice, expected each value once")
    return Options(tuple(values), neutral)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what a float holds
        return False


def _is_among(value: Any, values: Sequence[Value]) -> bool:
    """Membership that tells True from 1 and 8 from 8.0."""
    return any(type(value) is type(other) and value == other for other in values)


def _all(wrong: Sequence[Any], given: Any) -> str:
    """What was wrong in a list, or what was given as a whole."""
    return ", ".join(shown(v) for v in wrong[:3]) if wrong else shown(given)
