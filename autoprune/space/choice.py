"""One decision variable (`Choice`) and one point of a space (`Choices`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str


@dataclass(frozen=True)
class Options:
    """One of a few values.

    Attributes:
        values: what can be chosen, in the order given.
        neutral: the value that leaves the model as it is; one of `values`, or any value outside of them when
            doing nothing cannot be chosen.
    """

    values: tuple[Value, ...]
    neutral: Value

    def distribution(self) -> BaseDistribution:
        """The same choice in Optuna's words."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def __contains__(self, value: object) -> bool:
        return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)

    def at(self, share: float) -> Value:
        """The value at `share` of the way from the first (0) to the last (1)."""
        return self.values[min(len(self.values) - 1, int(share * len(self.values)))]

    def to_json(self) -> dict[str, Any]:
        """Plain data that `choice_from_json` reads back."""
        return {"options": list(self.values), "neutral": self.neutral}


@dataclass(frozen=True)
class Range:
    """A number between two bounds, both included.

    Attributes:
        low, high: the bounds; the choice is whole-numbered when both and `step` are `int`.
        neutral: the value that leaves the model as it is (it may lie outside).
        step: distance between neighbours, None for a continuum (1 for whole numbers).
        log: sample on a logarithmic scale.
    """

    low: float
    high: float
    neutral: float
    step: float | None = None
    log: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers can be chosen."""
        return isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step, int)

    def distribution(self) -> BaseDistribution:
        """The same choice in Optuna's words."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low - 1e-9 <= value <= self.high + 1e-9

    def at(self, share: float) -> Value:
        """The value at `share` of the way from `low` (0) to `high` (1), on a step where there are steps."""
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        if self.step:
            last = math.floor((self.high - self.low) / self.step + 1e-9)
            value = self.low + min(round((value - self.low) / self.step), last) * self.step
        value = min(max(value, self.low), self.high)
        return int(value) if self.is_integer else float(value)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `choice_from_json` reads back."""
        return {
            "low": self.low,
            "high": self.high,
            "neutral": self.neutral,
            "step": self.step,
            "log": self.log,
        }


Choice = Options | Range


def choice_from_json(data: Mapping[str, Any]) -> Choice:
    """The choice that `to_json` wrote."""
    if "options" in data:
        return Options(tuple(data["options"]), data["neutral"])
    return Range(data["low"], data["high"], data["neutral"], data["step"], data["log"])


class Choices(Mapping[str, Value]):
    """One point of a space, which remembers what was read of it.

    Two points that differ only in values nobody read describe the same candidate. So whoever turns a point into a
    model reads it through `[]` or `get`, and `read` is what identifies the candidate. Looking at `values_unread`
    leaves no trace.
    """

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = dict(values)
        self.read: dict[str, Value] = {}

    def __getitem__(self, name: str) -> Value:
        value = self._values[name]
        self.read[name] = value
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values_unread(self) -> dict[str, Value]:
        """All values, without counting as a read."""
        return dict(self._values)

    def number(self, name: str, default: float) -> float:
        """The choice as a number, `default` where the space has no such choice."""
        return float(self[name]) if name in self._values else default

    def text(self, name: str, default: str) -> str:
        """The choice as text, `default` where the space has no such choice."""
        return str(self[name]) if name in self._values else default
